"""A run whose weights or outputs are NaN or infinite ends every use of it in one line, and no file is written."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import Trained, thriftnet
from tests.training.conftest import TinySource
from thriftnet import predictor
from thriftnet.config import RuntimeConfig
from thriftnet.errors import NonFiniteLossError
from thriftnet.evaluation.adversarial import AttackConfig, attacked_accuracy
from thriftnet.run import load_run
from thriftnet.run_landscape import Settings, measure_sharpness
from thriftnet.runtime import resolve
from thriftnet.training.run_folder import RunFolder

USES: dict[str, tuple[object, ...]] = {
    "evaluate": ("evaluate", "RUN"),
    "evaluate of two": ("evaluate", "RUN", "RUN"),
    "shift": ("evaluate", "RUN", "--shift", "--shift-images", 30),
    "remedies": ("remedies", "RUN", "--shift-images", 30),
    "calibrate": ("calibrate", "RUN"),
    "predict": ("predict", "RUN", "INPUT", "--out", "OUT"),
    "landscape": ("landscape", "RUN", "--out", "OUT", "--images", 30),
    "compare": ("compare", "RUN", "OTHER"),
}


def used(name: str, trained: Trained, tmp_path: Path) -> tuple[str, set[str]]:
    """What the use of that name says of its failure, and the files it leaves."""
    other, images, out = tmp_path / "other", tmp_path / "images.npz", tmp_path / "out"
    other.symlink_to(trained.path)
    np.savez(images, images=np.zeros((5, 16, 16), dtype=np.uint8), ids=np.array(list("abcde")))
    places = {"RUN": trained.path, "OTHER": other, "INPUT": images, "OUT": out}
    before = files(trained.path)
    outcome = thriftnet(*(places.get(str(word), word) for word in USES[name]))
    assert outcome.status == 1, outcome.stderr
    assert "Traceback" not in outcome.stderr
    return outcome.stderr.splitlines()[-1], (files(trained.path) - before) | ({"out"} if out.exists() else set())


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def spoil(trained: Trained, value: float, which: str) -> str:
    """Put `value` into the first tensor whose name contains `which`; returns its name."""
    folder = RunFolder(trained.path)
    tensors = folder.read_weights("selected")
    name = next(name for name in tensors if which in name)
    tensors[name].view(-1)[0] = value
    folder.write_weights("selected", tensors, 1)
    return name


@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize(("value", "which"), [(math.nan, "weight"), (math.inf, "running_var")])
def test_weights_that_are_not_finite(name: str, value: float, which: str, trained: Trained, tmp_path: Path) -> None:
    tensor = spoil(trained, value, which)
    error, written = used(name, trained, tmp_path)
    assert f"{trained.path} can predict no image: {tensor} in selected.safetensors is NaN or infinite" in error
    assert written == set()


@pytest.mark.parametrize("name", [name for name in USES if name != "landscape"])
def test_outputs_that_are_not_finite(
    name: str, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = predictor.predict_logits

    def with_a_bad_row(*arguments: object, **settings: object) -> torch.Tensor:
        logits = plain(*arguments, **settings).clone()  # type: ignore[arg-type]
        logits[3:5, 1] = math.nan
        return logits

    monkeypatch.setattr(predictor, "predict_logits", with_a_bad_row)
    error, written = used(name, trained, tmp_path)
    assert re.search(rf"the output of {trained.path} is NaN or infinite for 2 of \d+ images, first for image ", error)
    first = {"predict": "d", "shift": r"\d+ of the split, counted from 0 \(clean 0\)"}
    first["remedies"] = first["shift"]
    assert re.search(f"first for image {first.get(name, '3, counted from 0')};", error)
    assert written == set()


def test_the_landscape_of_outputs_that_are_not_finite(trained: Trained, tmp_path: Path) -> None:
    spoil(trained, 3e38, "weight")
    error, written = used("landscape", trained, tmp_path)
    assert re.search(
        rf"the output of {trained.path} is NaN or infinite for \d+ of 30 images, first for image \d", error
    )
    assert written == set()


def test_sharpness_and_accuracy_under_attack(trained: Trained) -> None:
    spoil(trained, 3e38, "weight")
    run, source = load_run(trained.path), TinySource()
    with pytest.raises(NonFiniteLossError, match=r"first for image \d, counted from 0"):
        measure_sharpness(run, source, Settings(images=30))
    images, runtime = source.train(), resolve(RuntimeConfig(device="cpu"))
    with pytest.raises(NonFiniteLossError, match="the output is not finite under fgsm"):
        attacked_accuracy(
            run.network(), images.images, images.labels, run.data.mean, run.data.std,
            AttackConfig(name="fgsm", epsilon_levels=2.0), device=runtime.device, batch_size=20,
        )  # fmt: skip
