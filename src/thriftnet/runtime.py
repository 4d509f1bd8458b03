"""Device, dtype, memory layout, threads and seeds; each automatic choice comes with its reason."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thriftnet.config import RuntimeConfig
from thriftnet.errors import RecipeError
from thriftnet.kernels import amx_convolution, convolution, dropout, max_pool
from thriftnet.kernels.build import KernelsUnavailable
from thriftnet.kernels.norm_act_add import prepare, use_kernels

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h
_MADV_HUGEPAGE = 14  # of mman.h
_HEAP_BYTES = 8 << 30
"""How much of the heap is asked to be of huge pages: as much as a training of small images takes."""

COMPILING_PAYS_FLOP = 2e16
"""Not measured yet: at 100 TFLOP/s this is 200 s; compiling takes about 40 s and is expected to save a quarter."""

AUTOCAST_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """The resolved choices; `reasons` has one line for each."""

    device: torch.device
    precision: str
    channels_last: bool
    threads: int
    reasons: tuple[str, ...]
    kernels: bool = False
    """Whether `place` lets the network use the compiled kernels."""
    convolutions: convolution.Kernel | None = None
    """The kernel that `place` lets the convolutions use; None: torch's."""
    compile: bool = False
    """Whether training runs the network as torch.compile has translated it."""
    cuda_graphs: bool = False
    """Whether training records its steps as CUDA graphs."""
    deterministic: bool = False
    """Whether a GPU was told to give the same bits each time."""

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision for a forward pass; does nothing in fp32."""
        return nullcontext() if self.autocast_dtype is None else torch.autocast(self.device.type, self.autocast_dtype)

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """None in fp32, where autocast has nothing to do."""
        return AUTOCAST_DTYPES[self.precision]

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def place(self, network: nn.Module) -> nn.Module:
        """The network on the device, in the memory layout."""
        if self.kernels:
            use_kernels(network)
            dropout.use_kernels(network)
            max_pool.use_kernels(network)
        if self.convolutions is not None:
            convolution.use_kernels(network, self.convolutions)
        return network.to(device=self.device, memory_format=self.memory_format)  # type: ignore[call-overload]


def resolve(config: RuntimeConfig, local_rank: int = 0, local_world_size: int = 1) -> Runtime:
    """Choose what the recipe left on `auto`, set the thread count, and say why.

    Where `local_world_size` processes of one training share this machine, process `local_rank` gets the GPU of that
    number and its part of the cores. Raises RecipeError for a device or precision that this machine does not have.
    """
    reasons: list[str] = []
    if local_world_size == 1:
        device = _device(config.device, reasons)
    else:
        device = _device_of_one_of_several(config.device, local_rank, local_world_size, reasons)
    precision = _precision(config.precision, device, reasons)
    if config.channels_last == "auto":
        channels_last = device.type in ("cpu", "cuda")
        reasons.append(
            f"channels-last {'on' if channels_last else 'off'}: the convolutions' fastest layout on {device.type}"
        )
    else:
        channels_last = config.channels_last == "yes"
    threads = _threads(config.threads, local_world_size, reasons)
    torch.set_num_threads(threads)
    kernels = _kernels(config, device, channels_last, reasons)
    convolutions = _convolutions(config, precision, reasons) if kernels else None
    if device.type == "cuda":
        _set_cuda_arithmetic(config.deterministic)
    elif config.cuda_graphs == "yes":
        raise RecipeError(
            f"runtime.cuda_graphs = 'yes' needs a CUDA GPU, not {device.type}; set runtime.cuda_graphs = auto"
        )
    if device.type == "cpu" and keep_freed_memory():
        reasons.append(
            "allocator: freed memory is kept, because fresh pages are slow; any MALLOC_ variable changes that"
        )
    return Runtime(
        device,
        precision,
        channels_last,
        threads,
        tuple(reasons),
        kernels,
        convolutions,
        deterministic=config.deterministic,
    )


def for_training(runtime: Runtime, config: RuntimeConfig, flop: Callable[[], float], several: bool) -> Runtime:
    """`runtime` with what only a training can choose: compiling and CUDA graphs.

    `flop`: the floating-point operations of the whole training's network; `several`: other processes take part. Raises
    RecipeError for a choice that is impossible there.
    """
    reasons: list[str] = []
    compiles = config.compile == "yes"
    if config.compile == "auto" and runtime.device.type == "cuda":
        missing = _missing_for_compiling()
        compiles = missing is None and flop() >= COMPILING_PAYS_FLOP
        reasons.append(
            f"torch.compile {'on' if compiles else 'off'}: "
            + (missing or f"the run has {flop():.1e} operations, and from {COMPILING_PAYS_FLOP:.0e} on it pays")
        )
    graphs = runtime.device.type == "cuda" and config.cuda_graphs != "no"
    if graphs and several:
        if config.cuda_graphs == "yes":
            raise RecipeError(
                "runtime.cuda_graphs = 'yes' is for one process, several average their gradients in between; "
                "set runtime.cuda_graphs = auto"
            )
        graphs = False
        reasons.append("CUDA graphs off: several processes average their gradients in between")
    elif graphs and config.cuda_graphs == "auto":
        reasons.append("CUDA graphs on: the launches of a step cost the processor more than one of a recording")
    return replace(runtime, compile=compiles, cuda_graphs=graphs, reasons=(*runtime.reasons, *reasons))


def _missing_for_compiling() -> str | None:
    """What torch.compile lacks to make kernels for a GPU."""
    if find_spec("triton") is None:
        return "Triton is not installed"
    if not any(shutil.which(compiler) for compiler in (os.environ.get("CC", "cc"), "gcc", "clang")):
        return "Triton needs a C compiler, and there is none"
    return None


def _set_cuda_arithmetic(deterministic: bool) -> None:
    """Fastest algorithms by trial, or such that give the same bits each time; for the whole process."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it, and reads it at first use
        # Only a warning where torch knows no other way: of ours, counts of whole numbers and the gradient of maxima
        # over windows that do not overlap, which have one result in any order.
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Nothing here reads what it has not written.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()


def _device(wanted: str, reasons: list[str]) -> torch.device:
    if wanted == "auto":
        if torch.cuda.is_available():
            reasons.append(f"device cuda: {torch.cuda.get_device_name(0)} is available")
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            reasons.append("device mps: an Apple GPU is available")
            return torch.device("mps")
        reasons.append("device cpu: no GPU is visible to torch")
        return torch.device("cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise RecipeError(f"runtime.device = {wanted!r} is not a device; use auto, cpu, cuda, cuda:1 or mps") from None
    usable = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }.get(device.type, False)
    if not usable:
        raise RecipeError(f"runtime.device = {wanted!r} is not available here; use runtime.device = auto or cpu")
    return device


def _device_of_one_of_several(wanted: str, local_rank: int, local_world_size: int, reasons: list[str]) -> torch.device:
    if wanted not in ("auto", "cpu", "cuda"):
        raise RecipeError(
            f"runtime.device = {wanted!r} is one device, but {local_world_size} processes share this machine; "
            "use auto, cpu or cuda (a GPU each)"
        )
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        if wanted == "auto":
            reasons.append("device cpu: no GPU that several processes can use is visible to torch")
        return torch.device("cpu")
    _device(wanted, [])  # refuses cuda where there is none
    gpus = torch.cuda.device_count()
    if local_world_size > gpus:
        raise RecipeError(
            f"runtime.device = {wanted!r} gives each process a GPU, but {local_world_size} processes share {gpus}; "
            f"start at most {gpus} a machine (--nproc-per-node {gpus}), or use runtime.device = cpu"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    if wanted == "auto":
        reasons.append(f"device {device}: {torch.cuda.get_device_name(device)}, a GPU for each process")
    return device


def _precision(wanted: str, device: torch.device, reasons: list[str]) -> str:
    if wanted == "fp16" and device.type == "cpu":
        raise RecipeError("runtime.precision = 'fp16' needs a GPU; on a CPU use bf16 or fp32")
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            reasons.append("precision bf16: this GPU computes it natively")
            return "bf16"
        reasons.append("precision fp16 with loss scaling: this GPU has no bf16")
        return "fp16"
    if device.type == "cpu" and _cpu_has_bf16():
        reasons.append("precision bf16: this CPU multiplies bf16 matrices in hardware (AMX or AVX-512 BF16)")
        return "bf16"
    reasons.append(f"precision fp32: no fast bf16 arithmetic known on this {device.type}")
    return "fp32"


def _cpu_has_bf16() -> bool:
    """Whether the processor has bf16 matrix instructions; elsewhere autocast would be slower than fp32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False  # not Linux: torch has no fast CPU bf16 path to gain from
    return "amx_bf16" in flags or "avx512_bf16" in flags


def available_cores() -> int:
    """CPU cores that this process may keep busy: those it may run on, and no more than its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else min(cores, max(1, math.ceil(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Cores whose time the control groups of this process (Linux) may use, the least of them; None: no limit.

    Each group and those it lies in have a limit of their own. Version 2 keeps it in `cpu.max` ("200000 100000": two
    cores), version 1 in `cpu.cfs_quota_us` and `cpu.cfs_period_us`. `root` is for tests.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None  # not Linux
    mounts, quotas = root / "sys/fs/cgroup", []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # A container sees its own group as the root, though its name may be that of the outside.
        parts = [part for part in group.split("/") if part]
        parts = [] if ".." in parts else parts
        for mount in (mounts, mounts / "unified") if not controllers else (mounts / controllers, mounts / "cpu"):
            folders = [mount.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
            quotas += [quota for folder in folders if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def _quota_of(group: Path) -> float | None:
    """The limit of one control group in cores, of either version; None where it has none."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            words = " ".join((group / name).read_text(encoding="ascii") for name in names).split()
            quota, period = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):
            continue  # not there, or "max"
        if quota > 0 and period > 0:  # version 1 says -1 for no limit
            return quota / period
    return None


def _threads(wanted: int | str, local_world_size: int, reasons: list[str]) -> int:
    if isinstance(wanted, int):
        return wanted
    environment = os.environ.get("OMP_NUM_THREADS", "")
    # torchrun sets 1 for several processes where the user has set nothing; whoever wants 1 has runtime.threads.
    set_by_torchrun = local_world_size > 1 and environment == "1"
    if environment.isdigit() and int(environment) > 0 and not set_by_torchrun:
        reasons.append(f"threads {environment}: OMP_NUM_THREADS says so")
        return int(environment)
    # Beyond 16 threads batches of 32x32 images are too small to share; oversubscription is ruinous.
    cores = available_cores()
    threads = min(max(cores // local_world_size, 1), 16)
    quota = cpu_quota()
    limit = ", all of its CPU quota" if quota is not None and math.ceil(quota) <= cores else ""
    users = "this process" if local_world_size == 1 else f"the {local_world_size} processes of this machine"
    reasons.append(f"threads {threads}: {cores} cores are available to {users}{limit}")
    return threads


def _kernels(config: RuntimeConfig, device: torch.device, channels_last: bool, reasons: list[str]) -> bool:
    """A GPU and torch.compile have fused layers of their own, so there is nothing to choose there."""
    if config.kernels == "no":
        return False
    if device.type != "cpu":
        if config.kernels == "yes":
            raise RecipeError(
                f"runtime.kernels = 'yes' is for the CPU, not for {device.type}; set runtime.device = cpu "
                "or runtime.kernels = auto"
            )
        return False
    if config.kernels == "auto" and (config.compile == "yes" or not channels_last):
        compiles = config.compile == "yes"
        what = "torch.compile fuses these layers itself" if compiles else "they need channels-last memory"
        reasons.append(f"kernels off: {what}")
        return False
    try:
        prepare()
        dropout.prepare()
        max_pool.prepare()
    except KernelsUnavailable as problem:
        if config.kernels == "yes":
            raise RecipeError(f"runtime.kernels = 'yes' is not possible here: {problem}") from None
        reasons.append(f"kernels off, training is slower: {problem}")
        return False
    if config.kernels == "auto":
        reasons.append("kernels on: normalisation, activation and addition as one, dropout, max pooling")
    return True


def _convolutions(config: RuntimeConfig, precision: str, reasons: list[str]) -> convolution.Kernel | None:
    """Winograd's for fp32, where multiplications are the limit; bf16's needs the processor's matrix units."""
    kernel: convolution.Kernel
    if precision == "fp32":
        kernel, name = "winograd", "Winograd convolutions"
        why = "3x3 in fp32 takes a quarter of the multiplications"
    elif amx_convolution.has_matrix_units():
        kernel, name = "amx", "AMX convolutions"
        why = "weight gradients, small images, strides and groups, where the library leaves the matrix units idle"
    else:
        return None
    try:
        convolution.KERNELS[kernel].prepare()
    except KernelsUnavailable as problem:
        reasons.append(f"{name} off: {problem}")
        return None
    if config.kernels == "auto":
        reasons.append(f"{name} on: {why}")
    return kernel


def keep_freed_memory() -> bool:
    """Let the C library's allocator (glibc) reuse freed activations instead of giving them back to the system.

    By default every large tensor is mapped anew, and the system clears each of its pages at first use. Returns whether
    it is so now: not where another allocator is loaded or the user has set one of glibc's variables.
    """
    chosen = [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]
    if chosen or platform.libc_ver()[0] != "glibc" or "malloc" in os.environ.get("LD_PRELOAD", ""):
        return False
    libc = ctypes.CDLL(None)
    # Any positive threshold is too low for somebody: above 2 GB, which 1,000 images free at once, it would trim again.
    kept = bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, -1))
    if kept:
        _ask_for_huge_pages()
    return kept


@cache
def _ask_for_huge_pages() -> None:
    """Let the system back the heap with pages of 2 MB where it can: fewer translations, and prefetching goes on longer.

    Once a process, since the heap grows by what is asked for; no memory is taken until it is written to. Where the
    system has no such pages, or not so much address space is allowed, nothing changes.
    """
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = min(_HEAP_BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    start = libc.malloc(size)
    if start is None:
        return
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    aligned = -(-start // page_bytes) * page_bytes
    libc.madvise(aligned, (start + size - aligned) // page_bytes * page_bytes, _MADV_HUGEPAGE)
    libc.free(start)  # it stays a part of the heap, as everything that is freed


def environment(runtime: Runtime) -> dict[str, Any]:
    """What a number measured here depends on; an allow-list, so no secret of the environment is ever stored."""
    packages = ("torch", "numpy", "pydantic", "pillow", "pyarrow", "scikit-learn", "safetensors", "thriftnet")
    device_name = torch.cuda.get_device_name(runtime.device) if runtime.device.type == "cuda" else _cpu_name()
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: version for name in packages if (version := _version(name)) is not None},
        "device": str(runtime.device),
        "device_name": device_name,
        "precision": runtime.precision,
        "channels_last": runtime.channels_last,
        "threads": runtime.threads,
        "kernels": runtime.kernels,
        "convolutions": runtime.convolutions or "torch",
        "compile": runtime.compile,
        "cuda_graphs": runtime.cuda_graphs,
        "deterministic": runtime.deterministic,
        "cores": available_cores(),
        "reasons": list(runtime.reasons),
        "git_commit": git_commit(),
    }


def git_commit() -> str | None:
    """The commit of the checkout this package runs from, with `+changes` if files differ; None outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(here, "status", "--porcelain", "--untracked-files=no", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=10)
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux; the general name below serves
    return platform.processor() or platform.machine()


def seed_everything(seed: int, epoch: int, rank: int = 0) -> None:
    """Seed torch's generators (initial weights, dropout) as a pure function of seed and epoch, so a resume agrees.

    Another `rank` of several processes draws other dropout masks, for its own part of each batch.
    """
    torch.manual_seed((seed * 1_000_003 + epoch + rank * 961_748_941) % 2**63)
