"""Stored features: `[n, M, T]` arrays in half precision or 8 bits, one file an audio shard, memory-mapped when read.

The values are raw (not normalised); `statistics.json` holds what normalises them. The files are called mels after
the default kind of features, and hold whatever the FeatureConfig says.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from timbreflow.audio.features import FeatureConfig, Normalizer
from timbreflow.data.manifest import MEL_INDEX_SCHEMA, read_table, write_table
from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_file, read_json, write_json

MINIMUM_STD = 1e-3
"""A row that never changes, such as a mel band above the band limit, is divided by this and stays near 0."""


@dataclass(frozen=True)
class ExtractConfig:
    """How features are extracted.

    Args:
        batch_size: clips that go through the FeatureExtractor at once; bounds memory, does not change the result.
        storage: "float16", or "uint8" (data/quantization.py), which takes half the space and rounds by at most .2 dB.

    Raises:
        TimbreflowError: batch_size is not positive.
    """

    batch_size: int
    storage: Literal["float16", "uint8"]

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise TimbreflowError(f"extract_mels.batch_size is {self.batch_size}; set it to 1 or more.")


def write_mels(path: Path, features: np.ndarray) -> None:
    """Write one shard atomically.

    Args:
        path: ends in .npy.
        features: [n, M, T] float, stored as float16; uint8 codes are stored as they are.

    Raises:
        TimbreflowError: a value is NaN, infinite, or too large for half precision.
    """
    with np.errstate(over="ignore"):
        stored = features if features.dtype == np.uint8 else features.astype(np.float16)
    if not np.isfinite(stored).all():
        raise TimbreflowError(f"{path} would hold features that are not finite; check the sound of its audio shard.")
    with atomic_file(path) as temporary:
        np.save(temporary, stored, allow_pickle=False)


class MelShards:
    """Random access to stored features by memory map; each process opens a file when it first reads it.

    Args:
        root: folder that the index's shard paths are relative to (data/mels).
        open_files: memory maps kept open at once.
    """

    def __init__(self, root: Path, *, open_files: int = 256) -> None:
        self.root = Path(root)
        self.open_files = open_files
        self._maps: OrderedDict[str, np.ndarray] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Without the maps: pickled, each would become a full copy in memory."""
        return {**self.__dict__, "_maps": OrderedDict()}

    def read(self, shard: str, row: int) -> np.ndarray:
        """One clip's raw features as they are stored, read-only: [M, T] float16, or uint8 codes.

        Raises:
            TimbreflowError: the shard is missing, corrupt, or has no such row.
        """
        array = self.shard(shard)
        if not 0 <= row < len(array):
            raise TimbreflowError(f"{self.root / shard} has no row {row}; run extract_mels again.")
        return array[row]

    def shard(self, shard: str) -> np.ndarray:
        """A whole shard as a read-only memory map: [n, M, T] float16, or uint8 codes.

        Raises:
            TimbreflowError: the shard is missing or corrupt.
        """
        if shard in self._maps:
            self._maps.move_to_end(shard)
            return self._maps[shard]
        path = self.root / shard
        try:
            array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise TimbreflowError(f"{path} is missing; run extract_mels or `dvc pull` again.") from error
        except (ValueError, OSError, EOFError) as error:
            raise TimbreflowError(f"{path} is not a readable array; delete it and run extract_mels again.") from error
        if array.ndim != 3:
            raise TimbreflowError(f"{path} has {array.ndim} axes instead of 3; delete it and run extract_mels again.")
        self._maps[shard] = array
        while len(self._maps) > self.open_files:
            self._maps.popitem(last=False)
        return array


class RunningStatistics:
    """Mean and standard deviation of each feature row over any number of clips, in one pass and float64.

    Batches are merged by the parallel rule of Chan, Golub and LeVeque (1979), so nothing cancels.

    Args:
        n_features: M.
    """

    def __init__(self, n_features: int) -> None:
        self.count = 0
        self.mean = np.zeros(n_features)
        self.squares = np.zeros(n_features)

    def update(self, features: np.ndarray) -> None:
        """Add [n, M, T]."""
        part = RunningStatistics(len(self.mean))
        part.count = features.shape[0] * features.shape[2]
        if part.count == 0:
            return
        values = np.asarray(features, dtype=np.float64)
        part.mean = values.mean(axis=(0, 2))
        part.squares = np.square(values - part.mean[None, :, None]).sum(axis=(0, 2))
        self.merge(part)

    def merge(self, other: "RunningStatistics") -> None:
        """Add what another has seen."""
        if other.count == 0:
            return
        total = self.count + other.count
        shift = other.mean - self.mean
        self.squares = self.squares + other.squares + np.square(shift) * (self.count * other.count / total)
        self.mean = self.mean + shift * (other.count / total)
        self.count = total

    def as_json(self) -> dict[str, Any]:
        """State as plain numbers, exact."""
        return {"count": self.count, "mean": self.mean.tolist(), "squares": self.squares.tolist()}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> "RunningStatistics":
        """The inverse of `as_json`."""
        statistics = cls(len(state["mean"]))
        statistics.count = int(state["count"])
        statistics.mean = np.array(state["mean"], dtype=np.float64)
        statistics.squares = np.array(state["squares"], dtype=np.float64)
        return statistics

    def normalizer(self) -> Normalizer:
        """The statistics so far.

        Raises:
            TimbreflowError: nothing was added, or it was not finite.
        """
        if self.count == 0:
            raise TimbreflowError("The split train holds no features; render more triples of it.")
        std = np.maximum(np.sqrt(self.squares / self.count), MINIMUM_STD)
        return Normalizer(mean=torch.tensor(self.mean, dtype=torch.float32), std=torch.tensor(std, dtype=torch.float32))


def write_mel_index(mels_root: Path, rows: Sequence[Mapping[str, Any]] | pd.DataFrame) -> None:
    """Write `index.parquet`; see MEL_INDEX_SCHEMA."""
    write_table(Path(mels_root) / "index.parquet", rows, MEL_INDEX_SCHEMA)


def read_mel_index(mels_root: Path) -> pd.DataFrame:
    """`index.parquet` of a folder of features; see MEL_INDEX_SCHEMA."""
    return read_table(Path(mels_root) / "index.parquet", MEL_INDEX_SCHEMA)


def write_statistics(mels_root: Path, normalizer: Normalizer, features: FeatureConfig) -> None:
    """Write `statistics.json`: mean [M], std [M] and the FeatureConfig that they belong to."""
    # Nine digits give back every float32 exactly and keep the file readable.
    numbers = {key: [float(f"{x:.9g}") for x in values] for key, values in normalizer.statistics().items()}
    write_json(Path(mels_root) / "statistics.json", {**numbers, "features": dataclasses.asdict(features)})


def read_statistics(mels_root: Path) -> tuple[Normalizer, FeatureConfig]:
    """Read `statistics.json`.

    Raises:
        TimbreflowError: the file is missing, is not JSON, or lacks something.
    """
    path = Path(mels_root) / "statistics.json"
    value = read_json(path)
    try:
        features = FeatureConfig(**value["features"])
    except (KeyError, TypeError) as error:
        raise TimbreflowError(f"{path} lacks the features' settings; run extract_mels again.") from error
    normalizer = Normalizer.from_statistics(value)
    if len(normalizer.mean) != features.n_features:
        raise TimbreflowError(
            f"{path} has {len(normalizer.mean)} means for {features.n_features} features; run extract_mels again."
        )
    return normalizer, features
