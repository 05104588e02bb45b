"""Whole songs: a MIDI file whose tracks are played by recordings' timbres, and plainly by a SoundFont.

A styled track is played plainly first, without volume, pan and expression; the transfer gives it the style; then its
controls act as General MIDI says: amplitude (volume / 127)^2 (expression / 127)^2, pan at constant power. The other
tracks are played by FluidSynth, which does the same. All are added on disk, track after track, so that memory does not
grow with the song.
"""

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Unpack

import numpy as np

from timbreflow.audio.files import AudioWriter, stream_audio
from timbreflow.errors import TimbreflowError
from timbreflow.inference.running import Cancel, Progress, ask, share
from timbreflow.inference.streaming.recordings import BLOCK
from timbreflow.inference.streaming.writing import folder_beside, require_no_inputs, require_writable, scratch_beside
from timbreflow.inference.synthesis import TransferArguments

if TYPE_CHECKING:
    from timbreflow.inference.transfer import TimbreTransfer
    from timbreflow.rendering.synthesizer import Event, Synthesizer

SCORES = (".mid", ".midi")
SAMPLE_RATE = 44100
TAIL_SECONDS = 1.0
"""After the last note, in which sounds die away."""
PEAK = 10 ** (-1 / 20)
"""Of a song: 1 dB below full scale."""
CONTENT_PEAK = 0.5
"""Of what a model is to play: its peaks may be higher at the same level."""
LONGEST_SECONDS = 2 * 3600.0
MOST_BYTES = 20_000_000
SILENCE = 1e-4
VOLUME, PAN, EXPRESSION = 7, 10, 11
DEFAULTS = {VOLUME: 100, PAN: 64, EXPRESSION: 127}
"""Values of controls that a file does not set, as General MIDI says."""
SMOOTHING_SECONDS = 0.005
"""In which a control goes from one value to the next: a step is a click."""
DRUM_BANK = 128
NEEDS = "MIDI files need the pipeline's packages ({}); type `make setup` in the checkout."

Others = Literal["plain", "leave-out"]


@dataclass(frozen=True, eq=False)
class SongTrack:
    """One track of a song.

    Attributes:
        number: in the song, from 0.
        name: as the file has it.
        program: General MIDI program, from 0.
        is_drum: whether pitches stand for drums.
        n_notes: notes.
        events: all that its channel is told.
    """

    number: int
    name: str
    program: int
    is_drum: bool
    n_notes: int
    events: tuple["Event", ...]

    @property
    def description(self) -> str:
        """Number, name, program and notes, for a person."""
        kind = "drums" if self.is_drum else f"program {self.program}"
        return f"{self.number}: {self.name or 'no name'} ({kind}, {self.n_notes} notes)"


@dataclass(frozen=True, eq=False)
class Song:
    """A MIDI file with notes.

    Attributes:
        path: the file.
        tracks: those that have notes.
        seconds: end of the last note.
    """

    path: Path
    tracks: tuple[SongTrack, ...]
    seconds: float


def read_song(path: str | Path) -> Song:
    """Read a MIDI file: notes, controls and bends of each of its tracks (and channels and programs in it).

    Raises:
        TimbreflowError: the file is missing, no MIDI file or has no notes, or the packages for it are missing.
    """
    path = Path(path)
    try:
        import symusic

        from timbreflow.notes.pieces import ReadLimits, Reject
        from timbreflow.notes.readers.midi import mended, read_midi
        from timbreflow.rendering.synthesizer import Event
    except ImportError as error:
        raise TimbreflowError(NEEDS.format(error.name)) from error
    if not path.is_file():
        raise TimbreflowError(f"{path} is missing; check the path.")
    if path.stat().st_size > MOST_BYTES:
        raise TimbreflowError(f"{path} has over {MOST_BYTES / 1e6:.0f} MB, which no MIDI file has; name another file.")
    data = path.read_bytes()
    try:
        # It knows what is wrong with bad files, which symusic takes.
        limits = ReadLimits(
            max_bytes=MOST_BYTES,
            max_ticks=2**31 - 1,
            max_duration=LONGEST_SECONDS,
            max_notes=1_000_000,
            min_notes=1,
            max_seconds=math.inf,
            max_memory=sys.maxsize,
        )
        read_midi(data, limits)
        midi: Any = symusic.Score  # its types know only its generic base
        score = midi.from_midi(mended(data)).to("second")
    except (Reject, RuntimeError, ValueError, UnicodeDecodeError) as error:
        reason = error.detail if isinstance(error, Reject) else f"{error}."
        raise TimbreflowError(f"{path} cannot be played: {reason}") from error
    tracks: list[SongTrack] = []
    for track in score.tracks:
        events: list[Event] = []
        for note in track.notes:
            if note.velocity > 0:
                events.append(Event(note.time, "on", note.pitch, note.velocity))
                events.append(Event(note.time + max(note.duration, 0.01), "off", note.pitch, 0))
        n_notes = len(events) // 2
        events += [Event(one.time, "control", one.number, one.value) for one in track.controls]
        events += [Event(one.time, "bend", 0, one.value) for one in track.pitch_bends]
        if n_notes:
            name = " ".join(track.name.replace("\0", "").split())
            drum = bool(track.is_drum)
            tracks.append(SongTrack(len(tracks), name, int(track.program), drum, n_notes, tuple(events)))
    end = max(event.time for track in tracks for event in track.events if event.kind == "off")
    return Song(path, tuple(tracks), float(end))


def render_midi(path: Path, out: Path, *, soundfont: Path | None = None) -> str:
    """Play a song's pitched tracks by a SoundFont into a stereo file, as the content of a transfer.

    Args:
        path: .mid file.
        out: sound file.
        soundfont: .sf2 or .sf3; TimGM6mb of pretty_midi by default.

    Returns:
        A sentence for people.

    Raises:
        TimbreflowError: the song cannot be read, has only drums, or FluidSynth is missing.
    """
    song = read_song(path)
    pitched = [track for track in song.tracks if not track.is_drum]
    synthesizer, name = _synthesizer(soundfont)
    _mix(song, (_plain(track, song, synthesizer, name) for track in pitched), out, peak=CONTENT_PEAK)
    drums = len(song.tracks) - len(pitched)
    return f"{path} was played by {name}{' without its drums' if drums else ''} to be the content."


def reinstrument(
    session: "TimbreTransfer",
    midi_path: str | Path,
    styles: Mapping[int, str | Path],
    out_path: str | Path,
    *,
    others: Others = "plain",
    soundfont: str | Path | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    **options: Unpack[TransferArguments],
) -> Song:
    """Play a MIDI file with a style for some of its tracks, in stereo at 44.1 kHz, peak 1 dB below full scale.

    Args:
        session: a loaded model.
        midi_path: the song.
        styles: sound file of each styled track, by the track's number in `read_song`.
        out_path: ends in .wav, .flac, .ogg or .mp3.
        others: "plain" plays the other tracks by a SoundFont, "leave-out" leaves them out.
        soundfont: .sf2 or .sf3; TimGM6mb of pretty_midi by default.
        progress: called with the fraction that is done.
        cancel: asked before each chunk.
        **options: of the transfers, the fields of `TransferOptions`.

    Returns:
        The song that was played; the file lasts a second longer.

    Raises:
        TimbreflowError: the song or a style cannot be read, a track is not there, silent or drums, or FluidSynth is
            missing. Nothing is written then.
        Cancelled: `cancel` said so.
    """
    out = Path(out_path)
    song = read_song(midi_path)
    _require_tracks(song, styles)
    require_no_inputs([out], [song.path, *map(Path, styles.values())])
    require_writable(out, SAMPLE_RATE, 2, like="PCM_16")
    for style in styles.values():
        session.styles.read(Path(style))
    synthesizer, name = _synthesizer(None if soundfont is None else Path(soundfont))
    with folder_beside(out) as folder:

        def styled(track: SongTrack, part: Progress | None) -> Iterator[np.ndarray]:
            plain, made = folder / "plain.wav", folder / "styled.wav"
            _write_mono(track, song, synthesizer, name, plain)
            session.transfer_file(plain, Path(styles[track.number]), made, progress=part, cancel=cancel, **options)
            return _placed(track, made)

        def stem(track: SongTrack, part: Progress | None) -> Iterator[np.ndarray]:
            for block in styled(track, part) if track.number in styles else _plain(track, song, synthesizer, name):
                ask(cancel)
                yield block
            if part is not None:
                part(1.0)

        played = [track for track in song.tracks if track.number in styles or others == "plain"]
        shares = (share(progress, number, len(played)) for number in range(len(played)))
        _mix(song, map(stem, played, shares), out, peak=PEAK)
    return song


def _require_tracks(song: Song, styles: Mapping[int, str | Path]) -> None:
    tracks = "; ".join(track.description for track in song.tracks)
    if not styles:
        raise TimbreflowError(f"No track gets a style; name at least one of {song.path}, which has {tracks}.")
    for number in styles:
        if not 0 <= number < len(song.tracks):
            raise TimbreflowError(f"{song.path} has no track {number} with notes; it has {tracks}.")
        if song.tracks[number].is_drum:
            raise TimbreflowError(
                f"Track {song.tracks[number].description} of {song.path} is drums, which have no notes to play with a "
                "style; leave it to the SoundFont."
            )


def _synthesizer(soundfont: Path | None) -> tuple["Synthesizer", str]:
    """A synthesizer with one font, and the font's name."""
    try:
        from timbreflow.rendering.soundfonts import bundled_soundfont
        from timbreflow.rendering.synthesizer import Synthesizer
    except ImportError as error:
        raise TimbreflowError(NEEDS.format(error.name)) from error
    path = bundled_soundfont() if soundfont is None else soundfont
    if not path.is_file():
        raise TimbreflowError(f"SoundFont {path} is missing; check the path.")
    return Synthesizer({path.stem: path}, sample_rate=SAMPLE_RATE), path.stem


def _played(
    track: SongTrack, song: Song, synthesizer: "Synthesizer", font: str, *, without: Sequence[int] = ()
) -> Iterator[np.ndarray]:
    """A track by the SoundFont, [2, n] blocks, some controls left out."""
    from timbreflow.rendering.timbres import Layer

    events = (event for event in track.events if event.kind != "control" or event.number not in without)
    layer = Layer(font, DRUM_BANK, 0, 0.0) if track.is_drum else Layer(font, 0, track.program, 0.0)
    return synthesizer.stream(events, layer, seconds=song.seconds + TAIL_SECONDS)


def _plain(track: SongTrack, song: Song, synthesizer: "Synthesizer", font: str) -> Iterator[np.ndarray]:
    return _played(track, song, synthesizer, font)


def _write_mono(track: SongTrack, song: Song, synthesizer: "Synthesizer", font: str, out: Path) -> None:
    """A track without volume, pan and expression, as a mono file for the model."""
    peak = 0.0
    with AudioWriter(out, SAMPLE_RATE, 1, like="FLOAT") as writer:
        for block in _played(track, song, synthesizer, font, without=(VOLUME, PAN, EXPRESSION)):
            mono = block.mean(axis=0, keepdims=True)
            peak = max(peak, float(np.abs(mono).max()))
            writer.write(mono)
    if peak < SILENCE:
        raise TimbreflowError(
            f"Track {track.description} of {song.path} makes no sound with {font}; leave it out, or name another font."
        )


def _placed(track: SongTrack, sound: Path) -> Iterator[np.ndarray]:
    """A mono file with the track's volume, expression and pan: [2, n] blocks."""
    curves = {number: _curve(track, number) for number in DEFAULTS}
    usual = (DEFAULTS[VOLUME] / 127) ** 2
    start = 0
    for block in stream_audio(sound, block=BLOCK):
        time = (start + np.arange(block.shape[1])) / SAMPLE_RATE
        start += block.shape[1]
        volume, pan, expression = (np.interp(time, *curves[number]) for number in (VOLUME, PAN, EXPRESSION))
        # The content was played at the usual volume.
        gain = (volume / 127) ** 2 * (expression / 127) ** 2 / usual
        angle = np.maximum(pan - 1, 0) / 126 * math.pi / 2
        # In the middle both sides are as loud as the content.
        yield (block[0] * gain * math.sqrt(2) * np.stack((np.cos(angle), np.sin(angle)))).astype(np.float32)


def _curve(track: SongTrack, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Times, in s, and values of a control, between which it goes straight."""
    steps = sorted(
        (event.time, event.value) for event in track.events if (event.kind, event.number) == ("control", number)
    )
    times, values, last = [0.0], [float(DEFAULTS[number])], float(DEFAULTS[number])
    for time, value in steps:
        times += [time, time + SMOOTHING_SECONDS] if time > 0 else [0.0, 0.0]
        values += [last, float(value)]
        last = float(value)
    return np.maximum.accumulate(np.array(times)), np.array(values)


def _mix(song: Song, stems: Iterable[Iterator[np.ndarray]], out: Path, *, peak: float) -> None:
    """Add stems of [2, n] blocks on disk and write the sum with that peak."""
    n_samples = round((song.seconds + TAIL_SECONDS) * SAMPLE_RATE)
    with scratch_beside(out) as mixed:
        mixed.truncate(n_samples * 8)
        for stem in stems:
            mixed.seek(0)
            for block in stem:
                _add(mixed, block)
        highest = max((float(np.abs(block).max()) for block in _pairs(mixed)), default=0.0)
        gain = np.float32(peak / highest if highest > SILENCE else 1.0)
        with AudioWriter(out, SAMPLE_RATE, 2) as writer:
            for block in _pairs(mixed):
                writer.write(block.T * gain)


def _add(mixed: BinaryIO, block: np.ndarray) -> None:
    place = mixed.tell()
    there = np.frombuffer(mixed.read(block.size * 4), np.float32)
    mixed.seek(place)
    mixed.write((there + np.ascontiguousarray(block.T, np.float32).ravel()[: len(there)]).data)


def _pairs(mixed: BinaryIO) -> Iterator[np.ndarray]:
    """[n, 2] blocks of the scratch file from its start."""
    mixed.seek(0)
    while data := mixed.read(8 * BLOCK):
        yield np.frombuffer(data, np.float32).reshape(-1, 2)
