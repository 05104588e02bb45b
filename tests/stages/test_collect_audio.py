"""Own recordings through the same stages: clips, features, validation, and a training on pairs of one recording."""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests import small
from tests.data.tiny_audio import RENDER
from tests.sharded import run_all
from tests.stages.test_train_stages import BASE, PAPER
from timbreflow.audio.files import decode_audio, rms_dbfs, write_audio
from timbreflow.commands import sources
from timbreflow.data.manifest import read_manifest, read_table, write_manifest
from timbreflow.data.mels import ExtractConfig
from timbreflow.data.shards import AudioShards
from timbreflow.data.triples import TripleDataset
from timbreflow.errors import TimbreflowError
from timbreflow.notes.tables import REJECTS
from timbreflow.rendering.config import SplitFractions
from timbreflow.stages import collect_audio, extract_mels, train_timbre_metric, train_vqvae, validate_data
from timbreflow.stages.collect_audio import Cut, collect, holds_recordings
from timbreflow.stages.layout import Layout
from timbreflow.stages.result import ignore_metrics
from timbreflow.validation.config import ValidationConfig
from timbreflow.validation.failure import InvalidData

RATE, SECONDS = 16_000, 1.0
CUT = Cut(RATE, SECONDS, -50.0)
SPLITS = SplitFractions(0.3, 0.3, 0.0, 0.0)
VALIDATION = ValidationConfig(-50.0, 0.0, 0.999, 0.0, -30.0)
RENDERING = dataclasses.replace(RENDER, sample_rate=RATE, clip_seconds=SECONDS)


def recording(seed: int, *, seconds: float = 6.3, rate: int = 22_050, silent: tuple[int, ...] = ()) -> np.ndarray:
    """Stereo [2, N]: a tone that wanders, in noise; the seconds in `silent` are digital silence."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * (200 + 40 * seed) * time + 3 * np.sin(2 * np.pi * 0.5 * time))
    sound = 0.05 * tone + 0.01 * generator.standard_normal((2, len(time)))
    for second in silent:
        sound[:, second * rate : (second + 1) * rate] = 0
    return np.asarray(sound, np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six good recordings of all kinds, some behind a link, one with two silent seconds; five bad ones."""
    root = tmp_path_factory.mktemp("recordings")
    linked = tmp_path_factory.mktemp("elsewhere")
    (root / "deep").symlink_to(linked)
    (linked / "back").symlink_to(root)
    for number, suffix in enumerate((".wav", ".flac", ".ogg", ".mp3", ".wav", ".FLAC")):
        place = root / ("deep/er" if number % 2 else ".") / f"good{number}{suffix.lower()}"
        write_audio(place, recording(number, silent=(1, 2) if number == 4 else ()), 22_050)
        place.rename(place.with_suffix(suffix))
    (root / "twin.wav").write_bytes((root / "good0.wav").read_bytes())
    (root / "cut.wav").write_bytes((root / "good0.wav").read_bytes()[:9000])
    (root / "text.mp3").write_text("this is no sound")
    (root / "empty.flac").touch()
    write_audio(root / "short.wav", recording(8, seconds=1.5), 22_050)
    write_audio(root / "silent.wav", np.zeros((1, 3 * RATE)), RATE)
    (root / "._good1.flac").write_text("a note of a Mac")
    (root / "cover.jpg").touch()
    return root


@pytest.fixture(scope="module")
def collected(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """data/audio of these recordings, with features; tests that spoil it copy it."""
    layout = Layout(tmp_path_factory.mktemp("project"))
    collect([str(folder)], layout.audio, CUT, SPLITS, workers=2)
    run_all(extract_mels, ExtractConfig(batch_size=8, storage="uint8"), small.MELS, layout=layout)
    return layout


@pytest.fixture
def layout(collected: Layout, tmp_path: Path) -> Layout:
    shutil.copytree(collected.root / "data", tmp_path / "data")
    return Layout(tmp_path)


def test_clips_are_the_sounding_seconds_at_training_level(collected: Layout, folder: Path) -> None:
    clips = read_manifest(collected.audio)
    assert clips["timbre_id"].nunique() == 6
    assert set(clips["split"]) == {"train", "validation"}
    assert (clips.groupby("timbre_id")["split"].nunique() == 1).all()
    # Six seconds are three pairs; of the recording with two silent seconds four are left.
    assert sorted(clips.groupby("timbre_id").size()) == [4, 6, 6, 6, 6, 6]
    rested = clips[clips["timbre"] == str(folder / "good4.wav")]
    assert sorted(rested["start"]) == [0.0, 3.0, 4.0, 5.0]
    shards = AudioShards(collected.audio, sample_rate=RATE)
    for row in clips.itertuples():
        audio = shards.read(row.shard, row.offset, row.nbytes)
        assert len(audio) == RATE == row.n_samples
        assert rms_dbfs(audio) == pytest.approx(-23, abs=2)
        assert np.abs(audio).max() == pytest.approx(row.peak, abs=1e-4)


def test_a_clip_is_the_stretch_of_the_file_that_its_row_names(collected: Layout, folder: Path) -> None:
    clips = read_manifest(collected.audio)
    row = clips[(clips["timbre"] == str(folder / "good0.wav")) & (clips["start"] == 3.0)].iloc[0]
    found, _ = decode_audio(AudioShards(collected.audio).read_bytes(*row[["shard", "offset", "nbytes"]]))
    original, rate = decode_audio((folder / "good0.wav").read_bytes())
    expected = original.mean(axis=0)[3 * rate : 4 * rate] * 10 ** (row.gain_db / 20)
    spectra = (np.abs(np.fft.rfft(sound))[:4000] / len(sound) for sound in (found[0], expected))
    a, b = spectra
    assert np.corrcoef(a, b)[0, 1] > 0.999
    assert a.sum() == pytest.approx(b.sum(), rel=0.02)


def test_bad_files_are_named_with_their_reason(collected: Layout, folder: Path) -> None:
    rejects = read_table(collected.audio / "rejects.parquet", REJECTS)
    reasons = {Path(path).name: reason for path, reason in zip(rejects["path"], rejects["reason"], strict=True)}
    assert reasons == {
        "cut.wav": "broken",
        "empty.flac": "broken",
        "text.mp3": "broken",
        "short.wav": "broken",
        "silent.wav": "broken",
        "twin.wav": "duplicate",
        "._good1.flac": "passed_over",
        "cover.jpg": "passed_over",
        "back": "passed_over",
    }
    assert all(detail.endswith(".") and len(detail) > 20 for detail in rejects["detail"])


def test_the_same_bytes_again_and_what_was_begun_is_kept(
    collected: Layout, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, read = collect_audio._clips, []

    def fail_at_last(file: Path, recording_id: str, cut: Cut) -> object:
        read.append(file.name)
        if len(read) == 12:
            raise OSError(28, "No space left on device")
        return real(file, recording_id, cut)

    monkeypatch.setattr(collect_audio, "_clips", fail_at_last)
    with pytest.raises(TimbreflowError, match="make room on its disk"):
        collect([str(folder)], tmp_path / "audio", CUT, SPLITS, workers=1)
    assert not (tmp_path / "audio").exists()
    report = collect([str(folder)], tmp_path / "audio", CUT, SPLITS, workers=1)
    assert len(read) == 13, "only the one that failed is read again"
    assert "6 recordings, 34 clips" in report.summary and "6 files rejected (5 broken, 1 duplicate)" in report.summary
    for path in sorted(path for path in collected.audio.rglob("*") if path.is_file()):
        assert (tmp_path / "audio" / path.relative_to(collected.audio)).read_bytes() == path.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audio"]


def test_validation_and_training_on_pairs_of_one_recording(layout: Layout) -> None:
    report = validate_data.run(VALIDATION, RENDERING, layout=layout)
    assert "6 suites" in report.summary
    pairs = TripleDataset(layout.mels, layout.audio, split="train", pairs="self_supervised")
    batch = pairs.__getitems__(range(len(pairs)))
    assert (batch.content == batch.target).all() and not (batch.style == batch.target).all()
    assert not batch.content_roll.any()
    trained = train_vqvae.run("paper", PAPER, small.MELS, layout=layout, log=ignore_metrics, device="cpu")
    assert np.isfinite(trained.metrics["val_l1"])
    mels = dataclasses.replace(
        BASE, pairs="self_supervised", losses=dataclasses.replace(BASE.losses, roll=0.0, contrastive=0.0)
    )
    trained = train_vqvae.run("base", mels, small.MELS, layout=layout, log=ignore_metrics, device="cpu")
    assert np.isfinite(trained.metrics["val_l1"])


def test_what_needs_notes_or_triples_refuses_recordings(layout: Layout) -> None:
    validate_data.run(VALIDATION, RENDERING, layout=layout)
    with pytest.raises(TimbreflowError, match="set pairs to self_supervised"):
        train_vqvae.run("base", BASE, small.MELS, layout=layout, log=ignore_metrics, device="cpu")
    with pytest.raises(TimbreflowError, match="set losses.roll to 0"):
        config = dataclasses.replace(BASE, pairs="self_supervised")
        train_vqvae.run("base", config, small.MELS, layout=layout, log=ignore_metrics, device="cpu")
    from tests.stages.test_train_stages import METRIC

    with pytest.raises(TimbreflowError, match="recordings, which make no triples"):
        train_timbre_metric.run(METRIC, small.MELS, layout=layout, log=ignore_metrics, device="cpu")


@pytest.mark.parametrize(
    ("column", "change", "suite"),
    [
        ("split", lambda clips: clips["split"].where(clips.index > 0, "test"), "recordings"),
        ("rms", lambda clips: clips["rms"].where(clips.index > 0, 1e-5), "manifest"),
        ("start", lambda clips: clips["start"] * 0, "pairs"),
        ("piece_id", lambda clips: clips["clip_id"], "pairs"),
    ],
)
def test_planted_faults_fail_validation(column: str, change: object, suite: str, layout: Layout) -> None:
    clips = read_manifest(layout.audio)
    clips[column] = pd.Series(change(clips))  # type: ignore[operator]
    write_manifest(layout.audio, clips)
    with pytest.raises(InvalidData) as caught:
        validate_data.run(VALIDATION, RENDERING, layout=layout)
    assert suite in {failure.suite for failure in caught.value.failures}


def test_too_few_recordings_and_foreign_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(folder / "good0.wav", one)
    shutil.copy(folder / "text.mp3", one)
    with pytest.raises(TimbreflowError, match=r"1 of 2 recordings can be used, and two are needed.*text.mp3"):
        collect([str(one)], tmp_path / "audio", CUT, SPLITS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(TimbreflowError, match="holds something else than clips of recordings"):
        collect([str(folder)], tmp_path / "mine", CUT, SPLITS)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_two_recordings_are_one_for_training_and_one_for_validation(folder: Path, tmp_path: Path) -> None:
    for fraction in (0.0, 0.9):
        files = [str(folder / "good0.wav"), str(folder / "good4.wav")]
        collect(files, tmp_path / "audio", CUT, SplitFractions(fraction, 0.0, 0.0, 0.0))
        clips = read_manifest(tmp_path / "audio")
        assert clips.groupby("split")["piece_id"].nunique().to_dict() == {"train": 1, "validation": 1}


def test_names_that_are_no_text_are_collected_and_what_is_odd_is_told(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"m\xe9lodies")
    for number in range(2):
        write_audio(folder / f"{number}.wav", recording(number), 22_050)
    data = (folder / "0.wav").read_bytes()
    (folder / "0.wav").unlink()
    (folder / os.fsdecode(b"\xe9.wav")).write_bytes(data[:40] + bytes(4) + data[44:])
    out = tmp_path / os.fsdecode(b"\xff\xfe")
    report = collect([str(folder)], out, CUT, SPLITS, workers=1)
    assert read_manifest(out)["piece_id"].nunique() == 2
    (note,) = report.tables["notes"]
    assert "unfinished recording" in note["detail"]


def test_the_command_tells_recordings_from_notes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    midi = tmp_path / "midi"
    midi.mkdir()
    (midi / "a.mid").touch()
    (midi / "a.wav").touch()
    assert holds_recordings(str(folder)) and holds_recordings(str(folder / "good0.wav"))
    assert not any(map(holds_recordings, (str(midi), str(midi / "a.mid"), "music21", str(tmp_path / "missing"))))
    shutil.copy(Path(__file__).parents[2] / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TimbreflowError, match="collect them separately"):
        sources.collect(str(folder), "music21", out=tmp_path / "out")
    long = tmp_path / "long"
    for seed in (1, 2):
        write_audio(long / f"{seed}.wav", recording(seed, seconds=17), 22_050)
    sources.collect(str(long), out=tmp_path / "out")
    assert capsys.readouterr().out.startswith("2 recordings, ")
    assert not read_manifest(tmp_path / "out").empty
