"""`timbreflow transfer`."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    timbreflow transfer --pairs pairs.csv --out folder"""
)
def transfer(
    content: Path | None = None,
    style: Path | None = None,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    pairs: Path | None = None,
    model: str = "vqvae",
    temperature: float | None = None,
    seed: int | None = None,
    mode: Literal["sample", "convert"] = "sample",
    fit_style: int = 0,
    expression: Literal["on", "off"] = "on",
) -> None:
    """Play the notes of CONTENT with the sound of STYLE.

    Sound files may be wav, flac, ogg or mp3, of any rate, channels and length. The result has the content's length,
    rate, channels and bits (in wav and flac); its band ends at 8 kHz.

    Args:
        content: recording whose notes are kept.
        style: half a second or more of the instrument to sound like.
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
    """
    one = content is not None and style is not None and pairs is None
    many = content is None and style is None and pairs is not None
    if not one and not many:
        raise TimbreflowError("Give CONTENT and STYLE, or --pairs PAIRS.csv; see `timbreflow transfer --help`.")

    folder, description = _find(model)
    say(f"model: {description}")

    from timbreflow.inference.synthesis import DEFAULT_TEMPERATURE, TransferOptions
    from timbreflow.inference.transfer import TimbreTransfer
    from timbreflow.models.devices import resolve_device

    session = TimbreTransfer.load(folder, device=resolve_device())
    settings: dict[str, Any] = {
        "temperature": DEFAULT_TEMPERATURE if temperature is None else temperature,
        "seed": seed or 0,
        "mode": mode,
        "fit_style": fit_style,
        "expression": expression,
    }
    given = [name for name, value in (("temperature", temperature), ("seed", seed)) if value is not None]
    if given:
        _say_what_has_no_effect(session, given, TransferOptions(**settings))
    if pairs is not None:
        written = session.transfer_pairs(pairs, out, **settings, report=say)
        say(f"wrote {len(written)} files to {out}")
    elif content is not None and style is not None:
        with progress_bar() as progress:
            result = session.transfer_file(content, style, out, **settings, progress=progress)
        say(" ".join([f"wrote {result.path}.", *result.notes]))


def _find(wanted: str) -> tuple[Path, str]:
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

    if is_bundle(Path(wanted).expanduser()):
        return Path(wanted).expanduser(), f"the model in {wanted}"
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
