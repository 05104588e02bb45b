"""The models of timbreflow and their names: the one table.

A model has one name: of its folders below data/models/ and released/, of its row in tables, for `--model`, and, after
`timbreflow-`, in MLflow's registry.
"""

from dataclasses import dataclass
from pathlib import Path

from timbreflow.errors import TimbreflowError

MODEL_FILES = ("config.json", "weights.safetensors")


@dataclass(frozen=True)
class KnownModel:
    """One model.

    Attributes:
        name: the name.
        kind: of its bundle, as `models.bundle` has them.
        section: of params.yaml that trains it, such as "train_vqvae.base"; its results lie below results/ likewise.
        gated: whether register_models registers it and the gate can make it champion.
    """

    name: str
    kind: str
    section: str
    gated: bool = False

    @property
    def registered(self) -> str:
        """Name in MLflow's registry."""
        return f"timbreflow-{self.name}"

    @property
    def stage(self) -> str:
        """Stage that trains it."""
        return self.section.split(".", maxsplit=1)[0]

    @property
    def run_file(self) -> Path:
        """Its run.json, below results/."""
        return Path(*self.section.split(".")) / "run.json"


CATALOGUE = (
    KnownModel("vqvae", "vqvae", "train_vqvae.base", gated=True),
    KnownModel("vqvae-2021", "vqvae", "train_vqvae.paper"),
    KnownModel("glow", "glow", "train_glow", gated=True),
    KnownModel("refiner", "refiner", "train_refiner"),
    KnownModel("timbre_metric", "triplet", "train_timbre_metric"),
    KnownModel("vocoder", "vocoder", "train_vocoder"),
)
TRANSFER_MODELS = tuple(model for model in CATALOGUE if model.kind in ("vqvae", "glow"))
GATED = tuple(model for model in CATALOGUE if model.gated)


def known_model(name: str, among: tuple[KnownModel, ...] = CATALOGUE) -> KnownModel:
    """Find a model by its name or its name in the registry.

    Raises:
        TimbreflowError: there is none.
    """
    for model in among:
        if name in (model.name, model.registered):
            return model
    raise TimbreflowError(f"There is no model {name!r}; choose one of {', '.join(model.name for model in among)}.")


def trained_by(section: str) -> KnownModel:
    """The model that a section of params.yaml, such as "train_vqvae.base", trains.

    Raises:
        TimbreflowError: none is entered in `CATALOGUE`.
    """
    for model in CATALOGUE:
        if model.section == section:
            return model
    raise TimbreflowError(f"No model is trained by the section {section!r}; enter it in CATALOGUE of {__name__}.")


def is_bundle(folder: Path) -> bool:
    """Whether a folder holds the two files of a bundle."""
    return all((folder / file).is_file() for file in MODEL_FILES)
