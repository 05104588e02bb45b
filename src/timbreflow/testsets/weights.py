"""Which weights the frozen test sets are evaluated with: the released ones, else those trained here."""

from pathlib import Path

from timbreflow.audio.features import FeatureConfig
from timbreflow.errors import TimbreflowError
from timbreflow.inference.vocoding import trusted_vocoder, vocoder_beside
from timbreflow.models.bundle import load_bundle
from timbreflow.models.catalogue import is_bundle
from timbreflow.stages.layout import Layout


def find_weights(layout: Layout, name: str) -> Path | None:
    """Folder of the released weights of that name (vqvae …), else of those trained here, else None."""
    for folder in (layout.released / name, layout.model(name)):
        if is_bundle(folder):
            return folder
    return None


def features_and_vocoder(layout: Layout) -> tuple[FeatureConfig, Path | None]:
    """Features of the models and the vocoder that transfers by them use, so that the oracle is inverted as they are.

    Raises:
        TimbreflowError: there is no model.
    """
    for name in ("vqvae", "glow"):
        folder = find_weights(layout, name)
        if folder is not None:
            features, vocoder = load_bundle(folder).features, vocoder_beside(folder)
            return features, vocoder if trusted_vocoder(vocoder, features) else None
    raise TimbreflowError(f"The oracle needs the features of a model, and {absence(layout, 'vqvae')}.")


def require_weights(layout: Layout, name: str) -> Path:
    """Folder of `find_weights`.

    Raises:
        TimbreflowError: there is none.
    """
    folder = find_weights(layout, name)
    if folder is None:
        raise TimbreflowError(
            f"There is no {name} to evaluate with: {absence(layout, name)}; train it with `make run`."
        )
    return folder


def absence(layout: Layout, name: str) -> str:
    """Words for what `find_weights` did not find."""
    places = (layout.released / name, layout.model(name))
    return "neither " + " nor ".join(str(place.relative_to(layout.root)) for place in places) + " holds a model"
