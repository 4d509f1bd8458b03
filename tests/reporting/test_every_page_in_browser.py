"""Every kind of page as its command writes it, opened in a real browser; every check is made of every kind.

With THRIFTNET_TEST_SCREENSHOTS set to a folder, pictures of each are left there.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Locator

from tests.conftest import Trained, thriftnet
from tests.ledger.conftest import Bench
from tests.reporting.conftest import SCREENSHOTS_VARIABLE, Show, contrast
from tests.tuning.conftest import make_place
from thriftnet import comparison
from thriftnet.ledger.write import Ledger

GRID = """
recipe = "tiny.toml"
sampler = { name = "grid" }
[space]
optimizer.lr = { values = [0.0001, 0.01, 0.1] }
optimizer.momentum = { values = [0.0, 0.9] }
optimizer.weight_decay = { values = [0.0, 0.001] }
"""
KINDS = ("run", "shift", "study", "comparison", "landscape", "ledger")
FILTERED = {"run", "shift", "study"}
SCREEN = {"width": 1100, "height": 1400}
A4 = {"width": 690, "height": 980}  # less its margins
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def pages(
    shared_run: Trained, shared_ledger: tuple[Bench, Ledger], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Kind -> its file. Only a study is trained for them: the compared runs are those of the ledger."""
    folder = tmp_path_factory.mktemp("pages")
    found = {kind: folder / f"{kind}.html" for kind in KINDS}

    def command(*arguments: object) -> None:
        outcome = thriftnet(*arguments)
        assert outcome.status == 0, outcome.stderr

    run = folder / "run"
    shutil.copytree(shared_run.path, run)
    command("evaluate", run, "--shift", "--shift-images", 30, "--html", found["shift"])
    command("evaluate", run)
    command("report", run, "--out", found["run"])

    place = make_place(folder)
    place.run(GRID)
    command("study", "show", place.out, "--html", found["study"])

    bench, ledger = shared_ledger
    found["ledger"] = bench.out / "ledger.html"
    sides = []
    for jobs in (ledger.plan.pairs[0].a_jobs, ledger.plan.pairs[0].b_jobs):
        seeds = jobs[0].run.path.parent
        sides.append(shutil.copytree(seeds, folder / seeds.name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "draw_evaluation_figures", lambda _: None)  # of the runs, not of the page
        command("compare", *sides, "--html", found["comparison"])

    around, quick = folder / "landscape", ("--images", 40, "--grid", 5, "--steps", 2)
    command("landscape", *(side / "seed-0" for side in sides), *quick, "--out", around)
    found["landscape"] = around / "landscape.html"
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_it_opens_from_the_disk_and_asks_for_nothing(show: Show, pages: dict[str, Path], kind: str) -> None:
    page = show(pages[kind], viewport=SCREEN)
    assert page.tab.title().endswith("· thriftnet")
    assert page.tab.locator("svg").count() > 0
    page.assert_quiet()
    page.picture(f"{kind}-light")


def values(cells: Locator) -> list[float]:
    """What the numbers among the cells are sorted by, from top to bottom."""
    found: list[float] = cells.evaluate_all(
        "cells => cells.filter((cell) => 'value' in cell.dataset).map((cell) => Number(cell.dataset.value))"
    )
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_its_tables_sort_by_a_click(show: Show, pages: dict[str, Path], kind: str) -> None:
    page = show(pages[kind])
    checked = 0
    for table in page.tab.locator("table.data").all():
        for place, heading in enumerate(table.get_by_role("columnheader").all(), start=1):
            cells = table.locator(f"tbody td:nth-child({place})")
            written = values(cells)
            if len(set(written)) > 1:
                for order in (sorted(written), sorted(written, reverse=True), written):
                    heading.get_by_role("button").click()
                    assert values(cells) == order
                checked += 1
                break  # one column a table
    assert checked > 0
    page.assert_quiet()


@pytest.mark.parametrize("kind", KINDS)
def test_its_long_tables_are_filtered(show: Show, pages: dict[str, Path], kind: str) -> None:
    page = show(pages[kind])
    filters = page.tab.locator(".filter").all()
    assert bool(filters) == (kind in FILTERED)
    for each in filters:
        rows = each.locator("xpath=following-sibling::div[1]").locator("tbody tr")
        count, last = rows.count(), rows.last.locator("td").first.inner_text()
        each.get_by_role("searchbox").fill(last)
        left = rows.filter(visible=True)
        assert 0 < left.count() <= count
        assert all(last.lower() in text.lower() for text in left.all_inner_texts())
        each.get_by_role("searchbox").fill("no row has this")
        assert left.count() == 0
        each.get_by_role("searchbox").fill("")
        assert left.count() == count
    page.assert_quiet()


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_no_wider_than_a_phone(show: Show, pages: dict[str, Path], kind: str) -> None:
    page = show(pages[kind], viewport=PHONE)
    page.picture(f"{kind}-phone")
    assert page.tab.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


@pytest.mark.parametrize("kind", KINDS)
def test_in_the_dark_its_text_is_light_in_figures_too(show: Show, pages: dict[str, Path], kind: str) -> None:
    page = show(pages[kind], viewport=SCREEN, color_scheme="dark")
    page.picture(f"{kind}-dark")
    assert page.tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
    words = page.tab.locator("h1, h2, h3, p, dt, dd, td, th, figcaption, pre, footer")
    colours = words.evaluate_all("found => [...new Set(found.map((word) => getComputedStyle(word).color))]")
    drawn = page.tab.locator('svg g[id*="-text_"]').locator("use, path")
    colours += drawn.evaluate_all("found => [...new Set(found.map((letter) => getComputedStyle(letter).fill))]")
    assert drawn.count() > 0
    for colour in colours:
        assert contrast(colour, "rgb(13, 17, 23)", (0, 0, 0)) > 4.5, colour


@pytest.mark.parametrize("kind", KINDS)
def test_in_print_it_is_light_and_whole(show: Show, pages: dict[str, Path], kind: str) -> None:
    page = show(pages[kind], viewport=A4, color_scheme="dark")
    page.tab.emulate_media(media="print")
    page.picture(f"{kind}-print")
    assert page.tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    rows = page.tab.locator("table.data tbody tr")
    assert rows.filter(visible=True).count() == rows.count() > 0
    cut = page.tab.locator(".scroll, pre").evaluate_all(
        "boxes => boxes.filter((box) => getComputedStyle(box).overflow !== 'visible').length"
    )
    wide = page.tab.locator("table, svg, img, pre").evaluate_all(
        "found => found.filter((one) => one.getBoundingClientRect().right > innerWidth).length"
    )
    assert (cut, wide) == (0, 0)


def test_no_picture_is_written_unless_asked_for(show: Show, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = show("<!DOCTYPE html><title>a page</title>")
    monkeypatch.delenv(SCREENSHOTS_VARIABLE, raising=False)
    page.picture("without")
    monkeypatch.setenv(SCREENSHOTS_VARIABLE, str(tmp_path / "shots"))
    page.picture("with")
    assert [path.name for path in tmp_path.rglob("*.png")] == ["with.png"]
