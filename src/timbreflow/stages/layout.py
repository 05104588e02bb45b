"""Where every stage reads and writes: the only module that knows the project's folders."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """Paths of one checkout.

    Args:
        root: folder that holds params.yaml and dvc.yaml.
    """

    root: Path

    @property
    def notes(self) -> Path:
        """Note tables: what collect_midi writes."""
        return self.root / "data" / "notes"

    @property
    def soundfonts(self) -> Path:
        """SoundFonts that were fetched; the default one lies in a package."""
        return self.root / "data" / "soundfonts"

    @property
    def corpora(self) -> Path:
        """Unpacked packages of `timbreflow corpus fetch`."""
        return self.root / "data" / "corpora"

    @property
    def audio(self) -> Path:
        """Clips in tar shards, their manifest and notes."""
        return self.root / "data" / "audio"

    @property
    def mels(self) -> Path:
        """Memory-mapped log-mels."""
        return self.root / "data" / "mels"

    def model(self, name: str) -> Path:
        """Folder of trained weights, by the model's name in `models.catalogue`."""
        return self.root / "data" / "models" / name

    def results(self, stage: str) -> Path:
        """Small outputs of a stage: metrics.json, plots, reports."""
        return self.root / "results" / stage

    def scratch(self, stage: str, key: str) -> Path:
        """Untracked folder for resumable work; `key` is made of the stage's inputs and parameters."""
        return self.root / ".scratch" / stage / key
