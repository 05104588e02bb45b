"""The command, its page and the flow: what they say, and how they end."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.monitoring.served import CONFIG, reference, serve
from timbreflow.commands import monitoring
from timbreflow.config import load_params
from timbreflow.errors import TimbreflowError
from timbreflow.monitoring import watch as watching
from timbreflow.monitoring.figures import Ears
from timbreflow.monitoring.reference import read_reference, reference_of, write_reference
from timbreflow.monitoring.watch import own_reference, released_reference, watch
from timbreflow.stages.layout import Layout

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a reference of its own, which these ears heard."""
    monkeypatch.setattr(Ears, "weights", "ears")
    write_reference(own_reference(tmp_path), reference())
    monkeypatch.setattr(monitoring, "project", lambda: (load_params(ROOT / "params.yaml"), Layout(tmp_path)))
    return tmp_path


class Tags(HTMLParser):
    """Tags that were opened, those left open, and what they refer to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        if tag not in ("meta", "link", "path", "use"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "data"):
                self.links.append(value or "")
            if name == "id":
                self.ids.add(value or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "link", "path", "use"):
            assert self.open.pop() == tag


def test_the_page_is_one_file_that_needs_nothing_else(checkout: Path) -> None:
    serve(checkout / "served", style={"band_hz": 7900.0})
    out = checkout / "page.html"
    report = watch(checkout / "served", CONFIG, root=checkout, out=out)
    page = out.read_text(encoding="utf-8")
    tags = Tags(page)
    assert tags.open == []
    assert [link for link in tags.links if not link.startswith(("#", "data:"))] == []
    assert {link[1:] for link in tags.links if link.startswith("#")} <= tags.ids
    assert not re.search(r"url\((?!#)|@import|<script", page)
    assert tags.names.count("svg") == 12, "both distributions of each figure, of content and style"
    for check in report.checks:
        assert f">{check.label}</th>" in page
    assert "Unlike the training" in page
    assert "ALERT: style: band" in page


@pytest.mark.parametrize(("n", "head"), [(60, "As in training"), (3, "Too few transfers"), (0, "Too few transfers")])
def test_the_page_of_quiet_days(n: int, head: str, checkout: Path) -> None:
    (checkout / "served").mkdir()
    serve(checkout / "served", n)
    watch(checkout / "served", CONFIG, root=checkout, out=checkout / "page.html")
    page = (checkout / "page.html").read_text(encoding="utf-8")
    assert f"</small>{head}</h1>" in page
    assert Tags(page).open == []


@pytest.fixture
def plain_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its charts take seconds."""
    monkeypatch.setattr(watching, "render_page", lambda report, *_, **__: report.summary)


@pytest.mark.usefixtures("plain_page")
def test_the_command_ends_with_1_on_an_alert_alone(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, page = checkout / "served", checkout / "results" / "monitor" / "monitor.html"
    serve(folder, 20)
    monitoring.monitor(folder)
    assert "20 transfers in 7 days are too few" in capsys.readouterr().out
    serve(folder, 100, seed=7)
    monitoring.monitor(folder, days=1)
    out = capsys.readouterr().out
    assert "ALERT" not in out
    assert "ok       style: band: distance 0." in out
    assert page.is_file()
    serve(checkout / "strange", 60, style={"band_hz": 7900.0, "seconds": 0.1})
    with pytest.raises(SystemExit) as ended:
        monitoring.monitor(checkout / "strange", out=checkout / "other.html")
    assert ended.value.code == 1
    assert "ALERT    style: length: 100.0% of records below 2 s, at most 25% may be" in capsys.readouterr().out
    assert (checkout / "other.html").is_file()


def test_what_cannot_be_examined(checkout: Path) -> None:
    with pytest.raises(TimbreflowError, match="nowhere is no folder of records"):
        monitoring.monitor(checkout / "nowhere")
    serve(checkout / "served")
    with pytest.raises(TimbreflowError, match="days is 0; give 1 or more"):
        monitoring.monitor(checkout / "served", days=0)
    own_reference(checkout).write_text('{"source": "x", "ears": "ears", "figures": {"band_hz": [1.0]}}')
    with pytest.raises(TimbreflowError, match=r"reference\.json is damaged; make it again"):
        monitoring.monitor(checkout / "served")
    assert not (checkout / "results").exists()


def test_a_reference_that_other_ears_heard_is_refused(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ears, "weights", "others")
    with pytest.raises(TimbreflowError, match="heard by other weights"):
        read_reference(own_reference(checkout), Ears())


def test_the_released_reference_is_that_of_the_released_ears() -> None:
    found = read_reference(released_reference(), Ears())
    assert (found.source, found.n_clips) == ("seen", 480)
    assert released_reference().stat().st_size < 30_000


def test_a_reference_needs_clips(tmp_path: Path) -> None:
    with pytest.raises(TimbreflowError, match="clips has 0 clips; give 40 or more"):
        reference_of([], source="clips", ears=Ears())


@pytest.mark.slow
@pytest.mark.parametrize(("band", "code"), [(7900.0, 2), (None, 0)])
def test_the_flow_as_a_process(band: float | None, code: int, tmp_path: Path) -> None:
    serve(tmp_path / "served", 60 if band else 5, style={"band_hz": band} if band else {})
    done = subprocess.run(
        [sys.executable, "-m", "flows.monitor", tmp_path / "served"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert ("error: What is served is unlike the training (" in done.stderr) == bool(band)
