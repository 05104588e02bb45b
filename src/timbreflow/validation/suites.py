"""What every table must be like, as Great Expectations suites."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from timbreflow.data.manifest import CLIP_NOTES_SCHEMA, COUNTERPART, MANIFEST_SCHEMA, ROLES, SPLITS
from timbreflow.data.splits import TIMBRES_OF
from timbreflow.validation.config import ExpectedData, ValidationConfig
from timbreflow.validation.engine import gx, gxe
from timbreflow.validation.tables import COMPARED

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.expectations.expectation import Expectation

DERIVED_CLIP_COLUMNS = ["rms_dbfs", "silent", "clipped", "timbre_side"]
DERIVED_NOTE_COLUMNS = ["known_clip", "clip_seconds"]
SINGLE_PRECISION = 1e-3
"""Slack of times in seconds that are stored as float32."""


def build_suites(
    config: ValidationConfig, expected: ExpectedData, settings: dict[str, int]
) -> "dict[str, ExpectationSuite]":
    """Suites by the name of their table (see validation/tables.py).

    Args:
        config: limits.
        expected: what the data must hold.
        settings: sample_rate, hop_length and n_features of the stored features.
    """
    suites = {
        "manifest": _manifest(config, expected, expected.n_samples / settings["sample_rate"]),
        "triples": _triples(),
        "splits": _splits(expected),
        "pieces": [only("groups", ["train", "validation", "test"])],
        "timbres": [only("sides", ["train", "test"])],
        "clip_notes": _clip_notes(),
        "mels": mels_suite(settings["n_features"], expected.n_samples // settings["hop_length"]),
        "statistics": statistics_suite(settings["n_features"]),
    }
    return {name: gx.ExpectationSuite(name=name, expectations=list(suite)) for name, suite in suites.items()}


def _manifest(config: ValidationConfig, expected: ExpectedData, seconds: float) -> "list[Expectation]":
    return [
        gxe.ExpectTableColumnsToMatchSet(column_set=[*MANIFEST_SCHEMA.names, *DERIVED_CLIP_COLUMNS], exact_match=True),
        *clip_expectations(config, expected.n_samples, seconds),
        only("split", SPLITS),
        only("role", [*ROLES, COUNTERPART]),
        between("offset", 0, None),
        between("n_onsets", expected.min_onsets, None),
        between("transposition", -expected.transposition, expected.transposition),
        between("bank", 0, None),
        between("program", 0, 127),
        between("n_layers", 1, max(1, expected.max_layers)),
        between("n_effects", 0, 3),
        between("gain_db", -200, 200),
        gxe.ExpectColumnPairValuesToBeInSet(
            column_A="split", column_B="timbre_side", value_pairs_set=list(TIMBRES_OF.items())
        ),
    ]


def clip_expectations(config: ValidationConfig, n_samples: int, seconds: float) -> "list[Expectation]":
    """Of any manifest: complete, each clip at its own place in a shard, of one length, neither silent nor clipped."""
    return [
        *present(MANIFEST_SCHEMA.names),
        gxe.ExpectColumnValuesToBeUnique(column="clip_id"),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["triple_id", "role"]),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["shard", "offset"]),
        between("nbytes", 1, None),
        between("start", 0, None),
        between("duration", seconds - SINGLE_PRECISION, seconds + SINGLE_PRECISION),
        between("n_samples", n_samples, n_samples),
        between("peak", 0, 1),
        between("rms", 0, 1),
        only("silent", [False], mostly=1 - config.max_silent_fraction),
        only("clipped", [False], mostly=1 - config.max_clipped_fraction),
        gxe.ExpectColumnMeanToBeBetween(column="rms_dbfs", min_value=config.min_mean_rms_dbfs),
    ]


def _triples() -> "list[Expectation]":
    return [
        only("roles", ["+".join(sorted(ROLES)), "+".join(sorted([*ROLES, COUNTERPART]))]),
        between("n_splits", 1, 1),
        *(only(rule, [True]) for rule in ("same_notes", "same_timbre", "other_timbre", "other_notes", "square")),
    ]


def _splits(expected: ExpectedData) -> "list[Expectation]":
    return [
        gxe.ExpectTableRowCountToEqual(value=len(expected.triples)),
        gxe.ExpectColumnPairValuesToBeEqual(column_A="n_triples", column_B="expected"),
        *(between(f"{column}_far", 0, 1) for column in COMPARED),
    ]


def _clip_notes() -> "list[Expectation]":
    return [
        gxe.ExpectTableColumnsToMatchSet(
            column_set=[*CLIP_NOTES_SCHEMA.names, *DERIVED_NOTE_COLUMNS], exact_match=True
        ),
        *present(CLIP_NOTES_SCHEMA.names),
        only("known_clip", [True]),
        between("onset", 0, None),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="clip_seconds", column_B="onset"),
        gxe.ExpectColumnValuesToBeBetween(column="duration", min_value=0, strict_min=True),
        between("pitch", 0, 127),
        between("velocity", 1, 127),
    ]


def mels_suite(n_features: int, n_frames: int) -> "list[Expectation]":
    """Of `mel_table`: every clip has finite features [n_features, n_frames] that are not constant."""
    return [
        only("indexed", [True]),
        gxe.ExpectColumnValuesToBeUnique(column="clip_id"),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["shard", "row"]),
        only("in_manifest", [True]),
        only("finite", [True]),
        between("n_features", n_features, n_features),
        between("n_frames", n_frames, n_frames),
        gxe.ExpectColumnValuesToBeBetween(column="std", min_value=0, strict_min=True),
    ]


def statistics_suite(n_features: int) -> "list[Expectation]":
    """Of `statistics_table`: a mean and a positive deviation of each feature."""
    # Half precision ends at 65504, so a mean beyond it cannot be of stored values.
    return [
        gxe.ExpectTableRowCountToEqual(value=n_features),
        *present(["mean", "std"]),
        between("mean", -65504, 65504),
        gxe.ExpectColumnValuesToBeBetween(column="std", min_value=0, strict_min=True, max_value=65504),
    ]


def present(columns: Sequence[str]) -> "list[Expectation]":
    """No value is missing."""
    return [gxe.ExpectColumnValuesToNotBeNull(column=column) for column in columns]


def only(column: str, values: Sequence[object], *, mostly: float = 1.0) -> "Expectation":
    """All values, or the share `mostly`, are among these."""
    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=list(values), mostly=mostly)


def between(column: str, low: float | None, high: float | None) -> "Expectation":
    """All values lie in [low, high]; None is no bound."""
    return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high)
