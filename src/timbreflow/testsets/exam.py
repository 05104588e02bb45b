"""A frozen test set with what listens to it, and where its weights, stored rows and results lie."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from timbreflow.audio.features import FeatureConfig
from timbreflow.data.manifest import read_manifest
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.clips import EvaluationClips, digest_of_clips
from timbreflow.evaluation.config import EvaluationConfig
from timbreflow.evaluation.evaluator import Measure, SetResult, evaluate_set
from timbreflow.evaluation.scores import digest_of_metrics
from timbreflow.evaluation.systems import System, SystemContext
from timbreflow.inference.catalogue import is_bundle
from timbreflow.inference.vocoding import open_inverter, trusted_vocoder, vocoder_beside
from timbreflow.metrics.analysis import Analyser, Analysis, compare
from timbreflow.metrics.embedding import load_embed
from timbreflow.metrics.family import FAMILIES, PROGRAMS_PER_FAMILY, FamilyClassifier, load_family_classifier
from timbreflow.metrics.onsets import TOLERANCE
from timbreflow.metrics.transcription import Transcriber
from timbreflow.models.bundle import WEIGHTS, load_bundle
from timbreflow.models.devices import resolve_device
from timbreflow.notes.tables import Notes
from timbreflow.stages.layout import Layout
from timbreflow.stages.report import MetricLogger
from timbreflow.testsets.frozen import SAMPLE_RATE, TEST_SETS, read_released, require_built
from timbreflow.workers import available_cores

ONSET_TOLERANCE = {"real": 0.15}
"""In s. Recorded instruments speak slowly: their samples are aligned at -20 dB of the peak, not where a note begins."""

RELEASED = {"vqvae-base": "vqvae"}
"""Folders below released/ that are not named like those below data/models/."""

MODELS = {"vqvae_paper": "vqvae-paper", "vqvae_base": "vqvae-base", "glow": "glow"}
"""System to the name of its weights."""


VOCODER = "vocoder"
"""Key of its weights among those that a table is made of."""


class Exam:
    """One test set and what listens to it.

    Args:
        testset: one of `TEST_SETS`.
        config: section `evaluate`.
        layout: paths.
        clips: take so many triples, in the order of their ids; 0 takes all.
        device: auto, cpu or cuda; None takes TIMBREFLOW_DEVICE.
        only: ids of the triples to take; empty takes all.
        part: the set is a part that the caller has cut from a frozen set, so that nothing in git says what it must be.

    Raises:
        TimbreflowError: there is no such set, it is not as `timbreflow testset build` makes it, or there is no timbre
            metric.
    """

    def __init__(
        self,
        testset: str,
        config: EvaluationConfig,
        *,
        layout: Layout,
        clips: int,
        device: str | None,
        only: Sequence[str] = (),
        part: bool = False,
    ) -> None:
        if testset not in TEST_SETS:
            raise TimbreflowError(f"There is no test set {testset!r}; choose from {', '.join(TEST_SETS)}.")
        self.folder = layout.root / "data" / "testsets" / testset
        if not (self.folder / "manifest.parquet").is_file():
            raise TimbreflowError(f"{self.folder} is missing; run `timbreflow testset build {testset}`.")
        self._released = None if part else read_released(layout.root / "released" / "testsets", testset)
        if self._released is not None:
            require_built(self.folder, self._released)
        self.testset = testset
        self.config = config
        self.device = resolve_device(device)
        self.tolerance = ONSET_TOLERANCE.get(testset, TOLERANCE)
        self.clips = EvaluationClips(self.folder, testset, sample_rate=SAMPLE_RATE, max_triples=clips, only=only)
        self.notes: list[str] = []
        self._layout = layout
        metric = require_weights(layout, "timbre_metric")
        if metric == layout.model("timbre_metric"):
            self.notes.append("The frozen timbre metric is not here; distances are those of the one trained here.")
        self.metric_digest, self.slow_metric_digest = (
            self._with_tolerance(digest_of_metrics(metric / WEIGHTS, config, drawn=drawn)) for drawn in (True, False)
        )
        self._analyse = Analyser(
            Transcriber(threads=available_cores()), load_embed(metric, device=self.device), sample_rate=SAMPLE_RATE
        )
        self.classifier = self._classifier()
        if self.tolerance != TOLERANCE:
            self.notes.append(f"Onsets count as found within {1000 * self.tolerance:.0f} ms on this set.")

    @property
    def test_digest(self) -> str:
        """Names the clips: that of the frozen set in git, whichever FluidSynth and libFLAC made them audible here."""
        if self._released is None:
            return digest_of_clips([self.clips])
        whole = self._released.checksums.digest
        if len(self.clips) == self._released.checksums.triples:
            return whole
        return hashlib.sha256(" ".join([whole, *self.clips.triple_ids]).encode()).hexdigest()

    def listen(
        self, builders: Mapping[str, Callable[[SystemContext], System]], *, log: MetricLogger, examples: int = 0
    ) -> tuple[SetResult, dict[str, System]]:
        """Build systems and play the set to them; keep the sound of so many triples, evenly spread."""
        features, vocoder = features_and_vocoder(self._layout)
        context = SystemContext(
            features=features,
            model_folder=lambda name: require_weights(self._layout, name),
            device=self.device,
            temperature=self.config.temperature,
            variance_scale=self.config.variance_scale,
            inverter=partial(
                open_inverter,
                vocoder=vocoder,
                n_iter=self.config.griffin_lim_iterations,
                momentum=self.config.griffin_lim_momentum,
            ),
        )
        systems = {name: build(context) for name, build in builders.items()}
        result = evaluate_set(
            self.clips,
            systems,
            self._analyse,
            sample_rate=SAMPLE_RATE,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            device=self.device,
            examples=examples,
            worst=0,
            progress=lambda done: log(done, {"testset/triples": float(done)}),
            measure=self._measure(),
            onset_tolerance=self.tolerance,
        )
        return result, systems

    def families(self) -> pd.Series:
        """triple_id to the target's family; NaN where it is layered or plays no General MIDI program."""
        clips = read_manifest(self.folder)
        targets = clips[(clips["split"] == self.testset) & (clips["role"] == "target")].set_index("triple_id")
        named = (targets["n_layers"] == 1) & targets["program"].between(0, len(FAMILIES) * PROGRAMS_PER_FAMILY - 1)
        return (targets["program"] // PROGRAMS_PER_FAMILY).where(named).astype(float)

    def _with_tolerance(self, digest: str) -> str:
        """Figures of stored rows that went by another tolerance must not pass for these."""
        if self.tolerance == TOLERANCE:
            return digest
        return hashlib.sha256(f"{digest} {self.tolerance}".encode()).hexdigest()

    def _classifier(self) -> FamilyClassifier | None:
        folder = self._layout.root / "released" / "family_classifier"
        if folder.is_dir():
            return load_family_classifier(folder)
        self.notes.append(f"Families were not asked for: {folder.relative_to(self._layout.root)} is missing.")
        return None

    def _measure(self) -> Measure:
        plain = partial(compare, onset_tolerance=self.tolerance)
        classifier = self.classifier
        if classifier is None:
            return plain

        def with_family(estimate: Analysis, target: Analysis, truth: Notes) -> dict[str, float]:
            heard, own = classifier(np.stack([estimate.mfcc, target.mfcc])).tolist()
            return plain(estimate, target, truth) | {"family_heard": float(heard), "family_of_target": float(own)}

        return with_family


def find_weights(layout: Layout, name: str) -> Path | None:
    """Folder of the released weights of that name (vqvae-base …), else of those trained here, else None."""
    for folder in (layout.root / "released" / RELEASED.get(name, name), layout.model(name)):
        if is_bundle(folder):
            return folder
    return None


def features_and_vocoder(layout: Layout) -> tuple[FeatureConfig, Path | None]:
    """Features of the models and the vocoder that transfers by them use, so that the oracle is inverted as they are.

    Raises:
        TimbreflowError: there is no model.
    """
    for name in ("vqvae-base", "glow"):
        folder = find_weights(layout, name)
        if folder is not None:
            features, vocoder = load_bundle(folder).features, vocoder_beside(folder)
            return features, vocoder if trusted_vocoder(vocoder, features) else None
    raise TimbreflowError(f"The oracle needs the features of a model, and {absence(layout, 'vqvae-base')}.")


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
    places = (layout.root / "released" / RELEASED.get(name, name), layout.model(name))
    return "neither " + " nor ".join(str(place.relative_to(layout.root)) for place in places) + " holds a model"


def read_per_clip(path: Path) -> pd.DataFrame:
    """Read a file with one row a clip.

    Raises:
        TimbreflowError: it is no table.
    """
    try:
        return pd.read_csv(path, dtype={"triple_id": str})
    except (ValueError, UnicodeDecodeError, OSError) as error:
        raise TimbreflowError(f"{path} is no table that can be read ({error}); take it from git again.") from error


def results_folder(layout: Layout, out: Path | None) -> Path:
    """Where tables of test sets go: `out`, else results/testsets."""
    return layout.root / "results" / "testsets" if out is None else out
