"""The sounds of an evaluation among the artifacts of a run."""

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile

from timbreflow.evaluation.evaluate import Evaluation, Example, Timing
from timbreflow.evaluation.storage import write_evaluation
from timbreflow.tracking import sounds
from timbreflow.tracking.connection import connect
from timbreflow.tracking.runs import open_run
from timbreflow.tracking.sounds import keep_sounds


def test_whole_examples_are_kept_as_ogg_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 32_000).astype(np.float32)
    heard = dict.fromkeys(("content", "style", "target", "glow"), noise)
    examples = [Example("test", name, worst, 16_000, heard) for name, worst in (("w", "glow"), ("a", ""), ("b", ""))]
    table = pd.DataFrame({"set": ["test"], "triple_id": "a", "system": "glow", "lsd": 1.0})
    write_evaluation(tmp_path / "evaluate", Evaluation(table, {"glow": Timing(1.0, 1)}, examples))

    def kept(most: int) -> list[Path]:
        monkeypatch.setattr(sounds, "MAX_BYTES", most)
        with open_run("report", {}, root=tmp_path) as run:
            run.write_run_json(tmp_path / "run.json")
        keep_sounds(tmp_path / "evaluate", tmp_path / "run.json", root=tmp_path)
        found = [file.path for file in connect(tmp_path).list_artifacts(run.run_id, "examples")]
        return [Path(mlflow.artifacts.download_artifacts(run_id=run.run_id, artifact_path=path)) for path in found]

    files = kept(sounds.MAX_BYTES)
    wanted = [f"{triple}-{name}.ogg" for triple in "ab" for name in ("content", "glow", "style", "target")]
    assert [file.name for file in files] == wanted
    assert {(soundfile.info(file).format, soundfile.info(file).frames) for file in files} == {("OGG", 32_000)}
    first = sum(file.stat().st_size for file in files[:4])
    assert [file.name for file in kept(first)] == wanted[:4]
    assert kept(first - 1) == []
