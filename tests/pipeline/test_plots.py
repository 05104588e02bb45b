"""`dvc plots show` draws without a network: its page brings what it needs."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from browser import DRIVER, offline_browser

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plots")
    (root / ".dvc").mkdir()
    for name in ("config", "plots.html"):
        shutil.copy(ROOT / ".dvc" / name, root / ".dvc" / name)
    (root / "curves.csv").write_text("step,val_l1\n0,3\n10,2\n20,1.5\n")
    (root / "dvc.yaml").write_text("plots:\n- validation L1:\n    x: step\n    y: {curves.csv: val_l1}\n")
    subprocess.run(["git", "init", "-q", root], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "plots", "show", "-o", "page"], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return root / "page" / "index.html"


def test_the_page_of_plots_fetches_nothing(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "vegaEmbed" in text and "{plot_divs}" not in text
    # The code of vega itself speaks of such tags.
    tags = re.sub(r"(<script[^>]*>).*?</script>", r"\1", text, flags=re.DOTALL)
    assert len(re.findall("<script", tags)) == 4 and not re.search(r"(src|href)=", tags)


@pytest.mark.slow
@pytest.mark.skipif(DRIVER is None, reason="needs Debian's packages chromium and chromium-driver")
def test_the_page_of_plots_draws(page: Path) -> None:
    with offline_browser() as browser:
        browser.get(page.as_uri())
        shapes = browser.execute_async_script(
            "const done = arguments[0]; setTimeout(() => done(document.querySelectorAll('canvas, svg').length), 3000)"
        )
        assert shapes >= 1
