"""What the tests of notes share: real MIDI files by pretty_midi, and configurations."""

import io
from collections.abc import Callable

import pretty_midi
import pytest

from timbreflow.notes.collect import CollectConfig
from timbreflow.notes.pieces import ReadLimits


@pytest.fixture
def limits() -> ReadLimits:
    """Limits that let all good files through."""
    return ReadLimits(
        max_bytes=2_000_000,
        max_ticks=10_000_000,
        max_duration=3600.0,
        max_notes=100_000,
        min_notes=1,
        max_seconds=20.0,
        max_memory=1_000_000_000,
    )


@pytest.fixture
def song() -> Callable[..., bytes]:
    """song(seed, programs=…, drums=…) -> a MIDI file of scales, another one for each seed."""

    def make(seed: int = 0, *, programs: tuple[int, ...] = (0, 40), drums: bool = False, n_notes: int = 24) -> bytes:
        midi = pretty_midi.PrettyMIDI()
        for number, program in enumerate(programs):
            part = pretty_midi.Instrument(program, name=f"part {number}")
            for k in range(n_notes):
                pitch = 30 + (seed + k * (number + 1)) % 60
                part.notes.append(pretty_midi.Note(40 + k % 80, pitch, 0.5 * k, 0.5 * k + 0.4))
            midi.instruments.append(part)
        if drums:
            kit = pretty_midi.Instrument(0, is_drum=True, name="kit")
            kit.notes = [pretty_midi.Note(100, 36 + seed % 8, 0.5 * k, 0.5 * k + 0.1) for k in range(n_notes)]
            midi.instruments.append(kit)
        file = io.BytesIO()
        midi.write(file)
        return file.getvalue()

    return make


@pytest.fixture
def config() -> Callable[..., CollectConfig]:
    """config(*sources, **changes) -> a CollectConfig with small shards."""

    def make(*sources: str, **changes: object) -> CollectConfig:
        values: dict[str, object] = {
            "sources": sources,
            "fractions": {},
            "leave_out": (),
            "max_bytes": 2_000_000,
            "max_ticks": 10_000_000,
            "max_duration": 3600.0,
            "max_notes": 100_000,
            "min_notes": 2,
            "max_seconds": 20.0,
            "max_memory": 1_000_000_000,
            "files_per_shard": 7,
        }
        return CollectConfig(**{**values, **changes})  # type: ignore[arg-type]

    return make
