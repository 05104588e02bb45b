"""The models that have a name: where each is trained, released and registered."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timbreflow.errors import TimbreflowError

MODEL_FILES = ("config.json", "weights.safetensors")


@dataclass(frozen=True)
class KnownModel:
    """One model of the house.

    Args:
        name: what people type.
        registered: name in MLflow's registry.
        system: row in results/evaluate/metrics.json.
        trained: name of its folder below data/models/.
        stage: stage that trains it.
        run_file: its run.json below results/.
    """

    name: str
    registered: str
    system: str
    trained: str
    stage: str
    run_file: str


@dataclass(frozen=True)
class Candidate:
    """A trained model together with what is known of it, ready for the registry.

    Args:
        model: which of the house's models it is.
        folder: its bundle.
        evaluation: {"metric_digest", "test_digest", "weights": {system: hashes}, set: {system: {metric: figure}}}, the
            shape of metrics.json.
        tags: further facts, such as the data's digest.
    """

    model: KnownModel
    folder: Path
    evaluation: Mapping[str, Any]
    tags: Mapping[str, str]


MODELS = (
    KnownModel("vqvae", "timbreflow-vqvae", "vqvae_base", "vqvae-base", "train_vqvae", "train_vqvae/base/run.json"),
    KnownModel("glow", "timbreflow-glow", "glow", "glow", "train_glow", "train_glow/run.json"),
)


def known_model(name: str) -> KnownModel:
    """Find a model by its short or its registered name.

    Raises:
        TimbreflowError: there is none.
    """
    for model in MODELS:
        if name in (model.name, model.registered):
            return model
    raise TimbreflowError(f"There is no model {name!r}; choose one of {', '.join(model.name for model in MODELS)}.")


def is_bundle(folder: Path) -> bool:
    """Whether a folder holds the two files of a bundle."""
    return all((folder / file).is_file() for file in MODEL_FILES)
