"""`timbreflow collect` on a folder as people have them: good files of every kind among broken ones."""

import io
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import mido
import pandas as pd
import pretty_midi
import pytest

RESOLUTIONS = (96, 120, 220, 480, 960)


def song(number: int, *, n_notes: int = 24, drums: bool = False) -> pretty_midi.PrettyMIDI:
    """Scales over one to three parts, other ones for each number, at another resolution and tempo."""
    midi = pretty_midi.PrettyMIDI(resolution=RESOLUTIONS[number % 5], initial_tempo=60 + 3 * number)
    for part in range(1 + number % 3):
        instrument = pretty_midi.Instrument((number * 5 + part) % 128, is_drum=drums, name=f"part {part}")
        for k in range(n_notes):
            pitch = 30 + (number + k * (part + 1)) % 60
            instrument.notes.append(pretty_midi.Note(40 + (k + number) % 80, pitch, 0.5 * k, 0.5 * k + 0.4))
        midi.instruments.append(instrument)
    return midi


def written(midi: pretty_midi.PrettyMIDI | mido.MidiFile) -> bytes:
    """The bytes of its file."""
    file = io.BytesIO()
    if isinstance(midi, mido.MidiFile):
        midi.save(file=file)
    else:
        midi.write(file)
    return file.getvalue()


def one_track(number: int, *, kind: int) -> bytes:
    """A karaoke file of format 0, 1 or 2 with lyrics, sysex and controllers; mido notes end as velocity 0."""
    track = mido.MidiTrack(
        [
            mido.MetaMessage("track_name", name="Fl\xf6te"),
            mido.MetaMessage("text", text="@KMIDI KARAOKE FILE"),
            mido.Message("sysex", data=[126, 127, 9, 1]),
            mido.MetaMessage("sequencer_specific", data=(0, 1, 2)),
        ]
    )
    for k in range(20):
        track.append(mido.MetaMessage("lyrics", text=f"/la{k} "))
        track.append(mido.Message("note_on", note=40 + k + number, velocity=90, time=10))
        track.append(mido.Message("pitchwheel", pitch=100))
        track.append(mido.Message("control_change", control=64, value=127, time=5))
        track.append(mido.Message("note_on", note=40 + k + number, velocity=0, time=60))
    return written(mido.MidiFile(type=kind, ticks_per_beat=96, tracks=[track]))


def running_status(number: int) -> bytes:
    """One status byte for all notes, as sequencers save space."""
    events = b"\x00\x90" + b"\x00".join(bytes((40 + k + number, 80, 60, 40 + k + number, 0)) for k in range(20))
    events += b"\x00\xff\x2f\x00"
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, 96) + b"MTrk" + struct.pack(">I", len(events)) + events


def good_files() -> dict[str, bytes]:
    """51 files whose notes are all there."""
    files = {f"{number:02d}.mid": written(song(number)) for number in range(20)}
    files |= {f"albums/one/{number}.midi": written(song(number)) for number in range(20, 30)}
    files |= {f"albums/two/deep er/S\u00f6ng {number}.MID": written(song(number)) for number in range(30, 40)}
    files |= {f"karaoke/format {kind}.kar": one_track(kind, kind=kind) for kind in range(3)}
    files |= {f"running {number}.mid": running_status(number) for number in range(3)}
    trailing = {"zeros": bytes(9), "noise": random.Random(0).randbytes(64), "text": b"\r\nDownloaded from a page"}
    files |= {f"trailing {tail}.mid": written(song(40 + k)) + trailing[tail] for k, tail in enumerate(trailing)}
    # The ending says nothing: a MIDI file is known by its first bytes.
    plain = written(song(50))
    files["wrapped.mid"] = (
        b"RIFF" + struct.pack("<I", len(plain) + 12) + b"RMIDdata" + struct.pack("<I", len(plain)) + plain
    )
    # All of the last track is there, its length is a lie.
    plain = written(song(51))
    last = plain.rfind(b"MTrk")
    files["claims 2 GB.mid"] = plain[:last] + b"MTrk\x7f\xff\xff\xff" + plain[last + 8 :]
    return files


def late_note(tick: int) -> bytes:
    """A good file with one more note at a tick after the end."""
    midi = mido.MidiFile(file=io.BytesIO(written(song(60))))
    track = midi.tracks[-1]
    track.insert(-1, mido.Message("note_on", note=60, velocity=80, time=tick - sum(event.time for event in track)))
    track.insert(-1, mido.Message("note_off", note=60, time=10))
    return written(midi)


def broken_files() -> dict[str, tuple[bytes, str]]:
    """9 files that give no piece, and why; the twin is of 00.mid."""
    good = written(song(61))
    return {
        "bad/text.mid": (b"Dear diary, this is not music.\n" * 40, "broken"),
        "bad/empty.midi": (b"", "broken"),
        "bad/cut.mid": (good[: len(good) // 2], "broken"),
        "bad/header only.mid": (good[:14], "broken"),
        "bad/random.mid": (random.Random(1).randbytes(4000), "broken"),
        "bad/drums.mid": (written(song(62, drums=True)), "drums_only"),
        "bad/no notes.mid": (written(song(63, n_notes=0)), "no_notes"),
        "bad/ticks.mid": (late_note(10_000_001), "too_many_ticks"),
        "bad/twin.mid": (written(song(0)), "duplicate"),
    }


def collect(folder: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """`timbreflow collect`, as typed."""
    return subprocess.run(
        [sys.executable, "-m", "timbreflow.cli", "collect", str(folder), "--out", str(out)],
        cwd=folder.parent,
        env={**os.environ, "TIMBREFLOW_WORKERS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def write_all(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def read_all(out: Path, table: str) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(path) for path in sorted(out.glob(f"{table}*.parquet"))], ignore_index=True)


def test_good_files_and_broken_ones(tmp_path: Path) -> None:
    good, broken = good_files(), broken_files()
    assert (len(good), len(broken)) == (51, 9)
    write_all(tmp_path / "songs", good | {name: data for name, (data, _) in broken.items()})
    result = collect(tmp_path / "songs", tmp_path / "notes")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("51 pieces")
    pieces, rejects = read_all(tmp_path / "notes", "pieces"), read_all(tmp_path / "notes", "rejects")
    # Of two twins the first by name is taken: which one does not matter, but that it is one.
    twin = rejects[rejects["reason"] == "duplicate"]["path"].item()
    assert twin in {"00.mid", "bad/twin.mid"}
    assert set(pieces["path"]) - {"00.mid", "bad/twin.mid"} == set(good) - {"00.mid"}
    assert pieces["piece_id"].is_unique and len(pieces) == 51
    reasons = dict(zip(rejects["path"], rejects["reason"], strict=True))
    reasons["bad/twin.mid"] = reasons.pop(twin)
    assert reasons == {name: reason for name, (_, reason) in broken.items()}
    details = dict(zip(rejects["path"], rejects["detail"], strict=True))
    assert "empty" in details["bad/empty.midi"]
    assert "cut" in details["bad/cut.mid"]
    assert "header" in details["bad/header only.mid"]
    assert "10000000" in details["bad/ticks.mid"]
    assert "same notes" in details[twin]


@pytest.mark.parametrize("names", [("bad/text.mid", "bad/cut.mid"), ()])
def test_a_folder_without_a_usable_file_is_one_sentence(names: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "songs").mkdir()
    write_all(tmp_path / "songs", {name: data for name, (data, _) in broken_files().items() if name in names})
    result = collect(tmp_path / "songs", tmp_path / "notes")
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "notes").exists()
