"""Sound files whose headers do not say what they hold: all of the sound comes, with a note, or none and a reason."""

import io
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import soundfile

from timbreflow.audio import truncation
from timbreflow.audio.files import audio_info, decode_audio, read_audio, stream_audio
from timbreflow.errors import TimbreflowError

RATE = 22050
CONTAINERS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF")
NOISE = (np.random.default_rng(0).normal(size=(2 * RATE, 2)) * 0.1).astype(np.float32)


def encoded(sound: np.ndarray, kind: str, subtype: str | None = None, **how: object) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, RATE, format=kind, subtype=subtype, **how)
    return buffer.getvalue()


def with_size(data: bytes, kind: str, size: int) -> bytes:
    """The file with another number of bytes of sound in its header; sizes are taken to 32 bits where it has them."""
    changed = bytearray(data)

    def put(place: int, value: int, n: int, order: str) -> None:
        changed[place : place + n] = (value % (1 << 8 * n)).to_bytes(n, order)  # type: ignore[arg-type]

    match kind:
        case "WAV" | "WAVEX":
            put(data.index(b"data") + 4, size, 4, "little")
        case "RF64":
            put(data.index(b"ds64") + 16, size, 8, "little")
        case "W64":
            put(data.index(b"data\xf3\xac") + 16, size + 24, 8, "little")
        case "AIFF":
            put(data.index(b"SSND") + 4, size + 8, 4, "big")
            put(data.index(b"COMM") + 10, size // 4, 4, "big")
        case "AU":
            put(8, size, 4, "big")
        case "CAF":
            put(data.index(b"data") + 4, size + 4, 8, "big")
    return bytes(changed)


def assert_all_of_it(path: Path, expected: np.ndarray, note: str = "") -> None:
    """Every reader gives all of the sound, and the notes say what was wrong."""
    # Files of one size that are written within a tick of the clock look alike to the cache.
    truncation._of_path.cache_clear()
    info = audio_info(path)
    audio, _ = read_audio(path)
    assert audio.shape == expected.T.shape == (info.channels, info.n_samples)
    assert np.abs(audio - expected.T).max() < 1e-4
    assert np.array_equal(np.concatenate(list(stream_audio(path, block=999)), axis=1), audio)
    assert np.array_equal(decode_audio(path.read_bytes())[0], audio)
    assert bool(info.notes) == bool(note)
    assert not note or (note in info.notes[0] and path.name in info.notes[0])


def assert_refused(path: Path, reason: str) -> None:
    truncation._of_path.cache_clear()
    for read in (audio_info, read_audio, lambda path: list(stream_audio(path, block=999))):
        with pytest.raises(TimbreflowError, match=rf"{path.name} .*{reason}"):
            read(path)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_header_is_held_against_the_bytes_both_ways(tmp_path: Path, kind: str) -> None:
    data, path, size = encoded(NOISE, kind, "PCM_16"), tmp_path / "x.wav", NOISE.size * 2
    path.write_bytes(data)
    assert_all_of_it(path, NOISE)
    path.write_bytes(data + bytes(300))
    assert_all_of_it(path, NOISE)
    for claimed, note in (
        (size + 2, "promises 2 bytes more"),
        (size + 44, "promises 44 bytes more"),
        (0, "unfinished recording"),
        (size // 2, f"holds {size // 2} bytes more"),
    ):
        path.write_bytes(with_size(data, kind, claimed))
        assert_all_of_it(path, NOISE, note)
    for bad, reason in (
        (with_size(data, kind, size + 5000), "cut off.*5000 bytes more"),
        (data[: len(data) // 2], "cut off"),
    ):
        path.write_bytes(bad)
        assert_refused(path, reason)


@pytest.mark.parametrize(("kind", "place"), [("AU", 4), ("AIFF", 46)])
def test_a_sound_that_begins_behind_the_end_is_refused(tmp_path: Path, kind: str, place: int) -> None:
    data = bytearray(encoded(NOISE, kind))
    data[place : place + 4] = (len(data) + 7).to_bytes(4, "big")
    if kind == "AU":
        data[8:12] = bytes(4)
    (tmp_path / "x.wav").write_bytes(data)
    assert_refused(tmp_path / "x.wav", "cut off")


@pytest.mark.parametrize("kind", ["WAV", "RF64", "W64", "AIFF", "CAF", "FLAC", "OGG"])
def test_recordings_one_behind_the_other_are_not_read_as_the_first(tmp_path: Path, kind: str) -> None:
    data = encoded(NOISE, kind)
    (tmp_path / "x.wav").write_bytes(data + data)
    assert_refused(tmp_path / "x.wav", "several recordings")


@pytest.mark.parametrize(("kind", "mark", "order"), [("CAF", b"desc", "big"), ("W64", b"fmt \xf3\xac", "little")])
def test_a_chunk_that_claims_more_than_there_is_memory_is_not_read(
    tmp_path: Path, kind: str, mark: bytes, order: Literal["big", "little"]
) -> None:
    data = bytearray(encoded(NOISE, kind))
    place = data.index(mark) + (4 if kind == "CAF" else 16)
    data[place : place + 8] = (1 << 61).to_bytes(8, order)
    (tmp_path / "x.wav").write_bytes(data)
    assert_refused(tmp_path / "x.wav", "cannot be read as sound")


def test_chunks_and_tags_behind_the_sound_are_no_sound(tmp_path: Path) -> None:
    data = encoded(NOISE, "WAV", "PCM_16")
    for more in (b"LIST\x06\0\0\0INFOab", b"bext\xff\0\0\0cut", b"TAG" + b"x" * 125, b"ID3\4\0\0\0\0\0\x01x"):
        (tmp_path / "x.wav").write_bytes(data + more)
        assert_all_of_it(tmp_path / "x.wav", NOISE)
    (tmp_path / "x.wav").write_bytes(with_size(data, "WAV", 0)[: data.index(b"data") + 8] + b"LIST\x04\0\0\0INFO")
    with pytest.raises(TimbreflowError, match="holds no samples"):
        read_audio(tmp_path / "x.wav")


@pytest.mark.parametrize("claimed", [3 * RATE, 0xFFFFFFFF, 2000])
def test_a_wav_over_4_gib_is_read_to_its_end(tmp_path: Path, claimed: int) -> None:
    data, path = with_size(encoded(NOISE, "WAV", "PCM_16"), "WAV", claimed), tmp_path / "x.wav"
    start, over = data.index(b"data") + 8, 3 * RATE // 4 * 4
    with open(path, "wb") as file:
        file.write(data)
        file.truncate(start + (1 << 32) + over)  # sparse: it takes no room
    assert audio_info(path).n_samples == ((1 << 32) + over) // 4
    first = next(stream_audio(path, block=len(NOISE)))
    assert np.abs(first - NOISE.T).max() < 1e-4


def test_a_flac_whose_checksum_ends_in_zeros_is_whole() -> None:
    """One file in 256: cutting trailing zeros as padding would take a byte of its last frame."""
    found = 0
    for seed in range(2000):
        sound = np.random.default_rng(seed).normal(scale=0.1, size=(700, 1)).astype(np.float32)
        data = encoded(sound, "FLAC", "PCM_16")
        if data[-1] == 0:
            found += 1
            assert decode_audio(data)[0].shape == (1, 700)
    assert found


def test_a_flac_that_says_another_length_is_read_to_its_end(tmp_path: Path) -> None:
    data, path = encoded(NOISE, "FLAC", "PCM_16"), tmp_path / "x.flac"
    length = int.from_bytes(data[18:26], "big")

    def claiming(n: int) -> bytes:
        return data[:18] + ((length >> 36 << 36) | n).to_bytes(8, "big") + data[26:]

    for good, note in (
        (data, ""),
        (claiming(0), ""),
        (claiming(1000), f"holds {len(NOISE)} samples where its header says 1000"),
        (data + b"TAG" + b"x" * 125, ""),
        (data + bytes(700), ""),
        (b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + data, ""),
    ):
        path.write_bytes(good)
        assert_all_of_it(path, NOISE, note)
    for bad in (claiming(len(NOISE) + 5000), claiming(0)[: len(data) // 2]):
        path.write_bytes(bad)
        assert_refused(path, "cut off")


@pytest.mark.parametrize("kind", ["VOC", "NIST", "PAF", "AVR", "IRCAM"])
def test_a_format_of_which_nobody_can_tell_whether_it_is_whole_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x.wav").write_bytes(encoded(NOISE, kind)[:20000])
    assert_refused(tmp_path / "x.wav", "whether it is whole")


def tone(seconds: float, channels: int = 1) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    sound = 0.2 * np.sin(2 * np.pi * 440 * time) + 0.02 * np.random.default_rng(1).normal(size=len(time))
    return np.repeat(sound[:, None], channels, axis=1).astype(np.float32)


def mp3(seconds: float, mode: str = "VARIABLE", channels: int = 1) -> tuple[bytes, int, int]:
    """An mp3, the length of its first frame, which is its header, and where its count of frames stands."""
    data = encoded(tone(seconds, channels), "MP3", bitrate_mode=mode, compression_level=0.5)
    mark = b"Xing" if b"Xing" in data[:200] else b"Info"
    return data, data.index(data[:2], 4), data.index(mark) + 8


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_gives_all_its_frames_whatever_its_header_says(tmp_path: Path, mode: str, channels: int) -> None:
    path = tmp_path / "x.mp3"
    data, first, count = mp3(6, mode, channels)
    path.write_bytes(data)
    whole, _ = read_audio(path)
    assert whole.shape == (channels, 6 * RATE)
    assert audio_info(path).notes == ()
    n_frames = int.from_bytes(data[count : count + 4], "big")
    for claimed, note in ((0, "where its header says 0.00 s"), (40, "where its header says"), (n_frames + 1, "")):
        path.write_bytes(data[:count] + claimed.to_bytes(4, "big") + data[count + 4 :])
        assert_all_of_it(path, whole.T, note)
    path.write_bytes(data[first:])
    bare, _ = read_audio(path)
    assert audio_info(path).n_samples == bare.shape[1]
    assert 6 * RATE < bare.shape[1] < 6.1 * RATE
    assert np.abs(bare[:, 576 + 3000 : 576 + 100000] - whole[:, 3000:100000]).max() < 1e-6
    for bad in (data[: len(data) // 2], data[: len(data) - 10]):
        path.write_bytes(bad)
        assert_refused(path, "cut off")


def test_joined_mp3s_are_read_as_one(tmp_path: Path) -> None:
    path, tag = tmp_path / "x.mp3", b"ID3\4\0\0\0\0\0\x0a" + bytes(10)
    (short, first, _), (long, _, _) = mp3(2), mp3(5)
    path.write_bytes(long)
    alone, _ = read_audio(path)
    for joined, note in (
        (short + long, "2 recordings joined together"),
        (tag + short + b"TAG" + b"x" * 125 + tag + long, "2 recordings joined together"),
        (short[first:] + long, "where its header says"),
    ):
        path.write_bytes(joined)
        info = audio_info(path)
        audio, _ = read_audio(path)
        assert note in info.notes[0]
        assert len(info.notes) == 1
        assert 7 * RATE < audio.shape[1] == info.n_samples < 7.2 * RATE
        # The end is the second one's own.
        assert np.abs(audio[:, -50000:] - alone[:, -50000:]).max() < 1e-6
    path.write_bytes(short + encoded(tone(2, 2), "MP3"))
    assert_refused(path, "changes its sample rate or channels")


def test_what_is_lost_in_an_mp3_without_a_header_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.mp3"
    data, first, _ = mp3(6)
    for bad, note in (
        (data[first : len(data) - 10], "ends in the middle of a frame"),
        (data[first:9000] + b"\x55" * 3000 + data[12000:], "that are no sound"),
    ):
        path.write_bytes(bad)
        assert note in audio_info(path).notes[0]
        assert 5 * RATE < read_audio(path)[0].shape[1] < 6.1 * RATE
