"""What each of two real processes runs, once for all tests: python -m tests.distributed.worker FOLDER.

Each scenario leaves what it found under its name in FOLDER/rank<r>.pt; the tests compare that with one process.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.distributed.lost import in_an_epoch
from tests.training.conftest import TinySource, tiny_recipe
from thriftnet import cli
from thriftnet.config import OptimizerConfig, PerturbationConfig, RecipeConfig, RuntimeConfig
from thriftnet.data.dataset import LabelledImages
from thriftnet.distributed.batchnorm import synchronise_batchnorm
from thriftnet.distributed.processes import ALONE, Processes, join
from thriftnet.errors import DataError, StorageError, ThriftnetError
from thriftnet.optim.averaging import WeightAverage
from thriftnet.optim.build import build_optimizer
from thriftnet.runtime import resolve
from thriftnet.training.loop import fit
from thriftnet.training.progress import SilentDisplay
from thriftnet.training.run_folder import RunFolder
from thriftnet.training.step import Learner, train_step

CPU = torch.device("cpu")

# ---- BatchNorm: (images, module, dtype, layout); the first half of the batch, or the larger part, is rank 0's

NORMS: dict[str, tuple[int, dict[str, Any], torch.dtype, torch.memory_format]] = {
    "float64": (6, {}, torch.float64, torch.contiguous_format),
    "uneven parts": (5, {}, torch.float64, torch.contiguous_format),
    "nothing in rank 1": (1, {}, torch.float64, torch.contiguous_format),
    "float32 channels-last": (5, {}, torch.float32, torch.channels_last),
    "bf16 channels-last": (6, {}, torch.bfloat16, torch.channels_last),
    "average over all batches": (5, {"momentum": None}, torch.float64, torch.contiguous_format),
    "not affine": (5, {"affine": False}, torch.float64, torch.contiguous_format),
    "no running statistics": (5, {"track_running_stats": False}, torch.float64, torch.contiguous_format),
}


def norm_case(name: str) -> tuple[nn.Module, list[Tensor], Tensor]:
    """A network of one norm, two batches with a large mean, and the gradient of the outputs."""
    count, arguments, dtype, layout = NORMS[name]
    generator = torch.Generator().manual_seed(3)
    batches = [5 + 2 * torch.randn(count, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2)]
    gradient = torch.randn(count, 3, 4, 4, generator=generator, dtype=torch.float64)
    network = nn.Sequential(nn.BatchNorm2d(3, **arguments))
    for parameter in network.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)
    if dtype == torch.float64:
        network.double()
    return network, [batch.to(dtype).contiguous(memory_format=layout) for batch in batches], gradient.to(dtype)


def norm_result(network: nn.Module, batches: list[Tensor], gradient: Tensor, part: slice) -> dict[str, Tensor]:
    """Outputs and gradients of the second batch, and the state after both."""
    network(batches[0][part])
    x = batches[1][part].detach().requires_grad_()
    y = network(x)
    y.backward(gradient[part])
    assert x.grad is not None
    gradients = {f"gradient of {name}": p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "dx": x.grad, **gradients, **dict(network.named_buffers())}


def norms(processes: Processes, folder: Path) -> dict[str, dict[str, Tensor]]:
    found = {}
    for name in NORMS:
        network, batches, gradient = norm_case(name)
        keys = list(network.state_dict())
        synchronise_batchnorm(network, CPU)
        assert list(network.state_dict()) == keys
        found[name] = norm_result(network, batches, gradient, processes.shard(len(gradient)))
    return found


def one_value_a_channel(processes: Processes, folder: Path) -> str:
    network = nn.Sequential(nn.BatchNorm2d(3))
    synchronise_batchnorm(network, CPU)
    with pytest.raises(ValueError, match="more than 1 value per channel") as caught:
        network(torch.ones(1, 3, 1, 1)[processes.shard(1)])
    return str(caught.value)


# ---- steps, in float64 so that a wrong weight of a part cannot hide in rounding

STEPS: dict[str, tuple[PerturbationConfig | None, OptimizerConfig, float | None, float | None]] = {
    "plain": (None, OptimizerConfig(name="sgd", lr=0.1), None, None),
    "with copies": (None, OptimizerConfig(name="sgd", lr=0.1), None, 12.0),
    "perturbed, clipped, averaged": (
        PerturbationConfig(epsilon=0.3, inner_steps=2, batchnorm="first_pass"),
        OptimizerConfig(name="adam", lr=0.01, clip_norm=0.5),
        0.9,
        None,
    ),
}
BATCHES = (8, 7, 1, 3)  # uneven, and one that leaves rank 1 without an image


def steps(processes: Processes, folder: Path) -> dict[str, tuple[list[float], list[int], list[Tensor]]]:
    """(losses, correct predictions, weights and buffers at the end) of a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "float", Tensor.double)  # a step takes its loss from logits.float()
        return {name: a_few_steps(processes, *case) for name, case in STEPS.items()}


def a_few_steps(
    processes: Processes,
    perturbation: PerturbationConfig | None,
    config: OptimizerConfig,
    decay: float | None,
    consistency_weight: float | None,
) -> tuple[list[float], list[int], list[Tensor]]:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    ).double()
    if processes.several:
        synchronise_batchnorm(network, CPU)
    runtime = resolve(RuntimeConfig(device="cpu", precision="fp32", threads=1))
    learner = Learner(
        network=processes.averaging(network, CPU),
        optimizer=build_optimizer(network, config, CPU),
        optimizer_config=config,
        perturbation=perturbation,
        label_smoothing=0.1,
        average=WeightAverage(network, decay) if decay is not None else None,
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        runtime=runtime,
        processes=processes,
        consistency_weight=consistency_weight,
    )
    generator = torch.Generator().manual_seed(1)
    losses, correct = [], []
    views = 1 if consistency_weight is None else 3
    for count in BATCHES:
        images = torch.randn(views, count, 3, 8, 8, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, 3, (count,), generator=generator)
        part = processes.shard(count)
        loss, right = train_step(learner, images[:, part].flatten(0, 1), labels[part], batch_images=count)
        losses.append(loss.item())
        correct.append(int(right))
    state = [*network.state_dict().values()]
    if learner.average is not None:
        state += learner.average.network.state_dict().values()
    return losses, correct, state


# ---- whole trainings

TRAININGS: dict[str, dict[str, Any]] = {
    "uneven batches": {"training": {"batch_size": 25, "epochs": 3}},  # 72 images: parts of 13 and 12, then of 11
    "last batch of one image": {"training": {"batch_size": 71, "epochs": 2}},
    "perturbed and averaged": {
        "perturbation": {"epsilon": 0.05},
        "training": {"batch_size": 40, "epochs": 2, "ema_decay": 0.9},
    },
    "originals concatenated": {
        "augment": {"concatenate_originals": True},
        "training": {"batch_size": 60, "epochs": 1},
    },
    "copies that should agree": {
        "augment": {"ops": [{"op": "augmix"}], "consistency_weight": 12.0},
        "training": {"batch_size": 71, "epochs": 2},
    },
    "mixed": {"augment": {"mix": {"name": "ricap"}}, "training": {"batch_size": 71, "epochs": 2}},
    "stem frozen, slow weights, muon": {
        "model": {"stem": {"kind": "whitening", "kernel": 2, "bias_epochs": 1}},
        "muon": {"lr": 0.02},
        "lookahead": {"steps": 3},
        "training": {"batch_size": 25, "epochs": 2},
    },
}


def without_dropout(**sections: dict[str, Any]) -> RecipeConfig:
    """Dropout draws by rank, so only without it can two processes give the curve of one."""
    return tiny_recipe(**sections | {"model": sections.get("model", {}) | {"dropout": 0.0}})


class StopAfter(SilentDisplay):
    """Sends a real signal to this process when an epoch ends."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def epoch(self, row: dict[str, Any], selected: bool) -> None:
        if row["epoch"] == self.epochs:
            os.kill(os.getpid(), signal.SIGTERM)


def train(recipe: RecipeConfig, path: Path, processes: Processes, stop_after: int = 0, resume: bool = False) -> str:
    """The message of the error that ended it, or an empty string. Each rank names a folder of its own."""
    here = path if processes.main else path.with_name(f"{path.name}-of-rank-{processes.rank}")
    try:
        fit(recipe, TinySource(), RunFolder(here), StopAfter(stop_after), resume=resume, processes=processes)
    except ThriftnetError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def trainings(processes: Processes, folder: Path) -> None:
    for name, sections in TRAININGS.items():
        assert train(without_dropout(**sections), folder / name, processes) == ""


def resumes(processes: Processes, folder: Path) -> list[str]:
    """An epoch by both processes, one by the main one alone, one by both; then with dropout, always by both."""
    parts, recipe = folder / "parts", without_dropout(**TRAININGS["uneven batches"])
    said = [train(recipe, parts, processes, stop_after=1)]
    with processes.together():
        if processes.main:
            said.append(train(recipe, parts, ALONE, stop_after=2, resume=True))
    said.append(train(recipe, parts, processes, resume=True))
    dropout = tiny_recipe(training={"batch_size": 40, "epochs": 2})
    train(dropout, folder / "dropout", processes)
    train(dropout, folder / "dropout parts", processes, stop_after=1)
    train(dropout, folder / "dropout parts", processes, resume=True)
    return said


class StopWithin(SilentDisplay):
    """Sends a real signal to this process after the tenth step of the second epoch."""

    def step(self, epoch: int, step: int, loss: float, accuracy: float, images_per_s: float) -> None:
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def within_an_epoch(processes: Processes, folder: Path) -> str:
    """With dropout, whose masks differ between the processes; 18 steps an epoch. Returns what the stop said."""
    recipe = tiny_recipe(training={"batch_size": 4, "epochs": 2, "ema_decay": 0.9})
    assert train(recipe, folder / "within whole", processes) == ""
    said = ""
    try:
        fit(recipe, TinySource(), RunFolder(folder / "within parts"), StopWithin(), processes=processes)
    except ThriftnetError as error:
        said = str(error)
    assert train(recipe, folder / "within parts", processes, resume=True) == ""
    return said


# ---- what goes wrong


class Failing(TinySource):
    """Raises where its training split is read."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def train(self) -> LabelledImages:
        raise self.error


class FullFolder(RunFolder):
    """Refuses to write a resume state."""

    def write_resume_state(self, state: Any, updates: int = 0) -> None:
        raise StorageError("no space is left")


def failures(processes: Processes, folder: Path) -> dict[str, str]:
    """The error that each case ends with in this process."""
    plain, sound, place = without_dropout(), TinySource(), RunFolder(folder / "failed")
    other: TinySource = Failing(DataError("image 7 is damaged"))
    broken: TinySource = Failing(KeyError("a bug"))
    lonely = not processes.main
    cases: dict[str, tuple[RecipeConfig, TinySource, RunFolder]] = {
        "data of one process": (plain, other if lonely else sound, place),
        "bug in one process": (plain, broken if lonely else sound, place),
        "another recipe": (without_dropout(training={"seed": processes.rank}), sound, place),
        "other data": (plain, TinySource(count=93) if lonely else sound, place),
        "batch too small": (without_dropout(training={"batch_size": 1}), sound, place),
        "last batch too small": (
            without_dropout(training={"batch_size": 71}, runtime={"sync_batchnorm": False}),
            sound,
            place,
        ),
        "full disk": (plain, sound, FullFolder(folder / "full")),
        "non-finite": (
            without_dropout(optimizer={"lr": 1e30}, schedule={"name": "constant"}),
            sound,
            RunFolder(folder / "non-finite"),
        ),
    }
    found = {}
    for name, (recipe, source, run_folder) in cases.items():
        try:
            fit(recipe, source, run_folder, SilentDisplay(), processes=processes)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
        with processes.together():
            assert not (processes.main and place.path.exists())  # the same command can be given again
    return found


def command_line(processes: Processes, folder: Path) -> dict[str, tuple[object, str, str]]:
    """(exit status, standard output, standard error) of commands, as this process ends with them."""
    commands = {
        "unknown recipe": ["train", "nothing-of-this-name"],
        "no data": ["train", "digits-demo", "--data", str(folder / "nowhere")],
        "nothing to do": ["train"],
        "no run": ["train", "--resume", str(folder / "no-run")],
    }
    found = {}
    for name, arguments in commands.items():
        stdout, stderr = io.StringIO(), io.StringIO()
        status: object = 0
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            sys.argv = ["thriftnet", *arguments]
            try:
                cli.main()
            except SystemExit as stop:
                status = stop.code
        found[name] = (status, stdout.getvalue(), stderr.getvalue())
    return found


def words(processes: Processes, folder: Path) -> dict[str, object]:
    """The exchanges themselves."""
    order = folder / "order.txt"

    def note() -> int:
        with order.open("a") as file:
            file.write(f"{processes.local_rank}\n")
        return processes.rank

    return {
        "highest": processes.highest(7 * processes.rank),
        "from_main": processes.from_main(lambda: {"rank": processes.rank}),
        "first": processes.one_first_on_each_machine(note),
        "all_rows": processes.all_rows(torch.arange(3)[processes.shard(3)], 3),
        "environment": processes.describe(CPU),
    }


def lost(processes: Processes, folder: Path) -> str:
    """Rank 1 disappears in the middle of an epoch; must be the last scenario."""

    recipe = without_dropout(training={"epochs": 1000})
    if not processes.main:
        in_an_epoch(lambda: os._exit(9))
    return train(recipe, folder / "lost", processes)


SCENARIOS: tuple[Callable[[Processes, Path], Any], ...] = (
    norms, one_value_a_channel, steps, trainings, resumes, within_an_epoch, failures, command_line, words, lost,
)  # fmt: skip


def main() -> None:
    folder = Path(sys.argv[1])
    processes = join()
    assert processes.world_size == 2
    found: dict[str, Any] = {}
    for scenario in SCENARIOS:
        try:
            found[scenario.__name__] = scenario(processes, folder)
        except Exception:
            found[f"{scenario.__name__} failed"] = traceback.format_exc()
        torch.save(found, folder / f"rank{processes.rank}.pt")


if __name__ == "__main__":
    main()
