"""Several processes that train one network together, as torchrun starts them. Alone, nothing here does anything.

Rank r of W processes has the r-th contiguous part of every global batch. Each method of `Processes` says whether all
processes must call it; such calls come in the same order everywhere, and `Processes.together` turns an error in one
into the same error in all, so that nobody waits for a process that has left. `heartbeat` watches for one that left
without a word.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from thriftnet import errors
from thriftnet.distributed.heartbeat import SILENT_S, Heartbeat
from thriftnet.errors import Interrupted, ProcessLostError, ThriftnetError, UserError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

T = TypeVar("T")

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
LAST_WORD = "thriftnet/main-process-has-ended"
LAST_WORD_WAIT = timedelta(seconds=5)  # torchrun's own patience with what is left of a failed group is 30 s
MAIN_SPEAKS, SPEAKER = "thriftnet/main-process-speaks", "thriftnet/speakers"
MEET_S = 300.0
"""So long processes wait for each other at the start: one that still imports cannot be told from one that is gone."""


@dataclass(frozen=True)
class Processes:
    """This process's place among those that train together."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Number among the processes of this machine: its GPU."""
    local_world_size: int = 1
    """Processes on this machine."""

    @property
    def several(self) -> bool:
        return self.world_size > 1

    @property
    def main(self) -> bool:
        """Whether this is the one process that writes and speaks."""
        return self.rank == 0

    def describe(self, device: torch.device) -> dict[str, int | str | None]:
        """For environment.json: how many processes, and what carries the tensors of `device` between them."""
        backend = ("nccl" if device.type == "cuda" else "gloo") if self.several else None
        return {"world_size": self.world_size, "backend": backend}

    def shard(self, count: int) -> slice:
        """This process's part of `count` things: contiguous, disjoint, sizes equal or one apart, the larger first."""
        size, larger = divmod(count, self.world_size)
        return slice(*(rank * size + min(rank, larger) for rank in (self.rank, self.rank + 1)))

    def objective(self, shard_mean: Tensor, outputs: Tensor, batch_images: int) -> Tensor:
        """What this process differentiates, so that the average over processes is the mean over the whole batch.

        `shard_mean`: 0-d, the mean over this process's n images with the network's `outputs` [n, K]; `batch_images`: N.
        With W processes it is W n / N times that mean, since DistributedDataParallel divides the sum of gradients by W.
        """
        if not self.several:
            return shard_mean
        if len(outputs) == 0:
            # A mean over nothing is NaN. Zero, but with a (zero) gradient for every parameter: the others wait for it.
            return outputs.float().sum()
        return shard_mean * (self.world_size * len(outputs) / batch_images)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of every process's `value`, the same bits in each. All call it; `value` stays as it is."""
        if not self.several:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total

    def average(self, value: Tensor) -> Tensor:
        """`sum` divided by the number of processes."""
        return self.sum(value) / self.world_size if self.several else value

    def highest(self, value: int) -> int:
        """The largest `value` of any process. All call it; it travels between CPUs, so no GPU is waited for."""
        if not self.several:
            return value
        largest = torch.tensor(value)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def all_rows(self, rows: Tensor, count: int) -> Tensor:
        """[count, ...] from each process's `rows` of its `shard(count)`. All call it."""
        if not self.several:
            return rows
        whole = rows.new_zeros((count, *rows.shape[1:]))
        whole[self.shard(count)] = rows
        return self.sum(whole)

    def averaging(self, network: nn.Module, device: torch.device) -> nn.Module:
        """`network` with gradients averaged over the processes after every backward pass. All call it.

        Running statistics are left to each process; `share_buffers` makes them equal before they are used.
        """
        if not self.several:
            return network
        with warnings.catch_warnings():
            # torch 2.13 has a new name for broadcast_buffers, which older ones do not know.
            warnings.simplefilter("ignore", FutureWarning)
            return nn.parallel.DistributedDataParallel(
                network, device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=False
            )

    def share_buffers(self, network: nn.Module) -> None:
        """Give every process the main one's buffers. All call it."""
        if self.several:
            for buffer in network.buffers():
                dist.broadcast(buffer, src=0)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a block in every process; where it fails in one, all leave it with an error.

        The main process raises its own error, else that of the lowest rank, which is what the user reads. The block
        must not call what all call: a process that has failed would be missing.
        """
        if not self.several:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            error = caught
        for rank, told in enumerate(self._gather(None if error is None else _told(error))):
            if told is not None and error is None:
                error = _error_of(rank, self.world_size, *told)
        if error is not None:
            raise error

    def from_main(self, compute: Callable[[], T]) -> T:
        """What `compute` returns in the main process, the only one that runs it. All call it; its error reaches all."""
        if not self.several:
            return compute()
        found: list[T | None] = [None]
        with self.together():
            if self.main:
                found[0] = compute()
        dist.broadcast_object_list(found, src=0)
        return found[0]  # type: ignore[return-value]

    def one_first_on_each_machine(self, compute: Callable[[], T]) -> T:
        """What `compute` returns here, after the first process of this machine ran it: downloads happen once."""
        found: list[T] = []
        for first in (True, False):
            with self.together():
                if (self.local_rank == 0) == first:
                    found.append(compute())
        return found[0]

    def require_same(self, facts: Mapping[str, object]) -> None:
        """Raise UserError in every process unless all found the same `facts` (name -> value). All call it."""
        if not self.several:
            return
        expected, *others = self._gather(dict(facts))
        for rank, found in enumerate(others, start=1):
            for name, value in expected.items():
                if found[name] != value:
                    raise UserError(
                        f"process {rank} of {self.world_size} has another {name} ({found[name]}) than process 0 "
                        f"({value}); start every process with the same command on the same data"
                    )

    def each(self, value: T) -> list[T]:
        """Every process's `value`, by rank. All call it."""
        return self._gather(value) if self.several else [value]

    @contextmanager
    def connected(self, last_words: Callable[[], str] | None = None) -> Iterator[None]:
        """Turn the failure to reach another process, which torch reports in many ways, into that process's error.

        Where it ended without a word, that is a ProcessLostError. Where it was stopped, so that this process waits for
        it inside torch, the heartbeat ends this process; `last_words` then gives what its message says after the cause.
        """
        meeting = _met[0] if self.several and _met else None
        if meeting is None:
            yield
            return
        meeting.withdraw()
        try:
            with meeting.heartbeat.watching(*() if last_words is None else (last_words,)):
                yield
        except Exception as error:
            if not (isinstance(error, RuntimeError) and _is_lost_connection(error)):
                meeting.tell(error)
                raise
            lost = "another process of this training has ended or cannot be reached; torchrun's report says which"
            if last_words is None:  # else whoever gave them says more
                lost += "; what is saved is whole; give the same command again"
            raise meeting.cause_told() or ProcessLostError(lost) from error

    def _gather(self, value: T) -> list[T]:
        gathered: list[T] = [value] * self.world_size
        dist.all_gather_object(gathered, value)
        return gathered


ALONE = Processes()


def from_environment(environment: Mapping[str, str]) -> Processes:
    """The place that torchrun's variables name; ALONE where one is missing. Raises UserError for impossible values."""
    if not all(name in environment for name in VARIABLES):
        return ALONE
    given = ", ".join(f"{name}={environment[name]}" for name in VARIABLES)
    try:
        rank, world_size, local_rank, local_world_size = (int(environment[name]) for name in VARIABLES)
    except ValueError:
        raise UserError(f"{given} must be whole numbers; start with torchrun, which sets them") from None
    if not (0 <= rank < world_size and 0 <= local_rank < local_world_size <= world_size):
        raise UserError(f"{given} contradict each other; start with torchrun, which sets them")
    return Processes(rank, world_size, local_rank, local_world_size)


@dataclass
class _Meeting:
    """What connects this process with the others besides gloo and NCCL: the store where they met."""

    processes: Processes
    store: Store
    heartbeat: Heartbeat
    told: bool = False
    """Whether an error began here, and the others can read it."""

    def tell(self, error: Exception) -> None:
        """Leave the cause for those that are about to miss this process."""
        with suppress(RuntimeError):
            self.store.set(self._cause(self.processes.rank), json.dumps(_told(error)))
            self.told = True

    def withdraw(self) -> None:
        """Nothing is wrong here (any more)."""
        self.told = False
        with suppress(RuntimeError):
            self.store.delete_key(self._cause(self.processes.rank))

    def cause_told(self) -> ThriftnetError | None:
        """The error that another process left; None where it had no time to."""
        with suppress(RuntimeError):  # the store's process may be the one that is gone
            for rank in range(self.processes.world_size):
                if rank != self.processes.rank and self.store.check([self._cause(rank)]):
                    return _error_of(rank, self.processes.world_size, *json.loads(self.store.get(self._cause(rank))))
        return None

    def speaks(self, error: ThriftnetError) -> bool:
        """Whether this process is the one that tells the user: the main one, or the first of those that outlived it."""
        try:
            if self.processes.main:
                if isinstance(error, Interrupted):
                    self.heartbeat.say_if_orphaned()
                self.store.set(MAIN_SPEAKS, "yes")
                return True
            if isinstance(error, Interrupted) or (self.told and self.heartbeat.hears(0)):
                return False  # the main process knows or will read it, once this one is gone
            try:
                self.store.wait([MAIN_SPEAKS], LAST_WORD_WAIT)
            except dist.DistError:
                return int(self.store.add(SPEAKER, 1)) == 1
        except RuntimeError:  # nor is the store there, so there is nobody to ask
            return True
        return False

    def leave(self) -> None:
        """Stay until the main process has said its last word: torchrun stops it once another one ends badly."""
        self.heartbeat.stop()
        with suppress(RuntimeError):  # the main process or torchrun is gone: nothing to wait for
            if self.processes.main:
                self.store.set(LAST_WORD, "said")
            elif not self.told:  # else the main process may wait for this one to go
                self.store.wait([LAST_WORD], LAST_WORD_WAIT)
        dist.destroy_process_group()

    @staticmethod
    def _cause(rank: int) -> str:
        return f"thriftnet/cause/{rank}"


_met: list[_Meeting] = []
"""The meeting that `join` made."""


@cache
def join() -> Processes:
    """This process's place among those that torchrun started, connected with them until it ends; else ALONE.

    Raises UserError for variables that torchrun would not set, ProcessLostError where the others cannot be reached.
    """
    processes = from_environment(os.environ)
    if not processes.several:
        return ALONE
    # Tensors on a GPU go through NCCL, everything on the CPU (decisions, errors) through gloo.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    from torch.distributed.rendezvous import rendezvous  # absent where torch was built without it

    heartbeat = None
    try:
        store, rank, world_size = next(rendezvous("env://", timeout=timedelta(seconds=MEET_S)))
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        patience = timedelta(seconds=SILENT_S)
        own = dist.TCPStore(*place, None, False, patience, wait_for_workers=False)  # type: ignore[attr-defined]
        heartbeat = Heartbeat(rank, world_size, own, "TORCHELASTIC_RUN_ID" in os.environ)
        heartbeat.start()
        with heartbeat.watching():
            if not heartbeat.wait_for_all(MEET_S):
                raise RuntimeError(f"not all {world_size} have come after {MEET_S:g} s")
            dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
    except ValueError as error:  # a variable that says where the others are is missing or wrong
        raise UserError(f"cannot find the other processes ({error}); start with torchrun") from None
    except RuntimeError as error:
        if heartbeat is not None:
            heartbeat.stop()
        reason = str(error).splitlines()[0]
        raise ProcessLostError(
            f"cannot reach the other processes ({reason}); nothing was trained; check torchrun's addresses, and "
            "whether one of them has ended"
        ) from error
    meeting = _Meeting(processes, store, heartbeat)
    _met.append(meeting)
    atexit.register(meeting.leave)
    return processes


@contextmanager
def joined() -> Iterator[Processes]:
    """`join` and, for as long as the block runs, `Processes.connected`."""
    processes = join()
    with processes.connected():
        yield processes


@contextmanager
def one_voice() -> Iterator[Processes]:
    """Around a command: of processes that fail together only the main one raises; the rest end with the same status.

    Where the main one is gone, another takes its place.
    """
    processes = join()
    try:
        with processes.connected():
            yield processes
    except ThriftnetError as error:
        if processes.several:
            # torchrun stops all processes once one has ended badly: this one is ending, with a status of its own.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
        if not _met or _met[0].speaks(error):
            raise
        raise SystemExit(error.exit_status) from None


def _told(error: Exception) -> tuple[str, str]:
    """(kind, message) of an error, as it travels; of one of ours the kind that `errors` has."""
    kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__]
    return (kinds or [type(error).__name__])[0], str(error)


def _error_of(rank: int, world_size: int, kind: str, message: str) -> ThriftnetError:
    """The error that process `rank` told of."""
    known = getattr(errors, kind, None)
    if kind == "Interrupted" or not (isinstance(known, type) and issubclass(known, ThriftnetError)):
        return ProcessLostError(f"process {rank} of {world_size} failed ({kind}: {message})")
    return known(f"process {rank} of {world_size}: {message}")


def _is_lost_connection(error: RuntimeError) -> bool:
    """gloo raises plain RuntimeErrors that name its source files or blame a worker; NCCL and the store have classes."""
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in ("gloo", "remote worker"))
