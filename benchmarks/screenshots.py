"""Pictures of Prefect's and MLflow's pages, by a headless Chromium (Debian's chromium and chromium-driver)."""

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from selenium.webdriver import Chrome

from tests.pipeline.browser import offline_browser
from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_file

SIZE = (1280, 1000)
SECONDS = 60
"""Until a page must show what is expected of it."""
CLOSE = """
for (const name of ["Close", "Close modal", "Close Assistant"])
    for (const button of document.querySelectorAll(`button[aria-label="${name}"]`)) button.click();
"""
"""Dialogs that greet a browser which was never there before."""
CLICK = """
const found = [...document.querySelectorAll("body *")].filter(each => each.textContent.trim() === arguments[0]);
found[found.length - 1].click();
"""


@dataclass(frozen=True)
class Page:
    """What a picture is taken of.

    Attributes:
        address: of the page.
        text: that it shows when it is there.
        click: text of what is clicked before, if anything.
    """

    address: str
    text: str
    click: str = ""


def photograph(pages: Mapping[str, Page], folder: Path) -> list[Path]:
    """Take a picture of each page.

    Args:
        pages: by the names of their pictures.
        folder: for the pictures, NAME.png, in 256 colours.

    Raises:
        TimbreflowError: a page does not show its text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    taken = []
    with offline_browser(*SIZE, loopback=True) as browser:
        for name, page in pages.items():
            browser.get(page.address)
            if page.click:
                _settle(browser, page.click)
                browser.execute_script(CLICK, page.click)
            _settle(browser, page.text)
            picture = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
            with atomic_file(folder / f"{name}.png") as temporary:
                picture.quantize(256).save(temporary, format="PNG", optimize=True)
            taken.append(folder / f"{name}.png")
    return taken


def _settle(browser: Chrome, text: str) -> None:
    """Wait for the text, then until the page stays as it is."""
    deadline, before = time.monotonic() + SECONDS, None
    while True:
        browser.execute_script(CLOSE)
        time.sleep(2)
        shown = str(browser.execute_script("return document.body.innerText"))
        if text in shown and shown == before:
            return
        if time.monotonic() > deadline:
            raise TimbreflowError(f"{browser.current_url} does not show {text!r} within {SECONDS} s:\n{shown[:1000]}")
        before = shown
