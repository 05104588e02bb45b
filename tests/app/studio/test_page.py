"""The studio in headless Chromium, with the released models."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from browser import DRIVER, offline_browser
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.inference.test_songs import write_song

ROOT = Path(__file__).resolve().parents[3]
SOUNDS = ROOT / "docs" / "sounds"
AXE = "axe-core@4.14.1"
PICTURES = os.environ.get("STUDIO_PICTURES", "")
"""Folder that gets pictures of the page, for eyes."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(DRIVER is None, reason="needs Debian's packages chromium and chromium-driver"),
]


@dataclass(frozen=True)
class Served:
    address: str
    temporary: Path
    process: subprocess.Popen[bytes]

    def made(self) -> list[Path]:
        """Folders of results, whole or not."""
        return list(self.temporary.glob("timbreflow-studio-*/person-*/result-*"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    temporary = tmp_path_factory.mktemp("temporary")
    log = temporary / "log.txt"
    command = [sys.executable, "-m", "timbreflow.cli", "studio", "--port", str(port)]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"TMPDIR": str(temporary)}, stdout=output, stderr=output
        )
    try:
        for _ in range(240):
            if b"studio: " in log.read_bytes():
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.5)
        yield Served(f"http://127.0.0.1:{port}/", temporary, process)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core, from npm."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm, to fetch axe-core")
    folder = tmp_path_factory.mktemp("axe")
    done = subprocess.run(["npm", "pack", "--silent", AXE], cwd=folder, capture_output=True, check=False, timeout=120)
    if done.returncode:
        pytest.skip(f"{AXE} cannot be fetched from npm: {done.stderr.decode()[-200:]}")
    shutil.unpack_archive(next(folder.glob("*.tgz")), folder)
    return (folder / "package" / "axe.min.js").read_text(encoding="utf-8")


def until(driver: Chrome, condition: Callable[[Chrome], object], seconds: int = 240) -> None:
    WebDriverWait(driver, seconds, poll_frequency=0.2, ignored_exceptions=[Exception]).until(condition)


def opened(driver: Chrome, served: Served) -> None:
    driver.get(served.address)
    until(driver, lambda d: d.find_elements(By.ID, "render"))


def give(driver: Chrome, where: str, path: Path) -> None:
    driver.find_element(By.CSS_SELECTOR, f"#{where} input[type=file]").send_keys(str(path))


def unfold(driver: Chrome, title: str) -> None:
    next(one for one in driver.find_elements(By.CSS_SELECTOR, "button.label-wrap") if title in one.text).click()


def text(driver: Chrome, what: str) -> str:
    return driver.find_element(By.CSS_SELECTOR, what).text


def render(driver: Chrome, name: str = "render", *, said: str = "Done") -> None:
    driver.find_element(By.ID, name).click()
    until(driver, lambda d: said in text(d, f"#{name}-said"))


def labels(driver: Chrome, name: str = "render") -> list[str]:
    return [one.text for one in driver.find_elements(By.CSS_SELECTOR, f"#{name}-result .tf-choices label")]


def picture(driver: Chrome, name: str) -> None:
    if PICTURES:
        Path(PICTURES).mkdir(parents=True, exist_ok=True)
        driver.save_screenshot(f"{PICTURES}/{name}.png")


def test_both_models_make_a_result_without_a_network(served: Served) -> None:
    with offline_browser(1280, 2600, loopback=True) as driver:
        opened(driver, served)
        until(driver, lambda d: d.find_elements(By.CSS_SELECTOR, "#content button[aria-label='Record audio']"), 10)
        give(driver, "content", SOUNDS / "violin-tune.ogg")
        give(driver, "style-1", SOUNDS / "xylophone.ogg")
        until(driver, lambda d: d.find_elements(By.CSS_SELECTOR, ".tf-segment"))
        render(driver)
        assert labels(driver) == ["Content", "Style", "Result"]
        assert "--model vqvae" in text(driver, ".tf-command code")

        unfold(driver, "Style 2")
        until(driver, lambda d: d.find_elements(By.CSS_SELECTOR, "#style-2 input[type=file]"))
        give(driver, "style-2", SOUNDS / "crystal.ogg")
        until(driver, lambda d: len(d.find_elements(By.CSS_SELECTOR, ".tf-segment")) == 2)
        driver.find_element(By.CSS_SELECTOR, "#recording-model input[value=glow]").click()
        driver.find_element(By.CSS_SELECTOR, "#takes input[value='4']").click()
        driver.find_element(By.ID, "render").click()
        until(driver, lambda d: "Take 4" in labels(d))
        assert labels(driver) == ["Content", "Style 1", "Style 2", "Take 1", "Take 2", "Take 3", "Take 4"]
        assert "xylophone.ogg crystal.ogg -o result.wav --model glow --takes 4" in text(driver, ".tf-command code")
        assert driver.find_element(By.ID, "render-history").is_displayed()
        picture(driver, "blend")

        # Players switch in sync, by the keyboard.
        driver.find_element(By.CSS_SELECTOR, ".tf-play").send_keys(Keys.SPACE)
        place = "const now = document.querySelector('.tf-chosen audio'); return [now.paused, now.currentTime]"
        until(driver, lambda d: d.execute_script(place)[1] > 0.5)
        before = driver.execute_script(place)[1]
        driver.find_element(By.CSS_SELECTOR, ".tf-choices input:checked").send_keys(Keys.ARROW_RIGHT)
        paused, now = driver.execute_script(place)
        assert not paused
        assert before <= now < before + 2
        assert text(driver, ".tf-choices label:has(:checked)") == "Take 2"
        assert (
            driver.execute_script("return [...document.querySelectorAll('audio')].filter(one => !one.paused)").__len__()
            == 1
        )

        names = driver.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
        assert {name for name in names if not name.startswith((served.address, "data:", "blob:"))} == set()
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_width_and_colour_is_accessible(served: Served, axe: str, width: int, dark: bool) -> None:
    with offline_browser(width, 3900 if width == 390 else 2600, loopback=True, dark=dark) as driver:
        driver.set_script_timeout(120)

        def serious() -> list[str]:
            assert driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth") <= 0
            time.sleep(1)  # colours fade in
            found = "found.violations.map(one => [one.impact, one.id, one.nodes[0].html])"
            run = f"axe.run().then(found => arguments[0]({found}))"
            driver.execute_script(axe)
            return [
                f"{i}: {html}"
                for impact, i, html in driver.execute_async_script(run)
                if impact in ("serious", "critical")
            ]

        opened(driver, served)
        assert serious() == []
        give(driver, "content", SOUNDS / "clavinet-tune.ogg")
        give(driver, "style-1", SOUNDS / "crystal.ogg")
        until(driver, lambda d: d.find_elements(By.CSS_SELECTOR, ".tf-segment"))
        render(driver)
        until(driver, lambda d: d.execute_script("return document.querySelector('.tf-chosen audio').duration > 7"))
        assert serious() == []
        picture(driver, f"recording-{width}-{'dark' if dark else 'light'}")
        next(tab for tab in driver.find_elements(By.CSS_SELECTOR, "button[role=tab]") if "song" in tab.text).click()
        until(driver, lambda d: d.find_element(By.ID, "song").is_displayed())
        assert serious() == []
        picture(driver, f"song-{width}-{'dark' if dark else 'light'}")


def test_a_long_job_is_cancelled_and_a_closed_page_leaves_nothing(served: Served, tmp_path: Path) -> None:
    tune, rate = soundfile.read(SOUNDS / "violin-tune.ogg")
    soundfile.write(tmp_path / "long.flac", np.tile(tune, 38)[: 300 * rate], rate)
    with offline_browser(loopback=True) as driver:
        opened(driver, served)
        give(driver, "content", tmp_path / "long.flac")
        give(driver, "style-1", SOUNDS / "xylophone.ogg")
        until(driver, lambda d: d.find_elements(By.CSS_SELECTOR, ".tf-segment"))
        before = set(served.made())
        driver.find_element(By.ID, "render").click()
        until(
            driver,
            lambda d: re.search(
                r"[1-9]\d* % done, about \d+:\d\d left|[1-9]\d*% done, about \d+:\d\d left", text(d, "#render-said")
            ),
        )
        assert set(served.made()) - before
        driver.find_element(By.ID, "render-cancel").click()
        until(driver, lambda d: "Cancelled; nothing was kept." in text(d, "#render-said"))
        assert set(served.made()) == before
        people = set(served.temporary.glob("timbreflow-studio-*/person-*"))
        driver.find_element(By.ID, "render").click()
        until(driver, lambda d: "left" in text(d, "#render-said"))
        driver.get("about:blank")
        until(driver, lambda d: set(served.temporary.glob("timbreflow-studio-*/person-*")) < people, 60)


def test_midi_as_content_and_as_a_song(served: Served, tmp_path: Path) -> None:
    song = write_song(tmp_path / "song.mid")
    with offline_browser(loopback=True) as driver:
        opened(driver, served)
        give(driver, "score", song)
        give(driver, "style-1", SOUNDS / "xylophone.ogg")
        until(driver, lambda d: d.find_elements(By.CSS_SELECTOR, ".tf-segment"))
        render(driver)
        assert "song.mid was played by TimGM6mb without its drums" in text(driver, "#render-result")
        next(tab for tab in driver.find_elements(By.CSS_SELECTOR, "button[role=tab]") if "song" in tab.text).click()
        until(driver, lambda d: d.find_element(By.ID, "song").is_displayed())
        give(driver, "song-file", song)
        give(driver, "song-style-1", SOUNDS / "xylophone.ogg")
        until(
            driver,
            lambda d: "Violin" in str(d.find_element(By.CSS_SELECTOR, "#song-track-1 input").get_attribute("value")),
        )
        time.sleep(2)  # the style is on its way
        render(driver, "song")
        assert "reinstrument song.mid -o result.wav --style 0=xylophone.ogg" in text(driver, "#song-result")


def test_what_cannot_be_used_is_said_in_the_page(served: Served, tmp_path: Path) -> None:
    (tmp_path / "words.wav").write_bytes(b"la la la\n" * 1000)
    soundfile.write(tmp_path / "short.wav", np.ones(4800) * 0.1, 16000)
    with offline_browser(loopback=True) as driver:
        opened(driver, served)
        render(driver, said="Choose a content")
        give(driver, "content", tmp_path / "words.wav")
        until(driver, lambda d: "words.wav cannot be read as sound" in text(d, "body"))
        give(driver, "style-1", tmp_path / "short.wav")
        until(driver, lambda d: "short.wav lasts 0.30 s, which is too short" in text(d, "body"))
        render(driver, said="words.wav cannot be read as sound")
        assert str(served.temporary) not in text(driver, "body")


def test_the_end_deletes_everything(served: Served) -> None:
    assert list(served.temporary.glob("timbreflow-studio-*"))
    served.process.send_signal(signal.SIGTERM)
    served.process.wait(60)
    assert list(served.temporary.glob("timbreflow-studio-*")) == []
