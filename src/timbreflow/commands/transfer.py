"""`timbreflow transfer`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from timbreflow.commands.common import progress_bar, project_root, say
from timbreflow.errors import TimbreflowError

app = App()


@app.command(
    help_epilogue="""For example

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
    seed: int = 0,
    mode: Literal["sample", "convert"] = "sample",
    fit_style: int = 0,
) -> None:
    """Play the notes of CONTENT with the sound of STYLE.

    Sound files may be wav, flac, ogg or mp3, of any rate, channels and length. The result has the content's length,
    rate, channels and bits (in wav and flac); its band ends at 8 kHz.

    Args:
        content: recording whose notes are kept.
        style: half a second or more of the instrument to sound like.
        out: sound file to write; with --pairs, the folder that gets ID.wav for each row.
        pairs: CSV file with the columns id, content, style, as spreadsheets write it.
        model: vqvae, vqvae-2021, glow, a folder of weights, or models:/NAME@ALIAS.
        temperature: spread of the flow's samples, 0 for its most likely one; the VQ-VAE has none.
        seed: seed of everything drawn; the same seed gives the same samples.
        mode: what a flow does: sample from the notes, or convert the content's own latents, which keeps more of how it
            was played.
        fit_style: steps by which a flow fits its idea of STYLE to the recording first, 0 for none; 30 to 100 do.
    """
    one = content is not None and style is not None and pairs is None
    many = content is None and style is None and pairs is not None
    if not one and not many:
        raise TimbreflowError("Give CONTENT and STYLE, or --pairs PAIRS.csv; see `timbreflow transfer --help`.")

    from timbreflow.inference.transfer import TimbreTransfer
    from timbreflow.models.devices import resolve_device
    from timbreflow.tracking.registry import resolve

    resolved = resolve(model, root=project_root())
    say(f"model: {resolved.description}")
    session = TimbreTransfer.load(resolved.folder, device=resolve_device())
    if pairs is not None:
        written = session.transfer_pairs(
            pairs, out, temperature=temperature, seed=seed, mode=mode, fit_style=fit_style, report=say
        )
        say(f"wrote {len(written)} files to {out}")
    elif content is not None and style is not None:
        with progress_bar() as progress:
            result = session.transfer_file(
                content,
                style,
                out,
                temperature=temperature,
                seed=seed,
                mode=mode,
                fit_style=fit_style,
                progress=progress,
            )
        say(" ".join([f"wrote {result.path}.", *result.notes]))
