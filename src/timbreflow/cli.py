"""The `timbreflow` command. Heavy imports stand inside the commands, so that help is there at once."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from timbreflow.errors import TimbreflowError

app = App(
    name="timbreflow",
    help="One-shot music timbre transfer: the notes of one recording, the sound of another.",
    help_epilogue="""For example

    timbreflow transfer melody.wav cello.wav -o melody-on-cello.wav
    timbreflow transfer melody.mp3 organ.flac -o out.flac --model glow --temperature 0.5
    timbreflow corpus list""",
    help_format="plaintext",
)
corpus = App(name="corpus", help="Music, SoundFonts and recordings that package managers can get.")
app.command(corpus)
testset = App(name="testset", help="The frozen public test sets.")
app.command(testset)


def project_root() -> Path:
    """The checkout: the nearest folder upwards that holds dvc.yaml, else the one this package was installed from."""
    installed = Path(__file__).resolve().parents[2]
    for folder in (Path.cwd(), *Path.cwd().parents, installed):
        if (folder / "dvc.yaml").is_file() and (folder / "params.yaml").is_file():
            return folder
    raise TimbreflowError(f"{Path.cwd()} is not in a timbreflow checkout; change to the folder that holds params.yaml.")


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
    rate and channels; its band ends at 8 kHz.

    Args:
        content: recording whose notes are kept.
        style: half a second or more of the instrument to sound like.
        out: sound file to write; with --pairs, the folder that gets ID.wav for each row.
        pairs: CSV file with the columns id, content, style.
        model: vqvae, glow, a folder of weights, or models:/NAME@ALIAS.
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
    _say(f"model: {resolved.description}")
    session = TimbreTransfer.load(resolved.folder, device=resolve_device())
    if pairs is not None:
        written = session.transfer_pairs(
            pairs, out, temperature=temperature, seed=seed, mode=mode, fit_style=fit_style, report=_say
        )
        _say(f"wrote {len(written)} files to {out}")
    elif content is not None and style is not None:
        with _progress_bar() as progress:
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
        _say(" ".join([f"wrote {result.path}.", *result.notes]))


@app.command(help_epilogue="For example\n\n    timbreflow collect music21 ~/midi lmd_full.tar.gz --out notes")
def collect(*sources: str, out: Path) -> None:
    """Read MIDI files, folders, archives or named corpora into note tables.

    Args:
        sources: .mid, .midi, .kar, .zip, .tar, .tar.gz, a folder, or a name of `timbreflow corpus list`.
        out: folder for pieces*.parquet, tracks*.parquet, notes*.parquet and rejects*.parquet.
    """
    from timbreflow.config import load_params
    from timbreflow.stages.collect_midi import collect as collect_sources
    from timbreflow.stages.layout import Layout

    if not sources:
        raise TimbreflowError("Name at least one source, such as a folder of MIDI files or music21.")
    root = project_root()
    config = load_params(root / "params.yaml").collect_midi
    report = collect_sources(sources, out, config, corpora=Layout(root).corpora)
    print(report.summary)


@corpus.command(name="list")
def list_sources() -> None:
    """Show every source of music, SoundFonts and recordings: size, licence, and whether it is here."""
    from timbreflow.notes.corpora import list_corpora
    from timbreflow.stages.layout import Layout

    rows = [
        (
            status.name,
            status.kind,
            f"{status.size / 1e6:.1f} MB" if status.size else "-",
            status.licence,
            "yes" if status.present else "no",
        )
        for status in list_corpora(Layout(project_root()).corpora)
    ]
    _print_table(("name", "kind", "size", "licence", "present"), rows)


@corpus.command
def fetch(*names: str) -> None:
    """Get sources with the package manager that has them; Lakh MIDI only gets its download line.

    Args:
        names: names of `timbreflow corpus list`.
    """
    from timbreflow.notes.corpora import fetch as fetch_corpus
    from timbreflow.rendering.soundfonts import install_soundfont
    from timbreflow.stages.layout import Layout

    if not names:
        raise TimbreflowError("Name at least one source of `timbreflow corpus list`.")
    layout = Layout(project_root())
    for name in names:
        fetched = fetch_corpus(name, layout.corpora)
        print(fetched.message)
        if fetched.path is not None and fetched.path.suffix in (".sf2", ".sf3"):
            font = install_soundfont(fetched.path, layout.soundfonts)
            print(f"For render_triples.soundfonts: {{name: {font.name}, sha256: {font.sha256}, role: train}}")


@testset.command(
    name="build", help_epilogue="For example\n\n    timbreflow testset build\n    timbreflow testset build real"
)
def build_testsets(*names: str, out: Path | None = None) -> None:
    """Render test sets from their recipes in git and compare them with the checksums there.

    Args:
        names: artificial, seen, real; all when none is named. Missing SoundFonts and recordings are fetched.
        out: folder that gets one folder a set; data/testsets when left out.
    """
    from timbreflow.stages.layout import Layout
    from timbreflow.stages.testsets import build

    root = project_root()
    target = root / "data" / "testsets" if out is None else out
    build(names, layout=Layout(root), released=root / "released" / "testsets", out=target, say=print)


@testset.command(name="draw", help_epilogue="For example\n\n    timbreflow testset draw --out drawn")
def draw_testsets(*, out: Path, notes: Path | None = None) -> None:
    """For maintainers: draw the test sets as those in git once were. Another set is another exam.

    Args:
        out: folder for the drawn sets, in the form of released/testsets.
        notes: folder of note tables; data/notes when left out.
    """
    from timbreflow.stages.layout import Layout
    from timbreflow.stages.testset_drawing import draw

    layout = Layout(project_root())
    draw(layout.notes if notes is None else notes, layout=layout, released=out, say=_say)


@app.command(
    help_epilogue="""For example

    timbreflow evaluate --testset artificial
    timbreflow evaluate --testset seen --recompute musaicing --clips 20"""
)
def evaluate(
    *,
    testset: str,
    systems: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    recompute: str | None = None,
    clips: int | None = None,
    store: bool = False,
    out: Path | None = None,
) -> None:
    """Print the table of a frozen test set, or compute a stored row again.

    Args:
        testset: artificial, seen or real.
        systems: rows; copies and oracle are always among them. Without --out a table of chosen rows is not written.
        recompute: row that is held against what is stored of it; exit code 1 where its LSD moved by over .05 dB.
        clips: triples; 20 with --recompute, else all; a table of fewer is not written.
        store: with --recompute, compute a slow row on all clips and write its file below released/baselines.
        out: folder of tables, results/testsets by default.
    """
    if store and recompute is None:
        raise TimbreflowError("--store needs --recompute NAME; see `timbreflow evaluate --help`.")

    from timbreflow.config import load_params
    from timbreflow.stages import recompute as again
    from timbreflow.stages.evaluate_testset import run
    from timbreflow.stages.layout import Layout

    root = project_root()
    config, layout = load_params(root / "params.yaml").evaluate, Layout(root)

    def log(done: int, values: Mapping[str, float]) -> None:
        if "testset/triples" in values:
            _say(f"{done} triples")

    if recompute is None:
        print(run(testset, config, layout=layout, systems=systems or (), clips=clips or 0, out=out, log=log).summary)
    elif store:
        print(f"wrote {again.store(testset, recompute, config, layout=layout, log=log, say=_say)}")
    else:
        compared = again.recompute(
            testset,
            recompute,
            config,
            layout=layout,
            clips=20 if clips is None else clips,
            out=out,
            log=log,
            say=_say,
        )
        print(compared.sentence)
        if not compared.reproduced:
            sys.exit(1)


@app.command
def preset(name: str | None = None) -> None:
    """Rewrite params.yaml from a preset; without a name, list the presets.

    Args:
        name: such as default, gpu or paper.
    """
    from timbreflow.config import preset_names, write_preset

    if name is None:
        print("\n".join(preset_names()))
        return
    path = project_root() / "params.yaml"
    write_preset(name, path)
    print(f"Wrote preset {name} to {path}; `git diff params.yaml` shows what changed.")


@app.command
def register(*, check: bool = False, released: bool = False) -> None:
    """Register the trained models in MLflow as challengers; a version that holds the same weights is kept.

    Args:
        check: the same, said aloud in scripts: only what the registry lacks is ever registered.
        released: the models below released/ instead, measured on this checkout's test clips first.
    """
    from timbreflow.config import load_params
    from timbreflow.stages.evaluate import evaluate_again
    from timbreflow.stages.layout import Layout
    from timbreflow.stages.register_models import candidates, released_candidates
    from timbreflow.tracking.registry import register_candidate

    root = project_root()
    params, layout = load_params(root / "params.yaml"), Layout(root)
    evaluate = partial(evaluate_again, params.evaluate, params.audio, layout=layout)
    found = (
        released_candidates(params.register_models, evaluate, layout=layout)
        if released
        else candidates(params.register_models, layout=layout)
    )
    for candidate in found:
        print(register_candidate(candidate, root=root))


@app.command
def release(name: str, folder: Path, *, cost: str = "") -> None:
    """Store trained weights below released/, in half precision and with their card.

    Args:
        name: vqvae, vqvae-paper, glow, timbre_metric or vocoder.
        folder: of the trained weights, or the released ones again to bring new figures into the card.
        cost: what the training cost, such as "7 h on 2 CPU cores, 21 triples/s".
    """
    from timbreflow.config import load_params
    from timbreflow.stages.layout import Layout
    from timbreflow.stages.release import release as release_bundle

    root = project_root()
    params = load_params(root / "params.yaml")
    fonts = [font.name for font in params.render_triples.soundfonts if font.role == "train"]
    corpora = params.collect_midi.sources
    print(release_bundle(name, folder, layout=Layout(root), fonts=fonts, corpora=corpora, cost=cost).summary)


@app.command
def promote(name: str, *, rollback: bool = False) -> None:
    """Make the challenger the champion, if it passes the gate of params.yaml.

    Exit code 1 when the gate refuses.

    Args:
        name: timbreflow-vqvae or timbreflow-glow.
        rollback: move `champion` back to the version that held it before.
    """
    from timbreflow.config import load_params
    from timbreflow.stages.evaluate import evaluate_again
    from timbreflow.stages.layout import Layout
    from timbreflow.tracking import promotion

    root = project_root()
    if rollback:
        print(promotion.rollback(name, root=root))
        return
    params = load_params(root / "params.yaml")
    evaluate = partial(evaluate_again, params.evaluate, params.audio, layout=Layout(root))
    result = promotion.promote(name, params.register_models.gate, root=root, evaluate=evaluate)
    print(result.table())
    if not result.promoted:
        sys.exit(1)


@app.command
def ui() -> None:
    """Start this checkout's Prefect and MLflow servers on 127.0.0.1."""
    from timbreflow.app.servers import start

    for name, url in start(project_root()).items():
        print(f"{name:8} {url}")


@app.command
def stop() -> None:
    """Stop this checkout's servers."""
    from timbreflow.app.servers import stop as stop_servers

    print("stopped: " + (", ".join(stop_servers(project_root())) or "nothing was running"))


@app.command
def where() -> None:
    """Say what to open: the report, the Prefect page, the MLflow page."""
    from timbreflow.app.servers import SERVERS, running_url

    root = project_root()
    report = root / "results" / "evaluate" / "report.html"
    print(f"report   {report.as_uri() if report.is_file() else 'not made yet: make run'}")
    for server in SERVERS:
        print(f"{server.name:8} {running_url(server, root) or 'not running: make ui'}")


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main() -> None:
    """Entry point: errors that a person can mend become one sentence and exit code 2."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        app(exit_on_error=False, print_error=False)
    except CycloptsError as error:
        sys.exit(_fail(f"{error}; see `timbreflow --help`."))
    except TimbreflowError as error:
        sys.exit(_fail(str(error)))
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            sys.exit(_fail(_os_error_sentence(error)))
        # The reader, `head` for instance, has seen enough; what Python flushes at exit goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _os_error_sentence(error: OSError) -> str:
    """What the system refused, with the file where it names one."""
    place = error.filename or "A file"
    if error.filename2:
        place = f"{place} -> {error.filename2}"
    return f"{place} cannot be used ({error.strerror or error}); check its folder, its permissions and the free space."


@contextmanager
def _progress_bar() -> Iterator[Callable[[float], None]]:
    """A bar on standard error where that is a terminal; yields a function that takes the fraction that is done."""
    from tqdm import tqdm

    layout = "{percentage:3.0f}% |{bar}| {elapsed} so far, {remaining} left"
    with tqdm(total=1.0, file=sys.stderr, leave=False, bar_format=layout, disable=not sys.stderr.isatty()) as bar:

        def show(fraction: float) -> None:
            bar.update(fraction - bar.n)

        yield show


def _say(sentence: str) -> None:
    """What is not the result itself goes to standard error."""
    print(sentence, file=sys.stderr)


def _fail(sentence: str) -> int:
    print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
