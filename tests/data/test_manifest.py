"""Tables keep what is written, and a broken one is told apart."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.tiny_audio import COUNTS, write_tiny_audio
from timbreflow.data.manifest import (
    MANIFEST_SCHEMA,
    all_triple_positions,
    read_clip_notes,
    read_manifest,
    triple_positions,
    write_clip_notes,
    write_manifest,
)
from timbreflow.errors import TimbreflowError


def test_tables_come_back_as_they_were_and_byte_for_byte(tmp_path: Path) -> None:
    write_tiny_audio(tmp_path / "a")
    clips, notes = read_manifest(tmp_path / "a"), read_clip_notes(tmp_path / "a")
    write_manifest(tmp_path / "b", clips)
    write_manifest(
        tmp_path / "c", [{str(key): value for key, value in row.items()} for row in clips.to_dict("records")]
    )
    write_clip_notes(tmp_path / "b", notes)
    pd.testing.assert_frame_equal(read_manifest(tmp_path / "b"), clips)
    for other, name in (("b", "manifest"), ("c", "manifest"), ("b", "clip_notes")):
        first, second = (tmp_path / folder / f"{name}.parquet" for folder in ("a", other))
        assert first.read_bytes() == second.read_bytes()


def test_missing_column_wrong_type_and_wrong_file_are_named(tmp_path: Path) -> None:
    write_tiny_audio(tmp_path)
    path = tmp_path / "manifest.parquet"
    table = pq.ParquetFile(path).read()
    pq.write_table(table.drop_columns(["peak"]), path)
    with pytest.raises(TimbreflowError, match="lacks the column peak"):
        read_manifest(tmp_path)
    pq.write_table(table.set_column(table.schema.get_field_index("peak"), "peak", table["offset"]), path)
    with pytest.raises(TimbreflowError, match="int64 in the column peak where float"):
        read_manifest(tmp_path)
    path.write_text("not a table")
    with pytest.raises(TimbreflowError, match="not a readable Parquet file"):
        read_manifest(tmp_path)
    path.unlink()
    with pytest.raises(TimbreflowError, match="missing"):
        read_manifest(tmp_path)


def test_rows_that_do_not_fit_the_schema_leave_no_file(tmp_path: Path) -> None:
    good = {name: 0 if not pa.types.is_string(kind) else "x" for name, kind in _fields()}
    with pytest.raises(TimbreflowError, match="column 'peak' is missing"):
        write_manifest(tmp_path, [{key: value for key, value in good.items() if key != "peak"}])
    with pytest.raises(TimbreflowError, match="cannot be written"):
        write_manifest(tmp_path, [{**good, "n_layers": 1000}])
    assert list(tmp_path.iterdir()) == []


def test_triples_point_at_their_clips(tmp_path: Path) -> None:
    write_tiny_audio(tmp_path)
    clips = read_manifest(tmp_path).sample(frac=1, random_state=0).reset_index(drop=True)
    for split, count in COUNTS.items():
        positions = triple_positions(clips, split)
        assert len(positions) == count
        for role in ("content", "style", "target"):
            rows = clips.iloc[positions[role]]
            assert (rows["role"] == role).all()
            assert np.array_equal(rows["triple_id"], positions.index)


def test_incomplete_and_doubled_triples_are_refused(tmp_path: Path) -> None:
    write_tiny_audio(tmp_path)
    clips = read_manifest(tmp_path)
    with pytest.raises(TimbreflowError, match="train-0000000 of the split train lacks its style"):
        triple_positions(clips[clips["clip_id"] != "train-0000000-style"], "train")
    with pytest.raises(TimbreflowError, match="one role twice"):
        triple_positions(pd.concat([clips, clips], ignore_index=True), "train")
    with pytest.raises(TimbreflowError, match="no clips"):
        triple_positions(clips[clips["split"] != "test"], "test")


def with_counterparts(clips: pd.DataFrame) -> pd.DataFrame:
    """A fourth clip for each training triple: the style's notes with the content's timbre."""
    train = clips[clips["split"] == "train"]
    style = train[train["role"] == "style"].set_index("triple_id")
    content = train[train["role"] == "content"].set_index("triple_id")
    fourth = style.assign(role="counterpart", timbre_id=content["timbre_id"], clip_id=style["clip_id"] + "-2")
    return pd.concat([clips, fourth.reset_index()], ignore_index=True)


def test_a_square_is_four_true_triples(tmp_path: Path) -> None:
    write_tiny_audio(tmp_path)
    clips = with_counterparts(read_manifest(tmp_path))
    rows = all_triple_positions(clips, "train")
    assert len(rows) == 4 * COUNTS["train"] == len(set(rows.index))
    place = clips["piece_id"] + "/" + clips["track"].astype(str) + "/" + clips["start"].astype(str)
    content, style, target = rows["content"], rows["style"], rows["target"]
    assert np.array_equal(place[content], place[target])
    assert np.array_equal(clips["timbre_id"][style], clips["timbre_id"][target])
    assert (clips["timbre_id"][content].to_numpy() != clips["timbre_id"][target].to_numpy()).all()
    assert (clips["clip_id"][style].to_numpy() != clips["clip_id"][target].to_numpy()).all()
    assert len(set(target)) == len(target), "each clip is the target once"
    assert len(all_triple_positions(clips, "test")) == COUNTS["test"]
    with pytest.raises(TimbreflowError, match="lacks its counterpart"):
        all_triple_positions(clips.iloc[:-1].reset_index(drop=True), "train")


def _fields() -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in MANIFEST_SCHEMA]
