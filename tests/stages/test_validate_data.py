"""Good data passes; each planted fault fails the stage, is named, and takes passed.json away."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.data.tiny_audio import COUNTS, FEATURES, RENDER, write_tiny_audio
from tests.sharded import run_all
from timbreflow.data.manifest import read_clip_notes, read_manifest, write_clip_notes, write_manifest
from timbreflow.data.mels import ExtractConfig, read_mel_index, write_mel_index
from timbreflow.errors import TimbreflowError
from timbreflow.files import read_json, write_json
from timbreflow.rendering.config import SoundFontSpec
from timbreflow.stages import extract_mels, validate_data
from timbreflow.stages.layout import Layout
from timbreflow.validation.config import ValidationConfig
from timbreflow.validation.failure import InvalidData
from timbreflow.validation.history import read_history

CONFIG = ValidationConfig(
    silent_rms_dbfs=-60.0,
    max_silent_fraction=0.0,
    clipped_peak=0.999,
    max_clipped_fraction=0.0,
    min_mean_rms_dbfs=-35.0,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny corpus with its features; tests copy it."""
    layout = Layout(tmp_path_factory.mktemp("corpus"))
    write_tiny_audio(layout.audio)
    run_all(extract_mels, ExtractConfig(batch_size=8, storage="float16"), FEATURES, layout=layout)
    return layout.root


@pytest.fixture
def layout(corpus: Path, tmp_path: Path) -> Layout:
    """A copy that may be spoilt."""
    shutil.copytree(corpus / "data", tmp_path / "data")
    return Layout(tmp_path)


def test_good_data_passes_and_leaves_docs_and_a_digest(layout: Layout) -> None:
    logged: list[int] = []
    report = validate_data.run(CONFIG, RENDER, layout=layout, log=lambda step, values: logged.append(len(values)))
    results = layout.results("validate_data")
    passed = read_json(results / "passed.json")
    assert set(passed) == {"suites", "digest"}
    assert passed["suites"] == [
        "clip_notes",
        "manifest",
        "mels",
        "pieces",
        "splits",
        "statistics",
        "timbres",
        "triples",
    ]
    assert passed["digest"] == validate_data.data_digest(layout)
    metrics = read_json(results / "metrics.json")
    assert metrics == report.metrics
    assert logged == [len(metrics)]
    assert metrics["failed_expectations"] == 0
    assert metrics["silent_fraction"] == 0
    assert metrics["clips"] == 3 * sum(COUNTS.values())
    assert report.files["data docs"] == results / "data_docs" / "index.html"
    page = report.files["data docs"].read_text()
    assert "manifest" in page and not re.search(r"(src|href)=", page), "it is shown without a network"
    assert [row["failed"] for row in report.tables["history"]] == ["0"]
    before = (results / "passed.json").read_bytes()
    validate_data.run(CONFIG, RENDER, layout=layout)
    assert (results / "passed.json").read_bytes() == before, "nothing in it may change without the data"


def edit_clips(change: Callable[[pd.DataFrame], None]) -> Callable[[Layout], None]:
    """A fault in the manifest."""

    def spoil(layout: Layout) -> None:
        clips = read_manifest(layout.audio)
        change(clips)
        write_manifest(layout.audio, clips)

    return spoil


def edit_notes(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Layout], None]:
    """A fault in the notes."""
    return lambda layout: write_clip_notes(layout.audio, change(read_clip_notes(layout.audio)))


def at(clip_id: str, column: str, value: str | float) -> Callable[[pd.DataFrame], None]:
    def change(clips: pd.DataFrame) -> None:
        clips.loc[clips["clip_id"] == clip_id, column] = value

    return change


def copy_cells(source: str, destination: str, columns: list[str]) -> Callable[[pd.DataFrame], None]:
    def change(clips: pd.DataFrame) -> None:
        cells = clips.loc[clips["clip_id"] == source, columns].iloc[0].tolist()
        clips.loc[clips["clip_id"] == destination, columns] = cells

    return change


def spoil_mel(layout: Layout) -> None:
    array = np.load(layout.mels / "train" / "shard-00000.npy")
    array[2, 5, 7] = np.nan
    np.save(layout.mels / "train" / "shard-00000.npy", array)


def spoil_statistics(layout: Layout) -> None:
    path = layout.mels / "statistics.json"
    value = read_json(path)
    value["std"][3] = 0.0
    write_json(path, value)


def rename_statistics_nan(layout: Layout) -> None:
    path = layout.mels / "statistics.json"
    value = read_json(path)
    value["mean"][3] = float("nan")
    path.write_text(json.dumps(value))


def shorten_mels(layout: Layout) -> None:
    for path in (layout.mels / "test").glob("*.npy"):
        np.save(path, np.load(path)[:, :, :-1])


def drop_mel_rows(layout: Layout) -> None:
    write_mel_index(layout.mels, read_mel_index(layout.mels).iloc[:-1])


TRAIN = "train-0000000-target"
FAULTS: dict[str, tuple[Callable[[Layout], None], str]] = {
    "duplicate id": (
        edit_clips(at(TRAIN, "clip_id", "train-0000000-style")),
        "clip_id: expect_column_values_to_be_uni",
    ),
    "missing value": (edit_clips(at(TRAIN, "rms", np.nan)), "column rms: expect_column_values_to_not_be_null, 1 of 30"),
    "silent clip": (edit_clips(at(TRAIN, "rms", 1e-5)), "column silent: .* 1 of 30 rows"),
    "clipped clip": (edit_clips(at(TRAIN, "peak", 1.0)), "column clipped"),
    "quiet corpus": (edit_clips(lambda clips: clips.__setitem__("rms", 0.005)), "column rms_dbfs: expect_column_mean"),
    "wrong length": (edit_clips(at(TRAIN, "n_samples", 7999)), "column n_samples"),
    "few onsets": (edit_clips(at(TRAIN, "n_onsets", 1)), "column n_onsets"),
    "transposed too far": (edit_clips(at(TRAIN, "transposition", 7)), "column transposition"),
    "unknown split": (edit_clips(at(TRAIN, "split", "extra")), "column split"),
    "piece in two splits": (
        edit_clips(copy_cells("train-0000001-content", "validation-0000000-style", ["piece_id"])),
        "suite pieces, column groups: .* 1 of .*train.validation",
    ),
    "test piece in training": (
        edit_clips(copy_cells("test-0000000-content", "train-0000002-style", ["piece_id"])),
        "suite pieces",
    ),
    "test timbre in training": (
        edit_clips(copy_cells("test-0000000-content", "train-0000002-content", ["timbre_id", "timbre", "program"])),
        "timbre_side",
    ),
    "target with another timbre": (
        edit_clips(copy_cells("train-0000001-style", TRAIN, ["timbre_id", "timbre"])),
        "suite triples, column same_timbre: .* of 11 rows",
    ),
    "target with other notes": (
        edit_notes(lambda notes: notes.assign(pitch=notes["pitch"].where(notes["clip_id"] != TRAIN, 60))),
        "suite triples, column same_notes: .* of 11 rows",
    ),
    "role twice": (edit_clips(at("train-0000002-target", "role", "style")), "column triple_id, role"),
    "clip without a triple": (
        edit_clips(at("train-0000003-target", "triple_id", "train-0000099")),
        "suite triples, column roles",
    ),
    "notes of no clip": (
        edit_notes(lambda notes: notes.assign(clip_id=notes["clip_id"].replace(TRAIN, "nobody"))),
        "known_clip",
    ),
    "note before the clip": (edit_notes(lambda notes: notes.assign(onset=notes["onset"] - 0.1)), "column onset"),
    "note of no length": (edit_notes(lambda notes: notes.assign(duration=0.0)), "column duration"),
    "note after the clip": (edit_notes(lambda notes: notes.assign(onset=notes["onset"] + 0.5)), "clip_seconds, onset"),
    "NaN in a mel": (spoil_mel, "suite mels, column finite: expect_column_values_to_be_in_set, 1 of 30"),
    "frames missing": (shorten_mels, "suite mels, column n_frames: .* 6 of 30"),
    "clip without a mel": (drop_mel_rows, "suite mels, column indexed: .* 1 of 30"),
    "deviation of zero": (spoil_statistics, "suite statistics, column std: .* 1 of 32"),
    "NaN in the statistics": (rename_statistics_nan, "suite statistics, column mean"),
}


# A run costs seconds, nearly all of it in Great Expectations: faults that do not hide one another share one.
TOGETHER = [
    ["duplicate id"],
    ["silent clip"],
    ["piece in two splits"],
    ["NaN in a mel"],
    ["missing value", "clipped clip", "wrong length", "few onsets", "transposed too far", "unknown split"],
    ["quiet corpus", "test piece in training", "test timbre in training", "frames missing", "deviation of zero"],
    ["target with another timbre", "target with other notes", "role twice", "clip without a triple"],
    ["notes of no clip", "note before the clip", "note of no length", "clip without a mel", "NaN in the statistics"],
    ["note after the clip"],
]


def test_every_fault_is_planted() -> None:
    assert sorted(name for group in TOGETHER for name in group) == sorted(FAULTS)


@pytest.mark.parametrize("names", TOGETHER, ids=", ".join)
def test_planted_faults_fail_the_stage_and_are_named(layout: Layout, names: list[str]) -> None:
    results = layout.results("validate_data")
    write_json(results / "passed.json", {"digest": "of the data before"})
    for name in names:
        FAULTS[name][0](layout)
    with pytest.raises(InvalidData, match="failed validation") as caught:
        validate_data.run(CONFIG, RENDER, layout=layout)
    failures = [str(failure) for failure in caught.value.failures]
    for name in names:
        assert any(re.search(FAULTS[name][1], failure) for failure in failures), (name, failures)
    assert failures[0] in str(caught.value)
    assert "index.html" in str(caught.value)
    assert not (results / "passed.json").exists()
    assert (results / "data_docs" / "index.html").is_file()
    assert read_json(results / "metrics.json")["failed_expectations"] >= 1
    (row,) = read_history(results / "history.csv")
    assert int(row["failed"]) == len(failures)


def test_a_share_of_silent_clips_may_be_allowed(layout: Layout) -> None:
    edit_clips(at(TRAIN, "rms", 1e-5))(layout)
    validate_data.run(dataclasses.replace(CONFIG, max_silent_fraction=0.05), RENDER, layout=layout)
    assert (layout.results("validate_data") / "passed.json").is_file()


def test_other_expected_numbers_fail(layout: Layout) -> None:
    more = dataclasses.replace(RENDER, triples=dataclasses.replace(RENDER.triples, train=5))
    with pytest.raises(TimbreflowError, match="suite splits, column n_triples, expected: .* 1 of 4"):
        validate_data.run(CONFIG, more, layout=layout)
    font = SoundFontSpec("TestFont", "1" * 64, "test")
    with pytest.raises(TimbreflowError, match="suite manifest, column split, timbre_side: .* 6 of 30"):
        validate_data.run(CONFIG, dataclasses.replace(RENDER, soundfonts=(*RENDER.soundfonts, font)), layout=layout)


def test_missing_data_is_named(layout: Layout) -> None:
    (layout.mels / "statistics.json").unlink()
    write_json(layout.results("validate_data") / "passed.json", {})
    with pytest.raises(TimbreflowError, match="statistics.json is missing"):
        validate_data.run(CONFIG, RENDER, layout=layout)
    assert not (layout.results("validate_data") / "passed.json").exists()
    (layout.audio / "clip_notes.parquet").unlink()
    with pytest.raises(TimbreflowError, match="clip_notes.parquet is missing"):
        validate_data.run(CONFIG, RENDER, layout=layout)


def test_the_digest_sees_every_byte(layout: Layout) -> None:
    before = validate_data.data_digest(layout)
    path = layout.audio / "train" / "shard-00000.tar"
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(bytes(data))
    assert validate_data.data_digest(layout) != before
