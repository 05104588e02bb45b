"""Recordings in, recordings out, with tiny untrained models."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from tests.inference.tiny import melody
from timbreflow.audio.features import FeatureConfig, Normalizer
from timbreflow.audio.files import decode_audio
from timbreflow.errors import TimbreflowError
from timbreflow.inference.streaming.recordings import Recording
from timbreflow.inference.streaming.writing import limited
from timbreflow.inference.style import Reference, Styles
from timbreflow.inference.transfer import TimbreTransfer
from timbreflow.models.bundle import ModelBundle

RATE = 16000


@pytest.fixture(scope="module")
def glow(bundles: dict[str, Path]) -> TimbreTransfer:
    return TimbreTransfer.load(bundles["glow"])


@pytest.fixture
def recordings(tmp_path: Path) -> dict[str, Path]:
    paths = {name: tmp_path / name for name in ("content.mp3", "content.wav", "style.flac")}
    stereo = np.stack([melody(9.7, 44100), 0.5 * melody(9.7, 44100, seed=5)])
    soundfile.write(paths["content.mp3"], stereo.T, 44100)
    soundfile.write(paths["content.wav"], melody(3.3, 8000), 8000)
    soundfile.write(paths["style.flac"], melody(2.0, 22050, seed=9), 22050)
    return paths


def rms(audio: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))


@pytest.mark.parametrize("model", ["vqvae", "glow"])
@pytest.mark.parametrize(
    ("content", "out", "rate", "channels"),
    [
        ("content.mp3", "out.wav", 44100, 2),
        ("content.mp3", "out.mp3", 44100, 2),
        ("content.wav", "new/out.ogg", 8000, 1),
    ],
)
def test_the_output_has_length_rate_channels_and_level_of_the_content(
    model: str,
    content: str,
    out: str,
    rate: int,
    channels: int,
    recordings: dict[str, Path],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    session: TimbreTransfer = request.getfixturevalue(model)
    result = session.transfer_file(recordings[content], recordings["style.flac"], tmp_path / out)
    was, _ = soundfile.read(recordings[content], always_2d=True)
    now, now_rate = soundfile.read(tmp_path / out, always_2d=True)
    assert now.shape == was.shape == (len(was), channels)
    assert now_rate == rate == result.sample_rate
    assert np.isfinite(now).all()
    assert np.abs(now).max() <= 1.0
    assert 20 * np.log10(rms(now) / rms(was)) == pytest.approx(0.0, abs=0.5)
    assert bool(result.notes) == (channels > 1)
    assert {path.name for path in (tmp_path / out).parent.iterdir()} >= {Path(out).name}
    assert not list(tmp_path.rglob(".*"))


def test_arrays_and_files_give_the_same_samples(glow: TimbreTransfer, tmp_path: Path) -> None:
    content, style = melody(10, RATE), melody(3, RATE, seed=1)
    soundfile.write(tmp_path / "content.wav", content, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "style.wav", style, RATE, subtype="FLOAT")
    glow.transfer_file(tmp_path / "content.wav", tmp_path / "style.wav", tmp_path / "out.wav", seed=4)
    audio = glow.transfer(content, style, seed=4)
    assert audio.shape == content.shape
    assert audio.dtype == np.float32
    np.testing.assert_allclose(soundfile.read(tmp_path / "out.wav")[0], audio, atol=2e-4)


def test_the_seed_alone_decides(glow: TimbreTransfer) -> None:
    content, style = melody(9, RATE), melody(2, RATE, seed=1)
    first = glow.transfer(content, style, seed=3)
    torch.manual_seed(99)
    torch.rand(7)
    np.testing.assert_array_equal(first, glow.transfer(content, style, seed=3))
    assert np.abs(first - glow.transfer(content, style, seed=4)).max() > 1e-3


def test_temperature_and_style_are_heard(glow: TimbreTransfer) -> None:
    content, style = melody(2, RATE), melody(2, RATE, seed=1)
    calm = glow.transfer(content, style, temperature=0.0)
    assert np.abs(calm - glow.transfer(content, style, temperature=1.0)).max() > 1e-3
    np.testing.assert_array_equal(glow.transfer(content, style), glow.transfer(content, style, temperature=0.25))


def test_the_level_of_the_recordings_does_not_matter(vqvae: TimbreTransfer) -> None:
    """Models were trained on clips of one level: a quiet recording must look the same to them."""
    content, style = melody(2, RATE), melody(2, RATE, seed=1)
    loud = vqvae.transfer(content, style)
    quiet = vqvae.transfer(content * 0.05, style * 0.1)
    np.testing.assert_allclose(quiet, 0.05 * loud, atol=1e-4)


def test_peaks_stay_below_full_scale(vqvae: TimbreTransfer) -> None:
    square = np.sign(np.sin(np.arange(2 * RATE) * 0.1)).astype(np.float32)
    out = vqvae.transfer(square, melody(2, RATE))
    assert np.abs(out).max() == pytest.approx(0.99, abs=1e-3)
    assert rms(out) < 1.0


@pytest.mark.parametrize("n", [1, 400, RATE // 10, 8 * RATE, 8 * RATE + 1])
def test_any_content_length_works(vqvae: TimbreTransfer, n: int) -> None:
    content = 0.3 * np.ones(n, np.float32) if n < 100 else melody(9, RATE)[:n]
    out = vqvae.transfer(content, melody(1, RATE))
    assert out.shape == (n,)
    assert np.isfinite(out).all()


class Copy(nn.Module):
    """Gives the content back: what remains is the path around the model."""

    def transfer(self, content: Tensor, style: Tensor, **_: object) -> Tensor:
        return content


def test_chunked_is_whole_up_to_the_cross_fade(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long content through the whole path has the same spectrogram as when it is one chunk."""
    features = FeatureConfig("log_mel", RATE, 2048, 2000, 500, 80, 40.0, 8000.0, 0.01)
    normalizer = Normalizer(torch.zeros(80), torch.ones(80))
    session = TimbreTransfer(ModelBundle("vqvae", Copy(), features, normalizer))
    content, style = melody(26, RATE), melody(1, RATE)
    chunked = session.transfer(content, style)
    monkeypatch.setattr("timbreflow.inference.playing.CHUNK_SECONDS", 30.0)
    whole = TimbreTransfer(ModelBundle("vqvae", Copy(), features, normalizer)).transfer(content, style)
    mels = [session.synthesizer.extract(torch.from_numpy(audio)[None])[0] for audio in (content, chunked, whole)]
    errors = [(mel - mels[0]).abs().mean(dim=0) for mel in mels[1:]]
    assert errors[0].mean() < 1.1 * errors[1].mean()
    # The worst frame, which is where joints would be heard, is no worse than Griffin-Lim's own worst.
    assert errors[0].max() < 1.3 * errors[1].max()


def test_the_most_active_part_of_a_long_style_is_used(vqvae: TimbreTransfer, tmp_path: Path) -> None:
    content, active = melody(2, RATE), melody(16, RATE, seed=2)
    pause = np.zeros(20 * RATE, np.float32)
    long = np.concatenate([pause, active, pause])
    np.testing.assert_allclose(vqvae.transfer(content, long), vqvae.transfer(content, active), atol=1e-4)


def test_styles_are_read_once_and_again_when_they_change(
    vqvae: TimbreTransfer, recordings: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    genuine = Styles.reference

    def counting(self: Styles, style: Recording) -> Reference:
        calls.append(1)
        return genuine(self, style)

    monkeypatch.setattr(Styles, "reference", counting)
    for _ in range(3):
        vqvae.styles.read(recordings["style.flac"])
    assert len(calls) == 1
    soundfile.write(recordings["style.flac"], melody(1.0, 22050), 22050)
    vqvae.styles.read(recordings["style.flac"])
    assert len(calls) == 2


def _write(path: Path, audio: np.ndarray, rate: int = RATE) -> Path:
    soundfile.write(path, audio, rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    return path


@pytest.mark.parametrize("part", ["content", "style"])
@pytest.mark.parametrize("fault", ["missing", "empty", "text", "silent", "nan", "folder", "cut"])
def test_bad_recordings_are_one_sentence_and_nothing_is_written(
    vqvae: TimbreTransfer, tmp_path: Path, part: str, fault: str
) -> None:
    paths = {name: _write(tmp_path / f"{name}.wav", melody(1, RATE)) for name in ("content", "style")}
    bad = tmp_path / f"bad-{part}.wav"
    paths[part] = bad
    match fault:
        case "empty":
            bad.write_bytes(b"")
        case "text":
            bad.write_text("not a sound")
        case "silent":
            _write(bad, np.zeros(RATE, np.float32))
        case "nan":
            _write(bad, np.where(np.arange(RATE) == 900, np.nan, melody(1, RATE)).astype(np.float32))
        case "folder":
            bad.mkdir()
        case "cut":
            bad.write_bytes((tmp_path / "content.wav").read_bytes()[:30])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(TimbreflowError, match=f"bad-{part}.wav") as caught:
        vqvae.transfer_file(paths["content"], paths["style"], tmp_path / "out.wav")
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_tenth_of_a_second_of_style_is_too_short(vqvae: TimbreTransfer, tmp_path: Path) -> None:
    content = _write(tmp_path / "content.wav", melody(1, RATE))
    style = _write(tmp_path / "short.wav", melody(0.1, RATE))
    with pytest.raises(TimbreflowError, match=r"short.wav lasts 0.10 s.*at least 0.5 s"):
        vqvae.transfer_file(content, style, tmp_path / "out.wav")
    with pytest.raises(TimbreflowError, match="the style lasts"):
        vqvae.transfer(melody(1, RATE), melody(0.1, RATE))


def test_channels_that_cancel_are_told_from_silence(vqvae: TimbreTransfer, tmp_path: Path) -> None:
    sound = melody(1, RATE)
    content = _write(tmp_path / "content.wav", np.stack([sound, -sound]).T)
    with pytest.raises(TimbreflowError, match="cancel"):
        vqvae.transfer_file(content, _write(tmp_path / "style.wav", sound), tmp_path / "out.wav")


@pytest.mark.parametrize(
    ("out", "rate", "message"), [("out.xyz", RATE, "out.xyz"), ("out", RATE, "wav"), ("o.mp3", 96000, "o.mp3")]
)
def test_an_output_that_cannot_be_is_refused_before_the_work(
    vqvae: TimbreTransfer, tmp_path: Path, out: str, rate: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = _write(tmp_path / "content.wav", melody(1, rate), rate)
    monkeypatch.setattr(Styles, "read", lambda *_: pytest.fail("began to work"))
    with pytest.raises(TimbreflowError, match=message):
        vqvae.transfer_file(content, content, tmp_path / "new" / out)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("temperature", [-0.1, float("nan"), float("inf")])
def test_a_temperature_that_means_nothing_is_refused(glow: TimbreTransfer, temperature: float) -> None:
    with pytest.raises(TimbreflowError, match="temperature"):
        glow.transfer(melody(1, RATE), melody(1, RATE), temperature=temperature)


MEMORY = """
import re, sys
from timbreflow.inference.streaming.recordings import Recording
from timbreflow.inference.transfer import TimbreTransfer
from timbreflow.inference.streaming.writing import limited
session = TimbreTransfer.load(sys.argv[1])
for minutes in (1, 3):
    session.transfer_file(f"{sys.argv[2]}/{minutes}.wav", f"{sys.argv[2]}/style.wav", f"{sys.argv[2]}/out.flac")
    # Not getrusage, whose peak a process inherits from the one that started it.
    print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_memory_does_not_grow_with_the_content(bundles: dict[str, Path], tmp_path: Path) -> None:
    sound = np.stack([melody(60, 44100)] * 2, axis=1)
    for minutes in (1, 3):
        soundfile.write(tmp_path / f"{minutes}.wav", np.tile(sound, (minutes, 1)), 44100)
    soundfile.write(tmp_path / "style.wav", sound[: 5 * 44100], 44100)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(bundles["glow"]), str(tmp_path)], capture_output=True, text=True, check=True
    )
    short, long = (int(line) for line in done.stdout.split())
    assert long < 1000, f"{long} MB for 3 minutes"
    assert long - short < 60, f"{short} MB for 1 minute, {long} MB for 3"
    assert soundfile.info(tmp_path / "out.flac").frames == 3 * 60 * 44100


def test_output_bytes_are_the_same_each_time(
    vqvae: TimbreTransfer, recordings: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("a.wav", "b.wav"):
        vqvae.transfer_file(recordings["content.wav"], recordings["style.flac"], tmp_path / name)
    data = [(tmp_path / name).read_bytes() for name in ("a.wav", "b.wav")]
    assert data[0] == data[1]
    assert decode_audio(data[0])[1] == 8000


def test_one_odd_peak_does_not_make_the_rest_quiet() -> None:
    sound = np.concatenate([melody(1, RATE), np.float32([5.0, -5.0])])
    bent = limited(sound)
    np.testing.assert_array_equal(bent[:-2], sound[:-2])
    assert np.abs(bent).max() <= 0.99
    ramp = np.linspace(-3, 3, 1001, dtype=np.float32)
    assert (np.diff(limited(ramp)) >= 0).all()


def test_what_is_no_level_of_sound_is_brought_to_one_with_a_note(vqvae: TimbreTransfer, tmp_path: Path) -> None:
    """Integers stored as floating point, too loud, or with an offset: the output sounds as loud as what was meant."""
    sound, style = melody(2, RATE), _write(tmp_path / "style.wav", melody(1, RATE))
    plain = vqvae.transfer_file(_write(tmp_path / "plain.wav", sound), style, tmp_path / "out.wav")
    meant, _ = soundfile.read(tmp_path / "out.wav")
    assert plain.notes == ()
    peak = float(np.abs(sound).max())
    cases = {
        "16": (sound * 2.0**15, "integers of 16 bits", 1.0),
        "24": (sound * 2.0**23, "integers of 24 bits", 1.0),
        "32": (sound * 2.0**31, "integers of 32 bits", 1.0),
        "loud": (sound * 2 / peak, "goes to 2 times full scale", 0.99 / peak),
        "offset": (sound + 0.5, "constant offset of 0.5", 1.0),
        "both": (np.stack([sound * 3 / peak + 7, sound * 3 / peak - 7]).T, "constant offset of", 0.99 / peak),
    }
    for name, (content, note, level) in cases.items():
        path = _write(tmp_path / f"{name}.wav", content.astype(np.float32))
        result = vqvae.transfer_file(path, style, tmp_path / "out.wav")
        out, _ = soundfile.read(tmp_path / "out.wav", always_2d=True)
        assert any(note in sentence and f"{name}.wav" in sentence for sentence in result.notes), result.notes
        assert np.abs(out).max() <= 0.99
        # What goes beyond full scale is bent; below that, the same samples at the same level.
        np.testing.assert_allclose(out[:, 0], limited(level * meant), atol=5e-3 * level)
        # As a style it is the same sound as well, and its notes are passed on.
        result = vqvae.transfer_file(tmp_path / "plain.wav", path, tmp_path / "as-style.wav")
        assert any(note in sentence for sentence in result.notes)


@pytest.mark.parametrize("peak", [1e10, 1e30, -1e30, np.inf])
def test_absurd_samples_are_refused(vqvae: TimbreTransfer, tmp_path: Path, peak: float) -> None:
    content = _write(tmp_path / "odd.wav", np.where(np.arange(RATE) == 77, peak, melody(1, RATE)).astype(np.float32))
    with pytest.raises(TimbreflowError, match=r"odd\.wav holds samples .*export it again"):
        vqvae.transfer_file(content, _write(tmp_path / "style.wav", melody(1, RATE)), tmp_path / "out.wav")
    assert not (tmp_path / "out.wav").exists()


def test_a_click_beside_which_all_is_silent_does_not_make_integers_of_the_rest(
    vqvae: TimbreTransfer, tmp_path: Path
) -> None:
    content = _write(tmp_path / "click.wav", np.where(np.arange(RATE) == 77, 1e6, melody(1, RATE)).astype(np.float32))
    with pytest.raises(TimbreflowError, match=r"click\.wav holds a click of 1e\+06"):
        vqvae.transfer_file(content, _write(tmp_path / "style.wav", melody(1, RATE)), tmp_path / "out.wav")
    assert not (tmp_path / "out.wav").exists()


def test_silence_with_an_offset_is_silence(vqvae: TimbreTransfer, tmp_path: Path) -> None:
    content = _write(tmp_path / "still.wav", np.full(RATE, 0.3, np.float32))
    with pytest.raises(TimbreflowError, match=r"still\.wav is silent"):
        vqvae.transfer_file(content, content, tmp_path / "out.wav")


@pytest.mark.parametrize(
    ("subtype", "out", "stored"),
    [
        ("PCM_16", "out.wav", "PCM_16"),
        ("PCM_24", "out.wav", "PCM_24"),
        ("PCM_24", "out.flac", "PCM_24"),
        ("PCM_24", "out.ogg", "VORBIS"),
        ("PCM_32", "out.wav", "PCM_32"),
        ("PCM_32", "out.flac", "PCM_24"),
        ("FLOAT", "out.wav", "FLOAT"),
        ("PCM_U8", "out.wav", "PCM_16"),
    ],
)
def test_the_output_has_the_bits_of_the_content(
    vqvae: TimbreTransfer, tmp_path: Path, subtype: str, out: str, stored: str
) -> None:
    soundfile.write(tmp_path / "content.wav", melody(1, RATE), RATE, subtype=subtype)
    vqvae.transfer_file(tmp_path / "content.wav", tmp_path / "content.wav", tmp_path / out)
    assert soundfile.info(tmp_path / out).subtype == stored
    if stored == "PCM_24":
        samples, _ = soundfile.read(tmp_path / out, dtype="int32")
        assert (samples & 0xFFFF).any(), "the lowest 8 of 24 bits are used"


def test_names_that_are_no_text_work_everywhere(vqvae: TimbreTransfer, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"m\xe9lodies")
    folder.mkdir()
    content, style, out = (folder / os.fsdecode(name) for name in (b"\xe9.wav", b"\xff\xfe.flac", b"\xe8.wav"))
    for path in (content, style):
        soundfile.write(tmp_path / f"plain{path.suffix}", melody(1, RATE), RATE)
        (tmp_path / f"plain{path.suffix}").rename(path)
    assert vqvae.transfer_file(content, style, out).path == out
    assert len(decode_audio(out.read_bytes())[0][0]) == RATE
    (folder / "pairs.csv").write_bytes(b"id,content,style\na,\xe9.wav,\xff\xfe.flac\n")
    assert [path.name for path in vqvae.transfer_pairs(folder / "pairs.csv", folder / "out")] == ["a.wav"]
    with pytest.raises(TimbreflowError, match="cannot be read as sound"):
        (folder / os.fsdecode(b"\xe0.wav")).write_text("no sound")
        vqvae.transfer_file(folder / os.fsdecode(b"\xe0.wav"), style, out)


@pytest.mark.parametrize("how", ["itself", "style", "link", "hard link", "link in a linked folder"])
def test_an_output_that_is_an_input_is_refused_before_the_work(
    vqvae: TimbreTransfer, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, style = (_write(tmp_path / name, melody(1, RATE)) for name in ("mine.wav", "style.wav"))
    before, out = [path.read_bytes() for path in (content, style)], tmp_path / "out.wav"
    match how:
        case "itself":
            out = tmp_path / "." / "mine.wav"
        case "style":
            out = style
        case "link":
            out.symlink_to(content)
        case "hard link":
            out.hardlink_to(content)
        case _:
            (tmp_path / "folder").symlink_to(tmp_path)
            out = tmp_path / "folder" / "mine.wav"
    monkeypatch.setattr("timbreflow.inference.transfer.open_recording", lambda *_: pytest.fail("began to work"))
    with pytest.raises(TimbreflowError, match=r"is an input.*would be overwritten"):
        vqvae.transfer_file(content, style, out)
    assert [path.read_bytes() for path in (content, style)] == before


def test_an_old_output_keeps_its_mode_and_a_link_is_written_through(vqvae: TimbreTransfer, tmp_path: Path) -> None:
    content = _write(tmp_path / "content.wav", melody(1, RATE))
    (tmp_path / "target.wav").touch(mode=0o600)
    (tmp_path / "out.wav").symlink_to("target.wav")
    vqvae.transfer_file(content, content, tmp_path / "out.wav")
    assert (tmp_path / "out.wav").is_symlink()
    assert (tmp_path / "target.wav").stat().st_mode & 0o777 == 0o600
    assert soundfile.info(tmp_path / "target.wav").frames == RATE


def test_what_is_not_as_the_header_says_is_told(vqvae: TimbreTransfer, tmp_path: Path) -> None:
    content = _write(tmp_path / "content.wav", melody(1, RATE))
    data = content.read_bytes()
    place = data.index(b"data") + 4
    content.write_bytes(data[:place] + bytes(4) + data[place + 4 :])
    result = vqvae.transfer_file(content, _write(tmp_path / "style.wav", melody(1, RATE)), tmp_path / "out.wav")
    assert "unfinished recording" in result.notes[0]
    assert soundfile.info(tmp_path / "out.wav").frames == RATE
