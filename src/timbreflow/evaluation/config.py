"""Settings of the stage evaluate: section `evaluate` of params.yaml."""

from dataclasses import dataclass

from timbreflow.data.manifest import SPLITS
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.systems import COMPUTED
from timbreflow.schema import require_least


@dataclass(frozen=True)
class EvaluationConfig:
    """Which systems are compared on which clips, and how.

    Args:
        sets: splits of the manifest, such as test and test_seen; the first one decides what the report leads with.
        systems: rows of the table, names of `systems.COMPUTED`.
        max_triples: triples taken of each set, in the order of their ids; 0 takes all.
        temperature: of models that sample.
        variance_scale: factor on the normalised log-mels that a model made; above 1 it raises their variance. Models
            that minimise an error vary too little (Toda and Tokuda 2007: "global variance").
        seed: of sampling, of the phases that Griffin-Lim starts from and of the bootstrap.
        griffin_lim_iterations: iterations of Griffin-Lim for every row that is inverted.
        griffin_lim_momentum: momentum of fast Griffin-Lim, 0 to 1.
        batch_size: triples that a system transfers at once.
        bootstrap_samples: draws behind every interval.
        examples: triples of each set with panels and players in the report.
        worst_examples: worst triples of each model in the report.
    """

    sets: tuple[str, ...]
    systems: tuple[str, ...]
    max_triples: int
    temperature: float
    variance_scale: float
    seed: int
    griffin_lim_iterations: int
    griffin_lim_momentum: float
    batch_size: int
    bootstrap_samples: int
    examples: int
    worst_examples: int

    def __post_init__(self) -> None:
        """Refuse what could not be evaluated."""
        for name, known in (("sets", SPLITS), ("systems", COMPUTED)):
            chosen = getattr(self, name)
            if not chosen or not set(chosen) <= set(known) or len(set(chosen)) < len(chosen):
                raise TimbreflowError(
                    f"evaluate.{name} is {list(chosen)}; name at least one of {', '.join(known)}, each once."
                )
        require_least("evaluate", self, 1, "batch_size", "bootstrap_samples", "griffin_lim_iterations")
        counts = ("max_triples", "examples", "worst_examples")
        require_least("evaluate", self, 0, *counts, "temperature", "variance_scale", "seed")
        if not 0 <= self.griffin_lim_momentum < 1:
            raise TimbreflowError(
                f"evaluate.griffin_lim_momentum is {self.griffin_lim_momentum}; set it to at least 0 and below 1."
            )
