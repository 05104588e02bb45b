"""What a server calls: a row a transfer, without sound or names, and without ever ending its work."""

import json
import logging
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.inference.tiny import melody
from timbreflow.errors import TimbreflowError
from timbreflow.inference.familiarity import Familiarity
from timbreflow.monitoring.recorder import Recorder

RATE = 16000
CONTENT, STYLE = melody(2.0, RATE, seed=1), melody(1.0, RATE, seed=2)
ROW = {"format", "time", "model", "seconds", "sample_rate", "content", "style", "output"}
FIGURES = {"seconds", "level_dbfs", "silent_share", "polyphony", "pitched_share", "band_hz", "flatness_db"}


def written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def test_a_row_holds_figures_and_nothing_else(tmp_path: Path) -> None:
    Recorder(tmp_path / "served").record(CONTENT, STYLE, CONTENT, RATE, model="vqvae", seconds=1.2345)
    (row,) = written(tmp_path / "served")
    assert set(row) == ROW
    assert all(set(row[role]) == FIGURES for role in ("content", "style", "output"))
    assert (row["model"], row["seconds"], row["content"]["seconds"], row["style"]["seconds"]) == ("vqvae", 1.234, 2, 1)
    assert row["output"] == row["content"]


def test_a_flow_is_asked_about_content_and_style(tmp_path: Path) -> None:
    def familiarity(sound: np.ndarray, *, sample_rate: int) -> Familiarity:
        assert sample_rate == RATE
        if len(sound) == len(STYLE):
            raise TimbreflowError("too short")
        return Familiarity(-0.5, 0.25, 0.2, 0.6)

    asked = partial(familiarity, sample_rate=RATE)
    Recorder(tmp_path).record(CONTENT, STYLE, CONTENT, RATE, model="glow", familiarity=asked, seconds=1.0)
    (row,) = written(tmp_path)
    assert (row["content"]["rank"], row["content"]["bits_per_dim"], "rank" in row["style"]) == (0.25, -0.5, False)


def test_recording_never_ends_the_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, "timbreflow"):
        Recorder(tmp_path / "file").record(CONTENT, STYLE, CONTENT, RATE, model="vqvae", seconds=1.0)
    assert "This transfer is not recorded" in caplog.text
    nan = np.full(RATE, np.nan, np.float32)
    Recorder(tmp_path / "served").record(CONTENT, STYLE, nan, RATE, model="vqvae", seconds=1.0)
    (row,) = written(tmp_path / "served")
    assert row["output"]["level_dbfs"] is None


def test_threads_share_a_recorder(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    record = partial(recorder.record, CONTENT, STYLE, CONTENT, RATE, model="vqvae", seconds=1.0)
    threads = [threading.Thread(target=record) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = written(tmp_path)
    assert len(rows) == 6
    assert all(row["content"] == rows[0]["content"] for row in rows)
