"""The derived tables say what the suites ask."""

from pathlib import Path

import pandas as pd
import pytest

from tests.data.tiny_audio import COUNTS, RENDER, SIDES, write_tiny_audio
from timbreflow.errors import TimbreflowError
from timbreflow.stages.layout import Layout
from timbreflow.stages.validate_data import expected_data
from timbreflow.validation.config import ValidationConfig
from timbreflow.validation.tables import (
    COMPARED,
    clip_table,
    note_table,
    piece_table,
    split_table,
    timbre_table,
    triple_table,
)

CONFIG = ValidationConfig(
    silent_rms_dbfs=-60.0,
    max_silent_fraction=0.0,
    clipped_peak=0.999,
    max_clipped_fraction=0.0,
    min_mean_rms_dbfs=-35.0,
)
EXPECTED = expected_data(RENDER, layout=Layout(Path(__file__).parent))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    root = tmp_path_factory.mktemp("audio")
    write_tiny_audio(root)
    clips = clip_table(root, CONFIG, EXPECTED)
    clips.attrs["root"] = str(root)
    return clips


def test_what_is_expected_is_read_from_the_params() -> None:
    assert EXPECTED.triples == COUNTS
    assert EXPECTED.n_samples == 8000
    assert sorted(EXPECTED.held_out_programs) == SIDES["test"]
    assert EXPECTED.test_soundfonts == frozenset()


def test_sound_clips_are_neither_silent_nor_clipped(clips: pd.DataFrame) -> None:
    assert not clips["silent"].any()
    assert not clips["clipped"].any()
    assert (clips["rms_dbfs"] + 23).abs().max() < 0.01
    sides = clips.groupby("split")["timbre_side"].unique()
    assert {split: list(side) for split, side in sides.items()} == {
        "test": ["test"],
        "test_seen": ["train"],
        "train": ["train"],
        "validation": ["train"],
    }


def test_good_triples_keep_all_rules(clips: pd.DataFrame) -> None:
    notes = note_table(Path(clips.attrs["root"]), clips)
    table = triple_table(clips, notes)
    assert len(table) == sum(COUNTS.values())
    assert (table["roles"] == "content+style+target").all()
    assert table[["same_notes", "same_timbre", "other_timbre", "other_notes"]].all().all()


def test_notes_may_come_in_any_order_but_not_differ(clips: pd.DataFrame) -> None:
    notes = note_table(Path(clips.attrs["root"]), clips)
    shuffled = notes.sample(frac=1, random_state=1)
    assert triple_table(clips, shuffled)["same_notes"].all()
    rows = notes.index[notes["clip_id"] == "train-0000001-target"]
    changed = notes.copy()
    changed.loc[rows[0], "pitch"] += 1
    doubled = pd.concat([notes, notes.loc[rows[:1]]], ignore_index=True)
    for faulty in (changed, doubled, notes.drop(rows)):
        table = triple_table(clips, faulty).set_index("triple_id")
        assert table.index[~table["same_notes"]].tolist() == ["train-0000001"]


def test_a_style_within_the_contents_segment_is_seen(clips: pd.DataFrame) -> None:
    notes = note_table(Path(clips.attrs["root"]), clips)
    overlapping = clips.copy()
    style = overlapping["clip_id"] == "train-0000000-style"
    content = overlapping.loc[overlapping["clip_id"] == "train-0000000-content"].iloc[0]
    overlapping.loc[style, ["piece_id", "start"]] = [content["piece_id"], content["start"] + 0.5]
    table = triple_table(overlapping, notes).set_index("triple_id")
    assert table.index[~table["other_notes"]].tolist() == ["train-0000000"]
    overlapping.loc[style, "start"] = content["start"] + 1.0
    assert triple_table(overlapping, notes)["other_notes"].all()


def test_pieces_and_timbres_name_their_sides(clips: pd.DataFrame) -> None:
    pieces, timbres = piece_table(clips), timbre_table(clips, EXPECTED)
    assert set(pieces["groups"]) == {"train", "validation", "test"}
    assert set(timbres["sides"]) == {"train", "test"}
    moved = clips.copy()
    moved.loc[moved["clip_id"] == "test-0000000-target", ["timbre_id", "timbre"]] = (
        moved.loc[moved["split"] == "train", ["timbre_id", "timbre"]].iloc[0].to_list()
    )
    both = timbre_table(moved, EXPECTED)
    shared = both.loc[both["sides"] == "test+train", "part"].tolist()
    assert [str(part).split()[0] for part in shared] == ["program", "timbre"]


def test_counts_stand_beside_what_is_expected(clips: pd.DataFrame) -> None:
    notes = note_table(Path(clips.attrs["root"]), clips)
    table = split_table(clips[clips["split"] != "test"], notes, EXPECTED).set_index("split")
    assert list(table.loc["train"]) == [4, 4, 0, 0, 0]
    assert list(table.loc["test"]) == [0, 2, 0, 0, 0]


def test_a_split_of_other_music_is_far_from_training(clips: pd.DataFrame) -> None:
    notes = note_table(Path(clips.attrs["root"]), clips)
    far = [f"{column}_far" for column in COMPARED]
    assert (split_table(clips, notes, EXPECTED)[far] < 1).all().all()
    validation = notes["clip_id"].str.startswith("validation")
    higher = notes.assign(pitch=notes["pitch"].where(~validation, notes["pitch"].astype(int) + 60))
    table = split_table(clips, higher, EXPECTED).set_index("split")
    assert table.index[table["pitch_far"] > 1].tolist() == ["validation"]
    assert (table[far[1:]] < 1).all().all()


def test_limits_out_of_range_are_refused() -> None:
    for name in ("max_silent_fraction", "max_clipped_fraction", "clipped_peak"):
        with pytest.raises(TimbreflowError, match=f"validate_data.{name}"):
            ValidationConfig(**{**vars(CONFIG), name: 1.5})
