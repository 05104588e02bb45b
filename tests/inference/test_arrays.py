"""Arrays in, arrays out: what a Python program gives and gets."""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import timbreflow
from tests.inference.tiny import melody
from timbreflow.errors import TimbreflowError
from timbreflow.inference.transfer import TimbreTransfer

ROOT = Path(__file__).resolve().parents[2]
RATE = 16000


@pytest.fixture(scope="module")
def session(bundles: dict[str, Path]) -> TimbreTransfer:
    return TimbreTransfer.load(bundles["vqvae"])


def transferred(session: TimbreTransfer, content: Any, style: Any = None, **asked: Any) -> tuple[Any, list[str]]:
    """The result, and the sentences of the warnings."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        sound = session.transfer(content, melody(1, RATE, seed=1) if style is None else style, **asked)
    return sound, [str(warning.message) for warning in heard]


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("channels", [0, 1, 2])
def test_any_rate_and_mono_or_stereo_as_from_files(
    session: TimbreTransfer, tmp_path: Path, rate: int, channels: int
) -> None:
    content, style = melody(1.37, rate), melody(1, rate, seed=1)
    if channels:
        content = np.stack([content, 0.3 * melody(1.37, rate, seed=3)][:channels])
    sound, _ = transferred(session, content, style, sample_rate=rate)
    assert sound.shape == content.shape
    assert sound.dtype == np.float32
    soundfile.write(tmp_path / "content.wav", content.T, rate, subtype="FLOAT")
    soundfile.write(tmp_path / "style.wav", style, rate, subtype="FLOAT")
    session.transfer_file(tmp_path / "content.wav", tmp_path / "style.wav", tmp_path / "out.wav")
    filed, filed_rate = soundfile.read(tmp_path / "out.wav", always_2d=True)
    assert filed_rate == rate
    np.testing.assert_allclose(np.atleast_2d(sound), filed.T, atol=1e-3)


def test_the_style_may_have_a_rate_of_its_own(session: TimbreTransfer) -> None:
    content, style = melody(1, 22050), melody(2, 44100, seed=1)
    own, _ = transferred(session, content, style, sample_rate=22050, style_sample_rate=44100)
    shared, _ = transferred(session, content, melody(2, 22050, seed=1), sample_rate=22050)
    wrong, _ = transferred(session, content, style, sample_rate=22050)
    assert np.abs(own - shared).mean() < 0.3 * np.abs(wrong - shared).mean()


@pytest.mark.parametrize(
    ("dtype", "scale", "middle"),
    [("int16", 2**15, 0), ("int32", 2**31, 0), ("uint8", 2**7, 128), ("float64", 1, 0), ("float16", 1, 0)],
)
def test_integers_are_scaled_by_their_full_scale(session: TimbreTransfer, dtype: str, scale: int, middle: int) -> None:
    content = melody(1, RATE, level=0.5)
    stored = (content.astype(np.float64) * scale + middle).round(0 if scale > 1 else 9).astype(dtype)
    plain, _ = transferred(session, content)
    sound, notes = transferred(session, stored)
    assert not notes
    assert 20 * np.log10(np.std(sound) / np.std(plain)) == pytest.approx(0.0, abs=0.1)


@pytest.mark.parametrize(
    ("factor", "offset", "note"),
    [(20.0, 0.0, "goes to .* times full scale"), (2.0**15, 0.0, "integers of 16 bits"), (1.0, 0.5, "constant offset")],
)
def test_what_is_no_level_of_sound_is_told_by_a_warning(
    session: TimbreTransfer, factor: float, offset: float, note: str
) -> None:
    with pytest.warns(UserWarning, match=f"the content .*{note}"):
        sound = session.transfer(melody(1, RATE) * np.float32(factor) + np.float32(offset), melody(1, RATE))
    assert np.abs(sound).max() <= 0.99


def test_good_arrays_warn_of_nothing(session: TimbreTransfer) -> None:
    assert transferred(session, melody(1, RATE))[1] == []


@pytest.mark.parametrize(
    ("content", "asked", "message"),
    [
        (np.zeros((RATE, 2), np.float32), {}, r"the content has shape \[16000, 2\].*channels first"),
        (np.zeros((1, 2, RATE), np.float32), {}, r"the content has shape"),
        (0.5, {}, r"the content has shape"),
        (np.zeros(RATE, np.int64), {}, "the content is int64; give floating point .*int16, int32, uint8"),
        (np.zeros(RATE, complex), {}, "the content is complex128"),
        (np.full(RATE, np.nan, np.float32), {}, "the content holds samples that are NaN"),
        (np.full(RATE, 1e300), {}, "the content holds samples that are NaN or infinite"),
        (np.zeros(0, np.float32), {}, "the content holds no samples"),
        (np.zeros(RATE, np.float32), {}, "the content is silent"),
        (melody(1, RATE), {"sample_rate": 0}, "sample rate of the content is 0"),
        (melody(1, RATE), {"sample_rate": 44100.5}, "sample rate of the content is 44100.5"),
        (melody(1, RATE), {"style_sample_rate": -1}, "sample rate of the style is -1"),
    ],
)
def test_unusable_arrays_are_one_sentence(
    session: TimbreTransfer, content: Any, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(TimbreflowError, match=message) as caught:
        session.transfer(content, melody(1, RATE), **asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("asked", [{"fit_style": 3}, {"mode": "convert"}, {"fit_style": -3}, {"temperature": -1.0}])
def test_errors_do_not_speak_of_the_command_line(session: TimbreTransfer, asked: dict[str, Any]) -> None:
    with pytest.raises(TimbreflowError) as caught:
        session.transfer(melody(1, RATE), melody(1, RATE), **asked)
    assert "--" not in str(caught.value)


def test_the_package_is_imported_without_torch_and_gives_its_door_when_asked() -> None:
    code = "import sys, timbreflow; print('torch' in sys.modules); from timbreflow import TimbreTransfer"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "False"
    assert timbreflow.TimbreTransfer is TimbreTransfer
    with pytest.raises(AttributeError, match="Glow"):
        timbreflow.Glow  # noqa: B018
    assert (Path(timbreflow.__file__).parent / "py.typed").is_file()


def test_released_weights_are_found_by_the_documented_order(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = bundles["glow"].parent
    monkeypatch.setenv("TIMBREFLOW_MODELS", str(folder))
    assert TimbreTransfer.released("glow").bundle.training == {"steps": 0}
    monkeypatch.setenv("TIMBREFLOW_MODELS", str(tmp_path))
    with pytest.raises(TimbreflowError, match=f"weights of vqvae are not in {tmp_path}; set TIMBREFLOW_MODELS"):
        TimbreTransfer.released("vqvae")
    monkeypatch.delenv("TIMBREFLOW_MODELS")
    monkeypatch.setattr("timbreflow.inference.released.PACKAGE", tmp_path / "src" / "timbreflow")
    with pytest.raises(TimbreflowError, match="nor in"):
        TimbreTransfer.released("glow")
    for place in ("src/timbreflow/released", "released"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).symlink_to(folder)
        assert TimbreTransfer.released("glow").bundle.kind == "glow"
        (tmp_path / place).unlink()
    with pytest.raises(TimbreflowError, match="no model 'flow'"):
        TimbreTransfer.released("flow")


def test_the_example_of_the_documentation_runs(tmp_path: Path) -> None:
    """The blocks of Python in docs/python.md, one after the other, from an empty folder with the sounds that ship."""
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    example = "".join(block.split("```")[0] for block in text.split("```python\n")[1:])
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "notes" in done.stdout
    was = soundfile.info(ROOT / "docs/sounds/violin-tune.ogg")
    (made,) = tmp_path.glob("*.wav")
    assert (soundfile.info(made).samplerate, soundfile.info(made).frames) == (was.samplerate, was.frames)
