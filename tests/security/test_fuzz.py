"""Two seconds of each fuzzer: it runs, takes real files, and finds nothing. `benchmarks/fuzz.py all` runs longer."""

from pathlib import Path

import pytest

from benchmarks import fuzz


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", fuzz.READERS)
def test_a_fuzzer_finds_nothing(name: str, tmp_path: Path) -> None:
    result = fuzz.fuzz(name, 2, tmp_path)
    assert result["read"] > 0
    assert result["findings"] == []


@pytest.mark.slow
def test_a_fuzzer_finds_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(data: bytes) -> None:
        if data[:1] != b"a":
            raise ZeroDivisionError

    monkeypatch.setitem(fuzz.READERS, "toy", fuzz.Reader(("x",), lambda folder: ([(0, b"abc")], [read])))
    monkeypatch.setattr(fuzz, "_limit_memory", lambda: None)
    fuzz.Worker("toy", tmp_path).run(0.5, 0, guided=False)
    (found,) = tmp_path.glob("findings/*/error.txt")
    assert found.read_text().startswith("ZeroDivisionError")
    assert (found.parent / "input").read_bytes()[1:2] != b"a"
