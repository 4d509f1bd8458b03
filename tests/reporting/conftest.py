"""A real browser for pages: each is opened from the disk with the network unplugged."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from playwright.sync_api import Page as Tab

VARIABLE = "THRIFTNET_TEST_BROWSER"
SCREENSHOTS_VARIABLE = "THRIFTNET_TEST_SCREENSHOTS"
NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = os.environ.get(VARIABLE) or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser found: install chromium, or set {VARIABLE} to its path")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield started
        started.close()


class Opened:
    """A page in a tab of its own, and everything that it asked for or complained about."""

    def __init__(self, tab: Tab, path: Path) -> None:
        self.tab, self.requests, self.complaints = tab, list[str](), list[str]()
        tab.on("request", lambda request: self.requests.append(request.url))
        tab.on("console", lambda message: self.complaints.append(message.text))
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        tab.goto(path.as_uri())
        self.own = [path.as_uri()]

    def assert_quiet(self) -> None:
        assert [url for url in self.requests if not url.startswith("data:image/png")] == self.own
        assert self.complaints == []

    def column(self, place: int) -> list[str]:
        """The cells of a column of the first table, rows that are filtered away left out."""
        found: list[str] = self.tab.locator(f"table.data tbody tr:visible td:nth-child({place})").all_inner_texts()
        return found

    def picture(self, name: str) -> None:
        """The whole page as `name`.png, for people to look at, in the folder that the variable names, if it is set."""
        folder = os.environ.get(SCREENSHOTS_VARIABLE)
        if folder:
            self.tab.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


Show = Callable[..., Opened]


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Show]:
    contexts = []

    def open_page(page: str | Path, **settings: object) -> Opened:
        """A page as text, or a file; `settings` are those of a browser's context."""
        if isinstance(page, str):
            path = tmp_path / f"page-{len(contexts)}.html"
            path.write_text(page, encoding="utf-8")
        else:
            path = page
        context = browser.new_context(offline=True, **settings)  # type: ignore[arg-type]
        contexts.append(context)
        return Opened(context.new_page(), path)

    yield open_page
    for context in contexts:
        context.close()


def contrast(text: str, background: str, below: tuple[int, int, int]) -> float:
    """Contrast ratio (WCAG 2.2) of two computed colours, 1 to 21; through a translucent background `below` is seen."""
    text_rgb, _ = _parts(text)
    rgb, opacity = _parts(background)
    shown = [opacity * c + (1 - opacity) * b for c, b in zip(rgb, below, strict=True)]
    dark, light = sorted((_luminance(shown), _luminance(text_rgb)))
    return (light + 0.05) / (dark + 0.05)


def _parts(colour: str) -> tuple[list[float], float]:
    """(red, green, blue), opacity of `rgb(...)` or `rgba(...)`."""
    *rgb, opacity = [float(part) for part in re.findall(r"[\d.]+", colour)] + ([] if "rgba" in colour else [1.0])
    return rgb, opacity


def _luminance(rgb: list[float]) -> float:
    shares = [c / 255 for c in rgb]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
