"""`timbreflow transfer`: options that change nothing say so."""

from pathlib import Path
from typing import Any

import pytest
import soundfile

from tests.inference.tiny import melody
from timbreflow.commands.transfer import transfer
from timbreflow.inference import playing
from timbreflow.inference.vocoding import VocoderInverter


@pytest.mark.parametrize(
    ("model", "phases", "asked", "note"),
    [
        ("vqvae", False, {"temperature": 0.5, "seed": 3}, "--temperature and --seed have no effect: this vqvae draws"),
        ("vqvae", False, {"seed": 0}, "--seed has no effect: this vqvae draws no samples."),
        ("vqvae", True, {"temperature": 0.5, "seed": 3}, "--temperature has no effect: this vqvae draws no samples."),
        ("vqvae", True, {"seed": 3}, ""),
        ("vqvae", False, {}, ""),
        ("glow", False, {"temperature": 0.5, "seed": 3}, ""),
        ("glow", False, {"temperature": 0.0, "seed": 3}, "--seed has no effect: --temperature 0 draws no samples."),
        ("glow", False, {"mode": "convert", "temperature": 0.5}, "--temperature has no effect: --mode convert draws"),
        ("glow", False, {"mode": "convert", "seed": 1, "fit_style": 1}, ""),
    ],
)
def test_options_without_effect_are_told(
    bundles: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model: str,
    phases: bool,
    asked: dict[str, Any],
    note: str,
) -> None:
    if not phases:
        griffin_lim = playing.open_inverter

        class Drawless(VocoderInverter):
            """Stands for a vocoder, which draws nothing."""

            def __init__(self, *arguments: Any) -> None:
                self._invert = griffin_lim(*arguments)

            def __call__(self, features: Any, *, seed: int = 0) -> Any:
                return self._invert(features, seed=seed)

        monkeypatch.setattr(playing, "open_inverter", Drawless)
    soundfile.write(tmp_path / "a.wav", melody(1, 16000), 16000)
    transfer(tmp_path / "a.wav", tmp_path / "a.wav", out=tmp_path / "o.wav", model=str(bundles[model]), **asked)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(notes) == bool(note)
    assert not note or note in notes[0]
    assert (tmp_path / "o.wav").is_file()
