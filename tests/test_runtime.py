"""What `auto` chooses, why it says so, what is refused, and what a run records of its surroundings."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from thriftnet import runtime
from thriftnet.config import RuntimeConfig
from thriftnet.errors import RecipeError
from thriftnet.kernels.build import KernelsUnavailable
from thriftnet.kernels.convolution import KERNELS, Kernel
from thriftnet.runtime import Runtime, environment, for_training, resolve, seed_everything

CPU = RuntimeConfig(device="cpu", precision="fp32", channels_last="no", threads=1, kernels="no")


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _allocator_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "keep_freed_memory", lambda: False)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Pretended")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)


def test_what_is_given_is_taken_without_a_reason() -> None:
    assert resolve(CPU) == Runtime(torch.device("cpu"), "fp32", False, 1, ())
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("has_bf16", "has_matrix_units", "precision", "convolutions"),
    [(True, True, "bf16", "amx"), (True, False, "bf16", None), (False, False, "fp32", "winograd")],
)
def test_automatic_on_a_cpu(
    no_gpu: None,
    monkeypatch: pytest.MonkeyPatch,
    has_bf16: bool,
    has_matrix_units: bool,
    precision: str,
    convolutions: str | None,
) -> None:
    monkeypatch.setattr(runtime, "prepare", lambda: None)
    for kernel in KERNELS.values():
        monkeypatch.setattr(kernel, "prepare", lambda: None)
    monkeypatch.setattr(runtime, "_cpu_has_bf16", lambda: has_bf16)
    monkeypatch.setattr(runtime.amx_convolution, "has_matrix_units", lambda: has_matrix_units)
    monkeypatch.setattr(runtime, "available_cores", lambda: 3)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    chosen = resolve(RuntimeConfig())
    assert (chosen.device.type, chosen.precision, chosen.channels_last, chosen.threads) == ("cpu", precision, True, 3)
    assert [reason.split(":")[0] for reason in chosen.reasons] == [
        "device cpu", f"precision {precision}", "channels-last on", "threads 3", "kernels on",
        *{"amx": ["AMX convolutions on"], "winograd": ["Winograd convolutions on"], None: []}[convolutions],
    ]  # fmt: skip
    assert (chosen.kernels, chosen.convolutions) == (True, convolutions)
    assert environment(chosen)["convolutions"] == (convolutions or "torch")


@pytest.mark.parametrize(("bf16", "precision"), [(True, "bf16"), (False, "fp16")])
def test_automatic_on_a_gpu(monkeypatch: pytest.MonkeyPatch, bf16: bool, precision: str) -> None:
    pretend_gpu(monkeypatch, bf16)
    chosen = resolve(RuntimeConfig(threads=1))
    assert (chosen.device.type, chosen.precision, chosen.channels_last) == ("cuda", precision, True)
    assert chosen.reasons[0] == "device cuda: Pretended is available"


def test_automatic_on_an_apple_gpu(no_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    chosen = resolve(RuntimeConfig(threads=1))
    assert (chosen.device.type, chosen.precision, chosen.channels_last) == ("mps", "fp32", False)


@pytest.mark.parametrize(
    ("variable", "cores", "threads"), [("2", 8, 2), ("", 64, 16), ("0", 4, 4), ("many", 4, 4), (None, 1, 1)]
)
def test_threads(monkeypatch: pytest.MonkeyPatch, variable: str | None, cores: int, threads: int) -> None:
    monkeypatch.setattr(runtime, "available_cores", lambda: cores)
    if variable is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    chosen = resolve(CPU.model_copy(update={"threads": "auto"}))
    assert chosen.threads == torch.get_num_threads() == threads
    assert ("OMP_NUM_THREADS says so" in chosen.reasons[-1]) == (variable == "2")


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("gpu", "runtime.device = 'gpu' is not a device; use auto, cpu, cuda, cuda:1 or mps"),
        ("cuda", "runtime.device = 'cuda' is not available here; use runtime.device = auto or cpu"),
        ("mps", "runtime.device = 'mps' is not available here"),
        ("meta", "runtime.device = 'meta' is not available here"),
    ],
)
def test_a_device_that_is_not_here(no_gpu: None, device: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says.replace(".", r"\.")):
        resolve(CPU.model_copy(update={"device": device}))


def test_a_gpu_of_too_high_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, bf16=True)
    assert resolve(CPU.model_copy(update={"device": "cuda:0"})).device == torch.device("cuda", 0)
    with pytest.raises(RecipeError, match="'cuda:1' is not available here"):
        resolve(CPU.model_copy(update={"device": "cuda:1"}))


@pytest.mark.parametrize(
    ("variable", "cores", "processes", "threads", "reason"),
    [
        (None, 8, 2, 4, "threads 4: 8 cores are available to the 2 processes of this machine"),
        ("1", 8, 4, 2, "threads 2: 8 cores are available to the 4 processes of this machine"),  # torchrun's default
        ("3", 8, 2, 3, "threads 3: OMP_NUM_THREADS says so"),
        ("1", 8, 1, 1, "threads 1: OMP_NUM_THREADS says so"),
        (None, 2, 3, 1, "threads 1: 2 cores are available to the 3 processes of this machine"),
    ],
)
def test_several_processes_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, cores: int, processes: int, threads: int, reason: str
) -> None:
    monkeypatch.setattr(runtime, "available_cores", lambda: cores)
    monkeypatch.setattr(runtime, "cpu_quota", lambda: None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    chosen = resolve(CPU.model_copy(update={"threads": "auto"}), 0, processes)
    assert (chosen.threads, chosen.reasons[-1]) == (threads, reason)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_each_of_several_processes_gets_a_gpu(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    pretend_gpu(monkeypatch, bf16=True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    config = CPU.model_copy(update={"device": device})
    assert [resolve(config, rank, 2).device for rank in range(2)] == [torch.device("cuda", rank) for rank in range(2)]
    assert current == [torch.device("cuda", rank) for rank in range(2)]
    with pytest.raises(RecipeError, match=r"3 processes share 2; start at most 2 a machine \(--nproc-per-node 2\)"):
        resolve(config, 0, 3)


@pytest.mark.parametrize("device", ["cuda:0", "mps", "gpu"])
def test_several_processes_refuse_one_device(no_gpu: None, device: str) -> None:
    with pytest.raises(RecipeError, match=f"'{device}' is one device, but 2 processes share this machine"):
        resolve(CPU.model_copy(update={"device": device}), 0, 2)


def test_several_processes_without_gpus_compute_on_the_cpu(no_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    chosen = resolve(CPU.model_copy(update={"device": "auto"}), 1, 2)
    assert (chosen.device.type, chosen.reasons[0].split(":")[0]) == ("cpu", "device cpu")
    assert resolve(CPU, 1, 2).reasons == ()
    with pytest.raises(RecipeError, match="'cuda' is not available here"):
        resolve(CPU.model_copy(update={"device": "cuda"}), 1, 2)


def test_fp16_is_refused_on_a_cpu() -> None:
    with pytest.raises(RecipeError, match="'fp16' needs a GPU; on a CPU use bf16 or fp32"):
        resolve(CPU.model_copy(update={"precision": "fp16"}))


@pytest.mark.parametrize(("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast(precision: str, expected: torch.dtype) -> None:
    chosen = resolve(CPU.model_copy(update={"precision": precision}))
    with chosen.autocast():
        assert nn.Linear(4, 4)(torch.ones(2, 4)).dtype == expected


@pytest.mark.parametrize(("channels_last", "memory"), [("yes", torch.channels_last), ("no", torch.contiguous_format)])
def test_place_sets_the_layout(channels_last: str, memory: torch.memory_format) -> None:
    placed = resolve(CPU.model_copy(update={"channels_last": channels_last})).place(nn.Conv2d(3, 4, 3))
    assert placed.weight.is_contiguous(memory_format=memory)
    assert not placed.weight.is_contiguous(
        memory_format=torch.contiguous_format if channels_last == "yes" else torch.channels_last
    )


def test_keeping_freed_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "keep_freed_memory", lambda: True)
    [reason] = resolve(CPU).reasons
    assert reason.startswith("allocator: freed memory is kept")


FAULTS = """
import resource, sys, torch
from thriftnet.runtime import keep_freed_memory
print(keep_freed_memory())
def faults():
    torch.ones(4_000_000)  # 16 MB, 3,906 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = [faults() for _ in range(8)][-1]  # small blocks between large ones can spoil the first places
print([faults() for _ in range(8)][-1] - before < 4000)
"""


HUGE_PAGES = """
import re, resource, sys, torch
from thriftnet.runtime import keep_freed_memory
keep_freed_memory()
def kilobytes(name):
    return int(re.search(name + r": +([0-9]+) kB", open("/proc/self/smaps_rollup").read()).group(1))
size = lambda: int(re.search(r"VmSize:\\s+([0-9]+) kB", open("/proc/self/status").read()).group(1))
before, resident = size(), kilobytes("Rss")
for _ in range(3):
    keep_freed_memory()
print(size() == before, resident < 1_000_000)  # the heap grows once, and only in addresses
kept = torch.ones(25_000_000)
print(kilobytes("AnonHugePages") > 50_000)
"""


def _huge_pages_are_given() -> bool:
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text(encoding="utf-8")
    except OSError:
        return False
    return "[madvise]" in text or "[always]" in text


@pytest.mark.skipif(not _huge_pages_are_given(), reason="the system has no transparent huge pages")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_the_heap_is_of_huge_pages() -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_PRE"))}
    command = [sys.executable, "-c", HUGE_PAGES]
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=clean).stdout
    assert output.split() == ["True", "True", "True"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
@pytest.mark.parametrize(
    "variables", [{}, {"MALLOC_MMAP_THRESHOLD_": "1000000"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1000000"}]
)
def test_freed_memory_is_kept_unless_the_user_has_chosen(variables: dict[str, str]) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_PRE"))}
    command = [sys.executable, "-c", FAULTS]
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=clean | variables).stdout
    assert output.split() == (["False", "False"] if variables else ["True", "True"])


def no_compiler() -> None:
    raise KernelsUnavailable("no C++ compiler is installed; install g++")


def test_kernels_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "prepare", no_compiler)
    automatic = CPU.model_copy(update={"kernels": "auto", "channels_last": "yes"})
    chosen = resolve(automatic)
    assert (chosen.kernels, chosen.convolutions) == (False, None)
    assert chosen.reasons == ("kernels off, training is slower: no C++ compiler is installed; install g++",)
    with pytest.raises(RecipeError, match="'yes' is not possible here: no C"):
        resolve(automatic.model_copy(update={"kernels": "yes"}))


@pytest.mark.parametrize("wanted", ["auto", "yes"])
@pytest.mark.parametrize(("precision", "kernel", "name"), [("fp32", "winograd", "Winograd"), ("bf16", "amx", "AMX")])
def test_convolutions_that_cannot_be_compiled(
    monkeypatch: pytest.MonkeyPatch, wanted: str, precision: str, kernel: Kernel, name: str
) -> None:
    """The other kernel goes without, so this is no reason to refuse `yes`."""
    monkeypatch.setattr(runtime, "prepare", lambda: None)
    monkeypatch.setattr(runtime.amx_convolution, "has_matrix_units", lambda: True)
    monkeypatch.setattr(KERNELS[kernel], "prepare", no_compiler)
    chosen = resolve(CPU.model_copy(update={"kernels": wanted, "channels_last": "yes", "precision": precision}))
    assert (chosen.kernels, chosen.convolutions) == (True, None)
    assert chosen.reasons[-1] == f"{name} convolutions off: no C++ compiler is installed; install g++"


@pytest.mark.parametrize(
    ("values", "says"),
    [({"compile": "yes"}, "torch.compile fuses"), ({"channels_last": "no"}, "they need channels-last memory")],
)
def test_kernels_where_they_do_not_apply(values: dict[str, Any], says: str) -> None:
    chosen = resolve(CPU.model_copy(update={"kernels": "auto", "channels_last": "yes"} | values))
    assert not chosen.kernels
    assert says in chosen.reasons[-1]


def test_kernels_are_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, bf16=True)
    assert not resolve(RuntimeConfig(threads=1)).kernels
    with pytest.raises(RecipeError, match="'yes' is for the CPU, not for cuda"):
        resolve(RuntimeConfig(threads=1, kernels="yes"))


@pytest.mark.parametrize(("kernels", "kernel"), [(True, "winograd"), (True, "amx"), (True, None), (False, None)])
def test_place_lets_the_network_use_kernels(
    monkeypatch: pytest.MonkeyPatch, kernels: bool, kernel: Kernel | None
) -> None:
    marked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(runtime, "use_kernels", lambda network: marked.append(("norms", network)))
    for name, module in {"dropout": runtime.dropout, "pooling": runtime.max_pool}.items():
        monkeypatch.setattr(module, "use_kernels", lambda network, name=name: marked.append((name, network)))
    monkeypatch.setattr(runtime.convolution, "use_kernels", lambda *arguments: marked.append(arguments))
    network = nn.Conv2d(3, 4, 3)
    Runtime(torch.device("cpu"), "fp32", True, 1, (), kernels, kernel).place(network)
    layers = [("norms", network), ("dropout", network), ("pooling", network)] * kernels
    assert marked == layers + [(network, kernel)] * (kernel is not None)


def on_a_gpu(**values: Any) -> tuple[Runtime, RuntimeConfig]:
    return Runtime(torch.device("cuda"), "bf16", True, 1, ()), RuntimeConfig.model_validate(values)


@pytest.mark.parametrize(
    ("flop", "missing", "compiles", "reason"),
    [
        (2e16, None, True, "torch.compile on: the run has 2.0e+16 operations, and from 2e+16 on it pays"),
        (1.9e16, None, False, "torch.compile off: the run has 1.9e+16 operations, and from 2e+16 on it pays"),
        (2e16, "Triton is not installed", False, "torch.compile off: Triton is not installed"),
    ],
)
def test_long_runs_on_a_gpu_are_compiled(
    monkeypatch: pytest.MonkeyPatch, flop: float, missing: str | None, compiles: bool, reason: str
) -> None:
    monkeypatch.setattr(runtime, "_missing_for_compiling", lambda: missing)
    chosen = for_training(*on_a_gpu(), lambda: flop, several=False)
    assert (chosen.compile, chosen.cuda_graphs) == (compiles, True)
    assert chosen.reasons[0] == reason
    assert chosen.reasons[1].startswith("CUDA graphs on")


def test_what_is_given_about_compiling_and_graphs_needs_no_reason() -> None:
    for compiles, graphs in (("yes", "no"), ("no", "yes")):
        chosen = for_training(*on_a_gpu(compile=compiles, cuda_graphs=graphs), lambda: 1e30, several=False)
        assert (chosen.compile, chosen.cuda_graphs, chosen.reasons) == (compiles == "yes", graphs == "yes", ())


def test_several_processes_record_no_graphs() -> None:
    chosen = for_training(*on_a_gpu(compile="no"), lambda: 0.0, several=True)
    assert not chosen.cuda_graphs
    assert chosen.reasons == ("CUDA graphs off: several processes average their gradients in between",)
    with pytest.raises(RecipeError, match="'yes' is for one process"):
        for_training(*on_a_gpu(cuda_graphs="yes"), lambda: 0.0, several=True)


def test_a_cpu_compiles_only_where_it_is_asked_to_and_has_no_graphs() -> None:
    for wanted in ("auto", "no", "yes"):
        config = CPU.model_copy(update={"compile": wanted})
        chosen = for_training(resolve(config), config, lambda: 1e30, several=False)
        assert (chosen.compile, chosen.cuda_graphs, chosen.reasons) == (wanted == "yes", False, ())
    with pytest.raises(RecipeError, match="'yes' needs a CUDA GPU, not cpu"):
        resolve(CPU.model_copy(update={"cuda_graphs": "yes"}))


def test_runs_of_earlier_versions_say_true_or_false() -> None:
    assert [RuntimeConfig.model_validate({"compile": old}).compile for old in (True, False)] == ["yes", "no"]


def test_the_environment_is_an_allow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "hunter2-secret")
    monkeypatch.setenv("USER", "somebody-by-name")
    recorded = environment(resolve(CPU))
    assert set(recorded) == {
        "python", "system", "packages", "device", "device_name", "precision", "channels_last", "threads", "cores",
        "kernels", "convolutions", "compile", "cuda_graphs", "deterministic", "reasons", "git_commit",
    }  # fmt: skip
    assert recorded["packages"]["torch"] == torch.__version__
    assert (recorded["device"], recorded["precision"], recorded["threads"]) == ("cpu", "fp32", 1)
    text = json.dumps(recorded)
    assert "hunter2" not in text
    assert "somebody" not in text


def test_the_commit_is_that_of_the_package_not_of_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    recorded = runtime.git_commit()
    assert recorded is None or len(recorded.removesuffix("+changes")) == 40


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runtime.git_commit() is None


def test_seeds_depend_on_seed_epoch_and_rank_alone() -> None:
    def draw(seed: int, epoch: int, rank: int = 0) -> float:
        seed_everything(seed, epoch, rank)
        return float(torch.rand(()))

    values = {(seed, epoch): draw(seed, epoch) for seed in (0, 1, 2**31 - 1) for epoch in (0, 1, 200)}
    assert len(set(values.values())) == 9
    assert draw(1, 200) == values[1, 200]
    assert len({*values.values(), *(draw(0, epoch, rank) for epoch in (0, 1, 200) for rank in (1, 2))}) == 15


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/", {"cpu.max": "200000 100000\n"}, 2.0),  # a container of Docker or Kubernetes with version 2
        ("0::/", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b", {"cpu.max": "max 100000", "a/cpu.max": "50000 100000", "a/b/cpu.max": "max 100000"}, 0.5),
        ("0::/a/b", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "150000 100000"}, 1.5),
        ("0::/../other", {"cpu.max": "400000 100000"}, 4.0),
        ("4:cpu,cpuacct:/d", {"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}, 2.5),
        ("4:cpu,cpuacct:/d", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        (
            "5:memory:/d\n4:cpu,cpuacct:/d\n0::/",
            {"cpu,cpuacct/d/cpu.cfs_quota_us": "100000", "cpu,cpuacct/d/cpu.cfs_period_us": "50000"},
            2.0,
        ),
        ("5:cpuset:/d", {"cpuset/d/cpu.max": "100000 100000"}, None),
        ("2:cpu:/\n0::/x", {"unified/x/cpu.max": "100000 100000"}, 1.0),  # both versions at once
        ("0::/", {"cpu.max": "what\n"}, None),
        ("0::/", {"cpu.max": ""}, None),
        ("", {}, None),
    ],
)
def test_the_quota_of_a_container(tmp_path: Path, groups: str, files: dict[str, str], cores: float | None) -> None:
    for name, content in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert runtime.cpu_quota(tmp_path) == cores


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert runtime.cpu_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("quota", "cores", "reason"),
    [
        (None, 8, "threads 8: 8 cores are available to this process"),
        (2.0, 2, "threads 2: 2 cores are available to this process, all of its CPU quota"),
        (1.5, 2, "threads 2: 2 cores are available to this process, all of its CPU quota"),
        (0.2, 1, "threads 1: 1 cores are available to this process, all of its CPU quota"),
        (64.0, 8, "threads 8: 8 cores are available to this process"),
    ],
)
def test_threads_keep_to_the_quota(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, cores: int, reason: str
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(runtime, "cpu_quota", lambda: quota)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert runtime.available_cores() == cores
    chosen = resolve(CPU.model_copy(update={"threads": "auto"}))
    assert (chosen.threads, chosen.reasons[-1]) == (cores, reason)
