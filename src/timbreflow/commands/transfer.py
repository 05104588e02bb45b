"""`timbreflow transfer`."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from timbreflow.commands.common import PIPELINE, progress_bar, project_root, say
from timbreflow.errors import TimbreflowError

if TYPE_CHECKING:
    from timbreflow.inference.synthesis import TransferOptions
    from timbreflow.inference.transfer import TimbreTransfer

app = App()


@app.command(
    help_epilogue="""Which model? On the test sets both are about equal. vqvae is quicker and always gives one sound;
glow gives variants (--seed, --temperature), preserves more of the playing with --mode convert, and adapts to STYLE with
--fit-style. Neither is made for drums or mixes of many instruments.

For example

    timbreflow transfer melody.wav cello.wav -o out.wav
    timbreflow transfer melody.wav cello.wav -o out.wav --model models:/timbreflow-glow@champion
    timbreflow transfer melody.wav cello.wav -o out.wav --model glow --fit-style 50
    timbreflow transfer melody.wav cello.wav flute.wav -o out.wav --blend 0.7,0.3 --strength 0.8
    timbreflow transfer melody.wav cello.wav -o out.wav --model glow --takes 4
    timbreflow transfer song.mid cello.wav -o out.wav
    timbreflow transfer --pairs pairs.csv --out folder"""
)
def transfer(
    content: Path | None = None,
    /,
    *style: Path,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    pairs: Path | None = None,
    model: str = "vqvae",
    temperature: float | None = None,
    seed: int | None = None,
    mode: Literal["sample", "convert"] = "sample",
    fit_style: int = 0,
    expression: Literal["on", "off"] = "on",
    band: Literal["full", "model"] = "full",
    blend: str = "",
    strength: float = 1.0,
    transpose: float = 0.0,
    mix: float = 1.0,
    loudness: Literal["keep", "match"] = "keep",
    stereo: Literal["mono", "mid", "channels"] = "mono",
    takes: int = 1,
    midi: Path | None = None,
) -> None:
    """Play the notes of CONTENT with the sound of STYLE.

    Sound files may be wav, flac, ogg or mp3, of any rate, channels and length. The result has the content's length,
    rate, channels and bits (in wav and flac). A .mid file as CONTENT is first rendered with a SoundFont, without drums.

    Args:
        content: recording whose notes are kept, or a .mid file.
        style: half a second or more of the instrument to sound like; up to four are blended.
        out: sound file to write; with --pairs, the folder that gets ID.wav for each row.
        pairs: CSV file with the columns id, content, style, as spreadsheets write it.
        model: vqvae, glow, a folder of weights, or models:/NAME@ALIAS.
        temperature: glow only: spread of the samples, useful from 0 (most likely sound, keeps most notes) to 0.5
            (nearer to the timbre, fewer notes); 0.25 by default.
        seed: of all random draws, 0 by default; the same seed gives the same samples.
        mode: glow only: sample draws the sound from the notes; convert re-encodes the content itself, which preserves
            more of its articulation and noise.
        fit_style: glow only: gradient steps that fit the style tokens to STYLE before the transfer, 30 to 100; 0 is
            none.
        expression: on keeps tuning, vibrato, glides and dynamics of CONTENT; off leaves them to the model.
        band: full adds what STYLE has above 8 kHz, where the models end; model adds nothing there.
        blend: weight of each style, such as 0.7,0.3; equal ones by default.
        strength: from the content's own timbre (0) to the style's (1) and beyond (at most 1.5).
        transpose: semitones by which the content is played higher; the length stays.
        mix: share of the result from 0 to 1; the rest is the content itself, in sync.
        loudness: keep the content's level, or match the style's.
        stereo: mono makes all channels the same; mid transfers their mean and keeps what they differ by; channels
            transfers each alone.
        takes: glow only: write so many takes to OUT-1.wav, OUT-2.wav ..., the best first by the model's own judgement.
        midi: .mid file that gets the notes that the model hears in CONTENT.
    """
    one = content is not None and style and pairs is None
    many = content is None and not style and pairs is not None and takes == 1 and midi is None
    if not one and not many:
        raise TimbreflowError("Give CONTENT and STYLE, or --pairs PAIRS.csv alone; see `timbreflow transfer --help`.")

    if content is not None and midi is not None:
        from timbreflow.inference.streaming.writing import require_no_inputs
        from timbreflow.inference.takes import take_paths

        require_no_inputs([*(take_paths(out, takes) if takes > 1 else [out]), midi], [content, *style])

    folder, description = find_model(model)
    say(f"model: {description}")

    from timbreflow.inference.synthesis import DEFAULT_TEMPERATURE, TransferArguments, TransferOptions
    from timbreflow.inference.transfer import TimbreTransfer
    from timbreflow.models.devices import resolve_device

    session = TimbreTransfer.load(folder, device=resolve_device())
    options = TransferArguments(
        temperature=DEFAULT_TEMPERATURE if temperature is None else temperature,
        seed=0 if seed is None else seed,
        mode=mode,
        fit_style=fit_style,
        expression=expression,
        band=band,
        blend=_weights(blend),
        strength=strength,
        transpose=transpose,
        mix=mix,
        loudness=loudness,
        stereo=stereo,
    )
    given = [name for name, value in (("temperature", temperature), ("seed", seed)) if value is not None]
    if given:
        _say_what_has_no_effect(session, given, TransferOptions(**options))
    if pairs is not None:
        written = session.transfer_pairs(pairs, out, report=say, **options)
        say(f"wrote {len(written)} files to {out}")
    elif content is not None:
        with progress_bar() as progress:
            if takes == 1:
                result = session.transfer_file(content, style, out, progress=progress, **options)
                lines = [" ".join([f"wrote {result.path}.", *result.notes])]
            else:
                made = session.takes_files(content, style, out, takes, progress=progress, **options)
                lines = [
                    f"wrote {take.result.path}: {take.figures.words} (--seed {take.seed})."
                    for take in made
                    if take.result is not None
                ]
                lines += made[0].result.notes if made[0].result is not None else ()
        for line in lines:
            say(line)
        if midi is not None:
            notes = session.midi_file(content, midi, transpose=transpose)
            say(f"wrote {len(notes)} notes to {midi}.")


def _weights(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(weight) for weight in text.split(",")) if text else ()
    except ValueError as error:
        raise TimbreflowError(f"--blend {text} is no list of numbers; write one such as 0.7,0.3.") from error


def find_model(wanted: str) -> tuple[Path, str]:
    """Folder of a model, and where it was found; the registry is asked only where there can be one."""
    try:
        root = project_root()
    except TimbreflowError:
        root = None
    if root is not None and find_spec("mlflow"):
        from timbreflow.tracking.registry import resolve

        found = resolve(wanted, root=root)
        return found.folder, found.description
    if wanted.startswith("models:/"):
        missing = f"needs the pipeline: {PIPELINE}" if root else "needs a checkout of timbreflow with a registry"
        raise TimbreflowError(f"{wanted} {missing}.")

    from timbreflow.inference.released import released_folder
    from timbreflow.models.catalogue import is_bundle

    if is_bundle(Path(os.path.expanduser(wanted))):
        return Path(os.path.expanduser(wanted)), f"the model in {wanted}"
    if Path(wanted).exists():
        raise TimbreflowError(f"{wanted} is not a model; name a folder with weights.safetensors and config.json.")
    folder = released_folder(wanted)
    return folder, f"the released {wanted} ({folder})"


def _say_what_has_no_effect(session: "TimbreTransfer", given: list[str], options: "TransferOptions") -> None:
    idle = [f"--{name}" for name in session.without_effect(options) if name in given]
    if idle:
        why = f"--mode {options.mode}" if options.mode == "convert" else f"this {session.bundle.kind}"
        if session.bundle.kind == "glow" and options.mode == "sample":
            why = "--temperature 0"
        say(f"note: {' and '.join(idle)} {'have' if len(idle) > 1 else 'has'} no effect: {why} draws no samples.")
