"""`timbreflow testset examples`: chosen triples of a frozen set as sounds and spectrograms, by the released weights."""

from collections.abc import Sequence
from pathlib import Path

from timbreflow.evaluation.config import EvaluationConfig
from timbreflow.evaluation.systems import SYSTEMS
from timbreflow.reporting.figures import save_panels, save_sounds
from timbreflow.stages.layout import Layout
from timbreflow.stages.report import ignore_metrics
from timbreflow.testsets.exam import MODELS, Exam, find_weights


def write_examples(
    testset: str,
    triples: Sequence[str],
    config: EvaluationConfig,
    *,
    layout: Layout,
    out: Path,
    device: str | None = None,
) -> list[str]:
    """Write OUT/ID.png and OUT/ID-{content, style, target, each model, oracle}.ogg for each triple.

    Args:
        testset: artificial, seen or real.
        triples: ids, such as real-0003.
        config: section `evaluate`.
        layout: paths.
        out: folder, made where it is missing.
        device: auto, cpu or cuda; None takes TIMBREFLOW_DEVICE.

    Returns:
        A sentence a triple: what it is, and LSD and MFCC distance of the content and of each model.

    Raises:
        TimbreflowError: the set, a triple or the timbre metric is missing.
    """
    exam = Exam(testset, config, layout=layout, clips=0, device=device, only=triples)
    rows = [name for name, weights in MODELS.items() if find_weights(layout, weights) is not None]
    builders = {name: SYSTEMS[name].build for name in ("content_copied", *rows, "oracle")}
    result, _ = exam.listen(builders, log=ignore_metrics, examples=len(triples))
    figures = {(row["triple_id"], row["system"]): row for row in result.rows}
    sentences = []
    for example in result.examples:
        save_sounds(out / example.triple_id, example, suffix=".ogg")
        save_panels(out / f"{example.triple_id}.png", example)
        told = (
            f"{SYSTEMS[name].label} {figures[example.triple_id, name]['lsd']:.1f} dB, "
            f"{figures[example.triple_id, name]['timbre_mfcc']:.3f}"
            for name in builders
        )
        sentences.append(f"{example.triple_id}, {example.description}: {'; '.join(told)}")
    return sentences
