"""The command line: quick help, one sentence for every mistake, exit codes."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "timbreflow.cli"]


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True)


def assert_one_sentence(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    lines = result.stderr.strip().splitlines()
    assert result.returncode == 2, result.stderr
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in lines[-1]


def test_help_is_quick_and_shows_examples() -> None:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        result = run("--help")
        times.append(time.perf_counter() - start)
    assert "timbreflow transfer melody.wav cello.wav -o" in result.stdout
    assert "timbreflow transfer --pairs" in run("transfer", "--help").stdout
    assert min(times) < 1.0


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
        (["corpus", "fetch", "nonsense"], "nonsense"),
        (["collect", "--out", "x"], "source"),
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
