"""A system that is another program: its sound is read from files, one a triple, named by the triple's id."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from timbreflow.audio.files import SILENCE_DBFS, read_audio, rms_dbfs
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.system import Role

_NAMED = 5  # faults that one sentence lists


class ExternalOutputs:
    """Outputs of another program as a row of the table. All files are read and checked before anything is measured.

    The folder holds one ID.wav a triple, at any sample rate, mono or more channels, whose mean is scored. Files are
    resampled to the set's rate, and cut or padded with silence to the length of its clips.

    Attributes:
        notes: sentences on what was cut and padded, for the table.

    Raises:
        TimbreflowError: files are missing, unreadable or silent; all are counted and the first ones named.
    """

    copies: Role | None = None
    parameters = 0
    asks = ("triple_ids",)

    def __init__(self, folder: Path, triple_ids: Sequence[str], *, sample_rate: int, n_samples: int) -> None:
        self._sounds: dict[str, NDArray[np.float32]] = {}
        if not Path(folder).is_dir():
            raise TimbreflowError(f"{folder} is not a folder; name the one with the outputs, ID.wav for each pair.")
        faults, surplus = [], []
        for triple in triple_ids:
            path = Path(folder) / f"{triple}.wav"
            if not path.is_file():
                faults.append(f"{path.name} is missing")
                continue
            try:
                audio = read_audio(path, sample_rate=sample_rate)[0].mean(axis=0)
            except TimbreflowError as error:
                faults.append(str(error).split(";", maxsplit=1)[0].replace(str(path), path.name))
                continue
            if rms_dbfs(audio[:n_samples]) < SILENCE_DBFS:
                faults.append(f"{path.name} is silent")
                continue
            surplus.append((len(audio) - n_samples) / sample_rate)
            self._sounds[triple] = np.pad(audio[:n_samples], (0, max(0, n_samples - len(audio))))
        if faults:
            more = f" and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
            raise TimbreflowError(
                f"{len(faults)} of {len(triple_ids)} outputs in {folder} cannot be scored: "
                f"{', '.join(faults[:_NAMED])}{more}; write one ID.wav for each id of pairs.csv."
            )
        cut, padded = [s for s in surplus if s > 0], [-s for s in surplus if s < 0]
        self.notes = [
            f"{what} to {n_samples / sample_rate:g} s: {len(seconds)} of {len(triple_ids)} outputs in {folder}, by "
            f"{max(seconds):.3g} s at most."
            for what, seconds in (("Cut", cut), ("Padded with silence", padded))
            if seconds
        ]

    def transfer(
        self, content: Tensor, style: Tensor, target: Tensor, *, seed: int, triple_ids: Sequence[str] = ()
    ) -> Tensor:
        """The outputs [B, N] of these triples; nothing else is looked at."""
        return torch.from_numpy(np.stack([self._sounds[triple] for triple in triple_ids]))
