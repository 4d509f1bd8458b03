"""What is fuzzed: for each kind of file or text that thriftnet is given, good examples and the functions that read it.

The quick form (`test_targets.py`) and the coverage-guided one (`coverage_guided.py`) run the same targets. The property
is always the same: a right result, or a ThriftnetError whose message is one line; no other exception and no hang.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import pickle
import shutil
import signal
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.ledger.conftest import Bench, make_bench
from tests.training.conftest import TinySource, tiny_recipe
from thriftnet import api
from thriftnet import recipe as recipes
from thriftnet.data.dataset import Source
from thriftnet.data.open import open_source
from thriftnet.data.prediction_input import read_unlabelled
from thriftnet.data.safe_pickle import load_pickle
from thriftnet.errors import ThriftnetError
from thriftnet.evaluation.per_image import decode_per_image
from thriftnet.ledger.findings import find
from thriftnet.ledger.joined import read_joined
from thriftnet.ledger.page import ledger_page, to_markdown
from thriftnet.ledger.plan import DataShape, Request, plan
from thriftnet.models.build import check_recipe_network
from thriftnet.predictor import read_temperature
from thriftnet.reporting.page import write_page
from thriftnet.run import load_run
from thriftnet.training import checksums
from thriftnet.training.progress import SilentDisplay
from thriftnet.training.run_folder import RunFolder
from thriftnet.tuning import config as studies

HANG_S = 20
"""Of the process's own CPU time: no input of these sizes may take longer; a usual one takes milliseconds."""
WAITING_S = 300
"""Of the clock, for what waits instead of computing; a busy machine stretches HANG_S tenfold."""
MOST_BYTES = 100_000
"""Of an input: parsers are reached with far less, and every run then stays short."""


@dataclass(frozen=True)
class Target:
    """`read` gets the input and an empty folder; what it raises besides ThriftnetError is a finding."""

    examples: Callable[[], list[bytes]]
    """Valid inputs, to be mutated."""
    read: Callable[[bytes, Path], None]
    covers: tuple[str, ...]
    """Modules and packages whose branches guide the mutation; few, because each makes the start longer."""
    slow: bool = False
    """Whether one input takes more than a tenth of a second."""


def check(target: Target, content: bytes, folder: Path) -> bool:
    """Run a target on one input in the empty `folder`. Returns whether it was accepted; raises for a finding."""
    unraisable: list[Any] = []
    earlier, sys.unraisablehook = sys.unraisablehook, unraisable.append
    try:
        with _at_most(HANG_S, WAITING_S):
            target.read(content, folder)
        accepted = True
    except ThriftnetError as error:
        message = str(error)
        assert message and message.isprintable() and len(message) < 11_000, f"not one line: {message!r}"  # noqa: PT018
        accepted = False
    finally:
        sys.unraisablehook = earlier
    assert not unraisable, f"a traceback would be on standard error: {unraisable[0].exc_value!r}"
    return accepted


class Hang(BaseException):
    """Passes through every `except Exception`."""


@contextmanager
def _at_most(computing_s: int, waiting_s: int) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang(f"more than {computing_s} s of computing or {waiting_s} s in all")

    kinds = ((signal.ITIMER_PROF, signal.SIGPROF, computing_s), (signal.ITIMER_REAL, signal.SIGALRM, waiting_s))
    earlier = [signal.signal(number, stop) for _, number, _ in kinds]
    for timer, _, seconds in kinds:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (timer, number, _), handler in zip(kinds, earlier, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _read_all(source: Source) -> None:
    """Both splits, as `data info` reads them."""
    for split in (source.train, source.test) if source.has_test else (source.train,):
        found = split()
        assert len(found) == 0 or 0 <= int(found.labels.min()) <= int(found.labels.max()) < len(source.class_names)


def _check_input(path: Path) -> None:
    for channels in (1, 3):
        found = read_unlabelled(path, channels, 32)
        assert found.images.shape == (len(found.ids), channels, 32, 32)
        assert len(set(found.ids)) == len(found.ids)


# Recipes and studies


def _recipe_examples() -> list[bytes]:
    small = recipes.to_toml(tiny_recipe())
    packaged = [recipes.to_toml(recipes.load(name)) for name in recipes.names()[::4]]
    children = [
        'inherits = "liu-4x2"\n[training]\nepochs = 3\n',
        'inherits = "xu-resnet18"\n[model]\nblocks = [1, 1]\n',
    ]
    return [text.encode() for text in (small, *packaged, *children)]


def _read_recipe(content: bytes, folder: Path) -> None:
    recipe = recipes.load(str(_write(folder / "r.toml", content)))
    again = recipes.load(str(_write(folder / "again.toml", recipes.to_toml(recipe).encode())))
    assert recipes.content_hash(again) == recipes.content_hash(recipe)
    check_recipe_network(recipe)


def _override_examples() -> list[bytes]:
    return [
        b"optimizer.lr=0.05\nmodel.widths=[16, 32]",
        b"augment.ops.0.degrees=10",
        b"augment.ops=[{op='cutout', side_px=8}]\ntraining.epochs=3",
        b"model.stem.width=64\nmodel.blocks=[1,1,1,1]\nexpect=none\ntraining.ema_decay=0.9",
        b"model.block=resnext\nmodel.cardinality=4\nmodel.base_width=8\nmodel.widths=none",
    ]


def _read_overrides(content: bytes, folder: Path) -> None:
    check_recipe_network(recipes.load("liu-4x2", content.decode("utf-8", "replace").split("\n")))


def _study_examples() -> list[bytes]:
    packaged = (studies._read(name)[1] for name in studies.names())
    grid = 'recipe = "digits-demo"\n[sampler]\nname = "grid"\n[space]\noptimizer.lr.values = [0.1, 0.2]\n'
    return [text.encode() for text in (*packaged, grid)]


def _read_study(content: bytes, folder: Path) -> None:
    studies.load(str(_write(folder / "s.toml", content)))


# Pickles


def _pickle_examples() -> list[bytes]:
    values: list[Any] = [
        {b"data": np.arange(3072 * 2, dtype=np.int64).reshape(2, 3072).astype(np.uint8), b"ids": [b"a", b"b"]},
        {"data": np.zeros((2, 8, 8, 3), np.uint8), "ids": np.arange(2)},
        np.zeros((3, 16, 16), np.uint8),
        {b"data": np.zeros((1, 1, 4, 4), np.int64), "more": {frozenset({1}), (b"x", 1.5, None, True, 2**70)}},
        [np.int64(3), bytearray(b"ab"), np.asfortranarray(np.ones((2, 3), bool)), ["x"] * 3],
    ]
    return [pickle.dumps(value, protocol) for value in values for protocol in range(6)]


_PLAIN = (bytes, bytearray, str, int, float, bool, type(None), np.ndarray)


def _read_pickle(content: bytes, folder: Path) -> None:
    waiting, seen = [load_pickle(content)], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += value
        else:
            assert isinstance(value, _PLAIN), type(value)
            assert not isinstance(value, np.ndarray) or value.dtype.kind in "biufSU"


def _read_prediction_pickle(content: bytes, folder: Path) -> None:
    _check_input(_write(folder / "test.pkl", content))


# CIFAR


def _batch(rows: int = 20) -> dict[bytes, Any]:
    return {
        b"data": np.arange(rows * 3072).reshape(rows, 3072).astype(np.uint8),
        b"labels": [*range(10)] * (rows // 10),
    }


def _cifar_python_examples() -> list[bytes]:
    meta = {b"label_names": [b"class %d" % number for number in range(10)]}
    batch = [b"\0" + pickle.dumps(_batch(10), protocol) for protocol in range(6)]
    return [*batch, *(b"\1" + pickle.dumps(meta, protocol) for protocol in range(6))]


def _read_cifar_python(content: bytes, folder: Path) -> None:
    _write_cifar(folder)
    _write(folder / ("data_batch_1", "batches.meta")[content[:1] == b"\1"], content[1:])
    _read_all(open_source(str(folder)))


def _write_cifar(folder: Path) -> None:
    for name in (*(f"data_batch_{number}" for number in range(2, 6)), "test_batch", "data_batch_1"):
        _write(folder / name, pickle.dumps(_batch(10)))


def _cifar_binary_examples() -> list[bytes]:
    record = bytes([3]) + bytes(range(256)) * 12
    return [record * 2, record, bytes([0]) + bytes(3072)]


def _read_cifar_binary(content: bytes, folder: Path) -> None:
    good = bytes([1]) + bytes(3072)
    for name in (*(f"data_batch_{number}.bin" for number in range(2, 6)), "test_batch.bin"):
        _write(folder / name, good)
    _write(folder / "data_batch_1.bin", content)
    source = open_source(str(folder))
    _read_all(source)
    assert len(source.train()) == len(content) // 3073 + 4
    _check_input(folder / "data_batch_1.bin")


@lru_cache
def _archive() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin", "é" * 60):
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = 3073
            archive.addfile(entry, io.BytesIO(bytes([1]) + bytes(3072)))
    return stream.getvalue()


def _archive_examples() -> list[bytes]:
    return [_archive()]


def _read_archive(content: bytes, folder: Path) -> None:
    _read_all(open_source(str(_write(folder / "cifar-10-binary.tar", _with_tar_checksums(content)))))


def _with_tar_checksums(archive: bytes) -> bytes:
    """Correct the sum of every header that is reached, so that what is behind the sum is read too."""
    blocks, at = bytearray(archive), 0
    while at + 512 <= len(blocks):
        header = blocks[at : at + 512]
        blocks[at + 148 : at + 156] = b"%06o\0 " % (sum(header[:148]) + 256 + sum(header[156:]))
        digits = header[124:135].strip(b"\0 ")
        size = int(digits, 8) if digits and set(digits) <= set(b"01234567") else 0
        at += 512 + -(-size // 512) * 512
    return bytes(blocks)


# Arrays, tables, images


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def _zip(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return stream.getvalue()


def _npz_members() -> dict[str, bytes]:
    arrays = {
        "images": np.arange(20 * 16 * 16).reshape(20, 16, 16).astype(np.uint8),
        "labels": np.arange(20) % 2,
        "class_names": np.array(["dark", "bright"]),
    }
    return {f"{name}.npy": _npy(array) for name, array in arrays.items()}


def _npz_examples() -> list[bytes]:
    packed = io.BytesIO()
    np.savez_compressed(packed, images=np.zeros((10, 16, 16), np.uint8), labels=np.arange(10) % 2)
    return [_zip(_npz_members()), packed.getvalue()]


def _read_npz(content: bytes, folder: Path) -> None:
    path = _write(folder / "set.npz", content)
    with suppress(ThriftnetError):
        _read_all(open_source(str(path)))
    _check_input(path)


def _npy_examples() -> list[bytes]:
    objects = _npy(np.array([[1], None], dtype=object))
    arrays = (np.zeros((4, 3, 8, 8), np.uint8), np.asfortranarray(np.ones((4, 192), ">u2")), np.zeros((2, 5), "V3"))
    members = [bytes([at]) + content for at, content in enumerate(_npz_members().values())]
    return [*members, *(b"\0" + _npy(array) for array in arrays), b"\0" + objects]


def _read_npy(content: bytes, folder: Path) -> None:
    """An array within an `.npz` whose own sums are right."""
    members = _npz_members()
    members[list(members)[(content or b"\0")[0] % 3]] = content[1:]
    _read_npz(_zip(members), folder)


def _encoded(form: str, mode: str = "RGB", **how: Any) -> bytes:
    stream = io.BytesIO()
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "P": ()}[mode]
    pixels = np.arange(12 * 10 * (channels or (1,))[0]).reshape(12, 10, *channels).astype(np.uint8)
    image = Image.fromarray(pixels, "L" if mode == "P" else mode)
    (image.convert("P") if mode == "P" else image).save(stream, form, **how)
    return stream.getvalue()


@lru_cache
def _images() -> tuple[bytes, ...]:
    exif = Image.Exif()
    exif[0x0112] = 6
    return (
        _encoded("PNG"),
        _encoded("PNG", "RGBA"),
        _encoded("PNG", "P", transparency=0),
        _encoded("PNG", "L", exif=exif),
        _encoded("JPEG"),
        _encoded("JPEG", "L", progressive=True),
        _encoded("JPEG", exif=exif),
        _encoded("WEBP", lossless=True),
        _encoded("WEBP", "RGBA"),
        _encoded("GIF"),
        _encoded("BMP"),
        _encoded("TIFF"),
        _encoded("TIFF", "L", compression="tiff_lzw"),
        _encoded("PPM"),
    )


def _image_examples() -> list[bytes]:
    return list(_images())


def _read_image(content: bytes, folder: Path) -> None:
    """A damaged image in a set, and as the one to predict."""
    for label in ("cat", "dog"):
        for number in range(4):
            _write(folder / label / f"{number}.png", _images()[0])
    _write(folder / "dog" / "3.png", _with_png_sums(content))
    with suppress(ThriftnetError):
        _read_all(open_source(str(folder)))
    _check_input(folder / "dog" / "3.png")


def _with_png_sums(content: bytes) -> bytes:
    """Correct the CRC of every chunk that is reached, so that what is behind it is read too."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return content
    fixed, at = bytearray(content), 8
    while at + 12 <= len(fixed):
        (length,) = struct.unpack_from(">I", fixed, at)
        if at + 12 + length > len(fixed):
            break
        struct.pack_into(">I", fixed, at + 8 + length, zlib.crc32(fixed[at + 4 : at + 8 + length]))
        at += 12 + length
    return bytes(fixed)


def _parquet_examples() -> list[bytes]:
    images = [{"bytes": _images()[at % 3], "path": f"x/{'cat' if at % 2 else 'dog'}/{at}.png"} for at in range(10)]
    table = pa.table({"img": images, "label": [at % 2 for at in range(10)], "id": [f"n{at}" for at in range(10)]})
    plain = pa.table({"image": [_images()[0]] * 10, "label": pa.array([at % 2 for at in range(10)], pa.int8())})
    described = b'{"info": {"features": {"label": {"names": ["a", "b"]}}}}'
    found = []
    for each, compression in ((table, "none"), (plain, "none"), (table, "snappy")):
        stream = io.BytesIO()
        pq.write_table(each.replace_schema_metadata({b"huggingface": described}), stream, compression=compression)
        found.append(stream.getvalue())
    return found


def _read_parquet(content: bytes, folder: Path) -> None:
    path = _write(folder / "set.parquet", content)
    with suppress(ThriftnetError):
        _read_all(open_source(str(path)))
    _check_input(path)


# Run folders


@lru_cache(maxsize=1)
def trained() -> Path:
    """A finished run with its evaluation and its temperature; lies beside what else this process writes."""
    place = Path(mkdtemp(prefix="thriftnet-fuzz-", dir=memory()))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    data = place / "tiny.npz"
    split = TinySource(sealed=False)
    arrays = {}
    for part, images in (("train", split.train()), ("test", split.test())):
        arrays |= {f"x_{part}": images.images.numpy(), f"y_{part}": images.labels.numpy()}
    np.savez(data, **arrays)
    run = api.train(tiny_recipe(training={"epochs": 2}), str(data), out=place / "run", display=SilentDisplay())
    api.calibrate(run)
    api.evaluate(run, "validation")
    return run.path


def memory() -> str | None:
    """A file system in memory where there is one, unless TMPDIR says where: run folders flush every file."""
    there = "/dev/shm"
    return there if "TMPDIR" not in os.environ and os.access(there, os.W_OK) else None


RUN_FILES = (
    "recipe.toml",
    "data.json",
    "result.json",
    "metrics.csv",
    "environment.json",
    "temperature.json",
    "evaluation-validation.json",
    "evaluation-validation.safetensors",
    "selected.safetensors",
    "events.jsonl",
)


def _run_examples() -> list[bytes]:
    return [bytes([at]) + (trained() / name).read_bytes() for at, name in enumerate(RUN_FILES)]


@contextmanager
def _with_file(name: str, content: bytes) -> Iterator[Path]:
    """The trained run with one file replaced and its digest fitting, until the block ends."""
    folder = RunFolder(trained())
    original, sums = folder.read_bytes(name), (folder.path / checksums.NAME).read_bytes()
    folder.write_bytes(name, content)
    try:
        yield folder.path
    finally:
        (folder.path / name).write_bytes(original)
        (folder.path / checksums.NAME).write_bytes(sums)


def _read_run(content: bytes, folder: Path) -> None:
    """One file with a digest that fits, then each function that reads a run."""
    name = RUN_FILES[(content or b"\0")[0] % len(RUN_FILES)]
    with _with_file(name, content[1:]) as path:
        run = load_run(path)
        readers: tuple[Callable[[], object], ...] = (
            run.folder.check,
            run.summary,
            lambda: run.history,
            run.network,
            lambda: read_temperature(run, "selected"),
            lambda: decode_per_image(
                run.folder.read_bytes("evaluation-validation.safetensors"), path / "evaluation-validation.safetensors"
            ),
        )
        refused = None
        for read in readers:
            refused = _refusal(read) or refused
        if refused is not None:
            raise refused


def _refusal(use: Callable[[], object]) -> ThriftnetError | None:
    """What a function refuses; `check` looks at the last one of several."""
    try:
        use()
    except ThriftnetError as error:
        return error
    return None


def _read_report(content: bytes, folder: Path) -> None:
    """One file with a digest that fits, then the report and an evaluation."""
    name = RUN_FILES[(content or b"\0")[0] % len(RUN_FILES)]
    with _with_file(name, content[1:]) as path:
        api.report(path, out=folder / "report.html")


def _read_measured(content: bytes, folder: Path) -> None:
    """The same, measured, set against itself and gone on with, in a copy."""
    name = RUN_FILES[(content or b"\0")[0] % len(RUN_FILES)]
    copy = folder / "run"
    shutil.copytree(trained(), copy)
    RunFolder(copy).write_bytes(name, content[1:])
    refused = None
    for use in (
        lambda: api.predict(copy, trained().parent / "tiny.npz"),
        lambda: api.compare([copy, trained()], "validation"),
        lambda: api.evaluate(copy, "validation"),
        lambda: api.resume(copy, str(trained().parent / "tiny.npz"), SilentDisplay()),
    ):
        refused = _refusal(use) or refused
    if refused is not None:
        raise refused


def _sums_examples() -> list[bytes]:
    return [(trained() / checksums.NAME).read_bytes().rpartition(b"# ")[0]]


def _read_sums(content: bytes, folder: Path) -> None:
    """SHA256SUMS with its own sum right, and as it is."""
    path = trained() / checksums.NAME
    original = path.read_bytes()
    try:
        path.write_bytes(content)
        with suppress(ThriftnetError):
            RunFolder(path.parent).check()
        path.write_bytes(content + f"# {checksums.sha256(content)}\n".encode())
        with suppress(ThriftnetError):
            RunFolder(path.parent).check()
        load_run(path.parent).recipe  # noqa: B018
    finally:
        path.write_bytes(original)


def _state() -> Path:
    return sorted(trained().glob("resume-*.pt"))[-1]


def _state_examples() -> list[bytes]:
    with zipfile.ZipFile(_state()) as archive:
        pickled = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    return [b"\0" + pickled, b"\1" + _state().read_bytes()]


def _read_state(content: bytes, folder: Path) -> None:
    """A resume state: the whole file, or the pickle in it with the archive's sums right. Both states are the same."""
    copy = folder / "run"
    shutil.copytree(trained(), copy)
    changed = content[1:]
    if content[:1] != b"\1":
        with zipfile.ZipFile(_state()) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        changed = _zip({name: changed if name.endswith("data.pkl") else each for name, each in members.items()})
    for state in copy.glob("resume-*.pt"):
        RunFolder(copy).write_bytes(state.name, changed)
    api.resume(copy, str(trained().parent / "tiny.npz"), SilentDisplay())


@lru_cache(maxsize=1)
def measured_ledger() -> Bench:
    """Of two made-up papers, with a number for every row and direction; lies beside the trained run."""
    place = trained().parent / "ledger"
    place.mkdir()
    bench = make_bench(place)
    bench.reproduce()
    return bench


def _ledger_examples() -> list[bytes]:
    return [(measured_ledger().out / "ledger.json").read_bytes()]


def _read_ledger(content: bytes, folder: Path) -> None:
    """Joined to a folder without runs: found, drawn and written."""
    bench = measured_ledger()
    claims, shape = bench.claims, DataShape.of(bench.source)
    _write(folder / "joined" / "other.json", content)
    joined = read_joined(folder, shape, claims)
    planned = plan(Request(seeds=1, scale=0.5), claims, shape, folder, joined.requests, joined.has)
    findings = find(planned, claims, folder, joined)
    page = ledger_page(findings, [])
    write_page(page, folder / "ledger.html")
    to_markdown(page)
    json.dumps(findings.as_dict(), allow_nan=False)


_DATA = ("thriftnet.data",)
_RUN = ("thriftnet.run", "thriftnet.training.run_folder", "thriftnet.training.checksums", "thriftnet.predictor")
_REPORT = (*_RUN, "thriftnet.reporting.run_report", "thriftnet.reporting.html", "thriftnet.evaluation.metrics")
TARGETS = {
    "recipe": Target(_recipe_examples, _read_recipe, ("thriftnet.recipe", "thriftnet.config", "tomllib")),
    "overrides": Target(_override_examples, _read_overrides, ("thriftnet.recipe", "thriftnet.config", "tomllib")),
    "study": Target(_study_examples, _read_study, ("thriftnet.tuning.config", "thriftnet.tuning.space", "tomllib")),
    "pickle": Target(_pickle_examples, _read_pickle, ("thriftnet.data.safe_pickle", "pickletools")),
    "prediction-pickle": Target(_pickle_examples, _read_prediction_pickle, _DATA),
    "cifar-python": Target(_cifar_python_examples, _read_cifar_python, _DATA),
    "cifar-binary": Target(_cifar_binary_examples, _read_cifar_binary, _DATA),
    "cifar-archive": Target(_archive_examples, _read_archive, ("thriftnet.data.cifar", "tarfile")),
    "npz": Target(_npz_examples, _read_npz, ("thriftnet.data.npz", "zipfile", "numpy.lib.format")),
    "npy": Target(_npy_examples, _read_npy, (*_DATA, "numpy.lib.format", "numpy.lib._format_impl")),
    "image-folder": Target(_image_examples, _read_image, ("thriftnet.data.decode", "PIL")),
    "parquet": Target(_parquet_examples, _read_parquet, _DATA),
    "run": Target(_run_examples, _read_run, _RUN),
    "run-report": Target(_run_examples, _read_report, _REPORT, slow=True),
    "run-used": Target(_run_examples, _read_measured, _REPORT, slow=True),
    "resume-state": Target(_state_examples, _read_state, _RUN, slow=True),
    "ledger": Target(_ledger_examples, _read_ledger, ("thriftnet.ledger",), slow=True),
    "checksums": Target(_sums_examples, _read_sums, _RUN),
}
