from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from thriftnet import fonts
from thriftnet.data.dataset import LabelledImages
from thriftnet.data.info import contact_sheet
from thriftnet.evaluation.metrics import evaluate_logits
from thriftnet.reporting.class_figures import confusion_data, distribution_data, draw_confusion, draw_distribution
from thriftnet.reporting.figures import encoded, short_name, short_names
from thriftnet.reporting.image_figures import draw_mistakes, mistakes_data

CAT, DOG = "猫", "犬"
NAMES = ("café", CAT, f"{DOG} 2")


def write_font(path: Path, letters: str) -> None:
    """A font whose letters are all the same filled triangle."""
    builder = FontBuilder(1000, isTTF=True)
    names = [".notdef", *(f"letter{number}" for number in range(len(letters)))]
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): name for letter, name in zip(letters, names[1:], strict=True)})
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    pen.lineTo((400, 800))
    pen.lineTo((800, 0))
    pen.closePath()
    triangle = pen.glyph()
    builder.setupGlyf(dict.fromkeys(names, triangle))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (900, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": f"Letters {path.stem}", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    builder.save(path)


@pytest.fixture(autouse=True)
def no_system_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fonts, "system_fonts", lambda: ())
    monkeypatch.setattr(fonts, "_families", [fonts.MAIN])
    fonts.font_for.cache_clear()
    yield
    fonts.font_for.cache_clear()


@pytest.fixture
def letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cjk.ttf"
    write_font(path, f"{CAT}{DOG} 2")
    monkeypatch.setattr(fonts, "system_fonts", lambda: (path,))
    return path


def sheet(names: tuple[str, ...]) -> np.ndarray:
    images = torch.full((len(names), 3, 16, 16), 255, dtype=torch.uint8)
    return np.asarray(contact_sheet(LabelledImages(images, torch.arange(len(names))), names))


def test_the_letters_of_europe_need_no_other_font() -> None:
    names = ("café", "Žluťoučký kůň", "собака", "σκύλος", "")
    assert fonts.numbered(names) == names
    assert {fonts.font_for(name) for name in names} == {fonts.main_font()}


def test_without_a_font_a_class_is_shown_by_its_number() -> None:
    assert fonts.numbered(NAMES) == ("café", "class 1", "class 2")
    assert short_name(f"{CAT} a") == "\ufffd a"
    assert short_names([CAT, "a", DOG]) == ["1 \ufffd", "a", "3 \ufffd"]
    assert np.array_equal(sheet((CAT, DOG)), sheet(("class 0", "class 1")))


def test_a_font_of_the_system_is_used(letters: Path) -> None:
    assert fonts.numbered(NAMES) == NAMES
    assert fonts.font_for(CAT) == letters
    assert fonts.families() == [fonts.MAIN, "Letters cjk"]
    assert short_name(f"{CAT} {DOG}") == f"{CAT} {DOG}"
    assert (sheet((CAT, DOG))[..., :40, :] < 128).any()


def drawn(names: tuple[str, ...]) -> list[bytes]:
    labels = torch.arange(len(names)).repeat(4)
    logits = torch.eye(len(names))[labels.roll(1)]
    evaluation = evaluate_logits(logits, labels, names)
    images = torch.zeros(len(labels), 3, 16, 16, dtype=torch.uint8)
    counts = [4] * len(names)
    figures = (
        draw_confusion(confusion_data(evaluation)),
        draw_distribution(distribution_data(names, counts, counts)),
        draw_mistakes(mistakes_data(images, logits, labels, names)),
    )
    return [encoded(figure, Path("a.png")) for figure in figures]


def test_no_figure_has_an_empty_box() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of every glyph that it lacks
        numbered = drawn(NAMES)
    assert numbered == drawn(("café", "class 1", "class 2"))


def test_figures_use_the_font_of_the_system(letters: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(a != b for a, b in zip(drawn(NAMES), drawn(("café", "class 1", "class 2")), strict=True))
