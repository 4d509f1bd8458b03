"""Event files for TensorBoard, written by torch's SummaryWriter into the run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from thriftnet.tracking.tracker import TrackedRun


class TensorBoard:
    """Look at it with `tensorboard --logdir FOLDER`; the folder of a study shows all its trials."""

    def open(self, run: TrackedRun) -> str:
        folder = run.folder / "tensorboard"
        # `purge_step` voids what an earlier process, killed before its epoch was marked as tracked, had written.
        purge_step = run.steps_done + 1 if run.steps_done else None
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)
        if not run.steps_done:
            facts = {key: run.config[key] for key in ("parameters", "data", "environment")} | {"group": run.group}
            self._text("recipe", run.recipe)
            self._text("run", json.dumps(facts, indent=2))
        return f"tracking: tensorboard --logdir {folder}"

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def figure(self, name: str, png: Path, step: int) -> None:
        with Image.open(png) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image(f"figures/{name}", pixels, step, dataformats="HWC")

    def outcome(self, values: Mapping[str, Any], step: int) -> None:
        for name, value in values.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(f"result/{name}", value, step)
        self._text("result", json.dumps(dict(values), indent=2), step)

    def close(self, failed: bool) -> None:
        self._writer.close()

    def _text(self, name: str, text: str, step: int = 0) -> None:
        """As it is: TensorBoard shows Markdown, in which four spaces make a block of code."""
        code = "\n".join("    " + line for line in text.splitlines())
        self._writer.add_text(name, code, step)
