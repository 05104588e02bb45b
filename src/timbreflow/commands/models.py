"""`timbreflow register`, `promote`, `lineage`, `reproduce`, `average` and `release`: trained weights and champions."""

import sys
from functools import partial
from pathlib import Path

from cyclopts import App

from timbreflow.commands.common import project, project_root

app = App()


@app.command
def register(*, released: bool = False, check: bool = False) -> None:
    """Register the trained models in MLflow as challengers. Weights that the registry holds are not stored again.

    Args:
        released: register the models below released/ instead, after evaluating them on this checkout's test clips.
        check: register only weights that the registry lacks; registered ones keep their aliases. Without it, they
            become the challenger again.
    """
    from timbreflow.stages.evaluate import evaluate_again
    from timbreflow.stages.register_models import candidates, released_candidates
    from timbreflow.tracking import registry

    params, layout = project()
    evaluate = partial(evaluate_again, params.evaluate, params.audio, layout=layout)
    found = (
        released_candidates(evaluate, layout=layout) if released else candidates(params.register_models, layout=layout)
    )
    for candidate in found:
        print(registry.register(candidate, root=layout.root, check=check))


@app.command
def average(folder: Path, other: Path, out: Path, *, parts: list[str] | None = None, share: float = 0.5) -> None:
    """Store the weighted mean of the weights of two trainings of one model.

    Args:
        folder: the base weights; what is not averaged is taken from here.
        other: the other weights.
        out: folder to make.
        parts: average only this part, such as flow; repeat the option for several. All parts by default.
        share: weight of the other weights in the mean, 0 to 1; 1 copies them.
    """
    from timbreflow.errors import TimbreflowError
    from timbreflow.models.average import average as average_bundles
    from timbreflow.models.bundle import load_bundle, save_bundle, weights_sha256

    if out.exists():
        raise TimbreflowError(f"{out} exists; name another folder.")
    bundle = average_bundles(
        load_bundle(folder), load_bundle(other), parts=parts or (), share=share, origin=weights_sha256(other)
    )
    print(f"Stored in {out}: sha256 {save_bundle(out, bundle)}")


@app.command
def release(name: str, folder: Path, *, cost: str = "") -> None:
    """Store trained weights below released/, rounded and with their card.

    Files that would not change are left alone; weights that are released already are never written again.

    Args:
        name: vqvae, vqvae-2021, glow, refiner, timbre_metric or vocoder.
        folder: of the trained weights; or released/NAME itself, to bring new figures into its card.
        cost: what the training cost, such as "7 h on 2 CPU cores, 21 triples/s".
    """
    from timbreflow.models.release import release as release_bundle

    params, layout = project()
    print(
        release_bundle(
            name,
            folder,
            released=layout.root / "released",
            tables=layout.results("testsets"),
            fonts=[font.name for font in params.render_triples.soundfonts if font.role == "train"],
            corpora=params.collect_midi.sources,
            cost=cost,
        )
    )


@app.command
def promote(name: str, *, rollback: bool = False, reason: str = "") -> None:
    """Make the challenger the champion if it passes the gate, section register_models.gate of params.yaml.

    The exit code is 1 where it does not.

    Args:
        name: vqvae or glow.
        rollback: make the previous champion the champion again.
        reason: of a rollback, such as "notes are lost since Monday"; it is kept with both versions.
    """
    from timbreflow.errors import TimbreflowError
    from timbreflow.stages.evaluate import evaluate_again
    from timbreflow.tracking import promotion

    if rollback:
        print(promotion.rollback(name, root=project_root(), reason=reason))
        return
    if reason:
        raise TimbreflowError(
            "--reason is that of a rollback; add --rollback, since a promotion's reasons are its figures."
        )
    params, layout = project()
    evaluate = partial(evaluate_again, params.evaluate, params.audio, layout=layout)
    result = promotion.promote(name, params.register_models.gate, root=layout.root, evaluate=evaluate)
    print(result.table())
    if not result.promoted:
        sys.exit(1)


@app.command
def lineage(address: str) -> None:
    """Show where a version of the registry comes from: commit, dvc.lock, data, and the command that pulls them.

    Args:
        address: models:/NAME/VERSION or models:/NAME@ALIAS.
    """
    from timbreflow.tracking.reproduction import origin_of

    print(origin_of(address, root=project_root()).text())


@app.command
def reproduce(address: str, *, run: bool = False) -> None:
    """Print the commands that make a version of the registry again from its commit and data.

    Args:
        address: models:/NAME/VERSION or models:/NAME@ALIAS.
        run: run them too, and compare the weights; the exit code is 1 where they differ.
    """
    from timbreflow.tracking.reproduction import origin_of, remake, script

    root = project_root()
    origin = origin_of(address, root=root)
    print(script(origin, root=root))
    if run:
        same, sentence = remake(origin, root=root)
        print(sentence)
        if not same:
            sys.exit(1)
