"""`timbreflow testset` and `timbreflow evaluate`: the frozen sets and their tables."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from timbreflow.commands.common import project_root, say
from timbreflow.errors import TimbreflowError

app = App()
testset = App(name="testset", help="The frozen public test sets.")
app.command(testset)


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
    from timbreflow.testsets.build import build

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
    from timbreflow.testsets.draw import draw

    layout = Layout(project_root())
    draw(layout.notes if notes is None else notes, layout=layout, released=out, say=say)


@testset.command(
    name="examples", help_epilogue="For example\n\n    timbreflow testset examples real real-0003 real-0040 --out heard"
)
def write_examples(name: str, *triples: str, out: Path) -> None:
    """Write sounds and spectrograms of chosen triples: content, style, target, what the models make, and the oracle.

    Args:
        name: artificial, seen or real.
        triples: ids, such as real-0003; those of results/testsets/NAME/per_clip.parquet.
        out: folder for them.
    """
    if not triples:
        raise TimbreflowError("Name at least one triple, such as real-0003.")

    from timbreflow.config import load_params
    from timbreflow.stages.layout import Layout
    from timbreflow.testsets.examples import write_examples as write

    root = project_root()
    config = load_params(root / "params.yaml").evaluate
    print("\n".join(write(name, triples, config, layout=Layout(root), out=out)))


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
        recompute: row to compute again and compare with the stored one; exit code 1 where its LSD moved by over .05 dB.
        clips: triples; 20 with --recompute, else all; a table of fewer is not written.
        store: with --recompute, compute a stored baseline on all clips and write its file below released/baselines.
        out: folder of tables, results/testsets by default.
    """
    if store and recompute is None:
        raise TimbreflowError("--store needs --recompute NAME; see `timbreflow evaluate --help`.")

    from timbreflow.config import load_params
    from timbreflow.stages.layout import Layout
    from timbreflow.testsets import recompute as again
    from timbreflow.testsets.evaluate import run

    root = project_root()
    config, layout = load_params(root / "params.yaml").evaluate, Layout(root)

    def log(done: int, values: Mapping[str, float]) -> None:
        if "testset/triples" in values:
            say(f"{done} triples")

    if recompute is None:
        print(run(testset, config, layout=layout, systems=systems or (), clips=clips or 0, out=out, log=log).summary)
    elif store:
        print(f"wrote {again.store(testset, recompute, config, layout=layout, log=log, say=say)}")
    else:
        compared = again.recompute(
            testset,
            recompute,
            config,
            layout=layout,
            clips=20 if clips is None else clips,
            out=out,
            log=log,
            say=say,
        )
        print(compared.sentence)
        if not compared.reproduced:
            sys.exit(1)
