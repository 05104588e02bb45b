"""From sound to what the timbre metric compares: MFCC 2-13, then the triplet network's embedding.

Training and evaluation both take the coefficients from here, so that the network is judged on what it learned from.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from timbreflow.audio.torchaudio_compat import transforms
from timbreflow.models.triplet import TripletNetwork

SAMPLE_RATE = 16_000
"""In Hz; sound at another rate is resampled by the caller."""

HOP_LENGTH = 500
N_COEFFICIENTS = 12
_SILENCE_RMS = 1e-7


class TimbreCoefficients(nn.Module):
    """MFCC 2-13 of sound at unit RMS; the first, which is loudness, is left out.

    Equal to `librosa.feature.mfcc(n_mfcc=13, hop_length=500)[1:]` up to rounding, batched and on any device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mfcc = transforms.MFCC(
            sample_rate=SAMPLE_RATE,
            n_mfcc=N_COEFFICIENTS + 1,
            melkwargs={
                "n_fft": 2048,
                "hop_length": HOP_LENGTH,
                "n_mels": 128,
                "norm": "slaney",
                "mel_scale": "slaney",
                "pad_mode": "constant",
            },
        )

    @torch.no_grad()
    def forward(self, audio: Tensor) -> Tensor:
        """[B, N] at 16 kHz -> [B, 12, N // 500 + 1]."""
        level = audio.square().mean(-1, keepdim=True).sqrt()
        audio = torch.where(level < _SILENCE_RMS, audio, audio / level.clamp_min(_SILENCE_RMS))
        # As [B, 1, N]: the floor 80 dB under the peak is then each clip's own and not the batch's.
        coefficients: Tensor = self.mfcc(audio[:, None])[:, 0, 1:]
        return coefficients


class TimbreEmbedder:
    """The trained metric as a function of sound.

    Args:
        network: trained; put into evaluation mode.
        device: where to compute.
    """

    def __init__(self, network: TripletNetwork, *, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.network = network.eval().to(self.device)
        self.coefficients = TimbreCoefficients().to(self.device)

    @torch.no_grad()
    def __call__(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed sound [B, N] at 16 kHz: [B, D] float32, not normalised."""
        sound = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32)).to(self.device)
        embedding = self.network(self.coefficients(sound))
        result: NDArray[np.float32] = embedding.float().cpu().numpy()
        return result
