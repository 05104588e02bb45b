"""`timbreflow reinstrument`: whole songs; `timbreflow familiarity`: how well a model knows a sound."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from timbreflow.commands.common import progress_bar, say
from timbreflow.commands.transfer import find_model
from timbreflow.errors import TimbreflowError

if TYPE_CHECKING:
    from timbreflow.inference.transfer import TimbreTransfer

app = App()


@app.command(
    help_epilogue="""For example

    timbreflow reinstrument song.mid
    timbreflow reinstrument song.mid --style 0=violin.wav --style 3=voice.wav -o song.wav"""
)
def reinstrument(
    song: Path,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    style: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    others: Literal["plain", "leave-out"] = "plain",
    soundfont: Path | None = None,
    model: str = "vqvae",
    temperature: float | None = None,
    seed: int = 0,
    strength: float = 1.0,
) -> None:
    """Play SONG, a MIDI file, with a recording's timbre for some of its tracks, in stereo.

    Without --style, list the tracks. Volume, pan, expression and velocities are those of the file.

    Args:
        song: .mid file.
        out: sound file to write; it lasts a second longer than the song.
        style: TRACK=FILE, the number of a track and the recording whose timbre it gets; once for each track.
        others: plain plays the other tracks by a SoundFont; leave-out leaves them out.
        soundfont: .sf2 or .sf3 file; TimGM6mb by default.
        model: vqvae, glow, a folder of weights, or models:/NAME@ALIAS.
        temperature: glow only: as in `timbreflow transfer`.
        seed: of all random draws.
        strength: from the track's plain sound (0) to the style's (1) and beyond (at most 1.5).
    """
    from timbreflow.inference import songs

    if not style:
        for track in songs.read_song(song).tracks:
            print(track.description)
        return
    styles = _styles(style)
    if out is None:
        raise TimbreflowError("Name the sound file to write by -o.")
    folder, description = find_model(model)
    say(f"model: {description}")

    from timbreflow.inference.synthesis import DEFAULT_TEMPERATURE
    from timbreflow.inference.transfer import TimbreTransfer
    from timbreflow.models.devices import resolve_device

    session = TimbreTransfer.load(folder, device=resolve_device())
    with progress_bar() as progress:
        songs.reinstrument(
            session,
            song,
            styles,
            out,
            others=others,
            soundfont=soundfont,
            progress=progress,
            temperature=DEFAULT_TEMPERATURE if temperature is None else temperature,
            seed=seed,
            strength=strength,
        )
    say(f"wrote {out}.")


def _styles(given: tuple[str, ...]) -> dict[int, Path]:
    styles: dict[int, Path] = {}
    for text in given:
        number, equals, path = text.partition("=")
        if not (equals and number.isdecimal() and path):
            raise TimbreflowError(f"--style {text} is not TRACK=FILE; write one such as --style 0=violin.wav.")
        if int(number) in styles:
            raise TimbreflowError(f"Track {number} gets two styles; give each track one.")
        styles[int(number)] = Path(path)
    return styles


@app.command(
    help_epilogue="""For example

    timbreflow familiarity cello.wav
    timbreflow familiarity --write data/testsets/seen"""
)
def familiarity(*style: Path, model: str = "glow", write: Path | None = None) -> None:
    """Say how well a model knows STYLE: how faithfully it plays STYLE's own notes, beside styles of the training.

    Args:
        style: recordings.
        model: glow, a folder of its weights, or models:/NAME@ALIAS.
        write: for maintainers: folder of clips rendered with the training's SoundFonts, such as the built test set
            seen; writes familiarity.json beside the weights, with the figures that a style is compared with.
    """
    from timbreflow.inference.transfer import TimbreTransfer
    from timbreflow.models.devices import resolve_device

    if bool(style) == (write is not None):
        raise TimbreflowError("Give STYLE, or --write FOLDER; see `timbreflow familiarity --help`.")
    folder, description = find_model(model)
    say(f"model: {description}")
    session = TimbreTransfer.load(folder, device=resolve_device())
    for path in style:
        found = session.familiarity_of_file(path)
        print(f"{path}: {found.words} ({found.echo:.2f} nats off; {found.bits_per_dim:.2f} bits per dimension)")
    if write is not None:
        say(f"wrote {_write_known(session, folder, write)}")


def _write_known(session: "TimbreTransfer", folder: Path, clips: Path) -> Path:
    from timbreflow.evaluation.clips import EvaluationClips
    from timbreflow.inference.familiarity import known_styles, write_known_styles
    from timbreflow.inference.streaming.recordings import from_array
    from timbreflow.models.bundle import weights_sha256

    rate = session.sample_rate
    batches = EvaluationClips(clips, clips.name, sample_rate=rate, max_triples=0).batches(8)
    sounds = (from_array(sound, rate, name="a style") for batch in batches for sound in batch.style)
    figures = (session.style_figures(session.styles.reference(sound).features) for sound in sounds)
    return write_known_styles(folder, known_styles(figures, weights=weights_sha256(folder), source=clips.name))
