"""What the page's buttons do: transfers and songs in a folder of their own, with all that is shown beside them."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from timbreflow.app.studio import pictures
from timbreflow.app.studio.people import Person, Sound
from timbreflow.audio.files import AudioWriter, audio_info, stream_audio
from timbreflow.errors import TimbreflowError
from timbreflow.inference.running import Cancel, Progress, ask
from timbreflow.inference.songs import reinstrument
from timbreflow.inference.style import LONGEST_STYLE_SECONDS, SHORTEST_STYLE_SECONDS
from timbreflow.inference.synthesis import TransferArguments, TransferOptions
from timbreflow.inference.transfer import TimbreTransfer
from timbreflow.models.glow.model import Glow

BLOCK = 1 << 16
MOST_FLAC_CHANNELS = 8


@dataclass(frozen=True)
class StyleChoice:
    """A style, its weight, and the part of it that is used, in s; None is its most active 16 s."""

    sound: Sound
    weight: float = 1.0
    part: tuple[float, float] | None = None


@dataclass(frozen=True)
class Track:
    """One sound of a result as it is shown.

    Attributes:
        label: such as Content.
        detail: what there is to say of it.
        audio: FLAC that every browser plays.
        pictures: name and file of each.
        downloads: format, file and name of each.
    """

    label: str
    detail: str
    audio: Path
    pictures: tuple[tuple[str, Path], ...]
    downloads: tuple[tuple[str, Path, str], ...] = ()


@dataclass(frozen=True)
class Result:
    """A result with all that is shown of it.

    Attributes:
        title: a line for the history.
        tracks: what can be heard.
        start: number of the track that is heard first.
        command: what makes the same in a terminal.
        notes: sentences for people.
    """

    title: str
    tracks: tuple[Track, ...]
    start: int
    command: str
    notes: tuple[str, ...]


def chosen_part(choice: StyleChoice, person: Person) -> Sound:
    """The style, cut where a part was chosen by hand.

    Raises:
        TimbreflowError: the part is too short, too long or not in the sound.
    """
    sound, part = choice.sound, choice.part
    if part is None or part == sound.active:
        return sound
    start, end = part
    if not (0 <= start < end <= sound.seconds + 0.01):
        raise TimbreflowError(
            f"The part from {start:g} to {end:g} s is not in {sound.name}, which lasts {sound.seconds:.1f} s."
        )
    if not SHORTEST_STYLE_SECONDS <= end - start <= LONGEST_STYLE_SECONDS:
        raise TimbreflowError(
            f"The part of {sound.name} lasts {end - start:.2f} s; choose {SHORTEST_STYLE_SECONDS:g} to "
            f"{LONGEST_STYLE_SECONDS:g} s."
        )
    info = audio_info(sound.path)
    out = person.new_file("style", ".wav")
    first, last, position = round(start * info.sample_rate), round(end * info.sample_rate), 0
    with AudioWriter(out, info.sample_rate, info.channels, like="FLOAT") as writer:
        for block in stream_audio(sound.path, block=BLOCK):
            kept = block[:, max(0, first - position) : max(0, last - position)]
            position += block.shape[1]
            if kept.shape[1]:
                writer.write(kept)
    name = f"{Path(sound.name).stem}-from-{start:g}-to-{end:g}-s.wav"
    return Sound(out, name, end - start, (0.0, end - start), sound.notes)


def transfer(
    session: TimbreTransfer,
    person: Person,
    content: Sound,
    styles: Sequence[StyleChoice],
    *,
    model: str,
    description: str,
    takes: int,
    options: TransferArguments,
    progress: Progress,
    cancel: Cancel,
) -> Result:
    """One transfer, or several takes of it.

    Raises:
        TimbreflowError: as `TimbreTransfer.transfer_file`; nothing is left then.
        Cancelled: `cancel` said so.
    """
    if not styles:
        raise TimbreflowError("Choose a style: a recording of the instrument that the result is to sound like.")
    used = [chosen_part(choice, person) for choice in styles]
    if len({choice.weight for choice in styles}) > 1:
        options = {**options, "blend": [choice.weight for choice in styles]}
    with person.result_folder() as folder:
        out = folder / "result.wav"
        paths = [sound.path for sound in used]
        made: list[tuple[str, str, Path, tuple[str, ...]]] = []
        if takes == 1:
            result = session.transfer_file(content.path, paths, out, progress=progress, cancel=cancel, **options)
            made.append(("Result", "", result.path, result.notes))
        else:
            for number, take in enumerate(
                session.takes_files(content.path, paths, out, takes, progress=progress, cancel=cancel, **options)
            ):
                assert take.result is not None
                words = f"{take.figures.words} (seed {take.seed})"
                made.append((f"Take {number + 1}", words, take.result.path, take.result.notes))
        ask(cancel)
        heard = folder / "heard.mid"
        texts = [f"Model: {description}.", *content.notes]
        try:
            notes = session.midi_file(content.path, heard, transpose=options.get("transpose", 0.0))
            roll = pictures.piano_roll(notes, content.seconds, folder / "roll.png")
            shown = [_track(session, folder, "Content", content.name, content.path, roll=roll, midi=heard)]
        except TimbreflowError as error:  # the model has no such head, or pretty_midi is not installed
            texts.append(str(error))
            shown = [_track(session, folder, "Content", content.name, content.path)]
        for number, sound in enumerate(used):
            label = f"Style {number + 1}" if len(used) > 1 else "Style"
            detail = " – ".join(filter(None, (sound.name, familiarity(session, sound))))
            cut = Path(sound.name).stem if sound is not styles[number].sound else ""
            shown.append(_track(session, folder, label, detail, sound.path, downloads=cut))
        start = len(shown)
        for label, words, path, _ in made:
            shown.append(_track(session, folder, label, words, path, downloads=label.lower().replace(" ", "-")))
    command = command_line(
        "transfer",
        [content.name, *(sound.name for sound in used)],
        out="result.wav",
        options=[("model", model), *_given(options), *([("takes", str(takes))] if takes > 1 else [])],
    )
    for label, _, path, notes_of_one in made:
        texts += [person.sentence(note).replace(str(path), label) for note in notes_of_one]
    title = f"{content.name} on {' + '.join(sound.name for sound in used)}, {model}"
    return Result(title, tuple(shown), start, command, tuple(dict.fromkeys(texts)))


def song(
    session: TimbreTransfer,
    person: Person,
    score: Path,
    name: str,
    styles: Mapping[int, StyleChoice],
    *,
    model: str,
    description: str,
    others: Literal["plain", "leave-out"],
    options: TransferArguments,
    progress: Progress,
    cancel: Cancel,
) -> Result:
    """A MIDI file with a style for some of its tracks.

    Raises:
        TimbreflowError: as `songs.reinstrument`.
        Cancelled: `cancel` said so.
    """
    with person.result_folder() as folder:
        used = {track: chosen_part(choice, person) for track, choice in styles.items()}
        reinstrument(
            session,
            score,
            {track: sound.path for track, sound in used.items()},
            folder / "result.wav",
            others=others,
            progress=progress,
            cancel=cancel,
            **options,
        )
        shown = [_track(session, folder, "Song", "", folder / "result.wav", downloads="song")]
    given = [("style", f"{track}={sound.name}") for track, sound in sorted(used.items())]
    plain = [("others", others)] if others != "plain" else []
    command = command_line(
        "reinstrument", [name], out="result.wav", options=[*given, ("model", model), *plain, *_given(options)]
    )
    return Result(f"{name}, {model}", tuple(shown), 0, command, (f"Model: {description}.",))


def familiarity(session: TimbreTransfer, style: Sound) -> str:
    """How well the model knows a style, in words; empty where it cannot say."""
    if not isinstance(session.bundle.model, Glow) or session.known_styles is None:
        return ""
    return session.familiarity_of_file(style.path).words


def command_line(command: str, inputs: Sequence[str], *, out: str, options: Iterable[tuple[str, str]]) -> str:
    """A line to copy into a shell."""
    words = ["timbreflow", command, *(f"./{name}" if name.startswith("-") else name for name in inputs), "-o", out]
    for name, value in options:
        words += [f"--{name}", value]
    return shlex.join(words)


def _given(options: TransferArguments) -> list[tuple[str, str]]:
    """Those that are not the default."""
    defaults = {one.name: one.default for one in fields(TransferOptions)}
    given = []
    for name, value in options.items():
        text = ",".join(f"{weight:g}" for weight in value) if isinstance(value, list) else str(value)
        if value != defaults[name] and text:
            given.append((name.replace("_", "-"), text))
    return given


def _track(
    session: TimbreTransfer,
    folder: Path,
    label: str,
    detail: str,
    path: Path,
    *,
    roll: Path | None = None,
    midi: Path | None = None,
    downloads: str = "",
) -> Track:
    stem = label.lower().replace(" ", "-")
    views = [
        ("Waveform", pictures.waveform(path, folder / f"{stem}-wave.png")),
        ("Mel spectrogram", pictures.mel_spectrogram(path, session, folder / f"{stem}-mel.png")),
    ]
    if roll is not None:
        views.append(("Notes that the model heard", roll))
    audio = playable(path, folder / f"{stem}-play.flac")
    given: list[tuple[str, Path, str]] = []
    if downloads:
        given.append(("WAV", path, f"{downloads}.wav"))
        if audio_info(path).channels <= MOST_FLAC_CHANNELS:
            given.append(("FLAC", flac(path, folder / f"{stem}.flac"), f"{downloads}.flac"))
    if midi is not None:
        given.append(("MIDI", midi, "heard.mid"))
    return Track(label, detail, audio, tuple(views), tuple(given))


def flac(path: Path, out: Path) -> Path:
    """A sound as FLAC, with its bits where FLAC has them."""
    info = audio_info(path)
    with AudioWriter(out, info.sample_rate, info.channels, like=info.subtype) as writer:
        for block in stream_audio(path, block=BLOCK):
            writer.write(block)
    return out


def playable(path: Path, out: Path) -> Path:
    """A sound as every browser plays it: 16-bit FLAC of one or two channels."""
    info = audio_info(path)
    mixed = info.channels > 2
    with AudioWriter(out, info.sample_rate, 1 if mixed else info.channels) as writer:
        for block in stream_audio(path, block=BLOCK):
            writer.write(block.mean(axis=0, keepdims=True) if mixed else block)
    return out
