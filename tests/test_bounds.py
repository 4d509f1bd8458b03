"""Numbers that are too large: refused before memory is taken, through the command line, with 400 MB to spare.

Each case is exit status 2 and one line that names the field or file, the value and what to do.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import Trained
from thriftnet.training.run_folder import RunFolder

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="limits of memory are set as on Linux")

CPU_S = 3.0
"""Of a refusal: a tenth of a second for most, one for a thousand blocks and for archives."""
MANY = 1_000_000_000


@dataclass(frozen=True)
class Refusal:
    status: int | str
    stderr: str
    cpu_s: float


class Bounded:
    """The process of tests/bounded.py."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.bounded"],
            cwd=Path(__file__).parents[1],
            env=os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def refused(self, *arguments: object, message: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([*map(str, arguments)]) + "\n")
        self.process.stdin.flush()
        found = Refusal(**json.loads(self.process.stdout.readline()))
        assert found.status == 2, found
        assert found.stderr.startswith("thriftnet: "), found
        assert found.stderr.count("\n") == 1, found
        assert re.search(message, found.stderr), found
        assert found.cpu_s < CPU_S, found


@pytest.fixture(scope="module")
def bounded() -> Iterator[Bounded]:
    process = Bounded()
    yield process
    assert process.process.stdin is not None
    process.process.stdin.close()
    process.process.wait(30)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (f"model.widths=[{MANY},1,1]", rf"model.widths.0 = {MANY}: .* 65536"),
        ("model.widths=[65536,65536,65536]", r"[\d,]+ trainable parameters, .* over the budget of 5,000,000; set"),
        (f"model.stem.width={MANY}", rf"model.stem.width = {MANY}: .* 65536"),
        (f"model.stem.kernel={MANY + 1}", rf"model.stem.kernel = {MANY + 1}: .* 511"),
        (f"model.blocks=[{MANY},1,1]", rf"model.blocks.0 = {MANY}: .* 1000"),
        ("model.blocks=[400,400,400]", r"blocks has 1,200 in all; a network may have 1,000"),
        ("model={stem={width=17},widths=[17],blocks=[1000],strides=[1]}", r"5,\d+,\d+ trainable parameters"),
        (f"model.strides=[{MANY},1,1]", r"model.strides.0"),
        (f"model.parameter_budget={10**12}", r"model.parameter_budget = 1000000000000: .* 100000000"),
        (f"model={{stem={{width=8}},block='bottleneck',widths=[64,64,64],blocks=[1,1,1],strides=[1,1,1],"
         f"expansion={MANY}}}", r"model.expansion"),
        ("model={stem={width=8},block='resnext',cardinality=60000,base_width=60000,blocks=[1],strides=[1]}",
         r"a layer would have 3,600,000,000 channels; the most is 65,536"),
        ("model={family='resnet9',stem={width=8},widths=[8,8],residual_convs=[1000000000,0]}",
         r"residual_convs has 1,000,000,000 in all"),
        (f"training.epochs={10**12}", r"training.epochs = 1000000000000: .* 100000"),
        (f"training.batch_size={MANY}", r"training.batch_size .* 65536"),
        (f"training.evaluation_batch_size={MANY}", r"training.evaluation_batch_size .* 65536"),
        (f"training.seed={10**12}", r"training.seed"),
        (f"training.progressive=[{'{side_px=16,until=0.5},' * 100}]", r"training.progressive .*at most 16"),
        (f"data.image_side={MANY}", r"data.image_side"),
        (f"data.train_images={10**30}", r"data.train_images"),
        (f"augment.ops=[{{op='padded_crop',pad_px={MANY}}}]", r"augment.ops.0.pad_px .* 512"),
        (f"augment.ops=[{{op='gaussian_blur',kernel_px={MANY + 1}}}]", r"augment.ops.0.kernel_px .* 512"),
        (f"augment.ops=[{{op='cutout',holes={MANY}}}]", r"augment.ops.0.holes .* 64"),
        (f"augment.ops=[{{op='cutout',side_px={10**30}}}]", r"augment.ops.0.side_px .* 512"),
        (f"augment.ops=[{{op='rand_augment',operations={MANY}}}]", r"augment.ops.0.operations .* 64"),
        (f"augment.ops=[{{op='augmix',chains={MANY}}}]", r"augment.ops.0.chains .* 64"),
        (f"augment.ops=[{{op='augmix',depth={MANY}}}]", r"augment.ops.0.depth .* 64"),
        (f"augment.ops=[{{op='trivial_augment',bins={MANY}}}]", r"augment.ops.0.bins .* 1000"),
        ("augment.ops=[" + "{op='cutout'}," * 300 + "]", r"augment.ops .*at most 64"),
        (f"muon={{lr=0.1,newton_schulz_steps={MANY}}}", r"muon.newton_schulz_steps .* 1000"),
        (f"perturbation={{inner_steps={MANY}}}", r"perturbation.inner_steps .* 1000"),
        (f"runtime.threads={MANY}", r"runtime.threads = 1000000000: .* 1024"),
        (f"training.epochs={'9' * 5000}", r"--set training.epochs is not valid TOML: .*digits"),
        (f"model.widths={'[' * 5000}", r"nested deeper than 20"),
        (f"a{'.a' * 4000}=1", r"is not of the form section.key=value"),
        ("model.widths=" + "1" * 20_000, r"has 20,013 characters; 10,000 are the most"),
    ],
)  # fmt: skip
def test_a_recipe_is_refused_in_a_file_and_by_set(bounded: Bounded, tmp_path: Path, change: str, message: str) -> None:
    bounded.refused(
        "train", "digits-demo", "--data", "digits", "--set", change, "--out", tmp_path / "r", message=message
    )
    assert not (tmp_path / "r").exists()
    section, _, rest = change.partition(".")
    if "=" not in section and len(change) < 1000 and rest.count(".") < 2:
        path = tmp_path / "mine.toml"
        path.write_text(f"inherits = 'digits-demo'\n[{section}]\n{rest}\n")
        bounded.refused("summary", path, message=message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "digits-demo", "--data", "digits", "--seeds", MANY), r"--seeds 1,000,000,000 .* 1 to 1,000"),
        (("train", "digits-demo", "--data", "digits", "--epochs", 10**12), r"training.epochs"),
        (("train", "digits-demo", "--data", "digits", "--budget", 10**30), r"model.parameter_budget"),
        (("compare", "digits-demo", "liu-4x2", "--data", "digits", "--seeds", MANY), r"--seeds 1,000,000,000"),
        (("reproduce", "li", "--data", "digits", "--seeds", MANY, "--write-only", "--out", "x"), r"seeds = 1000000000"),
        (("summary", "digits-demo", "--classes", 10**15), r"--classes .* 10,000"),
        (("study", "run", "grid.toml", "--data", "digits", "--trials", MANY, "--out", "x"), r"trials"),
    ],
)
def test_an_option_is_refused(bounded: Bounded, arguments: tuple[object, ...], message: str, tmp_path: Path) -> None:
    grid = tmp_path / "grid.toml"
    grid.write_text('recipe = "digits-demo"\ntrials = 3\n[sampler]\nname = "random"\n[space]\n"optimizer.lr" = [0.1]\n')
    placed = [grid if each == "grid.toml" else tmp_path / "x" if each == "x" else each for each in arguments]
    bounded.refused(*placed, message=message)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ('"training.seed" = {low = 0, high = 2_000_000_000}', r"2,000,000,001 points.*100,000 are the most"),
        ('"optimizer.lr" = {low = 0.0, high = 1.0, step = 1e-12}', r"points.*100,000 are the most"),
        ('"optimizer.lr" = {low = 0.0, high = 1.0, step = 1e-320}', r"step"),
        ('"optimizer.lr" = {low = 0.0, high = 1e300}', r"within \+-9,007,199,254,740,992"),
        ("\n".join(f'"a.k{n}" = {{values = [1, 2]}}' for n in range(65)), r"space .*at most 64"),
        ('"training.seed" = {low = 0, high = 999}\n"training.epochs" = {low = 1, high = 1000}', r"1,000,000 points"),
    ],
)
def test_a_study_is_refused(bounded: Bounded, tmp_path: Path, space: str, message: str) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(f'recipe = "digits-demo"\n[sampler]\nname = "grid"\n[space]\n{space}\n')
    bounded.refused("study", "run", path, "--data", "digits", "--out", tmp_path / "study", message=message)


# Data


def npy_header(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def npz(path: Path, compression: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def labels(*values: int) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array(values))
    return stream.getvalue()


def huge_npz(folder: Path) -> Path:
    """Forty billion images, of which none is there."""
    return npz(folder / "a.npz", images=npy_header((40 * MANY, 3, 32, 32)), labels=labels(0, 1))


def bomb_npz(folder: Path) -> Path:
    """A hundred megabytes of zeros in a hundred kilobytes, whose header is true."""
    count = 34_000
    content = npy_header((count, 3, 32, 32)) + bytes(count * 3072)
    return npz(folder / "a.npz", zipfile.ZIP_DEFLATED, images=content, labels=labels(0, 1))


def label_npz(folder: Path) -> Path:
    return npz(folder / "a.npz", images=npy_header((2, 16, 16)) + bytes(512), labels=labels(0, 10**12))


def png_header(side: int) -> bytes:
    """A PNG that says how large it is, and hardly more."""
    parts = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(1000))))
    chunks = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
              for kind, data in (*parts, (b"IEND", b""))]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png_folder(folder: Path) -> Path:
    for label in ("cat", "dog"):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(5):
            (folder / "photos" / label / f"{number}.png").write_bytes(png_header(50_000))
    return folder / "photos"


def png_parquet(folder: Path) -> Path:
    rows = [{"bytes": png_header(50_000)}] * 10
    pq.write_table(pa.table({"img": rows, "label": [n % 2 for n in range(10)]}), folder / "a.parquet")
    return folder / "a.parquet"


def billion_rows(folder: Path) -> Path:
    """A good file of 9,999 rows, whose footer is changed to a billion."""
    path = folder / "a.parquet"
    pq.write_table(pa.table({"img": pa.array([b""] * 9_999), "label": [0] * 9_999}), path)
    content = path.read_bytes()
    (length,) = struct.unpack("<I", content[-8:-4])
    footer = content[-8 - length : -8]
    field = b"\x16"  # of Thrift's compact form: the next field is an i64
    changed = footer.replace(field + varint(2 * 9_999), field + varint(2 * MANY), 1)
    assert changed != footer
    path.write_bytes(content[: -8 - length] + changed + struct.pack("<I", len(changed)) + b"PAR1")
    assert pq.ParquetFile(path).metadata.num_rows == MANY
    return path


def varint(value: int) -> bytes:
    found = bytearray()
    while value >= 128:
        found.append(value % 128 + 128)
        value //= 128
    return bytes([*found, value])


def parquet_bomb(folder: Path) -> Path:
    table = pa.table({"img": pa.array([bytes(10**6)] * 100), "label": [0, 1] * 50})
    pq.write_table(table, folder / "a.parquet", compression="zstd", use_dictionary=False)
    return folder / "a.parquet"


def parquet_label(folder: Path) -> Path:
    pq.write_table(pa.table({"img": pa.array([b""] * 4), "label": [0, 1, 0, 10**12]}), folder / "a.parquet")
    return folder / "a.parquet"


def cifar(folder: Path, content: bytes, name: str = "data_batch_1") -> Path:
    place = folder / "cifar"
    place.mkdir()
    good = pickle.dumps({b"data": np.zeros((10, 3072), np.uint8), b"labels": [*range(10)]})
    for each in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (place / each).write_bytes(good)
    (place / name).write_bytes(content)
    return place


def claiming_batch(folder: Path) -> Path:
    """An array of a billion rows with the bytes of one."""
    content = pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [0]}, 2)
    changed = content.replace(b"K\x01M\x00\x0c\x86", b"J\x00\xca\x9a\x3bM\x00\x0c\x86")
    assert changed != content
    return cifar(folder, changed)


def sparse_batch(folder: Path) -> Path:
    """A file of a terabyte, which takes no place on the disk."""
    place = cifar(folder, b"")
    with (place / "data_batch_1").open("wb") as file:
        file.truncate(10**12)
    return place


def sparse_binary(folder: Path) -> Path:
    for number in range(1, 6):
        with (folder / f"data_batch_{number}.bin").open("wb") as file:
            file.truncate(3073 * 10**9)
    return folder


def tar_gz(path: Path, size: int, kind: bytes = tarfile.REGTYPE, present: int = 0) -> Path:
    """An archive whose first member claims `size` bytes, of which so many zeros are there."""
    entry = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    entry.type, entry.size = kind, size
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(entry.tobuf(tarfile.GNU_FORMAT))
        for _ in range(present // 2**20):
            file.write(bytes(2**20))
    return path


def claiming_archive(folder: Path) -> Path:
    return tar_gz(folder / "a.tar.gz", 10**10)


def archive_of_zeros(folder: Path) -> Path:
    """What tarfile reads of a header of its own, a name of ten gigabytes."""
    return tar_gz(folder / "a.tar.gz", 10**10, tarfile.GNUTYPE_LONGNAME, present=2**25)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (huge_npz, r"\.npz at images \(an array of shape \(40000000000, 3, 32, 32\) .* with 0 bytes"),
        (bomb_npz, r"a\.npz: images claims 104,448,128 bytes in [\d,]+ compressed ones"),
        (label_npz, r"labels has label 1,000,000,000,000 at row 1 but only 2 labels"),
        (png_folder, r"10 of 10 images cannot be read|images cannot be read: .*\.png \(more than 89,478,485 pixels"),
        (png_parquet, r"a\.parquet row \d+ \(more than 89,478,485 pixels"),
        (billion_rows, r"a\.parquet claims 1,000,000,000 images; 5,000,000 are the most"),
        (parquet_bomb, r"a\.parquet: img claims 100,[\d,]+ bytes in [\d,]+ compressed"),
        (parquet_label, r"label 1,000,000,000,000 at row 3 but only 4 labels"),
        (claiming_batch, r"data_batch_1 is no readable pickle \(array of shape \(1000000000, 3072\)"),
        (sparse_batch, r"data_batch_1 has 1,000,000,000,000 bytes, and images live in memory"),
        (sparse_binary, r"data_batch_\d\.bin has 3,073,000,000,000 bytes"),
        (claiming_archive, r"a\.tar\.gz claims 10,000,000,000 bytes for 'cifar-10-batches-py/data_batch_1'"),
        (archive_of_zeros, r"a\.tar\.gz unpacks to more than 536,870,912 bytes"),
    ],
)
def test_data_is_refused(bounded: Bounded, tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    data = make(tmp_path)
    without_compiler = ("--set", "runtime.kernels=no")  # which would be most of the time on a machine's first run
    bounded.refused(
        "train", "digits-demo", "--data", data, "--out", tmp_path / "run", *without_compiler, message=message
    )
    assert not (tmp_path / "run").exists()
    bounded.refused("data", "info", data, "--out", tmp_path / "sheet.png", message=message)


def huge_pickle(folder: Path) -> Path:
    (folder / "a.pkl").write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.")
    return folder / "a.pkl"


def billion_unlabelled(folder: Path) -> Path:
    return billion_rows(folder)


def one_png(folder: Path) -> Path:
    (folder / "a.png").write_bytes(png_header(50_000))
    return folder / "a.png"


def sparse_pickle(folder: Path) -> Path:
    with (folder / "a.pkl").open("wb") as file:
        file.truncate(10**12)
    return folder / "a.pkl"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (huge_pickle, r"a\.pkl is no readable pickle \(expected 4611686018427387904 bytes"),
        (sparse_pickle, r"a\.pkl has 1,000,000,000,000 bytes, and images live in memory"),
        (huge_npz, r"an array of shape \(40000000000"),
        (bomb_npz, r"claims 104,448,128 bytes"),
        (billion_unlabelled, r"claims 1,000,000,000 images"),
        (one_png, r"a\.png \(more than 89,478,485 pixels"),
    ],
)
def test_what_is_to_be_predicted_is_refused(
    bounded: Bounded, trained: Trained, tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    given = make(tmp_path)
    bounded.refused("predict", trained.path, given, "--out", tmp_path / "p.csv", message=message)
    assert not (tmp_path / "p.csv").exists()


def huge_weights(folder: RunFolder) -> None:
    """A tensor of an exabyte in a hundred bytes, with a digest that fits."""
    header = json.dumps({"linear.weight": {"dtype": "F32", "shape": [2**58], "data_offsets": [0, 2**60]}}).encode()
    folder.write_bytes("selected.safetensors", struct.pack("<Q", len(header)) + header + bytes(16))


def huge_header(folder: RunFolder) -> None:
    folder.write_bytes("selected.safetensors", struct.pack("<Q", 2**60) + bytes(16))


def sparse_weights(folder: RunFolder) -> None:
    with (folder.path / "selected.safetensors").open("wb") as file:
        file.truncate(10**12)


def changed_data(**values: object) -> Callable[[RunFolder], None]:
    return lambda folder: folder.write_json("data.json", folder.read_json("data.json") | values)


def wide_recipe(folder: RunFolder) -> None:
    text = folder.read_bytes("recipe.toml").decode()
    folder.write_bytes("recipe.toml", re.sub(r"widths = .*", f"widths = [{MANY}, {MANY}]", text).encode())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (huge_weights, r"selected\.safetensors is damaged"),
        (huge_header, r"selected\.safetensors is damaged"),
        (sparse_weights, r"selected\.safetensors is damaged \(it has 1,000,000,000,000 bytes"),
        (changed_data(image_side=MANY), r"data\.json is damaged \(image_side: "),
        (changed_data(channels=MANY), r"data\.json is damaged \(channels: "),
        (changed_data(training_images=10**15), r"data\.json is damaged \(training_images: "),
        (wide_recipe, r"recipe\.toml is damaged \(.*model.widths.0 = 1000000000"),
    ],
)
def test_a_run_folder_is_refused(
    bounded: Bounded, trained: Trained, tmp_path: Path, change: Callable[[RunFolder], None], message: str
) -> None:
    change(RunFolder(trained.path))
    given = shutil.copy(trained.data, tmp_path / "in.npz")
    bounded.refused("predict", trained.path, given, "--out", tmp_path / "p.csv", message=message)


@pytest.mark.parametrize(("option", "value"), [("--grid", MANY + 1), ("--lines", MANY), ("--steps", MANY)])
def test_a_landscape_is_refused(bounded: Bounded, trained: Trained, option: str, value: int) -> None:
    bounded.refused("landscape", trained.path, option, value, message=rf"{option} {value} must be 1 to")
