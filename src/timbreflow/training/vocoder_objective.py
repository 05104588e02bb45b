"""What the vocoder is trained for: the spectra of the sound that its features were made from."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timbreflow.audio.features import FeatureConfig, FeatureExtractor, Normalizer
from timbreflow.training.stft_discriminator import JudgedVocoder, adversarial_terms
from timbreflow.training.vocoder_config import VocoderLosses

WINDOWS = (512, 1024, 2048)
"""Window lengths in samples; hops are a quarter of each."""
FLOOR = 5e-6
"""What is added to a magnitude before its logarithm, over the sum of the window: 80 dB under a sine of amplitude .1,
which is about the peak of a clip at -23 dBFS RMS."""
SMALLEST = 1e-8


class MultiResolutionSTFT(nn.Module):
    """Spectral convergence and L1 of log magnitudes, averaged over resolutions.

    Yamamoto, Song, Kim, *Parallel WaveGAN*, 2020. Convergence is taken over the batch, not clip by clip, so that a
    silent crop is not divided by nothing.

    Args:
        windows: window lengths, in samples.
    """

    def __init__(self, windows: tuple[int, ...] = WINDOWS) -> None:
        super().__init__()
        for length in windows:
            self.register_buffer(f"window_{length}", torch.hann_window(length), persistent=False)

    def forward(self, made: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        """Sounds [B, N] float32 -> (convergence, magnitude), scalars; 0 for equal sounds."""
        convergence, magnitude = [], []
        for window in self.buffers():
            a, b = _magnitude(made, window), _magnitude(true, window)
            convergence.append((a - b).norm() / b.norm().clamp_min(SMALLEST))
            floor = FLOOR * window.sum()
            magnitude.append(F.l1_loss((a + floor).log(), (b + floor).log()))
        return torch.stack(convergence).mean(), torch.stack(magnitude).mean()


class VocoderObjective(nn.Module):
    """Spectral losses between a crop of sound and what the vocoder makes of its features.

    A module only so that its filters follow the batch to its device; nothing in it is learned. A `JudgedVocoder` is
    trained against its discriminator as well; the best step is picked by the spectral losses alone.

    Args:
        features: what the vocoder takes.
        normalizer: statistics of these features.
        losses: weights of the terms.
        noise: deviation of the noise on the normalised features in training.
    """

    criterion = "loss"

    def __init__(self, features: FeatureConfig, normalizer: Normalizer, *, losses: VocoderLosses, noise: float) -> None:
        super().__init__()
        self.extract = FeatureExtractor(features)
        self.resolutions = MultiResolutionSTFT()
        self.normalizer = normalizer
        self.losses = losses
        self.noise = noise

    def __call__(self, model: nn.Module, batch: Tensor, *, step: int) -> dict[str, Tensor]:
        """Terms of one training batch: sound [B, N]."""
        del step
        made, terms = self._made(model, batch, noise=self.noise)
        if isinstance(model, JudgedVocoder):
            with torch.autocast(batch.device.type, enabled=False):
                judged = adversarial_terms(model.discriminator, made, batch)
                terms.update(judged)
                terms["loss"] = (
                    terms["loss"]
                    + judged["gan/discriminator"]
                    + self.losses.adversarial * judged["gan/vocoder"]
                    + self.losses.feature_matching * judged["gan/feature_matching"]
                )
        return terms

    def validate(self, model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
        """The spectral terms, from features without noise."""
        return self._made(model, batch, noise=0.0)[1]

    def _made(self, model: nn.Module, sound: Tensor, *, noise: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The vocoder's sound [B, N], and its spectral terms."""
        self.to(sound.device)
        # The filterbank is a matrix product, which autocast would take for a layer.
        with torch.no_grad(), torch.autocast(sound.device.type, enabled=False):
            mel = self.extract(sound)
            features = self.normalizer.normalize(mel)
            if noise:
                features = features + noise * torch.randn_like(features)
        made: Tensor = model(features)
        with torch.autocast(sound.device.type, enabled=False):
            convergence, magnitude = self.resolutions(made, sound)
            terms = {
                "stft/convergence": convergence,
                "stft/magnitude": magnitude,
                "mel/l1": F.l1_loss(self.extract(made), mel),
            }
            weights = (self.losses.convergence, self.losses.magnitude, self.losses.mel)
            weighted = [weight * term for weight, term in zip(weights, terms.values(), strict=True)]
        return made, {"loss": torch.stack(weighted).sum(), **terms}


def _magnitude(sound: Tensor, window: Tensor) -> Tensor:
    """[B, N] -> [B, bins, frames]; zeros beyond the ends, so that any length will do."""
    length = len(window)
    spectrum = torch.stft(
        sound, length, length // 4, window=window, center=True, pad_mode="constant", return_complex=True
    )
    return spectrum.abs()
