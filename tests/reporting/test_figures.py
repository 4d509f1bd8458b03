from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from tests.reporting.conftest import contrast
from thriftnet import fonts
from thriftnet.errors import StorageError
from thriftnet.reporting import figures, shift_figures, study_figures
from thriftnet.reporting.class_figures import distribution_data, draw_distribution
from thriftnet.reporting.figures import INK, inline_svg, save, short_name, short_names


def drawing() -> Figure:
    return draw_distribution(distribution_data(["<script>alert(1)</script>", "$x_{"], [3, 1], [2, 2]))


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_the_same_figure_gives_the_same_file(tmp_path: Path, ending: str, start: bytes) -> None:
    for name in ("a", "b"):
        save(drawing(), tmp_path / f"{name}.{ending}")
    content = (tmp_path / f"a.{ending}").read_bytes()
    assert content.startswith(start)
    assert content == (tmp_path / f"b.{ending}").read_bytes()


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"as .png or .svg, not as a.jpg"):
        save(drawing(), tmp_path / "a.jpg")
    with pytest.raises(StorageError, match="its folder does not exist"):
        save(drawing(), tmp_path / "missing" / "a.png")


def test_inline_svg_stands_alone_beside_others() -> None:
    first, second = inline_svg(drawing(), "first", "A figure"), inline_svg(drawing(), "second", "A figure")
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    references = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', first))
    assert references
    assert {a or b for a, b in references} <= ids[0]
    assert 'role="img" aria-label="A figure"' in first
    assert "<script" not in first
    assert "alert" not in first
    assert "<metadata" not in first
    assert "<!" not in first
    parser = HTMLParser()
    parser.feed(first)
    parser.close()


def test_inline_svg_takes_its_colours_from_the_page() -> None:
    svg = inline_svg(drawing(), "a", "A figure")
    for colour, variable in [(figures.BLUE, "--blue"), (figures.VERMILLION, "--vermillion"), (figures.INK, "--ink")]:
        assert f"var({variable}, {colour})" in svg
        assert re.search(rf"(?<!, ){colour}", svg) is None
    assert figures.WHITE not in svg  # no background


def test_settings_of_the_user_are_neither_changed_nor_used(tmp_path: Path) -> None:
    save(drawing(), tmp_path / "plain.svg")
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        save(drawing(), tmp_path / "own.svg")
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "own.svg").read_bytes() == (tmp_path / "plain.svg").read_bytes()


@given(st.text(), st.integers(2, 30))
def test_a_short_name_is_one_line_of_limited_length(name: str, longest: int) -> None:
    short = short_name(name, longest)
    assert len(short) <= longest
    assert len(short.splitlines()) <= 1
    assert short.isprintable()
    if 0 < len(name) <= longest and name == " ".join(name.split()) and name.isprintable():
        assert short == fonts.drawable(name)


_VALUES = np.linspace(0, 100, 40).reshape(8, 5)


@pytest.mark.parametrize("of", ["study", "study of a loss", "shift"])
@pytest.mark.parametrize(("page", "ink"), [((255, 255, 255), INK), ((13, 17, 23), "#e6edf3")])
def test_numbers_of_heat_maps_stand_out_from_their_colour(of: str, page: tuple[int, int, int], ink: str) -> None:
    """At least 3 to 1 (WCAG 2.2, 1.4.3, for large text); `ink` is what a dark page has in its place."""
    if of == "shift":
        figure = shift_figures.draw_heat_map(shift_figures.HeatMapData(("a",) * 8, _VALUES, 100.0))
    else:
        data = study_figures.HeatMapData(_VALUES, ["a"] * 8, ["b"] * 5, "a", "b", "", maximize=of == "study")
        figure = study_figures.draw_heat_map(data)
    axes = figure.axes[0]
    [image] = axes.images
    cells = image.to_rgba(image.get_array()).reshape(-1, 4)
    for text, (*shares, opacity) in zip(axes.texts, cells, strict=True):
        written = to_rgb(ink if text.get_color() == INK else text.get_color())
        colours = [[round(255 * float(share)) for share in rgb] for rgb in (written, shares)]
        found = contrast(f"rgb{tuple(colours[0])}", f"rgba{(*colours[1], float(opacity))}", page)
        assert found > 3, (text.get_text(), found)


def test_short_names_can_be_told_apart() -> None:
    assert short_names(["fast", "a-long-name-of-a-run"], 12) == ["fast", "a-long-name…"]
    assert short_names(["sgd", "resnext29-seed-0", "resnext29-seed-1"], 12) == ["sgd", "resne…seed-0", "resne…seed-1"]
    assert short_names(["the same"] * 2, 5) == ["the …"] * 2


def test_what_cannot_be_printed_is_replaced_in_a_short_name() -> None:
    assert short_name("\x07 turned \u202e byte \udcff") == "\ufffd turned \ufffd byte \ufffd"
    assert short_name(" ") == "–"  # matplotlib cannot measure the path of no letters


def test_the_description_of_an_inlined_figure_may_be_any_text() -> None:
    svg = inline_svg(drawing(), "a", '"><script>')
    assert svg.startswith('<svg role="img" aria-label="&quot;&gt;&lt;script&gt;"')


def test_matplotlib_is_loaded_only_for_drawing_and_never_pyplot() -> None:
    program = """
import sys
import thriftnet.reporting.html, thriftnet.reporting.curves as curves
import thriftnet.reporting.class_figures, thriftnet.reporting.image_figures
assert "matplotlib" not in sys.modules and "sklearn" not in sys.modules
figure = curves.draw_learning_rate(curves.learning_rate_data([1.0, 0.5], 2))
thriftnet.reporting.figures.inline_svg(figure, "a", "b")
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
