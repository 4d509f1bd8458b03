"""Pages in a real browser: opened from the disk with the network unplugged."""

from __future__ import annotations

import re

import pytest

from tests.reporting import hostile
from tests.reporting.conftest import Show, contrast
from tests.reporting.test_html import full_report
from tests.reporting.test_page import everything
from thriftnet.reporting.confusion import Confusion
from thriftnet.reporting.html import render_report
from thriftnet.reporting.page import Page, Section, Table, render_page


@pytest.fixture(scope="module")
def report() -> str:
    return render_report(full_report(tuple(f"class {k}" for k in range(10)), "some text"))


def table_page(rows: list[list[object]], columns: tuple[str, ...] = ("name", "value")) -> str:
    return render_page(Page("a test", "table", "", [Section("Table", [Table(columns, rows)])]))  # type: ignore[arg-type]


def test_a_report_opens_from_the_disk_and_asks_for_nothing_else(show: Show, report: str) -> None:
    page = show(report)
    assert page.tab.title() == "some text, seed 7 · thriftnet"
    assert page.tab.locator("svg").count() == 8
    page.assert_quiet()


def test_a_click_on_a_heading_sorts_by_value_and_equal_rows_keep_their_order(show: Show) -> None:
    rows = [["b", 10], ["c", None], ["a", 9.5], ["d", 10], ["e", "not run"], ["f", 1200], ["g", -3]]
    page = show(table_page(rows))
    heading = page.tab.get_by_role("columnheader", name="value")
    button = heading.get_by_role("button")
    assert heading.get_attribute("aria-sort") == "none"
    button.click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert page.column(1) == ["g", "a", "b", "d", "f", "e", "c"]
    assert page.column(2) == ["-3", "9.5", "10", "10", "1,200", "not run", "–"]
    button.click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert page.column(1) == ["f", "b", "d", "a", "g", "e", "c"]
    button.click()
    assert heading.get_attribute("aria-sort") == "none"
    assert page.column(1) == ["b", "c", "a", "d", "e", "f", "g"]
    page.assert_quiet()


def test_names_sort_as_a_person_would_and_percentages_as_numbers(show: Show) -> None:
    rows = [["Conv2d-10", "9.50\u00a0%"], ["Conv2d-9", "100.00\u00a0%"], ["conv", "–"], ["Linear-2", "91.47\u00a0%"]]
    page = show(table_page(rows))
    page.tab.get_by_role("button", name="name").click()
    assert page.column(1) == ["conv", "Conv2d-9", "Conv2d-10", "Linear-2"]
    page.tab.get_by_role("button", name="value").click()
    assert page.column(1) == ["Conv2d-10", "Linear-2", "Conv2d-9", "conv"]
    assert page.tab.get_by_role("columnheader", name="name").get_attribute("aria-sort") == "none"


def test_the_keyboard_sorts_too(show: Show) -> None:
    page = show(table_page([["b", 2], ["a", 1]]))
    button = page.tab.get_by_role("button", name="name")
    for _ in range(6):
        if button.evaluate("element => element === document.activeElement"):
            break
        page.tab.keyboard.press("Tab")
    page.tab.keyboard.press("Enter")
    assert page.column(1) == ["a", "b"]
    page.tab.keyboard.press(" ")
    assert page.column(1) == ["b", "a"]


def test_a_long_table_is_filtered_by_words_and_a_short_one_has_no_field(show: Show) -> None:
    rows: list[list[object]] = [[f"run {k}", "fast" if k % 2 else "Slow"] for k in range(12)]
    page = show(table_page(rows))
    field = page.tab.get_by_role("searchbox", name="Filter 12 rows")
    field.fill("slow 1")
    assert page.column(1) == ["run 10"]
    assert page.tab.locator(".filter output").inner_text() == "1 of 12 rows"
    page.tab.get_by_role("button", name="name").click()
    field.fill("SLOW")
    assert page.column(1) == ["run 0", "run 2", "run 4", "run 6", "run 8", "run 10"]
    field.fill("")
    assert len(page.column(1)) == 12
    assert page.tab.locator(".filter output").inner_text() == ""
    assert show(table_page(rows[:8])).tab.get_by_role("searchbox").count() == 0


def test_a_cell_of_the_confusion_matrix_opens_its_images(show: Show, report: str) -> None:
    page = show(report)
    panels = page.tab.locator(".pair:visible")
    assert panels.count() == 0
    cell = page.tab.get_by_role("button", name="1", exact=True).first  # class 0 taken for class 1
    assert cell.get_attribute("title") == "“class 0” taken for “class 1”: 1 image, 33.3 % of the class"
    cell.click()
    assert panels.count() == 1
    assert cell.get_attribute("aria-expanded") == "true"
    assert panels.locator("h4").inner_text() == cell.get_attribute("title")
    image = panels.locator("img")
    assert image.count() == 1
    assert image.evaluate("element => element.complete && element.naturalWidth") == 4
    assert (image.get_attribute("alt") or "").startswith("“class 0” taken for “class 1”, ")
    cell.click()
    assert panels.count() == 0
    page.assert_quiet()


def test_the_matrix_is_one_tab_stop_that_arrows_walk_and_escape_closes(show: Show, report: str) -> None:
    page = show(report)
    assert page.tab.locator('table.grid a[tabindex="0"]').count() == 1
    page.tab.locator('table.grid a[tabindex="0"]').focus()
    title = "document.activeElement.title"
    assert page.tab.evaluate(title).startswith("“class 0” recognised")
    page.tab.keyboard.press("ArrowRight")
    assert page.tab.evaluate(title).startswith("“class 0” taken for “class 1”")
    page.tab.keyboard.press("ArrowDown")
    assert page.tab.evaluate(title).startswith("“class 1” recognised")
    page.tab.keyboard.press("ArrowUp")
    page.tab.keyboard.press("ArrowUp")  # the edge
    assert page.tab.evaluate(title).startswith("“class 0” taken for “class 1”")
    for key in ("Enter", " "):
        page.tab.keyboard.press(key)
        assert page.tab.locator(".pair:visible").count() == 1
        page.tab.keyboard.press("Escape")
        assert page.tab.locator(".pair:visible").count() == 0
    page.tab.keyboard.press("ArrowLeft")
    assert page.tab.locator('table.grid a[tabindex="0"]').count() == 1


def test_many_classes_open_their_images_from_a_table(show: Show) -> None:
    page = show(render_report(full_report(tuple(f"class {k}" for k in range(30)), "text", drawn=False)))
    row = page.tab.get_by_role("row", name=re.compile("class 3 class 4"))
    row.get_by_role("button").click()
    assert page.tab.locator(".pair:visible h4").inner_text().startswith("“class 3” taken for “class 4”")
    page.assert_quiet()


def test_without_scripts_everything_is_readable_and_images_still_open(show: Show, report: str) -> None:
    page = show(report, java_script_enabled=False)
    assert page.tab.get_by_role("searchbox").count() == 0
    assert page.tab.get_by_role("cell", name="class 9").first.is_visible()
    page.tab.locator("table.grid a").nth(1).click()
    assert page.tab.locator(".pair:visible").count() == 1
    assert page.tab.locator(".pair:visible h4").inner_text().startswith("“class 0” taken for “class 1”")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone_and_colours_follow_the_reader(show: Show, report: str, scheme: str) -> None:
    long = "a-name-without-any-space-" * 8
    for html in (report, everything(long), table_page([[long, 1]] * 10)):
        page = show(html, viewport={"width": 360, "height": 740}, color_scheme=scheme)
        if html is report:
            page.tab.locator("table.grid a").first.click()
        assert page.tab.evaluate("document.documentElement.scrollWidth") == 360
    background = page.tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_numbers_of_the_matrix_stand_out_from_their_colour(show: Show, scheme: str) -> None:
    """At least 3 to 1 (WCAG 2.2, 1.4.3, for large text; most are far above)."""
    shares = [0.001, 0.1, 0.3, 0.5, 0.6, 0.63, 0.66, 0.8, 1.0]
    counts = [[round(1000 * s), 1000 - round(1000 * s)] for s in shares]
    size = len(shares)
    rows = [[c[0] if j == i else c[1] if j == (i + 1) % size else 0 for j in range(size)] for i, c in enumerate(counts)]
    block = Confusion([str(k) for k in range(size)], rows)
    page = show(render_page(Page("", "", "", [Section("", [block])])), color_scheme=scheme)
    found = page.tab.locator(".share").evaluate_all(
        "elements => elements.map(e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor])"
    )
    below = (255, 255, 255) if scheme == "light" else (13, 17, 23)
    for text, background in found:
        assert contrast(text, background, below) > 3, (text, background)


def test_in_print_tables_are_whole_filters_gone_and_colours_light(show: Show, report: str) -> None:
    page = show(report, color_scheme="dark", viewport={"width": 690, "height": 980})  # A4 less its margins
    page.tab.get_by_role("searchbox").first.fill("class 1")
    page.tab.emulate_media(media="print")
    assert page.tab.get_by_role("searchbox").count() == 0
    assert page.tab.locator(".filter output").first.inner_text() == "1 of 10 rows"  # a part must not pass for the whole
    assert page.tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.tab.locator("nav").is_visible()
    cut = page.tab.locator(".scroll").evaluate_all(
        "boxes => boxes.filter(b => getComputedStyle(b).overflow !== 'visible' || b.scrollWidth > 690).length"
    )
    assert cut == 0
    assert len(page.tab.pdf(format="A4")) > 10_000


@pytest.fixture(scope="module")
def hostile_pages() -> list[str]:
    """Each kind of block and a run's page, a hostile name in each place; the names are classes too, few and many."""
    every = " ".join(hostile.NAMES)
    return [
        everything(every),
        render_report(full_report(hostile.NAMES[:25], every)),
        render_report(full_report((*hostile.NAMES, *(f"{name} 2" for name in hostile.NAMES)), every, drawn=False)),
    ]


@pytest.mark.parametrize("policy", ["with its policy", "without"])
def test_no_text_from_data_runs_a_script_or_asks_for_anything(
    show: Show, hostile_pages: list[str], policy: str
) -> None:
    """Without its policy too: escaping alone must do it."""
    for html in hostile_pages:
        if policy == "without":
            html, removed = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
            assert removed == 1
        page = show(html)
        page.tab.get_by_role("button").first.click()
        if page.tab.get_by_role("searchbox").count():
            page.tab.get_by_role("searchbox").first.fill("<img src=x onerror=window.canary=1>")
        page.tab.locator(".confusion table a").evaluate_all("links => links.forEach((link) => link.click())")
        page.tab.mouse.move(200, 200)
        assert page.tab.evaluate("window.canary") is None
        assert page.tab.evaluate("document.scripts.length") == 1
        assert page.tab.locator("iframe, base, link, [onerror], [onload], [onmouseover], [onfocus]").count() == 0
        page.assert_quiet()


def test_a_hostile_name_is_shown_as_it_is(show: Show, hostile_pages: list[str]) -> None:
    page = show(hostile_pages[1])
    shown = page.tab.locator("section table.data").first.locator("tbody td:first-child").all_text_contents()
    expected = [name.encode("utf-8", "backslashreplace").decode() for name in hostile.NAMES[:25]]
    written = [name.replace("\r", "\n").replace("\x00", "") for name in expected]  # as HTML reads these two
    assert [name.replace("\ufffd", "") for name in shown] == written


def test_the_policy_stops_a_script_that_got_in_all_the_same(show: Show, report: str) -> None:
    injected = report.replace("<main>", "<main><script>window.canary=1</script><img src=x onerror=window.canary=1>")
    page = show(injected)
    assert page.tab.evaluate("window.canary") is None
    assert len(page.complaints) >= 2
    assert all("Content Security Policy" in complaint for complaint in page.complaints)
