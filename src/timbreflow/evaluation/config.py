"""What the evaluate stage is asked to do: section `evaluate` of params.yaml."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EvaluationConfig:
    """Which systems are compared on which clips, and how.

    Args:
        sets: splits of the manifest, such as test and test_seen; the first one decides what the report leads with.
        systems: rows of the table, names of `systems.SYSTEMS`.
        max_triples: triples taken of each set, in the order of their ids; 0 takes all.
        temperature: of models that sample.
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
    seed: int
    griffin_lim_iterations: int
    griffin_lim_momentum: float
    batch_size: int
    bootstrap_samples: int
    examples: int
    worst_examples: int
