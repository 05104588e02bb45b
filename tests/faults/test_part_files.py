"""What a killed stage leaves beside its outputs goes away at its next start, and nothing else does."""

import shutil
from pathlib import Path

import pytest

from flows import ROOT, lifetime


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lifetime, "ROOT", tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    return tmp_path


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def test_part_files_of_a_stage_go_and_others_stay(root: Path) -> None:
    parts = ("data/models/.glow-0a1b2c3d/weights.safetensors", "results/train_glow/.metrics-0a1b2c3d.json")
    others = (
        "data/models/.vqvae-0a1b2c3d/weights.safetensors",
        "results/train_glow/.metrics-mine.json",
        "results/train_glow/metrics.json",
        "data/models/glow/weights.safetensors",
        "data/models/.gitignore",
    )
    make(root, *parts, *others)
    lifetime.remove_part_files("train_glow")
    assert [name for name in (*parts, *others) if (root / name).exists()] == [*others]


def test_an_old_folder_that_was_moved_away_comes_back(root: Path) -> None:
    make(
        root,
        "data/models/.vqvae-old-abc_1/vqvae/weights.safetensors",
        "data/models/.vqvae-0a1b2c3d/weights.safetensors",
    )
    lifetime.remove_part_files("train_vqvae", "base")
    assert [path.name for path in (root / "data" / "models").iterdir()] == ["vqvae"]
    assert (root / "data/models/vqvae/weights.safetensors").exists()


def test_an_old_folder_that_was_replaced_goes(root: Path) -> None:
    make(root, "data/.audio-old-abc/audio/a", "data/audio/a", "results/render_triples/.metrics-0a1b2c3d.json")
    lifetime.remove_part_files("render_triples")
    assert (root / "data/audio/a").read_text() == "data/audio/a"
    assert [path.name for path in root.rglob(".*")] == []


def test_a_half_written_folder_of_results_goes_and_the_old_one_comes_back(root: Path) -> None:
    make(root, "results/.evaluate-0a1b2c3d/per_clip.parquet", "results/.evaluate-old-abc_1/evaluate/run.json")
    lifetime.remove_part_files("evaluate")
    assert [path.name for path in (root / "results").iterdir()] == ["evaluate"]
    assert (root / "results/evaluate/run.json").exists()


def test_a_half_written_history_goes_though_the_history_is_no_output(root: Path) -> None:
    make(root, "results/validate_data/.history-0a1b2c3d.csv", "results/validate_data/history.csv")
    lifetime.remove_part_files("validate_data")
    assert [path.name for path in (root / "results" / "validate_data").iterdir()] == ["history.csv"]


def test_a_flow_that_is_no_stage_has_no_outputs(root: Path) -> None:
    make(root, "data/.audio-0a1b2c3d/a")
    lifetime.remove_part_files("pipeline")
    assert (root / "data/.audio-0a1b2c3d/a").exists()
