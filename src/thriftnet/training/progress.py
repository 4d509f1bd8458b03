"""What is shown while training: a live line on a terminal or in a notebook, one plain line an epoch elsewhere.

The loop talks to a `Display`; a display never influences the run.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

STEPS_PER_REPORT = 10


class Display(Protocol):
    """What the loop tells while it works."""

    def start(self, lines: list[str], epochs: int, steps_per_epoch: int, epochs_done: int) -> None: ...

    def note(self, line: str) -> None:
        """Something that was found out while training."""

    def step(self, epoch: int, step: int, loss: float, accuracy: float, images_per_s: float) -> None:
        """About every STEPS_PER_REPORT steps; loss and accuracy are those of the epoch's first `step` steps."""

    def epoch(self, row: dict[str, Any], selected: bool) -> None: ...

    def stop(self) -> None: ...


class SilentDisplay:
    """Shows nothing."""

    def start(self, lines: list[str], epochs: int, steps_per_epoch: int, epochs_done: int) -> None:
        pass

    def note(self, line: str) -> None:
        pass

    def step(self, epoch: int, step: int, loss: float, accuracy: float, images_per_s: float) -> None:
        pass

    def epoch(self, row: dict[str, Any], selected: bool) -> None:
        pass

    def stop(self) -> None:
        pass


class Reading:
    """Values of the device for the display, which may be a little late: a GPU is never waited for."""

    def __init__(self) -> None:
        self._under_way: deque[tuple[Tensor, torch.cuda.Event]] = deque()

    def of(self, values: Tensor) -> list[float] | None:
        """The latest `values` [K] that have arrived here, on a CPU these; None: there is nothing new."""
        if values.device.type != "cuda":
            return values.tolist()
        here = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        here.copy_(values, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        self._under_way.append((here, copied))
        latest = None
        while self._under_way and self._under_way[0][1].query():  # type: ignore[no-untyped-call]
            latest = self._under_way.popleft()[0]
        return None if latest is None else latest.tolist()


class LiveDisplay:
    """A progress bar over the whole run with loss, accuracy, images per second and time left.

    Without a terminal (and outside a notebook) the bar is left out and each epoch prints one line, so that a log file
    stays readable. It writes to standard error: standard output carries results.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.live = self.console.is_terminal or self.console.is_jupyter
        self.epochs = self.steps_per_epoch = 0
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(),
            TextColumn("{task.fields[measured]}"),
            TimeRemainingColumn(),
            console=self.console,
            # In a notebook a line printed while rich's own thread draws the bar would land in the bar and be lost.
            auto_refresh=not self.console.is_jupyter,
        )
        self.refreshed_at = 0.0

    def start(self, lines: list[str], epochs: int, steps_per_epoch: int, epochs_done: int) -> None:
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        for line in lines:
            self._print(line)
        if self.live:
            self.task = self.bar.add_task(
                "train",
                total=epochs * steps_per_epoch,
                completed=epochs_done * steps_per_epoch,
                epoch=epochs_done + 1,
                epochs=epochs,
                measured="",
            )
            self.bar.start()

    def note(self, line: str) -> None:
        self._print(line)

    def step(self, epoch: int, step: int, loss: float, accuracy: float, images_per_s: float) -> None:
        if self.live:
            measured = f"loss {loss:.3f}  accuracy {accuracy:.1%}  {images_per_s:,.0f} images/s"
            done = (epoch - 1) * self.steps_per_epoch + step
            self.bar.update(self.task, completed=done, epoch=epoch, measured=measured)
            if self.console.is_jupyter and time.monotonic() - self.refreshed_at > 0.2:
                self.bar.refresh()
                self.refreshed_at = time.monotonic()

    def epoch(self, row: dict[str, Any], selected: bool) -> None:
        parts = [
            f"epoch {row['epoch']}/{self.epochs}",
            f"train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.2%}",
        ]
        for split, label in (("validation", "validation"), ("test", "test (test-selected)")):
            if row[f"{split}_accuracy"] is not None:
                parts.append(f"{label} loss {row[f'{split}_loss']:.4f} accuracy {row[f'{split}_accuracy']:.2%}")
        parts.append(f"{row['images_per_s']:,.0f} images/s")
        self._print("  ".join(parts) + ("  *" if selected else ""))
        if self.live:
            self.bar.update(self.task, completed=row["steps"])

    def stop(self) -> None:
        if self.live:
            self.bar.refresh()
            self.bar.stop()

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
