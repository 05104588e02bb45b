"""`timbreflow listen`: tests in which people say what they hear. (`make listen` is the quick start, not this.)"""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from timbreflow.commands.common import project_root, say
from timbreflow.errors import TimbreflowError

app = App()
listen = App(
    name="listen",
    help="Listening tests: make a study, let people answer it, read the results. (To hear the models yourself, type "
    "`make listen` or `timbreflow transfer`.)",
)
app.command(listen)


@listen.command(
    name="make",
    help_epilogue="""For example

    timbreflow listen make --testset real --systems vqvae,glow,musaicing,oracle --trials 24 -o study""",
)
def make_study(
    *,
    testset: str = "real",
    systems: str = "vqvae,glow,musaicing,oracle",
    trials: int = 24,
    kinds: str = "ab,abx,mushra",
    per_listener: int = 0,
    listeners: int = 20,
    seed: int = 0,
    title: str = "Which sounds nearer?",
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
) -> None:
    """Write a study: study.yaml, clips of one loudness, and the same comparisons for webMUSHRA and pymushra.

    The sound is that of the project's own evaluation, by released weights and stored baselines; musaicing takes a
    minute for ten triples.

    Args:
        testset: artificial, seen or real; build it first (`timbreflow testset build real`).
        systems: rows of the table, with commas between them.
        trials: in all; two thirds are AB (notes and timbre), a sixth ABX, a sixth MUSHRA.
        kinds: kinds of trials, with commas between them: ab, abx, mushra.
        per_listener: trials that one listener gets; the others go to other listeners. 0 is all, at most 24.
        listeners: how many listeners you plan; when as many count, `listen results` says that you can stop.
        seed: of the draw of triples and pairs.
        title: that listeners see.
        out: new folder.
    """
    from timbreflow.app.listening.make import make_study as make
    from timbreflow.config import load_params
    from timbreflow.stages.layout import Layout

    layout = Layout(project_root())
    study = make(
        out,
        testset,
        _names(systems),
        load_params(layout.params).evaluate,
        layout=layout,
        trials=trials,
        kinds=_names(kinds),
        per_listener=per_listener,
        listeners=listeners,
        seed=seed,
        title=title,
        say=say,
    )
    print(f"Wrote {len(study.trials)} trials to {out}; try it with `timbreflow listen serve {out}`.")


@listen.command(
    name="serve",
    help_epilogue="""For example

    timbreflow listen serve study
    timbreflow listen serve study --host 0.0.0.0 --port 8321""",
)
def serve_study(study: Path, /, *, host: str = "127.0.0.1", port: int = 8321) -> None:
    """Serve a study's page until Ctrl-C; every answer is on disk before the page goes on.

    Args:
        study: folder of `timbreflow listen make`.
        host: address to listen on. Beyond 127.0.0.1 only those with the printed link get in.
        port: 0 takes a free one.
    """
    from timbreflow.app.listening.server import serve

    serve(study, host=host, port=port, say=say)


@listen.command(name="results", help_epilogue="For example\n\n    timbreflow listen results study")
def write_results(study: Path, /, *, out: Path | None = None, simulated: bool = False) -> None:
    """Write win rates, strengths, ratings and listeners as CSV and as one page, and print what they say.

    It may run while the study is served.

    Args:
        study: folder of `timbreflow listen make`.
        out: folder; STUDY/results by default.
        simulated: of simulated listeners instead of people.
    """
    from timbreflow.app.listening.results import write_results as write

    print(write(study, out=out, simulated=simulated))


@listen.command(
    name="simulate",
    help_epilogue="For example\n\n    timbreflow listen simulate study --listeners 20 --preference 0.65",
)
def simulate_listeners(
    study: Path, /, *, listeners: int = 20, preference: float = 0.65, careless: float = 0.1, seed: int = 0
) -> None:
    """Rehearse: let simulated listeners answer. They are marked in the database and never shown as people.

    Args:
        study: folder of `timbreflow listen make`.
        listeners: how many.
        preference: probability that of two systems the one that the study names first is chosen.
        careless: share of them that answer by chance.
        seed: of their answers.
    """
    from timbreflow.app.listening.simulate import simulate

    saved = simulate(study, listeners, preference=preference, careless=careless, seed=seed)
    print(f"Saved {saved} simulated answers; read them with `timbreflow listen results {study} --simulated`.")


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise TimbreflowError(f"{text!r} is no list of names; write them with commas between them.")
    return names
