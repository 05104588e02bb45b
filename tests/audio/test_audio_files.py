"""Sound goes out and comes back, and bad files are refused by name."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from timbreflow.audio.files import (
    AudioWriter,
    audio_info,
    decode_audio,
    encode_flac,
    read_audio,
    rms_dbfs,
    stream_audio,
    write_audio,
)
from timbreflow.errors import TimbreflowError

RATE = 44100


@pytest.fixture
def stereo() -> np.ndarray:
    """Two sines of 1 s, of different pitch and level."""
    time = np.arange(RATE) / RATE
    return np.stack([0.5 * np.sin(2 * np.pi * 440 * time), 0.1 * np.sin(2 * np.pi * 880 * time)]).astype(np.float32)


@pytest.mark.parametrize(("suffix", "tolerance"), [(".wav", 1e-4), (".flac", 1e-4), (".ogg", 0.1), (".mp3", 0.1)])
def test_every_format_keeps_channels_rate_length_and_sound(
    tmp_path: Path, stereo: np.ndarray, suffix: str, tolerance: float
) -> None:
    path = tmp_path / f"a{suffix}"
    write_audio(path, stereo, RATE)
    info = audio_info(path)
    assert (info.sample_rate, info.channels, info.n_samples) == (RATE, 2, RATE)
    audio, rate = read_audio(path)
    assert rate == RATE
    assert audio.dtype == np.float32
    assert audio.shape == stereo.shape
    middle = slice(5000, 35000)
    assert np.abs(audio[:, middle] - stereo[:, middle]).max() < tolerance
    decoded, _ = decode_audio(path.read_bytes())
    assert np.array_equal(decoded, audio)
    blocks = list(stream_audio(path, block=1000))
    assert all(block.shape == (2, 1000) for block in blocks[:-1])
    assert np.abs(np.concatenate(blocks, axis=1) - audio).max() < 1e-6


def test_resampling_keeps_pitch_and_level(tmp_path: Path, stereo: np.ndarray) -> None:
    write_audio(tmp_path / "a.wav", stereo, RATE)
    audio, rate = read_audio(tmp_path / "a.wav", sample_rate=16000)
    assert rate == 16000
    assert audio.shape == (2, 16000)
    assert audio.flags.c_contiguous
    assert np.abs(np.fft.rfft(audio[0])).argmax() == 440
    assert abs(rms_dbfs(audio) - rms_dbfs(stereo)) < 0.1


@settings(deadline=None, max_examples=30)
@given(hnp.arrays(np.int16, st.integers(1, 5000)))
def test_flac_of_16_bit_samples_is_lossless(samples: np.ndarray) -> None:
    audio = samples.astype(np.float32) / 32768
    data = encode_flac(audio, 16000)
    assert data == encode_flac(audio, 16000)
    decoded, rate = decode_audio(data)
    assert rate == 16000
    assert np.array_equal(decoded, audio[None])


def test_loud_samples_are_clipped_not_wrapped(tmp_path: Path) -> None:
    audio = np.array([0.0, 1.0, 1.5, -1.5, 3.0], dtype=np.float32)
    assert np.allclose(decode_audio(encode_flac(audio, 8000))[0], np.clip(audio, -1, 1), atol=1e-4)
    write_audio(tmp_path / "a.wav", audio, 8000)
    assert np.allclose(read_audio(tmp_path / "a.wav")[0], np.clip(audio, -1, 1), atol=1e-4)


def test_blocks_make_the_same_file_as_a_whole(tmp_path: Path, stereo: np.ndarray) -> None:
    write_audio(tmp_path / "whole.flac", stereo, RATE)
    with AudioWriter(tmp_path / "blocks.flac", RATE, 2) as writer:
        for start in range(0, RATE, 777):
            writer.write(stereo[:, start : start + 777])
    assert np.array_equal(read_audio(tmp_path / "whole.flac")[0], read_audio(tmp_path / "blocks.flac")[0])


def test_a_failed_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path, stereo: np.ndarray) -> None:
    path = tmp_path / "a.wav"
    write_audio(path, stereo, RATE)
    before = path.read_bytes()
    with pytest.raises(KeyError, match="in the middle"), AudioWriter(path, RATE, 2) as writer:
        writer.write(stereo[:, :100])
        raise KeyError("in the middle")
    with pytest.raises(TimbreflowError, match="NaN"):
        write_audio(path, stereo * np.nan, RATE)
    with pytest.raises(TimbreflowError, match=r"b\.mp3 cannot be written"):
        write_audio(tmp_path / "b.mp3", stereo, 12345)
    with pytest.raises(TimbreflowError, match="does not end in"):
        write_audio(tmp_path / "a.aiff", stereo, RATE)
    assert [file.name for file in tmp_path.iterdir()] == ["a.wav"]
    assert path.read_bytes() == before


def test_bad_files_are_named_with_a_remedy(tmp_path: Path, stereo: np.ndarray) -> None:
    (tmp_path / "text.wav").write_text("this is not sound")
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan, 0.5]), 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "infinite.wav", np.array([0.0, np.inf]), 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0), 8000)
    write_audio(tmp_path / "good.flac", stereo, RATE)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "good.flac").read_bytes()[:30])
    cases = {
        "none.wav": "missing",
        "text.wav": "cannot be read as sound",
        "cut.flac": "cannot be read as sound",
        "empty.wav": "0 bytes",
        "nan.wav": "NaN or infinite",
        "infinite.wav": "NaN or infinite",
        "nothing.wav": "no samples",
    }
    for name, reason in cases.items():
        for read in (lambda path: read_audio(path), lambda path: list(stream_audio(path, block=64))):
            with pytest.raises(TimbreflowError, match=reason) as caught:
                read(tmp_path / name)
            assert name in str(caught.value)
            assert str(caught.value).count(". ") == 0, "one sentence"
    with pytest.raises(TimbreflowError, match="not a file"):
        read_audio(tmp_path)
    for data, reason in ((b"", "0 bytes"), (b"garbage " * 100, "upload.bin cannot be read")):
        with pytest.raises(TimbreflowError, match=reason):
            decode_audio(data, name="upload.bin")


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
@pytest.mark.parametrize("share", [0.95, 0.5])
def test_a_file_that_was_cut_off_is_refused_by_every_reader(
    tmp_path: Path, stereo: np.ndarray, suffix: str, share: float
) -> None:
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    noise = np.random.default_rng(0).normal(size=(2, 3 * RATE)).astype(np.float32) * 0.1
    write_audio(whole, noise, RATE)
    data = whole.read_bytes()
    cut.write_bytes(data[: int(share * len(data))])
    readers = (
        read_audio,
        lambda path: list(stream_audio(path, block=999)),
        lambda path: decode_audio(path.read_bytes()),
    )
    for read in readers:
        with pytest.raises(TimbreflowError, match=r"cut off.*again\.$"):
            read(cut)
        read(whole)


def test_an_ogg_with_a_hole_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hole.ogg"
    write_audio(path, np.random.default_rng(0).normal(size=(2, 3 * RATE)).astype(np.float32) * 0.1, RATE)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    path.write_bytes(data)
    for read in (read_audio, lambda path: list(stream_audio(path, block=999))):
        with pytest.raises(TimbreflowError, match=r"hole\.ogg is damaged or cut off: only \d+ of \d+ samples"):
            read(path)


def test_a_wav_that_was_streamed_has_no_length_to_keep(tmp_path: Path, stereo: np.ndarray) -> None:
    path = tmp_path / "piped.wav"
    write_audio(path, stereo, RATE)
    data = bytearray(path.read_bytes())
    place = data.index(b"data") + 4
    data[place : place + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert read_audio(path)[0].shape == stereo.shape


def test_headerless_samples_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.raw"
    path.write_bytes(bytes(1000))
    for read in (read_audio, audio_info):
        with pytest.raises(
            TimbreflowError, match=r"x\.raw cannot be read as sound \(samplerate must be specified\); convert"
        ):
            read(path)
