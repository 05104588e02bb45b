"""`timbreflow testset` and `timbreflow evaluate`: the frozen test sets and their tables of results."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from timbreflow.commands.common import project, project_root, say
from timbreflow.errors import TimbreflowError

app = App()
testset = App(
    name="testset",
    help="The frozen test sets: three sets of triples that stay the same, so that results are comparable.",
)
app.command(testset)


@testset.command(
    name="build", help_epilogue="For example\n\n    timbreflow testset build\n    timbreflow testset build real"
)
def build_testsets(*names: str, out: Path | None = None) -> None:
    """Render test sets from their recipes in git and compare the sound with the checksums there.

    Missing SoundFonts and recordings are fetched.

    Args:
        names: artificial, seen, real; all by default.
        out: folder that gets one folder a set; data/testsets by default.
    """
    from timbreflow.stages.layout import Layout
    from timbreflow.testsets.build import build

    layout = Layout(project_root())
    build(names, layout=layout, released=layout.released_testsets, out=out or layout.testsets, say=print)


@testset.command(name="export", help_epilogue="For example\n\n    timbreflow testset export real --out real-pairs")
def export_pairs(name: str, *, out: Path) -> None:
    """Write the pairs of a test set as WAV files, for another program to transfer.

    `timbreflow evaluate --testset NAME --outputs FOLDER` scores what that program makes of them.

    Args:
        name: artificial, seen or real; build it first.
        out: new folder for pairs.csv, content/ID.wav, style/ID.wav and README.txt.
    """
    from timbreflow.stages.layout import Layout
    from timbreflow.testsets.export import export
    from timbreflow.testsets.frozen import read_released

    layout = Layout(project_root())
    pairs = export(read_released(layout.released_testsets, name), built=layout.testsets / name, out=out)
    print(f"Wrote {pairs} pairs to {out}; {out / 'README.txt'} says how to score another program.")


@testset.command(name="create", help_epilogue="For example\n\n    timbreflow testset create --out created")
def create_testsets(*, out: Path, notes: Path | None = None) -> None:
    """For maintainers: create new test sets, as those in git were. Results are not comparable across sets.

    Args:
        out: folder for the new sets, in the form of released/testsets.
        notes: folder of note tables; data/notes by default.
    """
    from timbreflow.stages.layout import Layout
    from timbreflow.testsets.draw import draw

    layout = Layout(project_root())
    draw(layout.notes if notes is None else notes, layout=layout, released=out, say=say)


@testset.command(
    name="examples",
    help_epilogue="""For example

    timbreflow testset examples real real-0003 real-0040 --out heard
    timbreflow testset examples artificial --worst 5 --out heard""",
)
def write_examples(name: str, *triples: str, worst: int = 0, out: Path) -> None:
    """Write sounds and spectrograms of some triples: content, style, target, outputs of all models, and the oracle.

    Args:
        name: artificial, seen or real.
        triples: ids, such as real-0003; those of results/testsets/NAME/per_clip.parquet.
        worst: in place of ids, so many triples where the VQ-VAE's LSD was largest when the set was last evaluated here.
        out: folder for them.
    """
    if bool(triples) == (worst > 0):
        raise TimbreflowError("Name at least one triple, such as real-0003, or give --worst 5.")

    from timbreflow.testsets.examples import worst_triples
    from timbreflow.testsets.examples import write_examples as write

    params, layout = project()
    triples = triples or tuple(worst_triples(name, worst, layout=layout))
    print("\n".join(write(name, triples, params.evaluate, layout=layout, out=out)))


@app.command(
    help_epilogue="""For example

    timbreflow evaluate --testset artificial
    timbreflow evaluate --testset real --outputs made --name mine --systems glow
    timbreflow evaluate --testset seen --recompute musaicing --clips 20"""
)
def evaluate(
    *,
    testset: str,
    systems: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    recompute: str | None = None,
    clips: int | None = None,
    outputs: Path | None = None,
    name: str = "",
    store: bool = False,
    without_refiner: bool = False,
    out: Path | None = None,
) -> None:
    """Print the table of a frozen test set, score another program's sound files, or compute a stored row again.

    Args:
        testset: artificial, seen or real.
        systems: rows, separated by blanks or commas; copies and oracle are always among them. Without --out a table of
            chosen rows is not written.
        recompute: row to compute again and compare with its stored figures; exit code 1 where its LSD differs by more
            than 0.05 dB.
        clips: number of triples; 20 with --recompute, else all. A table of fewer is not written.
        outputs: folder with another program's outputs for the pairs of `timbreflow testset export`, ID.wav each, any
            sample rate, mono or stereo. They become one more row; without --out the table is not written.
        name: how the table calls the other program; the folder's name by default.
        store: with --recompute, compute a slow baseline on all clips and write its file below released/baselines.
        without_refiner: measure the models without the refiner beside them. Without --out the table is not written.
        out: folder of tables, results/testsets by default.
    """
    if name and outputs is None:
        raise TimbreflowError("--name needs --outputs FOLDER; see `timbreflow evaluate --help`.")
    if outputs is not None and recompute is not None:
        raise TimbreflowError("--outputs and --recompute exclude each other; give one of them.")
    if store and recompute is None:
        raise TimbreflowError("--store needs --recompute NAME; see `timbreflow evaluate --help`.")

    from timbreflow.testsets import recompute as again
    from timbreflow.testsets.evaluate import run

    params, layout = project()
    config = params.evaluate

    def log(done: int, values: Mapping[str, float]) -> None:
        if "testset/triples" in values:
            say(f"{done} triples")

    if recompute is None:
        report = run(
            testset,
            config,
            layout=layout,
            systems=[name for words in systems or () for name in words.split(",") if name],
            clips=clips or 0,
            outputs=outputs,
            name=name,
            out=out,
            refined=not without_refiner,
            log=log,
        )
        print(report.summary)
    elif store:
        print(f"wrote {again.store(testset, recompute, config, layout=layout, log=log, say=say)}")
    else:
        first = 20 if clips is None else clips
        compared = again.recompute(testset, recompute, config, layout=layout, clips=first, out=out, log=log, say=say)
        print(compared.sentence)
        if not compared.reproduced:
            sys.exit(1)
