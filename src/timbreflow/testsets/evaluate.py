"""`timbreflow evaluate --testset NAME`: the table of a frozen test set, with the released weights.

It is no stage of the pipeline: its clips and weights are frozen, so what it gives depends on neither a rendering nor a
training here. Where a released model is missing, the one trained here takes its place, and the table says so.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.baselines.stored import StoredRow, read_stored, stored_path, with_stored
from timbreflow.evaluation.clips import EvaluationClips, digest_of_clips
from timbreflow.evaluation.config import EvaluationConfig
from timbreflow.evaluation.digest import digest_of_metrics
from timbreflow.evaluation.evaluate import REFINER, VOCODER, Evaluation, evaluate, open_context, weights_of
from timbreflow.evaluation.external import ExternalOutputs
from timbreflow.evaluation.storage import write_evaluation
from timbreflow.evaluation.summary import Summary, generalisation, plain, summarize
from timbreflow.evaluation.system import System
from timbreflow.evaluation.systems import COMPUTED, SYSTEMS
from timbreflow.files import atomic_directory, read_json, write_json, write_text
from timbreflow.metrics.analysis import FeatureCache
from timbreflow.metrics.embedding import load_embed
from timbreflow.metrics.family import load_family_classifier
from timbreflow.metrics.onsets import TOLERANCE
from timbreflow.metrics.transcription import Transcriber
from timbreflow.models.bundle import WEIGHTS
from timbreflow.models.catalogue import is_bundle
from timbreflow.models.devices import resolve_device
from timbreflow.reporting.markdown import Table, render_markdown, render_text
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import MetricLogger, StageResult, ignore_metrics
from timbreflow.testsets.frozen import SAMPLE_RATE, read_released, require_built
from timbreflow.testsets.weights import absence, features_and_vocoder, find_weights, require_weights
from timbreflow.workers import available_cores

ONSET_TOLERANCE = {"real": 0.15}
"""In s. Recorded instruments speak slowly: their samples are aligned at -20 dB of the peak, not where a note begins."""

COUNTERPART = {"artificial": "seen", "seen": "artificial"}
"""The set with the same notes on the other kind of timbre."""

PAIRS = (
    ("glow", "vqvae"),
    ("vqvae", "vqvae-2021"),
    ("glow", "transcribe_and_render"),
    ("vqvae", "transcribe_and_render"),
)
"""Systems whose difference stands in the table."""


class TestSetEvaluation:
    """One frozen test set with what measures it.

    Args:
        testset: artificial, seen or real.
        config: its sets, systems and max_triples are not looked at.
        layout: paths.
        clips: take so many triples, in the order of their ids; 0 takes all.
        device: auto, cpu or cuda; None takes TIMBREFLOW_DEVICE.
        only: ids of the triples to take; empty takes all.
        part: the set is a part that the caller has cut from a frozen set, so that nothing in git says what it must be.
        refined: whether models are followed by the refiner beside them.

    Raises:
        TimbreflowError: there is no such set, it is not as `timbreflow testset build` makes it, or there is no timbre
            metric.
    """

    __test__ = False  # pytest takes a class of this name for tests

    def __init__(
        self,
        testset: str,
        config: EvaluationConfig,
        *,
        layout: Layout,
        clips: int = 0,
        device: str | None = None,
        only: Sequence[str] = (),
        part: bool = False,
        refined: bool = True,
    ) -> None:
        folder = layout.testsets / testset
        self._released = None if part else read_released(layout.released_testsets, testset)
        if self._released is not None:
            require_built(folder, self._released)
        self.testset = testset
        self.config = config
        self.clips = EvaluationClips(folder, testset, sample_rate=SAMPLE_RATE, max_triples=clips, only=only)
        self.notes: list[str] = []
        self._layout = layout
        self._refined = refined
        self._device = resolve_device(device)
        self._tolerance = ONSET_TOLERANCE.get(testset, TOLERANCE)
        metric = require_weights(layout, "timbre_metric")
        if metric == layout.model("timbre_metric"):
            self.notes.append("The frozen timbre metric is not here; distances are those of the one trained here.")
        self.metric_digest, self.stored_metric_digest = (
            self._with_tolerance(digest_of_metrics(metric / WEIGHTS, config, drawn=drawn)) for drawn in (True, False)
        )
        classifier = layout.released / "family_classifier"
        if not classifier.is_dir():
            self.notes.append(f"Families were not asked for: {classifier.relative_to(layout.root)} is missing.")
        if self._tolerance != TOLERANCE:
            self.notes.append(f"Onsets count as found within {1000 * self._tolerance:.0f} ms on this set.")
        self._features = FeatureCache(
            Transcriber(threads=available_cores()),
            load_embed(metric, device=self._device),
            sample_rate=SAMPLE_RATE,
            classifier=load_family_classifier(classifier) if classifier.is_dir() else None,
        )

    @property
    def test_digest(self) -> str:
        """Names the clips: that of the frozen set in git, whichever FluidSynth and libFLAC made its sound here."""
        if self._released is None:
            return digest_of_clips([self.clips])
        whole = self._released.checksums.digest
        if len(self.clips) == self._released.checksums.triples:
            return whole
        return hashlib.sha256(" ".join([whole, *self.clips.triple_ids]).encode()).hexdigest()

    def run(
        self,
        systems: Sequence[str],
        *,
        strict: bool = True,
        others: Mapping[str, System] | None = None,
        log: MetricLogger = ignore_metrics,
        examples: int = 0,
        say: Callable[[str], None] = print,
    ) -> Evaluation:
        """Build systems of `SYSTEMS`, stored ones too, and evaluate them, and `others`, by the names of their rows.

        Where not `strict`, a diagnostic that the weights do not allow is left out with a note. The sounds of `examples`
        triples are kept, evenly spread; `say` gets one line a SoundFont that is fetched.

        Raises:
            TimbreflowError: weights or SoundFonts are missing, or a system gives NaN.
        """
        built = built_systems(
            systems,
            self.config,
            layout=self._layout,
            device=self._device,
            refined=self._refined,
            left_out=None if strict else self.notes,
            say=say,
        )
        return evaluate(
            [self.clips],
            built | dict(others or {}),
            self._features,
            self.config,
            device=self._device,
            examples=examples,
            onset_tolerance=self._tolerance,
            progress=lambda done: log(done, {"testset/triples": float(done)}),
        )

    def _with_tolerance(self, digest: str) -> str:
        """Figures of stored rows that went by another tolerance must not pass for these."""
        if self._tolerance == TOLERANCE:
            return digest
        return hashlib.sha256(f"{digest} {self._tolerance}".encode()).hexdigest()


def built_systems(
    names: Sequence[str],
    config: EvaluationConfig,
    *,
    layout: Layout,
    device: torch.device,
    refined: bool = True,
    left_out: list[str] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, System]:
    """Systems of `SYSTEMS` by their names, stored ones too.

    Args:
        names: of rows.
        config: section `evaluate`.
        layout: paths.
        device: where models run.
        refined: whether models are followed by the refiner beside them.
        left_out: gets a note for each diagnostic that the weights do not allow; None raises instead.
        say: gets one line a SoundFont that is fetched.

    Raises:
        TimbreflowError: weights or SoundFonts are missing.
    """
    features, vocoder = features_and_vocoder(layout)
    context = open_context(
        config,
        features,
        model_folder=lambda name: require_weights(layout, name),
        vocoder=vocoder,
        device=device,
        refined=refined,
    )
    built: dict[str, System] = {}
    for name in names:
        if (build := SYSTEMS[name].build) is not None:
            try:
                built[name] = build(context)
            except TimbreflowError as error:
                if left_out is None or SYSTEMS[name].kind != "diagnostic":
                    raise
                # Small models have neither a decoder beside the flow nor one that reads notes.
                left_out.append(f"{SYSTEMS[name].label} is left out: {error}")
        else:
            # They load FluidSynth, which the other rows do not need.
            from timbreflow.testsets.baselines import BUILDERS

            built[name] = BUILDERS[name](context, layout, say)
    return built


def run(
    testset: str,
    config: EvaluationConfig,
    *,
    layout: Layout,
    systems: Sequence[str] = (),
    clips: int = 0,
    outputs: Path | None = None,
    name: str = "",
    out: Path | None = None,
    refined: bool = True,
    device: str | None = None,
    log: MetricLogger = ignore_metrics,
) -> StageResult:
    """Evaluate a frozen test set and write OUT/NAME/{metrics.json, timing.json, per_clip.parquet, table.md}.

    Copies and oracle are always among the rows; no `systems` take all rows that are there. `outputs` is a folder with
    another program's outputs, ID.wav each, which become one more row called `name`, or like the folder. Models are
    measured without the refiner beside them where not `refined`. A table of chosen rows, with outputs or without the
    refiner is written only where `out` is given, and one of fewer `clips` than all never.

    Returns:
        A result whose summary is the table.

    Raises:
        TimbreflowError: the set, the timbre metric or the weights of an asked row are missing, or data is broken.
    """
    if clips < 0:
        raise TimbreflowError(f"--clips is {clips}; give 1 or more, or leave the option out for all clips.")
    for system in systems:
        require_system(system)
    row = (name or outputs.resolve().name) if outputs is not None else ""
    if row in SYSTEMS:
        raise TimbreflowError(f"The table has a row {row} already; give the outputs another --name.")
    wanted = [
        name for name in SYSTEMS if not systems or name in systems or SYSTEMS[name].kind in ("reference", "ceiling")
    ]
    kept = [name for name in wanted if is_stored(name, testset, layout)]
    found = {
        name: find_weights(layout, SYSTEMS[name].weights)
        for name in wanted
        if SYSTEMS[name].weights and name not in kept
    }
    missing = [name for name, folder in found.items() if folder is None]
    if missing and systems:
        require_weights(layout, SYSTEMS[missing[0]].weights)
    notes = [f"{SYSTEMS[name].label} is left out: {absence(layout, SYSTEMS[name].weights)}." for name in missing]
    notes += [
        f"{SYSTEMS[name].label}: there are no released weights, those trained here were taken."
        for name, folder in found.items()
        if folder == layout.model(SYSTEMS[name].weights)
    ]
    evaluation = TestSetEvaluation(testset, config, layout=layout, clips=clips, device=device, refined=refined)
    rows = [name for name in wanted if name not in (*kept, *missing)]
    stored, silent = _stored(
        kept,
        evaluation,
        layout,
        test_digest=None if clips else evaluation.test_digest,
        strict=bool(systems),
    )
    others: dict[str, System] = {}
    if outputs is not None:
        external = ExternalOutputs(
            outputs, evaluation.clips.triple_ids, sample_rate=SAMPLE_RATE, n_samples=evaluation.clips.n_samples
        )
        others[row] = external
        notes += external.notes
    made = evaluation.run(rows, strict=bool(systems), others=others, log=log)
    rows = [name for name in rows if name in made.timing]
    made = replace(made, table=with_stored(made.table, stored))
    summary = summarize(
        made.table, pairs=(*PAIRS, (row, "glow")) if row else PAIRS, samples=config.bootstrap_samples, seed=config.seed
    )[testset]
    facts: dict[str, Any] = {
        "weights": weights_of(
            rows, lambda name: require_weights(layout, name), features_and_vocoder(layout)[1], refined=refined
        ),
        "metric_digest": evaluation.metric_digest,
        "test_digest": evaluation.test_digest,
    }
    place = (layout.results("testsets") if out is None else out) / testset
    gaps, unequal = ({}, []) if clips else generalisation_gap(testset, summary, facts, place.parent)
    table = Table(
        heading=f"Test set {testset}",
        summary=summary,
        timing=made.timing,
        generalisation=gaps,
        notes=(*notes, *silent, *evaluation.notes, *unequal),
    )
    whole = not clips and (out is not None or not (systems or outputs or not refined))
    if whole:
        with atomic_directory(place) as folder:
            write_evaluation(folder, made)
            # Every figure with its bounds, and nothing that depends on the machine.
            figures = {
                "testset": testset,
                "triples": summary.n_triples,
                "systems": plain(summary.figures),
                "comparisons": plain(summary.differences),
                "family_classifier_on_targets": plain(summary.targets_family) if summary.targets_family else None,
                "generalisation_gap": plain(gaps),
            }
            write_json(folder / "metrics.json", figures | facts)
            write_text(folder / "table.md", render_markdown(table))
    flat = summary.flat(f"testset/{testset}")
    log(len(evaluation.clips), flat)
    return StageResult(summary=render_text(table), metrics=flat, files={"table": place / "table.md"} if whole else {})


def is_stored(system: str, testset: str, layout: Layout) -> bool:
    """Whether a row is read from released/baselines: slow baselines, and models that are not released but stored."""
    if SYSTEMS[system].kind == "model":
        return not is_bundle(layout.released / system) and stored_path(layout.baselines, system, testset).is_file()
    return system not in COMPUTED


def require_system(name: str) -> None:
    """Refuse a name that is no row.

    Raises:
        TimbreflowError: it is none.
    """
    if name not in SYSTEMS:
        raise TimbreflowError(f"There is no system {name!r}; choose from {', '.join(SYSTEMS)}.")


def generalisation_gap(
    testset: str, summary: Summary, facts: dict[str, Any], results: Path
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """The gap seen -> unseen where the other set was evaluated with the same metrics and weights, else why not."""
    other = COUNTERPART.get(testset)
    path = results / str(other) / "metrics.json"
    if other is None or not path.is_file():
        return {}, []
    stored = read_json(path)
    shared = {(weights.get(VOCODER), weights.get(REFINER)) for weights in (stored["weights"], facts["weights"])}
    if stored.get("metric_digest") != facts["metric_digest"] or len(shared) > 1:
        return {}, [
            f"No gap seen -> unseen: {other} was evaluated with other metrics, or another vocoder or refiner; evaluate "
            "it again."
        ]
    there = {
        name: {key: figure["value"] for key, figure in row.items()}
        for name, row in stored["systems"].items()
        if stored["weights"].get(name) == facts["weights"].get(name)
    }
    here = summary.means()
    return generalisation(*((here, there) if testset == "artificial" else (there, here))), []


def _stored(
    systems: Sequence[str], evaluation: TestSetEvaluation, layout: Layout, *, test_digest: str | None, strict: bool
) -> tuple[dict[str, StoredRow], list[str]]:
    """Stored rows, and sentences on those that are missing or of other clips or metrics."""
    rows, notes = {}, []
    for system in systems:
        path = stored_path(layout.baselines, system, evaluation.testset)
        try:
            rows[system] = read_stored(path, test_digest=test_digest, metric_digest=evaluation.stored_metric_digest)
        except TimbreflowError as error:
            if strict:
                raise
            notes.append(f"{SYSTEMS[system].label} is left out: {error}".replace(f"{layout.root}/", ""))
    return rows, notes
