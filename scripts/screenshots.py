"""Pictures of HTML pages as readers see them, taken with the network unplugged.

    python scripts/screenshots.py FOLDER PAGE.html ...

Each page is opened from the disk in Debian's chromium (or the one that THRIFTNET_TEST_BROWSER names) on a screen in
light and dark, on a phone and for print; the top of it is pictured. A page that asks for anything but itself, or that
writes to the console, ends the script with an error. Needs the extra `dev`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Any

SCREEN, PHONE, PAPER = (1100, 1400), (390, 844), (794, 1123)
VIEWS: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "light": (SCREEN, {"color_scheme": "light"}),
    "dark": (SCREEN, {"color_scheme": "dark"}),
    "phone": (PHONE, {"color_scheme": "light"}),
    "print": (PAPER, {"media": "print"}),
}
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("pages", type=Path, nargs="+", metavar="PAGE.html")
    arguments = parser.parse_args()
    take(arguments.folder, [page.resolve() for page in arguments.pages])


def take(folder: Path, pages: list[Path]) -> None:
    """Write `FOLDER/<page>-<view>.png` for each page and view."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    path = os.environ.get("THRIFTNET_TEST_BROWSER") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        for page in pages:
            for name, ((width, height), media) in VIEWS.items():
                context = browser.new_context(offline=True, viewport={"width": width, "height": height})
                tab, heard = context.new_page(), list[str]()
                tab.on("request", lambda request, heard=heard: heard.append(request.url))
                tab.on("console", lambda message, heard=heard: heard.append(message.text))
                tab.on("pageerror", lambda error, heard=heard: heard.append(str(error)))
                tab.emulate_media(**media)
                tab.goto(page.as_uri())
                unwanted = [text for text in heard if text != page.as_uri() and not text.startswith("data:image/")]
                if unwanted:
                    sys.exit(f"{page.name} asked for or complained of: {unwanted}")
                tab.screenshot(path=folder / f"{page.stem}-{name}.png")
                context.close()
                print(folder / f"{page.stem}-{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
