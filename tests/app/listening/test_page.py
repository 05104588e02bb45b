"""Whole studies in headless Chromium: three listeners, one of whom closes the tab in the middle."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import DRIVER, offline_browser
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.app.listening.conftest import small_study, write_small
from tests.app.listening.test_server import running
from timbreflow.app.listening.results import write_results
from timbreflow.app.listening.server import ListeningTest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(DRIVER is None, reason="needs Debian's packages chromium and chromium-driver"),
]
PICTURES = os.environ.get("LISTENING_PICTURES", "")
"""Folder that gets pictures of every kind of page, for eyes."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ListeningTest, str]]:
    study = small_study(trials=4, per_listener=4)
    study = dataclasses.replace(study, headphones=study.headphones[:1], catches=study.catches[:1])
    test = ListeningTest(write_small(tmp_path_factory.mktemp("listening") / "study", study), open_to_all=True)
    with running(test) as address:
        yield test, address
    test.answers.close()


def until(driver: Chrome, condition: Callable[[Chrome], object]) -> None:
    WebDriverWait(driver, 60, poll_frequency=0.1).until(condition)


def picture(driver: Chrome, name: str) -> None:
    if PICTURES:
        Path(PICTURES).mkdir(parents=True, exist_ok=True)
        driver.save_screenshot(f"{PICTURES}/{name}.png")


def accessible(driver: Chrome) -> None:
    """Everything that can be operated has a name, and nothing is wider than the window."""
    tree = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    operated = [
        n for n in tree if n.get("role", {}).get("value") in ("button", "radio", "checkbox", "slider", "progressbar")
    ]
    assert all(node.get("name", {}).get("value") for node in operated)
    assert driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth") <= 0


def consent(driver: Chrome, address: str) -> None:
    driver.get(address)
    until(driver, lambda d: d.find_elements(By.ID, "agree"))
    begin = driver.find_element(By.ID, "begin")
    assert not begin.is_enabled()
    accessible(driver)
    driver.find_element(By.ID, "agree").click()
    begin.click()
    until(driver, lambda d: d.find_elements(By.ID, "save"))


def step(driver: Chrome, *, keyboard: bool) -> str:
    """Listen, answer and save one step; its kind."""
    until(driver, lambda d: d.find_elements(By.ID, "save"))
    save, hint = driver.find_element(By.ID, "save"), driver.find_element(By.ID, "hint")
    sliders = driver.find_elements(By.CSS_SELECTOR, "input[type=range]")
    tones = driver.find_elements(By.ID, "tones")
    assert not save.is_enabled() and hint.text == "Listen to each one first."
    accessible(driver)
    body = driver.find_element(By.TAG_NAME, "body")
    for button in driver.find_elements(By.CSS_SELECTOR, ".play"):
        until(driver, lambda _, button=button: button.is_enabled())
        key = "p" if tones else button.text[0].lower()
        body.send_keys(key) if keyboard else button.click()
        if tones:
            until(driver, lambda _: hint.text != "Listen to each one first.")
        else:
            # A click that starts in the middle may end before a second was heard; a second one plays the rest.
            until(driver, lambda _, b=button: "heard" in b.get_attribute("class") or _again(b))
    for slider in sliders:
        slider.send_keys(Keys.ARROW_RIGHT)
    if not sliders:
        body.send_keys("1") if keyboard else driver.find_element(By.CSS_SELECTOR, ".choice").click()
    until(driver, lambda _: save.is_enabled())
    body.send_keys(Keys.ENTER) if keyboard else save.click()
    until(driver, lambda d: not _attached(save))
    if go := driver.find_elements(By.ID, "go"):
        accessible(driver)
        go[0].click()
    return "mushra" if sliders else "headphones" if tones else "pair"


def _again(button: WebElement) -> bool:
    if button.get_attribute("aria-pressed") == "false":
        button.click()
    return False


def _attached(element: WebElement) -> bool:
    try:
        return bool(element.is_enabled()) or True
    except Exception:
        return False


@pytest.mark.parametrize(("width", "keyboard", "dark"), [(1280, True, False), (390, False, True)])
def test_a_listener_does_a_whole_study(
    served: tuple[ListeningTest, str], width: int, keyboard: bool, dark: bool
) -> None:
    test, address = served
    before = test.answers.counts()
    with offline_browser(width, 900, loopback=True, dark=dark) as driver:
        consent(driver, address)
        kinds = []
        while driver.find_element(By.TAG_NAME, "h1").text != "Thank you":
            kinds.append(step(driver, keyboard=keyboard))
        assert sorted(kinds) == ["headphones", "mushra", *["pair"] * 6]
        # Thanks came after the last answer was stored.
        after = test.answers.counts()
        assert after["listeners"] == before["listeners"] + 1 and after["answers"] == before["answers"] + len(kinds)
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_listener_goes_on_after_closing_the_tab(served: tuple[ListeningTest, str]) -> None:
    test, address = served
    before = test.answers.counts()
    with offline_browser(390, 800, loopback=True) as driver:
        consent(driver, address)
        for _ in range(3):
            step(driver, keyboard=False)
        first = driver.current_window_handle
        driver.switch_to.new_window("tab")
        second = driver.current_window_handle
        driver.switch_to.window(first)
        driver.close()
        driver.switch_to.window(second)
        driver.get(address)
        until(driver, lambda d: d.find_elements(By.ID, "resume"))
        assert "You have answered 3 of 8 steps" in driver.find_element(By.ID, "step").text
        driver.find_element(By.ID, "resume").click()
        steps = 0
        while driver.find_element(By.TAG_NAME, "h1").text != "Thank you":
            step(driver, keyboard=False)
            steps += 1
    after = test.answers.counts()
    assert steps == 5 and after["listeners"] == before["listeners"] + 1 and after["answers"] == before["answers"] + 8


def test_a_missing_sound_is_said_in_the_page(tmp_path: Path) -> None:
    folder = write_small(tmp_path / "study", small_study())
    test = ListeningTest(folder, open_to_all=True)
    with running(test) as address, offline_browser(390, 800, loopback=True) as driver:
        for path in (folder / "clips").iterdir():
            path.unlink()
        consent(driver, address)
        until(driver, lambda d: "your answers so far are saved" in d.find_element(By.ID, "alert").text)
    test.answers.close()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_page_fits_its_window(tmp_path: Path, width: int, dark: bool) -> None:
    """Every kind of step and the results, without answering them; pictures go to LISTENING_PICTURES."""
    folder = write_small(tmp_path / "study", small_study())
    test = ListeningTest(folder, open_to_all=True)
    name = f"{width}-{'dark' if dark else 'light'}"
    with running(test) as address, offline_browser(width, 900, loopback=True, dark=dark) as driver:
        driver.get(address)
        until(driver, lambda d: d.find_elements(By.ID, "agree"))
        picture(driver, f"consent-{name}")
        consent(driver, address)
        for kind in ("headphones", "ab", "abx", "mushra"):
            driver.execute_script(
                "const step = session.steps.find(one => one.kind === arguments[0] && !one.training);"
                "({ headphones: headphones, ab: compare, abx: compare, mushra: rate })[step.kind](step);",
                kind,
            )
            until(driver, lambda d: all(b.is_enabled() for b in d.find_elements(By.CSS_SELECTOR, ".play")))
            accessible(driver)
            picture(driver, f"{kind}-{name}")
        driver.execute_script("feedback(0, true)")
        accessible(driver)
        picture(driver, f"feedback-{name}")
        secret = driver.get_cookies()[0]["value"]
        session = str(test.answers.session_of(secret))
        for one in test.answers.steps(session, secret):
            given = (
                [90] * 5 if one.trial.kind == "mushra" else one.slots.index(one.trial.right) if one.trial.right else 0
            )
            test.answers.save(session, secret, one.position, given)
        write_results(folder)
        driver.get((folder / "results" / "index.html").as_uri())
        accessible(driver)
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 3600, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        picture(driver, f"results-{name}")
    test.answers.close()
