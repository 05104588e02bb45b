"""Sound that comes in pieces."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.inference.tiny import melody
from timbreflow.errors import TimbreflowError
from timbreflow.inference.synthesis import TransferArguments
from timbreflow.inference.transfer import TimbreTransfer

STYLE = melody(2, 16000, seed=1)


@pytest.fixture(scope="module", params=["vqvae", "glow"])
def session(request: pytest.FixtureRequest, bundles: dict[str, Path]) -> TimbreTransfer:
    return TimbreTransfer.load(bundles[request.param])


def pieces(sound: np.ndarray, size: int = 3000) -> Iterator[np.ndarray]:
    return (sound[start : start + size] for start in range(0, len(sound), size))


@pytest.mark.parametrize(("rate", "seconds"), [(16000, 21.3), (44100, 17.0), (22050, 2.5)])
def test_a_stream_is_the_whole_transfer(session: TimbreTransfer, tmp_path: Path, rate: int, seconds: float) -> None:
    """Equal everywhere, the fades between chunks too, since both join the same chunks."""
    content = melody(seconds, rate, level=0.05) * np.linspace(0.1, 1, round(seconds * rate), dtype=np.float32)
    options = TransferArguments(seed=3)
    soundfile.write(tmp_path / "content.wav", content, rate, subtype="FLOAT")
    soundfile.write(tmp_path / "style.wav", STYLE, 16000, subtype="FLOAT")
    result = session.transfer_file(tmp_path / "content.wav", tmp_path / "style.wav", tmp_path / "out.wav", **options)
    whole = session.transfer(content, STYLE, sample_rate=rate, style_sample_rate=16000, **options)
    blocks = session.stream(
        pieces(content), STYLE, sample_rate=rate, style_sample_rate=16000, levels=result.levels, **options
    )
    made = np.concatenate(list(blocks))
    assert made.shape == whole.shape
    np.testing.assert_allclose(made, whole, atol=1e-4)


def test_a_stream_keeps_vibrato(session: TimbreTransfer, tmp_path: Path) -> None:
    """At an even level, since dynamics need the whole content."""
    time = np.arange(12 * 16000) / 16000
    content = (0.05 * np.sin(2 * np.pi * 440 * time + 2 * np.sin(2 * np.pi * 5.5 * time))).astype(np.float32)
    soundfile.write(tmp_path / "content.wav", content, 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "style.wav", STYLE, 16000, subtype="FLOAT")
    levels = session.transfer_file(tmp_path / "content.wav", tmp_path / "style.wav", tmp_path / "out.wav").levels
    made = np.concatenate(list(session.stream(pieces(content), STYLE, levels=levels)))
    np.testing.assert_allclose(made, session.transfer(content, STYLE), atol=1e-4)
    off = np.concatenate(list(session.stream(pieces(content), STYLE, levels=levels, expression="off")))
    np.testing.assert_array_equal(off.shape, made.shape)
    assert np.abs(made - off).max() > 1e-3


def test_a_stream_may_have_a_blend_of_styles(session: TimbreTransfer, tmp_path: Path) -> None:
    content, styles = melody(9, 16000, level=0.05), [STYLE, melody(3, 16000, seed=8)]
    options = TransferArguments(blend=(1, 2), expression="off")
    for name, sound in (("content", content), ("a", styles[0]), ("b", styles[1])):
        soundfile.write(tmp_path / f"{name}.wav", sound, 16000, subtype="FLOAT")
    levels = session.transfer_file(
        tmp_path / "content.wav", [tmp_path / "a.wav", tmp_path / "b.wav"], tmp_path / "out.wav", **options
    ).levels
    made = np.concatenate(list(session.stream(pieces(content), styles, levels=levels, **options)))
    np.testing.assert_allclose(made, session.transfer(content, styles, **options), atol=1e-4)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_the_latency_is_as_stated(session: TimbreTransfer, rate: int) -> None:
    content, given, got, worst = melody(30, rate), 0, 0, 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal given, worst
        for piece in pieces(content, 1000):
            worst = max(worst, given - got)  # what is still inside when more is asked for
            given += len(piece)
            yield piece

    for block in session.stream(counted(), STYLE, sample_rate=rate, style_sample_rate=16000):
        got += len(block)
    assert got == len(content)
    assert 7 * rate < worst <= session.latency(rate) < 8.3 * rate


def test_without_levels_the_beginning_gives_them(session: TimbreTransfer) -> None:
    content = melody(20, 16000, level=0.03)
    made = np.concatenate(list(session.stream(pieces(content), STYLE)))
    whole = session.transfer(content, STYLE)
    ratio = np.sqrt(np.mean(made**2) / np.mean(whole**2))
    assert 20 * abs(np.log10(ratio)) < 3


@pytest.mark.parametrize("asked", [{"strength": 0.5}, {"mix": 0.5}, {"loudness": "match"}, {"stereo": "mid"}], ids=str)
def test_what_needs_the_whole_content_is_refused(session: TimbreTransfer, asked: dict[str, Any]) -> None:
    with pytest.raises(TimbreflowError, match="A stream has no whole content"):
        session.stream(pieces(STYLE), STYLE, **asked)
