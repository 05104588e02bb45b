"""`timbreflow register`, `promote`, `average` and `release`: from trained weights to champions and to git."""

import sys
from functools import partial
from pathlib import Path

from cyclopts import App

from timbreflow.commands.common import project_root

app = App()


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
def average(folder: Path, other: Path, out: Path, *, parts: list[str] | None = None, share: float = 0.5) -> None:
    """Store the mean of two trainings' weights.

    Args:
        folder: of the weights that give all that is not averaged.
        other: of weights of the same model, such as those that the training began with.
        out: folder to make.
        parts: of the model, such as flow, an option each; all without it.
        share: of the other weights in the mean; 1 takes them over.
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
    """Store trained weights below released/, in half precision and with their card.

    Args:
        name: vqvae, vqvae-2021, glow, timbre_metric or vocoder.
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
        name: vqvae or glow.
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
