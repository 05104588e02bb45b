"""Transcribe and re-render: the content's notes, as a transcriber finds them, played by the nearest training patch.

The first thing that an expert would ask for: whoever has the notes and a good instrument needs no transfer.

Conventions:
    Notes come from Basic Pitch (`metrics/transcription.py`), the transcriber of the metrics, which can only favour
    this row. The patch is chosen by mean and deviation of MFCC 2-13 in two steps. The
    `candidates` nearest to the style come from a library (`patches.py`); then each of them plays the notes found in the
    style, and the one that comes nearest to it is taken, because MFCCs depend on what is played. No effects, no
    layers. The output has the content's loudness.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.baselines.loudness import as_loud_as
from timbreflow.evaluation.baselines.patches import PatchLibrary, open_library, patch_statistics
from timbreflow.evaluation.system import Role, SystemContext
from timbreflow.metrics.timbre import cosine_distance
from timbreflow.metrics.transcription import Transcriber
from timbreflow.notes.tables import Notes
from timbreflow.rendering.soundfonts import Preset
from timbreflow.rendering.synthesizer import Synthesizer
from timbreflow.rendering.timbres import Layer


class TranscribeAndRender:
    """The row `transcribe_and_render`.

    Args:
        context: sample rate of the pipeline.
        paths: name of each training font and its path.
        presets: patches to choose from, all of these fonts.
        cache: keeps libraries of patches.
        candidates: patches that play the style's notes before one is chosen; 1 takes the library's nearest.

    Raises:
        TimbreflowError: a font cannot be loaded, or no patch is given.
    """

    copies: Role | None = None
    parameters = 0

    def __init__(
        self,
        context: SystemContext,
        *,
        paths: Mapping[str, Path],
        presets: Sequence[Preset],
        cache: Path,
        candidates: int = 24,
    ) -> None:
        if candidates < 1:
            raise TimbreflowError(f"transcribe_and_render cannot choose among {candidates} patches; give 1 or more.")
        self._sample_rate = context.features.sample_rate
        self._paths = dict(paths)
        self._library: PatchLibrary = open_library(paths, presets, sample_rate=self._sample_rate, folder=cache)
        self._candidates = candidates
        self._transcriber = Transcriber()
        self._synthesizers: dict[str, Synthesizer] = {}

    def transfer(self, content: Tensor, style: Tensor, target: Tensor, *, seed: int) -> Tensor:
        """The notes of the content [B, N], played like the style [B, S]; neither target nor seed is looked at.

        Raises:
            TimbreflowError: a sound is empty or holds NaN.
        """
        contents, styles = (list(sounds.detach().float().cpu().numpy()) for sounds in (content, style))
        heard = self._transcriber.transcribe([*contents, *styles], self._sample_rate)
        made = []
        for own, other, notes, style_notes in zip(
            contents, styles, heard[: len(contents)], heard[len(contents) :], strict=True
        ):
            patch = self.choose_patch(other, style_notes)
            played = self._play(notes, patch, len(own))
            made.append(as_loud_as(torch.from_numpy(played), torch.from_numpy(own)))
        return torch.stack(made).to(content.device)

    def choose_patch(self, style: NDArray[np.float32], notes: Notes) -> Preset:
        """The training patch nearest to a recording [N], in which these notes are played."""
        wanted = patch_statistics(style, self._sample_rate)
        ranked = self._library.ranked(wanted)[: self._candidates]
        if len(notes) == 0:
            return ranked[0]
        distances = []
        for patch in ranked:
            audio = self._play(notes, patch, len(style))
            distances.append(cosine_distance(patch_statistics(audio, self._sample_rate), wanted))
        return ranked[int(np.argmin(distances))]

    def _play(self, notes: Notes, patch: Preset, n_samples: int) -> NDArray[np.float32]:
        if patch.soundfont not in self._synthesizers:
            paths = {patch.soundfont: self._paths[patch.soundfont]}
            self._synthesizers[patch.soundfont] = Synthesizer(paths, sample_rate=self._sample_rate)
        layer = Layer(patch.soundfont, patch.bank, patch.program, 0.0)
        seconds = n_samples / self._sample_rate
        return self._synthesizers[patch.soundfont].play(notes, [layer], None, seconds=seconds)
