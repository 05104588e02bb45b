"""The small form of benchmarks/drift.py: the real recorder, the released reference, the thresholds of params.yaml."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.drift import noise
from timbreflow.audio.files import decode_audio
from timbreflow.config import load_params
from timbreflow.monitoring.drift import Report, examine
from timbreflow.monitoring.figures import SAMPLE_RATE, Ears
from timbreflow.monitoring.record_table import read_records
from timbreflow.monitoring.recorder import Recorder
from timbreflow.monitoring.reference import read_reference
from timbreflow.monitoring.watch import released_reference
from timbreflow.rendering.soundfonts import BUNDLED, bundled_soundfont
from timbreflow.testsets.build import render_clips
from timbreflow.testsets.frozen import read_released

ROOT = Path(__file__).resolve().parents[2]
N = 40
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clips() -> dict[str, list[np.ndarray]]:
    """Contents and styles of the test set seen that the font of pretty_midi plays."""
    released = read_released(ROOT / "released" / "testsets", "seen")
    rows = released.manifest[released.manifest["soundfont"] == BUNDLED]
    ids = {role: rows.loc[rows["role"] == role, "clip_id"].tolist()[:N] for role in ("content", "style")}
    made = render_clips(released, [*ids["content"], *ids["style"]], {BUNDLED: bundled_soundfont()})
    return {role: [decode_audio(made[clip][1])[0].ravel() for clip in chosen] for role, chosen in ids.items()}


def report(folder: Path, contents: list[np.ndarray], styles: list[np.ndarray]) -> Report:
    recorder = Recorder(folder)
    for content, style in zip(contents, styles, strict=True):
        recorder.record(content, style, content, SAMPLE_RATE, model="vqvae", seconds=1.0)
    reference = read_reference(released_reference(), Ears())
    config = replace(load_params(ROOT / "params.yaml").monitor, min_records=N)
    return examine(read_records(folder, days=1), reference, config)


def test_the_test_set_raises_nothing(clips: dict[str, list[np.ndarray]], tmp_path: Path) -> None:
    found = report(tmp_path, clips["content"], clips["style"])
    assert len(found.records) == N
    assert found.alerts == ()
    assert max(check.value for check in found.checks if check.kind == "drift" and check.state == "ok") < 0.3


def test_styles_of_noise_alert_and_contents_do_not(clips: dict[str, list[np.ndarray]], tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    found = report(tmp_path, clips["content"], [noise(random) for _ in range(N)])
    alerts = {check.label for check in found.alerts}
    assert {"style: flatness", "style: share with notes"} <= alerts
    assert not [label for label in alerts if not label.startswith("style")]
