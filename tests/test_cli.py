"""The command line: quick help, one sentence for every mistake, exit codes."""

import errno
import io
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from timbreflow import cli
from timbreflow.commands import common, house, transfer

COMMAND = [sys.executable, "-m", "timbreflow.cli"]


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"])
def test_what_a_signal_ends_has_its_exit_code(
    number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house, "project_root", lambda: signal.raise_signal(number))
    monkeypatch.setattr(sys, "argv", ["timbreflow", "status"])
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    # A shell has what it starts with & ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert ended.value.code == code


def assert_one_sentence(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    lines = result.stderr.strip().splitlines()
    assert result.returncode == 2, result.stderr
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in lines[-1]


def test_help_is_quick_and_shows_examples() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = run("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "timbreflow transfer melody.wav cello.wav -o" in result.stdout
    assert "timbreflow transfer --pairs" in run("transfer", "--help").stdout
    # CPU time: a busy machine is no fault.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    code = "import sys, timbreflow.cli; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split())
    assert loaded & {"torch", "librosa", "mlflow", "prefect", "onnxruntime", "music21", "pandas", "numpy"} == set()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["tranfser"], "tranfser"),
        (["transfer", "a.wav", "-o", "b.wav"], "CONTENT and STYLE"),
        (["transfer", "a.wav", "b.wav"], "--out"),
        (["preset", "nonsense"], "nonsense"),
        (["promote", "nonsense"], "nonsense"),
        (["lineage", "nonsense"], "models:/NAME/VERSION"),
        (["reproduce", "nonsense"], "models:/NAME/VERSION"),
        (["corpus", "fetch", "nonsense"], "nonsense"),
        (["collect", "--out", "x"], "source"),
        (["listen", "make", "--systems", "oracle", "-o", "x"], "name at least two"),
        (["listen", "make", "--systems", "oracle,,glow", "-o", "x"], "no list of names"),
        (["listen", "serve", "../../x"], "study.yaml is missing"),
        (["listen", "results", "../../x"], "study.yaml is missing"),
        (["listen", "simulate", "../../x", "--preference", "1"], "above 0 and below 1"),
        (["collect", "/no/such/folder", "--out", "x"], "/no/such/folder"),
    ],
)
def test_mistakes_get_one_sentence(arguments: list[str], part: str, tmp_path: Path) -> None:
    assert_one_sentence(run(*arguments, cwd=tmp_path), part)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_sound_file_is_named(tmp_path: Path) -> None:
    result = run("transfer", "no.wav", "no2.wav", "-o", "out.wav", "--model", str(tmp_path), cwd=tmp_path)
    assert_one_sentence(result)
    assert list(tmp_path.iterdir()) == []


def test_corpus_list_names_kind_size_licence_and_presence() -> None:
    result = run("corpus", "list")
    assert result.returncode == 0, result.stderr
    head, *rows = result.stdout.splitlines()
    assert head.split() == ["name", "kind", "size", "licence", "present"]
    assert any(row.startswith("music21") and row.endswith("yes") for row in rows)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a/out.wav"), "/a/out.wav cannot be used (No space left"),
        (PermissionError(errno.EACCES, "Permission denied", "notes"), "notes cannot be used (Permission denied)"),
        (OSError(errno.EIO, "Input/output error"), "A file cannot be used (Input/output error)"),
    ],
)
def test_what_the_system_refuses_is_one_sentence(
    error: OSError, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusing(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", refusing)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {sentence}")
    assert said.count("\n") == 1


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_a_terminal_only(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    with common.progress_bar() as progress:
        for fraction in (0.25, 1.0):
            time.sleep(0.11)
            progress(fraction)
    assert ("25%" in screen.getvalue() and "100%" in screen.getvalue()) == terminal
    assert bool(screen.getvalue()) == terminal


def test_a_transfer_reports_its_progress(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from timbreflow.inference.transfer import TimbreTransfer
    from timbreflow.tracking import registry

    class Session:
        """Notes what it is told; a real model would take seconds to build."""

        reported = False

        def transfer_file(self, *_: object, progress: Callable[[float], None], **__: object) -> SimpleNamespace:
            progress(1.0)
            self.reported = True
            return SimpleNamespace(path=tmp_path / "out.wav", notes=())

    session = Session()
    monkeypatch.setattr(registry, "resolve", lambda *_, **__: registry.ResolvedModel(tmp_path, "a model"))
    monkeypatch.setattr(TimbreTransfer, "load", lambda *_, **__: session)
    transfer.transfer(Path("a.wav"), Path("b.wav"), out=tmp_path / "out.wav")
    assert session.reported


def test_status_links_the_report_that_the_stage_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(house, "project_root", lambda: tmp_path)
    house.status()
    assert "not made yet" in capsys.readouterr().out
    page = tmp_path / "results" / "report" / "report.html"
    page.parent.mkdir(parents=True)
    page.touch()
    house.status()
    assert page.as_uri() in capsys.readouterr().out


def test_names_that_are_no_text_are_printed_and_not_a_traceback(tmp_path: Path) -> None:
    name = os.fsdecode(b"m\xe9lodie.wav")
    (tmp_path / name).write_text("no sound")
    assert_one_sentence(run("collect", name, "--out", "x", cwd=tmp_path), "lodie.wav")
    assert_one_sentence(run("collect", os.fsdecode(b"g\xe9ne"), "--out", "x", cwd=tmp_path), "g\\udce9ne")
