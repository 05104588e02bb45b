"""The tables that the suites look at: the data at rest, and what follows from it, one row a thing."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from timbreflow.data.manifest import CLIP_NOTES_SCHEMA, COUNTERPART, MANIFEST_SCHEMA, ROLES, SPLITS, read_table
from timbreflow.data.mels import MelShards, read_mel_index, read_statistics
from timbreflow.data.quantization import Quantization
from timbreflow.data.splits import PIECES_OF, TIMBRES_OF
from timbreflow.errors import TimbreflowError
from timbreflow.files import read_json
from timbreflow.rendering.timbres import Timbre
from timbreflow.validation.config import ExpectedData, ValidationConfig

COMPARED = ("pitch", "duration", "n_onsets")
"""Of the notes of clips: alike in all splits, as timbres are not meant to be."""
START_PRECISION = 1e-3
"""Seconds; starts are stored in single precision."""


def clip_table(audio: Path, config: ValidationConfig, expected: ExpectedData) -> pd.DataFrame:
    """`level_table` with timbre_side ("train", "test", or "mixed" for layers of both).

    Raises:
        TimbreflowError: the manifest is missing or lacks a column.
    """
    clips = level_table(audio, config)
    sides = {text: _timbre_side(text, expected) for text in clips["timbre"].dropna().unique()}
    clips["timbre_side"] = clips["timbre"].map(sides)
    return clips


def level_table(audio: Path, config: ValidationConfig) -> pd.DataFrame:
    """The manifest with rms_dbfs, silent and clipped.

    Raises:
        TimbreflowError: the manifest is missing or lacks a column.
    """
    clips = read_table(audio / "manifest.parquet", MANIFEST_SCHEMA, others=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        clips["rms_dbfs"] = 20 * np.log10(clips["rms"].to_numpy(dtype=np.float64))
    clips["silent"] = ~(clips["rms_dbfs"] >= config.silent_rms_dbfs)
    clips["clipped"] = clips["peak"] >= config.clipped_peak
    return clips


def note_table(audio: Path, clips: pd.DataFrame) -> pd.DataFrame:
    """The notes of clips with known_clip (its clip is in the manifest) and the clip's duration as clip_seconds.

    Raises:
        TimbreflowError: the table is missing or lacks a column.
    """
    notes = read_table(audio / "clip_notes.parquet", CLIP_NOTES_SCHEMA, others=True)
    seconds = clips.drop_duplicates("clip_id").set_index("clip_id")["duration"]
    notes["known_clip"] = notes["clip_id"].isin(seconds.index)
    notes["clip_seconds"] = notes["clip_id"].map(seconds)
    return notes


def triple_table(clips: pd.DataFrame, notes: pd.DataFrame) -> pd.DataFrame:
    """One row a triple: roles, and whether its three clips make a true triple.

    Columns: triple_id; roles (sorted, joined by +); n_splits; same_notes (content and target play the same notes);
    same_timbre (style and target); other_timbre (content and target differ); other_notes (style is no part of the
    content's segment); square (the counterpart, where there is one, plays the style's notes with the content's
    timbre). The last five are False where a role is missing.
    """
    groups = clips.assign(role=clips["role"].astype(str)).sort_values("role").groupby("triple_id", sort=True)
    table = pd.DataFrame({"roles": groups["role"].agg("+".join), "n_splits": groups["split"].nunique()})
    clips = clips.assign(notes=clips["clip_id"].map(_fingerprints(notes)))
    roles = {
        role: clips[clips["role"] == role].drop_duplicates("triple_id").set_index("triple_id").reindex(table.index)
        for role in (*ROLES, COUNTERPART)
    }
    content, style, target, fourth = roles.values()
    complete = content["clip_id"].notna() & style["clip_id"].notna() & target["clip_id"].notna()
    same_track = (content["piece_id"] == style["piece_id"]) & (content["track"] == style["track"])
    apart = (content["start"] - style["start"]).abs() >= content["duration"] - START_PRECISION
    rules = {
        "same_notes": content["notes"] == target["notes"],
        "same_timbre": style["timbre_id"] == target["timbre_id"],
        "other_timbre": content["timbre_id"] != target["timbre_id"],
        "other_notes": ~same_track | apart,
        "square": fourth["clip_id"].isna()
        | ((fourth["notes"] == style["notes"]) & (fourth["timbre_id"] == content["timbre_id"])),
    }
    for name, holds in rules.items():
        # What cannot be compared does not hold; left missing, it would be passed over by the suite.
        table[name] = complete & holds.fillna(False).astype(bool)
    return table.reset_index()


def split_table(clips: pd.DataFrame, notes: pd.DataFrame, expected: ExpectedData) -> pd.DataFrame:
    """One row a split: n_triples, expected, and how far its clips are from those of training on each of `COMPARED`.

    "Far" is the difference of the means in allowances: half a standard deviation of the training's clips, and four
    standard errors more, since a split may have few pieces. Beyond 1 the split is drawn from other music.
    """
    counts = clips.groupby("split")["triple_id"].nunique()
    names = sorted(set(counts.index) | set(SPLITS))
    table = pd.DataFrame(
        {
            "split": names,
            "n_triples": [int(counts.get(name, 0)) for name in names],
            "expected": [expected.triples.get(name, 0) for name in names],
        }
    )
    means = notes.groupby("clip_id")[["pitch", "duration"]].mean()
    clips = clips.assign(pitch=clips["clip_id"].map(means["pitch"]), duration=clips["clip_id"].map(means["duration"]))
    for column in COMPARED:
        values = clips[column].astype(np.float64)
        usual, means_of = values[clips["split"] == "train"], values.groupby(clips["split"]).mean()
        allowed = usual.std() * (0.5 + 4 / np.sqrt(clips.groupby("split")["piece_id"].nunique()))
        far = ((means_of - usual.mean()).abs() / allowed).reindex(names)
        # Nothing to compare, or nothing that varies, is not far.
        table[f"{column}_far"] = far.replace(np.inf, np.nan).fillna(0.0).to_numpy()
    return table


def piece_table(clips: pd.DataFrame) -> pd.DataFrame:
    """One row a piece: the groups of splits that use it, sorted and joined by +."""
    return _memberships(zip(clips["piece_id"], clips["split"].map(PIECES_OF), strict=True), "piece_id", "groups")


def timbre_table(clips: pd.DataFrame, expected: ExpectedData) -> pd.DataFrame:
    """One row a part of a timbre: the sides ("train", "test") that it sounds on, sorted and joined by +.

    Parts are whole timbres, programs (or SoundFonts where test has its own) and settings of effects.
    """
    pairs: set[tuple[str, str]] = set()
    for timbre_id, text, split in clips[["timbre_id", "timbre", "split"]].drop_duplicates().itertuples(index=False):
        side = TIMBRES_OF.get(split, str(split))
        pairs.add((f"timbre {timbre_id}", side))
        timbre = Timbre.from_text(text)
        for layer in timbre.layers:
            part = f"soundfont {layer.soundfont}" if expected.test_soundfonts else f"program {layer.program}"
            pairs.add((part, side))
        pairs.update((f"effect {effect.setting}", side) for effect in timbre.effects)
    return _memberships(sorted(pairs), "part", "sides")


def mel_table(mels: Path, clips: pd.DataFrame) -> pd.DataFrame:
    """One row of the index: finite, n_features, n_frames, mean and std of its values, and in_manifest.

    A clip of the manifest that the index lacks is a row with indexed False.

    Raises:
        TimbreflowError: the index or a shard is missing or corrupt.
    """
    index = read_mel_index(mels)
    shards = MelShards(mels, open_files=1)
    parts = []
    for name, group in index.groupby("shard", sort=True):
        array = shards.shard(str(name))
        # Only codes need the features' settings.
        quantization = Quantization.of(read_statistics(mels)[1]) if array.dtype == np.uint8 else None
        if group["row"].min() < 0 or group["row"].max() >= len(array):
            raise TimbreflowError(f"{mels / str(name)} has fewer rows than its index says; run extract_mels again.")
        rows = []
        for row in group["row"]:
            values = quantization.decode(array[row]) if quantization else np.asarray(array[row], dtype=np.float32)
            finite = bool(np.isfinite(values).all())
            rows.append(
                (finite, *values.shape, *((float(values.mean()), float(values.std())) if finite else (0.0, 0.0)))
            )
        columns = ["finite", "n_features", "n_frames", "mean", "std"]
        parts.append(group.assign(**dict(zip(columns, zip(*rows, strict=True), strict=True))))
    table = pd.concat(parts, ignore_index=True)
    known = clips.drop_duplicates("clip_id").set_index("clip_id")
    columns = ["triple_id", "split", "role", "timbre_id"]
    table["in_manifest"] = (known.reindex(table["clip_id"])[columns].to_numpy() == table[columns].to_numpy()).all(
        axis=1
    )
    table["indexed"] = True
    missing = known.index.difference(pd.Index(table["clip_id"]))
    return pd.concat([table, pd.DataFrame({"clip_id": missing, "indexed": False})], ignore_index=True)


def statistics_table(mels: Path) -> tuple[pd.DataFrame, dict[str, int]]:
    """One row a feature: mean and std; and the settings {sample_rate, hop_length, n_features} that they belong to.

    Raises:
        TimbreflowError: statistics.json is missing or lacks something.
    """
    path = mels / "statistics.json"
    value = read_json(path)
    try:
        table = pd.DataFrame({"mean": value["mean"], "std": value["std"]}, dtype=np.float64)
        features = value["features"]
        n_features = features["n_mels"] if features["kind"] == "log_mel" else features["n_fft"] // 2 + 1
        settings = {name: int(features[name]) for name in ("sample_rate", "hop_length")}
    except (KeyError, TypeError, ValueError) as error:
        raise TimbreflowError(f"{path} lacks means, deviations or settings; run extract_mels again.") from error
    table.insert(0, "feature", np.arange(len(table)))
    return table, {**settings, "n_features": int(n_features)}


def _timbre_side(text: str, expected: ExpectedData) -> str:
    fonts = expected.test_soundfonts
    held_out = {
        layer.soundfont in fonts if fonts else layer.program in expected.held_out_programs
        for layer in Timbre.from_text(text).layers
    }
    return "mixed" if len(held_out) > 1 else "test" if held_out == {True} else "train"


def _fingerprints(notes: pd.DataFrame) -> "pd.Series[int]":
    """A number for the notes of each clip; equal notes in any order give equal numbers."""
    hashes = pd.util.hash_pandas_object(notes[["onset", "duration", "pitch", "velocity"]], index=False)
    # Wrapping addition does not depend on the order, and a note that comes twice counts twice. Signed, since a clip
    # without notes turns an unsigned column into floats, and those cannot hold 64 bits.
    totals = hashes.groupby(notes["clip_id"].to_numpy()).sum().to_numpy(dtype=np.uint64).astype(np.int64)
    return pd.Series(totals, index=np.unique(notes["clip_id"].to_numpy(dtype=object)), dtype="Int64")


def _memberships(pairs: Iterable[tuple[str, str]], name: str, groups: str) -> pd.DataFrame:
    members: dict[str, set[str]] = {}
    for thing, group in pairs:
        members.setdefault(thing, set()).add(str(group))
    return pd.DataFrame(
        [(thing, "+".join(sorted(members[thing]))) for thing in sorted(members)], columns=[name, groups]
    )
