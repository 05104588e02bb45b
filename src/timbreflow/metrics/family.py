"""Style-family accuracy: whether an output still sounds like the family of instruments that its style belongs to.

Higher is better. A classifier of the sixteen General MIDI families names the family of each output; it is right
where that is the family of the target's program. The classifier errs on real renders too, so its accuracy on the true
targets stands beside every figure and is their ceiling.

Conventions:
    The input is `timbre.mfcc_statistics` [24] of sound at 16 kHz: the numbers of the MFCC distance, and
    none of the triplet network's. Trained on single-layer clips of the training split only, frozen before models are
    compared, never a loss. At rest: `weights.safetensors` and `config.json`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_directory, read_json, write_json
from timbreflow.models.bundle import CONFIG, WEIGHTS

FORMAT = 1
KIND = "family"
FAMILIES = (
    "piano",
    "chromatic percussion",
    "organ",
    "guitar",
    "bass",
    "strings",
    "ensemble",
    "brass",
    "reed",
    "pipe",
    "synth lead",
    "synth pad",
    "synth effects",
    "ethnic",
    "percussive",
    "sound effects",
)
"""General MIDI's, of eight programs each."""
PROGRAMS_PER_FAMILY = 8
N_FEATURES = 24
SMALLEST_DEVIATION = 1e-6


@dataclass(frozen=True)
class FamilyConfig:
    """Shape and training of the classifier.

    Args:
        hidden: width of its two hidden layers.
        dropout: share of hidden units that a training step leaves out.
        steps: of AdamW.
        batch_size: clips in a step, drawn so that families are equally frequent.
        learning_rate: of AdamW, with a cosine to 0.
        weight_decay: of AdamW.
        smoothing: of labels.
        seed: of weights and draws.
    """

    hidden: int = 256
    dropout: float = 0.3
    steps: int = 1500
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    smoothing: float = 0.05
    seed: int = 0


class FamilyNetwork(nn.Module):
    """A perceptron on standardised MFCC statistics.

    Args:
        hidden: width of the two hidden layers.
        dropout: in training.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden = hidden
        self.register_buffer("mean", torch.zeros(N_FEATURES))
        self.register_buffer("deviation", torch.ones(N_FEATURES))
        self.layers = nn.Sequential(
            nn.Linear(N_FEATURES, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, len(FAMILIES)),
        )

    def forward(self, statistics: Tensor) -> Tensor:
        """[B, 24] -> logits [B, 16]."""
        logits: Tensor = self.layers((statistics - self.mean) / self.deviation)
        return logits


class FamilyClassifier:
    """The trained network as a function of MFCC statistics.

    Args:
        network: put into evaluation mode.
        facts: plain facts on its training, for reports.
    """

    def __init__(self, network: FamilyNetwork, facts: Mapping[str, Any]) -> None:
        self.network = network.eval()
        self.facts = dict(facts)

    @torch.no_grad()
    def __call__(self, statistics: ArrayLike) -> NDArray[np.int64]:
        """Most likely families [B] of MFCC statistics [B, 24]."""
        values = torch.from_numpy(np.asarray(statistics, dtype=np.float32))
        return np.asarray(self.network(values).argmax(dim=1).numpy(), dtype=np.int64)

    def accuracy(self, statistics: ArrayLike, families: ArrayLike) -> float:
        """Share of clips [B] whose family it names."""
        return float(np.mean(self(statistics) == np.asarray(families)))


def fit_family_classifier(
    statistics: NDArray[np.float64], families: NDArray[np.int64], config: FamilyConfig
) -> FamilyNetwork:
    """Train the network on MFCC statistics [n, 24] with their families [n].

    Raises:
        TimbreflowError: there is no clip, a figure is not finite, or fewer than two families are present.
    """
    values, truth = np.asarray(statistics, dtype=np.float32), np.asarray(families, dtype=np.int64)
    if values.ndim != 2 or values.shape[1] != N_FEATURES or len(values) != len(truth):
        raise TimbreflowError(f"the family classifier needs statistics [n, {N_FEATURES}]; got {values.shape}.")
    if len(np.unique(truth)) < 2 or not np.isfinite(values).all():
        raise TimbreflowError("the family classifier needs finite statistics of at least two families; render more.")
    torch.manual_seed(config.seed)
    network = FamilyNetwork(config.hidden, config.dropout)
    x, y = torch.from_numpy(values), torch.from_numpy(truth)
    network.mean.copy_(x.mean(dim=0))
    network.deviation.copy_(x.std(dim=0).clamp_min(SMALLEST_DEVIATION))
    # Families are as frequent as their programs are in music: drawn evenly, a rare one counts like any other.
    weights = (1.0 / torch.bincount(y, minlength=len(FAMILIES)).clamp_min(1).float())[y]
    optimiser = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    network.train()
    for _ in range(config.steps):
        drawn = torch.multinomial(weights, config.batch_size, replacement=True)
        loss = F.cross_entropy(network(x[drawn]), y[drawn], label_smoothing=config.smoothing)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def save_family_classifier(
    folder: Path, network: FamilyNetwork, *, config: FamilyConfig, facts: Mapping[str, Any]
) -> None:
    """Write the classifier as one folder that appears whole or not at all.

    Args:
        folder: where.
        network: what.
        config: how it was trained.
        facts: plain facts for JSON, such as its accuracy on validation clips.
    """
    with atomic_directory(Path(folder)) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, temporary / WEIGHTS)
        write_json(
            temporary / CONFIG,
            {
                "format": FORMAT,
                "kind": KIND,
                "model": {"hidden": network.hidden},
                "families": list(FAMILIES),
                "training": {"config": asdict(config), **facts},
            },
        )


def load_family_classifier(folder: Path) -> FamilyClassifier:
    """Read a classifier.

    Raises:
        TimbreflowError: a file is missing or broken, or holds another kind of model.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or (config.get("format"), config.get("kind")) != (FORMAT, KIND):
        raise TimbreflowError(f"{folder / CONFIG} describes no family classifier of format {FORMAT}; train it again.")
    try:
        network = FamilyNetwork(int(config["model"]["hidden"]))
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise TimbreflowError(f"{folder} holds no family classifier that can be read ({error}); train it again.") from (
            error
        )
    if not all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values()):
        raise TimbreflowError(f"{folder / WEIGHTS} holds weights that are not finite; train the classifier again.")
    return FamilyClassifier(network, config.get("training", {}))
