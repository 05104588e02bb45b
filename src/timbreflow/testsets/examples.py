"""`timbreflow testset examples`: chosen triples of a frozen set as sounds and spectrograms, by the released weights."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.baselines.loudness import as_loud_as
from timbreflow.evaluation.config import EvaluationConfig
from timbreflow.evaluation.storage import read_table, save_sounds
from timbreflow.evaluation.systems import SYSTEMS
from timbreflow.metrics.registry import BY_NAME
from timbreflow.reporting.panels import save_panels
from timbreflow.stages.layout import Layout
from timbreflow.testsets.evaluate import TestSetEvaluation
from timbreflow.testsets.weights import find_weights


def worst_triples(testset: str, count: int, *, layout: Layout, system: str = "vqvae") -> list[str]:
    """Ids of the triples whose LSD is the largest by the last evaluation of a frozen set, the worst first.

    Raises:
        TimbreflowError: the set was not evaluated here, or without that system.
    """
    table = read_table(layout.results("testsets") / testset)
    own = table[table["system"] == system]
    if own.empty:
        raise TimbreflowError(f"The last evaluation of {testset} has no row {system}; evaluate again.")
    return list(own.nlargest(count, "lsd")["triple_id"])


def write_examples(
    testset: str,
    triples: Sequence[str],
    config: EvaluationConfig,
    *,
    layout: Layout,
    out: Path,
    device: str | None = None,
) -> list[str]:
    """Write OUT/ID.png and OUT/ID-{content, style, target, each model, oracle}.ogg for each id of a triple.

    Sounds of models are as loud as the content, as those of a transfer are.

    Returns:
        A sentence a triple: what it is, and LSD and MFCC distance of the content and of each model.

    Raises:
        TimbreflowError: the set, a triple or the timbre metric is missing.
    """
    evaluation = TestSetEvaluation(testset, config, layout=layout, device=device, only=triples)
    models = [name for name, spec in SYSTEMS.items() if spec.kind == "model" and find_weights(layout, name)]
    made = evaluation.run(["content_copied", *models, "oracle"], examples=len(triples))
    rows = {triple: own.set_index("system") for triple, own in made.table.groupby("triple_id")}
    sentences = []
    for example in made.examples:
        heard = {name: torch.from_numpy(sound) for name, sound in example.sounds.items()}
        level = {name: as_loud_as(heard[name], heard["content"]).numpy() for name in models}
        save_sounds(out / example.triple_id, replace(example, sounds={**example.sounds, **level}), suffix=".ogg")
        save_panels(out / f"{example.triple_id}.png", example)
        own = rows[example.triple_id]
        figures = (
            f"{SYSTEMS[str(name)].label} {row.lsd:.1f} dB, {BY_NAME['timbre_mfcc'].text(row.timbre_mfcc)}"
            for name, row in own.iterrows()
        )
        sentences.append(f"{example.triple_id}, {own['description'].iloc[0]}: {'; '.join(figures)}")
    return sentences
