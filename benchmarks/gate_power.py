"""How often the gate of promotion passes a challenger that is worse, equal or better by a known share.

    timbreflow evaluate --testset real
    python benchmarks/gate_power.py [--rows results/testsets/real/per_clip.parquet] [--repeats 100]

Real rows stand for two trainings: those of the released Glow are the champion's, those of the released VQ-VAE, scaled
such that their means are better or worse by exactly the share on every criterion, the challenger's. So the differences
from clip to clip are those of two real models. Clips are drawn with replacement, the same for both, and the gate of
params.yaml decides. The column "means" is what a comparison of means alone, with the same slack, would pass.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from timbreflow.config import load_params
from timbreflow.evaluation.gate import Measured, decide
from timbreflow.evaluation.gate_config import GateConfig

ROOT = Path(__file__).resolve().parents[1]
CHAMPION, CHALLENGER = "glow", "vqvae"
CLIPS = (48, 240)
BETTER = (0.2, 0.1, 0.05, 0.02, 0.0, -0.02, -0.05, -0.1)
"""Shares by which the challenger is better; negative: worse."""
SCALED = {"lsd": -1, "timbre_mfcc": -1, "onset_f1": 1}
"""Columns of the criteria, and whether more of them is better."""


def rows(path: Path, system: str) -> pd.DataFrame:
    """Rows of one system, by clip."""
    table = pd.read_parquet(path)
    columns = [*SCALED, "onset_f1_target", "onset_f1_content"]
    return table[table["system"] == system].set_index("triple_id")[columns].sort_index()


def scaled(challenger: pd.DataFrame, champion: pd.DataFrame, better: float) -> pd.DataFrame:
    """A challenger whose means are better than the champion's by exactly a share."""
    factors = {
        name: (1 + sign * better) * champion[name].mean() / challenger[name].mean() for name, sign in SCALED.items()
    }
    return challenger.assign(**{name: challenger[name] * factor for name, factor in factors.items()})


def drawn(table: pd.DataFrame, picks: np.ndarray) -> Measured:
    """The drawn clips as if they were a test set."""
    clips = table.iloc[picks].reset_index(drop=True)
    ids = [f"{number:04d}" for number in range(len(picks))]
    return Measured("glow", {}, "m", "t", clips.assign(set="test", triple_id=ids))


def passes(
    gate: GateConfig, champion: pd.DataFrame, challenger: pd.DataFrame, n_clips: int, repeats: int
) -> tuple[float, float]:
    """Shares of drawn test sets on which the challenger passes: by the gate, and by means alone."""
    generator = np.random.default_rng(n_clips)
    counts = [0, 0]
    for _ in range(repeats):
        picks = generator.integers(0, len(champion), n_clips)
        decision = decide(drawn(challenger, picks), gate, opponent=drawn(champion, picks))
        counts[0] += decision.passed
        counts[1] += all(
            (1 if gate.criteria[check.metric].better == "lower" else -1) * check.difference.value
            <= gate.criteria[check.metric].slack * abs(check.opponent)
            for check in decision.checks
            if check.difference is not None and check.opponent is not None
        )
    return counts[0] / repeats, counts[1] / repeats


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=ROOT / "results" / "testsets" / "real" / "per_clip.parquet")
    parser.add_argument("--repeats", type=int, default=100)
    arguments = parser.parse_args()
    champion, other = (rows(arguments.rows, system) for system in (CHAMPION, CHALLENGER))
    gate = load_params(ROOT / "params.yaml").register_models.gate
    # The limits say nothing about power.
    free = {
        name: replace(criterion, limit=float("inf") if criterion.better == "lower" else 0.0)
        for name, criterion in gate.criteria.items()
    }
    gate = replace(gate, criteria=free)
    print("| on every criterion | " + " | ".join(f"{n} clips: gate | means" for n in CLIPS) + " |")
    print("|---|" + "---|---|" * len(CLIPS))
    for better in BETTER:
        words = f"{abs(better):.0%} {'better' if better > 0 else 'worse'}" if better else "equal"
        challenger = scaled(other, champion, better)
        cells = [f"{share:.0%}" for n in CLIPS for share in passes(gate, champion, challenger, n, arguments.repeats)]
        print(f"| {words} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
