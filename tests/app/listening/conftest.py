"""A small study of tones: three systems, twelve AB trials, two ABX, two MUSHRA."""

from pathlib import Path

import numpy as np
import pytest

from timbreflow.app.listening.make import headphone_tone, headphone_trials, plan_trials
from timbreflow.app.listening.study import Study, Trial, write_study
from timbreflow.audio.files import write_audio

SYSTEMS = ["vqvae", "glow", "oracle"]
RATE = 16000


def small_study(trials: int = 16, per_listener: int = 16, kinds: tuple[str, ...] = ("ab", "abx", "mushra")) -> Study:
    draw = np.random.default_rng(0)

    def check(name: str, question: str, wrong: str, reference: str) -> Trial:
        files = {role: f"clips/t0-{role}.wav" for role in ("target", wrong)}
        return Trial(name, "ab", question, "t0", files, f"clips/t0-{reference}.wav", "target")

    return Study(
        format=1,
        title="A small study",
        consent="You will hear tones.\n\nNothing tells who you are.",
        testset="real",
        test_digest="0" * 64,
        seed=0,
        lufs=-23.0,
        systems={"vqvae": "VQ-VAE", "glow": "Glow", "oracle": "oracle"},
        per_listener=per_listener,
        listeners=20,
        trials=plan_trials(["t0", "t1", "t2"], SYSTEMS, trials=trials, kinds=kinds, draw=draw),
        training=[check("training", "timbre", "content", "style")],
        catches=[check("catch-1", "notes", "style", "content"), check("catch-2", "timbre", "content", "style")],
        headphones=headphone_trials(draw),
    )


def write_small(folder: Path, study: Study) -> Path:
    (folder / "clips").mkdir(parents=True)
    seconds = np.arange(int(1.2 * RATE)) / RATE
    files = {name for trial in study.by_id.values() for name in trial.files if "tone-" not in name}
    for number, name in enumerate(sorted(files)):
        write_audio(folder / name, 0.1 * np.sin(2 * np.pi * (220 + 20 * number) * seconds).astype(np.float32), RATE)
    for name in ("loud", "soft", "inverted"):
        write_audio(folder / f"clips/tone-{name}.wav", headphone_tone(name), RATE)
    write_study(folder, study)
    return folder


@pytest.fixture
def study() -> Study:
    return small_study()


@pytest.fixture
def folder(tmp_path: Path, study: Study) -> Path:
    return write_small(tmp_path / "study", study)
