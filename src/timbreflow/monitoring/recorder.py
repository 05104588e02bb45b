"""What a server calls after each transfer."""

import logging
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from timbreflow.errors import TimbreflowError
from timbreflow.inference.familiarity import Familiarity
from timbreflow.monitoring.figures import Ears, measure
from timbreflow.monitoring.records import MAX_BYTES, append

log = logging.getLogger(__name__)


class Recorder:
    """Writes a row of figures for each transfer; neither sound nor names of files or people.

    Recording never ends the work that it records: what cannot be written or measured is told in the log. One recorder
    may be used by several threads, and one folder by several processes.

    Args:
        folder: for the records; made where it is missing.
        max_bytes: that all records together may take; the oldest go first.
    """

    def __init__(self, folder: str | Path, *, max_bytes: int = MAX_BYTES) -> None:
        self.folder = Path(folder)
        self._max_bytes = max_bytes
        self._ears = Ears()

    def record(
        self,
        content: np.ndarray,
        style: np.ndarray,
        output: np.ndarray,
        sample_rate: int,
        *,
        model: str,
        familiarity: Callable[[np.ndarray], Familiarity] | None = None,
        seconds: float,
    ) -> None:
        """Measure a transfer and add its row.

        Args:
            content: [N] or [C, N] float32 in [-1, 1].
            style: the same; of a blend the heaviest one.
            output: what was made of them.
            sample_rate: of all three, in Hz.
            model: name of the model, such as glow.
            familiarity: of a flow, `functools.partial(session.familiarity, sample_rate=rate)`, which is asked about
                content and style; None of models without a likelihood.
            seconds: that the transfer took.
        """
        try:
            sounds = {"content": content, "style": style, "output": output}
            row = {name: asdict(measure(sound, sample_rate, self._ears)) for name, sound in sounds.items()}
            if familiarity is not None:
                for name in ("content", "style"):
                    row[name] |= _asked(familiarity, sounds[name])
            append(
                self.folder,
                {"model": model[:100], "seconds": round(seconds, 3), "sample_rate": int(sample_rate), **row},
                now=datetime.now(UTC),
                max_bytes=self._max_bytes,
            )
        except (OSError, TimbreflowError, ValueError) as error:
            log.warning("This transfer is not recorded: %s", error)


def _asked(familiarity: Callable[[np.ndarray], Familiarity], sound: np.ndarray) -> dict[str, float]:
    try:
        return {name: round(value, 4) for name, value in asdict(familiarity(sound)).items()}
    except TimbreflowError:  # too short, or the model has no distribution to compare with
        return {}
