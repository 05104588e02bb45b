"""Where everything lies in a checkout: the only module that knows the project's folders."""

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
    def params(self) -> Path:
        """The settings of all stages."""
        return self.root / "params.yaml"

    @property
    def data(self) -> Path:
        """Everything that stages and `timbreflow corpus fetch` make; not in git."""
        return self.root / "data"

    @property
    def notes(self) -> Path:
        """Note tables: what collect_midi writes."""
        return self.data / "notes"

    @property
    def soundfonts(self) -> Path:
        """SoundFonts that were fetched; the default one is part of a package."""
        return self.data / "soundfonts"

    @property
    def corpora(self) -> Path:
        """Unpacked packages of `timbreflow corpus fetch`."""
        return self.data / "corpora"

    @property
    def audio(self) -> Path:
        """Clips in tar shards, their manifest and notes."""
        return self.data / "audio"

    @property
    def mels(self) -> Path:
        """Memory-mapped log-mels."""
        return self.data / "mels"

    @property
    def testsets(self) -> Path:
        """One folder for each test set that `timbreflow testset build` has made."""
        return self.data / "testsets"

    def model(self, name: str) -> Path:
        """Folder of trained weights, by the model's name in `models.catalogue`."""
        return self.data / "models" / name

    @property
    def released(self) -> Path:
        """What git holds: one folder for each released model, the test sets' recipes, and the stored baselines."""
        return self.root / "released"

    @property
    def released_testsets(self) -> Path:
        """Recipes, notes and checksums of the test sets."""
        return self.released / "testsets"

    @property
    def baselines(self) -> Path:
        """Stored rows of the slow baselines."""
        return self.released / "baselines"

    def results(self, stage: str = "") -> Path:
        """Small outputs of a stage: metrics.json, plots, reports; without a name, the folder of all stages."""
        return self.root / "results" / stage

    def scratch(self, stage: str, key: str = "") -> Path:
        """Untracked folder for resumable work; `key` is made of the stage's inputs and parameters."""
        return self.root / ".scratch" / stage / key
