"""Memory that runs out: on the CPU for real (RLIMIT_AS), on a GPU as torch says it; never another batch."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import thriftnet, write_tiny_data
from tests.training.conftest import TinySource, tiny_recipe
from thriftnet import memory, predictor
from thriftnet import recipe as recipes
from thriftnet.errors import OutOfMemoryError, RunFolderError
from thriftnet.training import loop, run_folder
from thriftnet.training.loop import fit
from thriftnet.training.progress import SilentDisplay
from thriftnet.training.run_folder import RunFolder
from thriftnet.training.step import train_step

ON_A_GPU = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79 GiB, 4 GiB free."
BEYOND_ANY_MACHINE = 2**50


@pytest.mark.parametrize(
    ("allocate", "what"),
    [
        (
            lambda: torch.empty(BEYOND_ANY_MACHINE, dtype=torch.uint8),
            "on the CPU, which could not give 1048576.0 GiB more,",
        ),
        (lambda: np.empty(BEYOND_ANY_MACHINE, np.uint8), "on the CPU, which could not give 1.00 PiB more,"),
        (lambda: bytearray(2**62), "on the CPU"),
    ],
)
def test_what_really_runs_out_is_told(allocate: Callable[[], Any], what: str) -> None:
    with pytest.raises(OutOfMemoryError) as caught, memory.named(lambda: "here"):
        allocate()
    assert str(caught.value) == f"out of memory {what} here"


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (torch.OutOfMemoryError(ON_A_GPU), "on the GPU, which could not give 20.00 GiB more,"),
        (RuntimeError("CUDA error: out of memory"), "on the GPU"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "on the GPU"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB). Tried to allocate 256 bytes"),
         "on the GPU, which could not give 256 bytes more,"),
        (RuntimeError("std::bad_alloc"), "on the CPU"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "on the CPU"),
    ],
)  # fmt: skip
def test_other_ways_to_say_it(error: Exception, what: str) -> None:
    assert memory.is_out_of_memory(error)
    assert memory.what_ran_out(error) == f"out of memory {what}"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("CUDA error: device-side assert triggered"),
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("out of memory"),
        RunFolderError("out of memory"),
    ],
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, memory.named(lambda: "here"):
        raise error
    assert caught.value is error


def starved(mib: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line in a process that gets so many MiB besides what it has when everything is imported."""
    command = [sys.executable, "-m", "tests.training.starved", str(mib), *map(str, arguments)]
    return subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(recipe, data, finished run): epoch 1 with images of 8 pixels, epoch 2 with 128, evaluated one by one."""
    folder = tmp_path_factory.mktemp("growing")
    recipe, data, run = folder / "growing.toml", folder / "tiny.npz", folder / "whole"
    write_tiny_data(data)
    config = tiny_recipe(
        model={"stem": {"width": 32}, "widths": [16, 32]},
        data={"image_side": 128},
        training={
            "epochs": 2,
            "batch_size": 72,
            "evaluation_batch_size": 1,
            "progressive": [{"side_px": 8, "until": 0.5}],
        },
    )
    recipe.write_text(recipes.to_toml(config))
    assert thriftnet("train", recipe, "--data", data, "--out", run).status == 0
    return recipe, data, run


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc")
def test_a_starved_training_stops_in_one_line_and_goes_on_to_the_same_bits(
    growing: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    recipe, data, whole = growing
    run = tmp_path / "run"
    ended = starved(120, "train", recipe, "--data", data, "--out", run)
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    said = ended.stderr.splitlines()[-1]
    assert said.startswith("thriftnet: out of memory on the CPU, which could not give ")
    assert said.endswith(
        " MiB more, for a batch of 72 images of 128 x 128 px in fp32, in epoch 2, step 1 of 1; no smaller batch was "
        "tried; this run needs more memory, a new one less with a smaller training.batch_size (another training, with "
        "another recipe hash) or runtime.precision = bf16; epoch 1 of 2 is saved; go on with: thriftnet train --resume "
        f"{run}"
    )
    assert '"event": "out of memory", "epoch": 2, "step": 0, "batch_images": 72' in (run / "events.jsonl").read_text()
    assert thriftnet("check", run).status == 0
    assert thriftnet("train", "--resume", run).status == 0
    for which in ("selected", "last"):
        assert (run / f"{which}.safetensors").read_bytes() == (whole / f"{which}.safetensors").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc")
def test_a_starved_prediction_names_the_option_that_helps(growing: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, data, run = growing
    out = tmp_path / "predictions.csv"
    ended = starved(80, "predict", run, data, "--out", out, "--batch-size", 180)
    assert ended.returncode == 1, ended.stderr
    said = ended.stderr.splitlines()[-1]
    assert said.startswith("thriftnet: out of memory on the CPU, which could not give ")
    assert said.endswith(
        " MiB more, to predict 90 images of 128 x 128 px at once; nothing unfinished was written; evaluate and predict "
        "take a smaller --batch-size"
    )
    assert not out.exists()
    assert "Traceback" not in ended.stderr
    whole = tmp_path / "whole.csv"
    assert thriftnet("predict", run, data, "--out", out, "--batch-size", 7).status == 0
    assert thriftnet("predict", run, data, "--out", whole, "--batch-size", 180).status == 0
    assert out.read_bytes() == whole.read_bytes()


def test_a_gpu_without_memory_ends_the_training_and_no_batch_is_ever_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def step(learner: Any, images: torch.Tensor, *others: Any) -> Any:
        sizes.append(len(images))
        if len(sizes) == 6:  # the second step of the second epoch
            raise torch.OutOfMemoryError(ON_A_GPU)
        return train_step(learner, images, *others)

    recipe, run, whole = tiny_recipe(), RunFolder(tmp_path / "run"), RunFolder(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", step)
        with pytest.raises(OutOfMemoryError) as caught:
            fit(recipe, TinySource(), run, SilentDisplay())
    assert str(caught.value) == (
        "out of memory on the GPU, which could not give 20.00 GiB more, for a batch of 20 images of 16 x 16 px in "
        "fp32, in epoch 2, step 2 of 4; no smaller batch was tried; this run needs more memory, a new one less with a "
        "smaller training.batch_size (another training, with another recipe hash) or runtime.precision = bf16; epoch 1 "
        f"of 4 is saved; go on with: thriftnet train --resume {run.path}"
    )
    assert sizes == [20, 20, 20, 12, 20, 20]
    fit(recipe, TinySource(), run, SilentDisplay(), resume=True)
    fit(recipe, TinySource(), whole, SilentDisplay())
    assert run.read_bytes("last.safetensors") == whole.read_bytes("last.safetensors")


def test_too_little_memory_to_evaluate_is_told_with_its_own_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(*_: Any, **__: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError(ON_A_GPU)

    monkeypatch.setattr(loop, "predict_logits", predict)
    with pytest.raises(OutOfMemoryError) as caught:
        fit(tiny_recipe(), TinySource(), RunFolder(tmp_path / "run"), SilentDisplay())
    assert (
        "to evaluate 512 images of 16 x 16 px at once in fp32, after epoch 1; this run needs more memory, a new one "
        "less with a smaller training.evaluation_batch_size (the same training under another recipe hash) or "
        "runtime.precision = bf16; no epoch was completed yet"
    ) in str(caught.value)


def test_memory_that_runs_out_elsewhere_is_one_line_too(
    growing: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, data, run = growing

    def full(*_: Any, **__: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(loop, "build_model", full)
        outcome = thriftnet("train", recipe, "--data", data, "--out", tmp_path / "new")
    assert (outcome.status, outcome.error) == (
        1,
        "thriftnet: out of memory on the CPU before or between the steps of a training, where no batch size counts; "
        f"what {tmp_path / 'new'} holds is safe; use a machine with more memory, or fewer images (data.train_images)",
    )
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(predictor.Run, "network", full)
    outcome = thriftnet("predict", run, data, "--out", tmp_path / "p.csv")
    assert (outcome.status, outcome.error) == (
        1,
        "thriftnet: out of memory on the CPU; files already written are complete; use a machine with more memory, or "
        "less data",
    )


def test_a_state_that_finds_no_memory_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an older state would be taken, or the user told to train again."""
    folder = RunFolder(tmp_path / "run")
    fit(tiny_recipe(training={"epochs": 1}), TinySource(), folder, SilentDisplay())

    def full(*_: Any, **__: Any) -> Any:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:9] . DefaultCPUAllocator: can't allocate memory: you tried "
                           "to allocate 4096 bytes. Error code 12 (Cannot allocate memory)")  # fmt: skip

    monkeypatch.setattr(run_folder.torch, "load", full)
    with pytest.raises(OutOfMemoryError, match=r"could not give 4.0 KiB more, before or between"):
        fit(tiny_recipe(training={"epochs": 1}), TinySource(), folder, SilentDisplay(), resume=True)


WORKSPACE = """
import os, resource, sys, torch
from pathlib import Path
from thriftnet.kernels import amx_convolution, winograd
from thriftnet.kernels.build import KernelsUnavailable
kernel = sys.argv[1]
try:
    {"winograd": winograd, "amx": amx_convolution}[kernel].prepare()
except KernelsUnavailable as error:
    sys.exit(f"skip: {error}")
x = torch.zeros(8, 512, 8, 8).contiguous(memory_format=torch.channels_last)
weight = torch.zeros(512, 512, 3, 3).contiguous(memory_format=torch.channels_last)
y = torch.empty_like(x)
if kernel == "amx":
    x, y = x.bfloat16(), y.bfloat16()
mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (mapped + 2**20, mapped + 2**20))
if kernel == "amx":
    sizes = amx_convolution._SIZES(8, 512, 8, 8, 512, 8, 8, 3, 1, 1, 1)
    calls = {
        "output": (sizes, x, weight, None, y),
        "input_gradient": (sizes, y, weight, x),
        "weight_gradient": (sizes, x, y, weight, None),
    }
    call = amx_convolution._call
else:
    sizes = (8, 8, 8, 512, 512)
    calls = {
        "winograd_convolve": (x, weight, None, y, *sizes, False),
        "winograd_weight_gradient": (x, y, weight, *sizes),
    }
    call = winograd._call
for name, arguments in calls.items():
    try:
        call(name, *arguments)
    except MemoryError as error:
        print(name, error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc")
@pytest.mark.parametrize(
    ("kernel", "functions"),
    [
        ("winograd", ["winograd_convolve", "winograd_weight_gradient"]),
        ("amx", ["output", "input_gradient", "weight_gradient"]),
    ],
)
def test_a_compiled_kernel_without_memory_reports_it_and_does_not_abort(kernel: str, functions: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", WORKSPACE, kernel], capture_output=True, text=True, timeout=120)
    if done.stderr.startswith("skip"):
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{name} no memory for a convolution's workspace" for name in functions]
