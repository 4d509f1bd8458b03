"""How a run meets data: its own, changed, new, in another order, and what is stored under which name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import thriftnet
from tests.training.conftest import tiny_recipe
from thriftnet import api
from thriftnet.data.statistics import image_digests
from thriftnet.errors import DataError, RunFolderError
from thriftnet.run import Run, load_run
from thriftnet.training import seen_images

CLASSES = ("cat", "dog", "fox")


def pixels(count: int, seed: int) -> np.ndarray:
    """uint8 [count, 16, 16, 3], each image another; labels are their number modulo 3."""
    noise = np.random.default_rng(seed).integers(0, 60, (count, 16, 16, 3))
    return (noise + 80 * (np.arange(count) % 3)[:, None, None, None]).astype(np.uint8)


def write_npz(path: Path, images: np.ndarray, labels: np.ndarray, names: tuple[str, ...] | None = CLASSES) -> str:
    np.savez(path, images=images, labels=labels, **({} if names is None else {"class_names": np.array(names)}))
    return str(path)


def write_folder(root: Path, images: np.ndarray, labels: np.ndarray, names: tuple[str, ...] = CLASSES) -> str:
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{len(root.parts)}-{number:03}.png")
    return str(root)


Write = Callable[..., str]


@pytest.fixture(params=[write_npz, write_folder], ids=["npz", "folder"])
def write(request: pytest.FixtureRequest) -> Write:
    return request.param  # type: ignore[no-any-return]


def where(tmp_path: Path, name: str, write: Write) -> Path:
    return tmp_path / (f"{name}.npz" if write is write_npz else name)


def train(tmp_path: Path, data: str, epochs: int = 1) -> Run:
    recipe = tiny_recipe(data={"validation_images": 9, "image_side": 16}, training={"epochs": epochs})
    return api.train(recipe, data, out=tmp_path / "run")


def labels(count: int) -> np.ndarray:
    return np.arange(count) % 3


def test_the_runs_own_data_are_measured_as_ever(tmp_path: Path, write: Write) -> None:
    run = train(tmp_path, write(where(tmp_path, "own", write), pixels(60, 0), labels(60)))
    assert run.folder.has(seen_images.NAME)
    measured = api.evaluate(run)
    assert (measured.evaluation.count, measured.path.name) == (12, "evaluation-test.json")
    assert measured.context["data"]["own"] is True
    moved = shutil.move(run.data.location, where(tmp_path, "moved", write))
    again = api.evaluate(run, data=str(moved))
    assert (again.path, again.evaluation) == (measured.path, measured.evaluation)


@pytest.mark.parametrize("split", ["test", "validation", "train"])
@pytest.mark.parametrize("named", [False, True])
def test_data_that_changed_around_the_trained_images_are_refused(
    tmp_path: Path, write: Write, split: api.Split, named: bool
) -> None:
    """A fixed fifth of more images is another fifth, with images in it that were trained on."""
    path = where(tmp_path, "own", write)
    run = train(tmp_path, write(path, pixels(60, 0), labels(60)))
    added = np.concatenate([pixels(3, 1), pixels(60, 0)]), np.concatenate([labels(3), labels(60)])
    data = write(path, *added) if write is write_npz else write(path / ".." / path.name, pixels(3, 1), labels(3))
    with pytest.raises(DataError, match=r"no test split of its own, and run was trained on 39 of its 63 images"):
        api.evaluate(run, split, data=data if named else None)
    assert not list(run.path.glob("evaluation-*"))


def test_new_images_are_measured_whole_and_under_a_name_of_their_own(tmp_path: Path, write: Write) -> None:
    run = train(tmp_path, write(where(tmp_path, "own", write), pixels(60, 0), labels(60)))
    api.evaluate(run)
    new = api.evaluate(run, data=write(where(tmp_path, "new photos", write), pixels(30, 7), labels(30)))
    assert new.evaluation.count == 30
    assert new.path.name.startswith("evaluation-test-on-new-photos-")
    assert "note: no test split of its own, so all 30 images are measured" in new.summary()
    assert "test accuracy of " in new.summary().splitlines()[0]
    assert load_run(run.path).evaluation("test") is not None
    assert api.evaluate(run).path.name == "evaluation-test.json"
    with pytest.raises(DataError, match="is not the training data of this run"):
        api.evaluate(run, "train", data=str(where(tmp_path, "new photos", write)))


def test_a_single_held_out_image_is_enough_to_refuse(tmp_path: Path) -> None:
    run = train(tmp_path, write_npz(tmp_path / "own.npz", pixels(60, 0), labels(60)))
    held = seen_images.decoded(run.folder.read_bytes(seen_images.NAME))
    assert (len(held["trained"]), len(held["held_out"])) == (39, 9)
    everything = pixels(60, 0)
    digests = image_digests(torch.from_numpy(everything.transpose(0, 3, 1, 2).copy()))
    place = digests.tolist().index(int(held["held_out"][0]))
    images = np.concatenate([pixels(30, 7), everything[place : place + 1]])
    data = write_npz(tmp_path / "new.npz", images, np.append(labels(30), place % 3))
    with pytest.raises(DataError, match="run was chosen with 1 of its 31 images"):
        api.evaluate(run, data=data)


def test_a_run_without_digests_refuses_what_changed_unless_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    run = train(tmp_path, write_npz(path, pixels(60, 0), labels(60)))
    (run.path / seen_images.NAME).unlink()
    (run.path / "SHA256SUMS").unlink()
    assert api.evaluate(run).evaluation.count == 12
    write_npz(path, np.concatenate([pixels(3, 1), pixels(60, 0)]), np.append(labels(3), labels(60)))
    with pytest.raises(DataError, match=r"has changed since .* no record of its images; name it with --data"):
        api.evaluate(run)
    measured = api.evaluate(run, data=str(path))
    assert measured.evaluation.count == 63
    assert "how many of them run was trained on is unknown" in measured.summary()


def test_a_set_with_a_test_split_of_its_own_is_never_refused_for_what_it_shares(tmp_path: Path) -> None:
    images, names = pixels(60, 0), np.array(CLASSES)
    np.savez(tmp_path / "own.npz", x_train=images, y_train=labels(60), x_test=images[:12], y_test=labels(12),
             class_names=names)  # fmt: skip
    run = train(tmp_path, str(tmp_path / "own.npz"))
    assert api.evaluate(run).evaluation.count == 12
    np.savez(tmp_path / "other.npz", x_train=images[:30], y_train=labels(30), x_test=images[:15], y_test=labels(15),
             class_names=names)  # fmt: skip
    other = api.evaluate(run, data=str(tmp_path / "other.npz"))
    assert (other.evaluation.count, other.context["data"]["own"]) == (15, False)


def test_classes_in_another_order_are_matched_by_name(tmp_path: Path) -> None:
    run = train(tmp_path, write_npz(tmp_path / "own.npz", pixels(60, 0), labels(60)))
    straight = api.evaluate(run, data=write_npz(tmp_path / "a.npz", pixels(30, 7), labels(30)))
    turned = write_npz(tmp_path / "b.npz", pixels(30, 7), (labels(30) + 1) % 3, ("fox", "cat", "dog"))
    matched = api.evaluate(run, data=turned)
    assert matched.evaluation.confusion == straight.evaluation.confusion
    assert "note: its classes are in another order, and are matched by name" in matched.summary()
    # The run's own images under turned numbers are still its own.
    own = write_npz(tmp_path / "c.npz", pixels(60, 0), (labels(60) + 1) % 3, ("fox", "cat", "dog"))
    assert api.evaluate(run, data=own).context["data"]["own"] is True


def test_other_classes_are_refused_with_both_lists(tmp_path: Path) -> None:
    run = train(tmp_path, write_npz(tmp_path / "own.npz", pixels(60, 0), labels(60)))
    other = write_npz(tmp_path / "b.npz", pixels(30, 7), labels(30), ("bird", "cat", "dog"))
    for command in (["evaluate"], ["evaluate", "--shift"], ["landscape"], ["calibrate"], ["remedies"]):
        said = thriftnet(*command, run.path, "--data", other).stderr.splitlines()[-1]
        assert said.startswith("thriftnet: ")
        assert "the 3 classes bird, cat, dog, " in said
        assert "the 3 classes cat, dog, fox; give data with the run's classes" in said


def test_classes_without_names_are_matched_by_number_and_told(tmp_path: Path) -> None:
    run = train(tmp_path, write_npz(tmp_path / "own.npz", pixels(60, 0), labels(60)))
    unnamed = api.evaluate(run, data=write_npz(tmp_path / "b.npz", pixels(30, 7), labels(30), None))
    assert "note: classes without names are matched by their number" in unnamed.summary()
    assert unnamed.evaluation.class_names == CLASSES


def test_other_weights_and_data_have_names_of_their_own_and_the_page_shows_the_plain_one(tmp_path: Path) -> None:
    run = train(tmp_path, write_npz(tmp_path / "own.npz", pixels(60, 0), labels(60)))
    new = write_npz(tmp_path / "new.npz", pixels(30, 7), labels(30))
    for options in (["--weights", "last"], ["--data", new], ["--weights", "last", "--data", new]):
        assert thriftnet("evaluate", run.path, *options).status == 0
    names = sorted(path.name for path in run.path.glob("evaluation-test*.json"))
    assert [re.sub("-[0-9a-f]{8}.json", "", name) for name in names] == [
        "evaluation-test-last-weights-on-new",
        "evaluation-test-last-weights.json",
        "evaluation-test-on-new",
    ]
    page = Path(api.report(run)).read_text(encoding="utf-8")
    assert "not evaluated yet" in page
    # What an earlier version wrote under the plain name is not shown either.
    stored = json.loads((run.path / "evaluation-test-last-weights.json").read_text())
    run.folder.write_json("evaluation-test.json", stored)
    assert run.evaluation("test") is None
    del stored["data"]["own"]
    run.folder.write_json("evaluation-test.json", stored | {"weights": "selected"})
    assert run.evaluation("test") is not None
    run.folder.write_json("evaluation-test.json", stored | {"weights": "selected", "data": {"location": new}})
    assert run.evaluation("test") is None


@pytest.mark.parametrize("wrong_every", [4, 60])
def test_a_page_after_calibrate_shows_temperature_and_calibrated_error(tmp_path: Path, wrong_every: int) -> None:
    mistaken = labels(60)
    mistaken[::wrong_every] = (mistaken[::wrong_every] + 1) % 3  # with none among them there is no best temperature
    run = train(tmp_path, write_npz(tmp_path / "own.npz", pixels(60, 0), mistaken), epochs=8)
    fitted = api.calibrate(run)
    assert bool(fitted.note) == (wrong_every == 60)
    calibrated = api.evaluate(run, calibrated=True).evaluation
    api.evaluate(run)
    page = Path(api.report(run)).read_text(encoding="utf-8")
    shown = f"stays 1: {fitted.note}" if fitted.note else f"{fitted.temperature:.4f}, fitted on 9 validation images"
    assert shown in page
    assert f"{fitted.calibration_error_after:.2%} with the temperature" in page
    assert f"{calibrated.expected_calibration_error:.2%}" in page
    assert "Calibration error of the test images with the temperature" in page


def test_an_evaluation_of_weights_that_were_kept_before_the_run_went_on_is_not_shown(tmp_path: Path) -> None:
    run = train(tmp_path, write_npz(tmp_path / "own.npz", pixels(60, 0), labels(60)))
    api.evaluate(run)
    assert run.evaluation("test") is not None
    run.folder.write_bytes("selected.safetensors", run.folder.read_bytes("last.safetensors") + b" ")
    assert run.evaluation("test") is None


def write_splits(root: Path) -> str:
    """train (60 images), validation (12) and test (12)."""
    for seed, (split, count) in enumerate((("train", 60), ("validation", 12), ("test", 12))):
        write_folder(root / split, pixels(count, seed), labels(count))
    return str(root)


def train_on_splits(tmp_path: Path, **data: int) -> Run:
    recipe = tiny_recipe(data={"validation_images": None, "image_side": 16} | data, training={"epochs": 1})
    return api.train(recipe, write_splits(tmp_path / "data"), out=tmp_path / "run")


def test_a_validation_folder_validates_calibrates_and_is_measured(tmp_path: Path) -> None:
    run = train_on_splits(tmp_path)
    assert (run.data.training_images, run.data.validation_images) == (60, 12)
    assert api.evaluate(run, split="train").evaluation.count == 60
    measured = api.evaluate(run, split="validation")
    assert measured.evaluation.accuracy == run.result["selected"]["validation_accuracy"]
    api.calibrate(run)
    seen = seen_images.decoded(run.folder.read_bytes(seen_images.NAME))
    assert [len(seen[name]) for name in seen_images.COLUMNS] == [60, 12]


def test_another_validation_folder_is_refused(tmp_path: Path) -> None:
    run = train_on_splits(tmp_path)
    write_folder(tmp_path / "data" / "validation", pixels(13, 7)[12:], labels(13)[12:])
    with pytest.raises(DataError, match="is not the validation data of this run"):
        api.evaluate(run, split="validation")
    with pytest.raises(RunFolderError, match="was trained with another validation split"):
        api.resume(run)
    assert api.evaluate(run).evaluation.count == 12  # the test split is its own


def test_a_run_that_held_images_out_is_measured_on_them_beside_a_validation_folder(tmp_path: Path) -> None:
    run = train_on_splits(tmp_path, validation_images=9)
    for split, count in (("validation", 9), ("train", 51)):
        assert api.evaluate(run, split=split).evaluation.count == count  # type: ignore[arg-type]
    before = json.loads((run.path / "data.json").read_text(encoding="utf-8"))
    assert before["validation_fingerprint"] is None


def test_a_run_of_a_version_without_validation_folders_is_measured_on_what_it_held_out(tmp_path: Path) -> None:
    data = write_splits(tmp_path / "data")
    shutil.move(tmp_path / "data" / "validation", tmp_path / "later")
    recipe = tiny_recipe(data={"validation_images": None, "image_side": 16}, training={"epochs": 1})
    run = api.train(recipe, data, out=tmp_path / "run")
    shutil.move(tmp_path / "later", tmp_path / "data" / "validation")
    for split, count in (("validation", 6), ("train", 54)):
        assert api.evaluate(run, split=split).evaluation.count == count  # type: ignore[arg-type]
    with pytest.raises(RunFolderError, match="was trained with another validation split"):
        api.resume(run)
