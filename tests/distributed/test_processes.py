"""Places, parts and exchanges; what needs a second process comes from tests/distributed/worker.py."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import TwoProcesses
from thriftnet.distributed.processes import ALONE, Processes, from_environment, join
from thriftnet.errors import UserError

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


def test_torchruns_variables_name_the_place() -> None:
    assert from_environment(TORCHRUN) == Processes(rank=3, world_size=4, local_rank=1, local_world_size=2)


@pytest.mark.parametrize("missing", TORCHRUN)
def test_without_torchrun_a_process_is_alone(missing: str) -> None:
    assert from_environment({name: value for name, value in TORCHRUN.items() if name != missing}) == ALONE
    assert join() == ALONE
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"RANK": "4"}, "RANK=4, WORLD_SIZE=4, LOCAL_RANK=1, LOCAL_WORLD_SIZE=2 contradict each other"),
        ({"LOCAL_RANK": "2"}, "contradict"),
        ({"RANK": "-1"}, "contradict"),
        ({"LOCAL_WORLD_SIZE": "5"}, "contradict"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE=many, LOCAL_RANK=1, LOCAL_WORLD_SIZE=2 must be whole numbers"),
    ],
)
def test_impossible_values_are_refused(changed: dict[str, str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        from_environment(TORCHRUN | changed)


@given(count=st.integers(0, 300), world_size=st.integers(1, 17))
def test_parts_are_contiguous_disjoint_and_as_equal_as_they_can_be(count: int, world_size: int) -> None:
    parts = [range(count)[Processes(rank, world_size).shard(count)] for rank in range(world_size)]
    assert [number for part in parts for number in part] == list(range(count))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)  # the main process has an image whenever there is one


@given(count=st.integers(1, 40), world_size=st.integers(2, 7))
def test_the_average_of_objectives_is_the_mean_over_the_batch(count: int, world_size: int) -> None:
    losses = torch.arange(1, count + 1, dtype=torch.float64) ** 2
    objectives = []
    for rank in range(world_size):
        mine = losses[Processes(rank, world_size).shard(count)].requires_grad_()
        objectives.append(Processes(rank, world_size).objective(mine.mean(), mine[:, None], count))
        assert objectives[-1].requires_grad  # also of a process without an image, which the others wait for
    assert torch.stack(objectives).mean().item() == pytest.approx(losses.mean().item(), rel=1e-12)


def test_alone_nothing_is_exchanged_or_copied() -> None:
    value, network = torch.tensor(2.5), torch.nn.Linear(2, 2)
    assert ALONE.sum(value) is ALONE.average(value) is ALONE.objective(value, torch.ones(4, 3), 4) is value
    assert ALONE.averaging(network, torch.device("cpu")) is network
    assert ALONE.all_rows(value, 1) is value
    assert ALONE.highest(15) == 15
    assert ALONE.from_main(lambda: "found") == ALONE.one_first_on_each_machine(lambda: "found") == "found"
    ALONE.share_buffers(network)
    ALONE.require_same({"recipe": "a"})
    assert ALONE.shard(7) == slice(0, 7)
    assert ALONE.describe(torch.device("cpu")) == {"world_size": 1, "backend": None}
    with pytest.raises(RuntimeError, match="gloo"), ALONE.together(), ALONE.connected():
        raise RuntimeError("gloo: an error like any other where there are no other processes")


def test_a_gpu_is_served_by_nccl() -> None:
    assert Processes(0, 2, 0, 2).describe(torch.device("cuda", 1)) == {"world_size": 2, "backend": "nccl"}


def test_exchanges(two_processes: TwoProcesses) -> None:
    for rank, words in enumerate(two_processes.found("words")):
        assert words["highest"] == 7
        assert words["from_main"] == {"rank": 0}
        assert words["first"] == rank
        assert words["all_rows"].tolist() == [0, 1, 2]
        assert words["environment"] == {"world_size": 2, "backend": "gloo"}
    assert (two_processes.folder / "order.txt").read_text() == "0\n1\n"
