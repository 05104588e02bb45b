"""Sound files of another program as a system: any rate and channels, one length, and every fault named at once."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.external import ExternalOutputs

RATE, N = 16_000, 16_000
IDS = ("a", "b", "c")


def sine(rate: int, seconds: float, *, hertz: float = 440.0) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def opened(folder: Path, ids: tuple[str, ...] = IDS) -> ExternalOutputs:
    return ExternalOutputs(folder, ids, sample_rate=RATE, n_samples=N)


def heard(system: ExternalOutputs, *ids: str) -> np.ndarray:
    nothing = torch.zeros(len(ids), N)
    return system.transfer(nothing, nothing, nothing, seed=0, triple_ids=ids).numpy()


def test_files_are_brought_to_the_sets_rate_channels_and_length(tmp_path: Path) -> None:
    stereo = np.stack([sine(44_100, 1.5), np.zeros(66_150)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, 44_100)
    soundfile.write(tmp_path / "b.wav", sine(RATE, 0.75, hertz=600), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "c.wav", sine(RATE, 1.0), RATE)
    system = opened(tmp_path)
    second, first = heard(system, "b", "a")
    assert first == pytest.approx(sine(RATE, 1.0) / 2, abs=0.01)
    assert second[:12_000] == pytest.approx(sine(RATE, 0.75, hertz=600), abs=1e-4)
    assert not second[12_000:].any()
    assert system.notes == [
        f"Cut to 1 s: 1 of 3 outputs in {tmp_path}, by 0.5 s at most.",
        f"Padded with silence to 1 s: 1 of 3 outputs in {tmp_path}, by 0.25 s at most.",
    ]


def test_files_of_the_right_length_need_no_note(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sine(48_000, 1.0), 48_000)
    assert opened(tmp_path, ("a",)).notes == []


def test_all_faults_are_one_sentence(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sine(RATE, 1.0), RATE)
    soundfile.write(tmp_path / "b.wav", np.zeros(N), RATE)
    (tmp_path / "c.wav").write_bytes(b"RIFF, or so it says")
    with pytest.raises(TimbreflowError) as caught:
        opened(tmp_path, (*IDS, *(f"d{n}" for n in range(5))))
    said = str(caught.value)
    assert said.startswith(f"7 of 8 outputs in {tmp_path} cannot be scored: b.wav is silent, c.wav cannot be read")
    assert "d0.wav is missing" in said and said.count("missing") == 3 and "and 2 more" in said
    with pytest.raises(TimbreflowError, match="not a folder"):
        opened(tmp_path / "nowhere")
