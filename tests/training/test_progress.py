"""What is shown while training, on a terminal and elsewhere."""

from __future__ import annotations

import io
from typing import Any

import torch
from rich.console import Console

from thriftnet.training.progress import STEPS_PER_REPORT, LiveDisplay, Reading

ROW: dict[str, Any] = {
    "epoch": 1, "steps": 25, "train_loss": 0.5, "train_accuracy": 0.75, "validation_loss": None,
    "validation_accuracy": None, "test_loss": 0.25, "test_accuracy": 0.875, "images_per_s": 1234.5,
}  # fmt: skip


def show(terminal: bool, epochs_done: int = 0) -> tuple[LiveDisplay, str, list[float]]:
    """One epoch of 25 steps, of two; (display, what was written, the bar's steps after each call)."""
    file = io.StringIO()
    display = LiveDisplay(Console(file=file, force_terminal=terminal, width=120))
    completed = []

    def note() -> None:
        completed.extend(task.completed for task in display.bar.tasks)

    display.start(["tiny: 1,319 trainable parameters"], epochs=2, steps_per_epoch=25, epochs_done=epochs_done)
    note()
    for step in (10, 20):
        display.step(1, step, 0.625, 0.5, 1000.0)
        note()
    display.epoch(ROW, selected=True)
    note()
    display.stop()
    return display, file.getvalue(), completed


def test_without_a_terminal_an_epoch_is_one_plain_line() -> None:
    _, text, completed = show(terminal=False)
    assert completed == []
    first, second = text.splitlines()
    assert first == "tiny: 1,319 trainable parameters"
    parts = second.split("  ")
    assert parts[:2] == ["epoch 1/2", "train loss 0.5000 accuracy 75.00%"]
    assert parts[2:] == ["test (test-selected) loss 0.2500 accuracy 87.50%", "1,234 images/s", "*"]


def test_on_a_terminal_the_bar_counts_every_step_so_that_its_time_left_is_right() -> None:
    display, text, completed = show(terminal=True)
    assert completed == [0, STEPS_PER_REPORT, 2 * STEPS_PER_REPORT, 25]
    assert display.bar.tasks[0].total == 50
    assert "loss 0.625  accuracy 50.0%  1,000 images/s" in text
    assert "nan" not in text
    assert "epoch 1/2  train loss" in text


def test_a_resumed_run_starts_where_it_was() -> None:
    assert show(terminal=True, epochs_done=1)[2][0] == 25


def test_in_a_notebook_the_bar_is_drawn_between_lines_not_during_them() -> None:
    assert not LiveDisplay(Console(force_jupyter=True)).bar.live.auto_refresh
    assert LiveDisplay(Console(force_terminal=True, force_jupyter=False)).bar.live.auto_refresh


def test_a_note_is_a_line_of_its_own() -> None:
    file = io.StringIO()
    display = LiveDisplay(Console(file=file, force_terminal=False, force_jupyter=False))
    display.note("CUDA graphs off, training is slower: out of memory")
    assert file.getvalue() == "CUDA graphs off, training is slower: out of memory\n"


def test_what_is_on_the_cpu_is_read_at_once() -> None:
    assert Reading().of(torch.tensor([1.5, 2.0])) == [1.5, 2.0]
