"""A small neural vocoder: log-mels to sound by one pass of a convolutional network and one inverse Fourier transform.

After Siuzdak 2023, *Vocos: Closing the gap between time-domain and Fourier-based neural vocoders for high-quality audio
synthesis*: ConvNeXt blocks (Liu et al. 2022) at the rate of the frames, and a head that predicts magnitude and phase of
every bin. Two things differ, because this is music and the frames are 31 ms apart:

- The inverse transform has `upsample` frames for each frame of features.
- Phases are predicted relative to a rotation of each bin by its own frequency. The features of a held tone are the same
  in every frame, so a network that sees nothing else repeats itself every hop, and all its held tones are multiples of
  the frame rate, 32 Hz. With the rotation they are multiples of sample_rate / n_fft; so `n_fft` is the resolution in
  pitch, and `win_length` that in time.

`Vocoder.start_from` initialises it to noise that has the given mel spectrum.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timbreflow.audio.features import FeatureConfig, Normalizer, mel_filterbank
from timbreflow.errors import TimbreflowError
from timbreflow.models.blocks import full_precision

INITIAL_DEVIATION = 0.02


@dataclass(frozen=True)
class VocoderConfig:
    """Shape of a vocoder.

    Args:
        n_features: rows M of the features.
        hop_length: samples from one frame of features to the next.
        upsample: frames of the inverse transform for each frame of features; a divisor of hop_length.
        n_fft: length of the inverse transform, in samples; a held tone has the frequency of one of its bins.
        win_length: samples of each transform that are used, under a Hann window; even, at least twice the transform's
            hop, hop_length / upsample, and at most n_fft.
        width: channels of the blocks.
        expansion: how many times wider a block is inside.
        n_coarse_blocks: blocks at the rate of the features.
        n_fine_blocks: blocks at the rate of the inverse transform; each costs `upsample` times as much.
        kernel: frames that a block sees at once, odd.

    Raises:
        TimbreflowError: a number is out of range or contradicts another.
    """

    n_features: int
    hop_length: int
    upsample: int
    n_fft: int
    win_length: int
    width: int
    expansion: int
    n_coarse_blocks: int
    n_fine_blocks: int
    kernel: int

    def __post_init__(self) -> None:
        """Refuse impossible shapes."""
        for name in ("n_features", "hop_length", "upsample", "width", "expansion"):
            if getattr(self, name) < 1:
                raise TimbreflowError(f"vocoder.{name} is {getattr(self, name)}; set it to 1 or more.")
        if min(self.n_coarse_blocks, self.n_fine_blocks) < 0 or self.n_coarse_blocks + self.n_fine_blocks < 1:
            raise TimbreflowError("vocoder.n_coarse_blocks + n_fine_blocks must be 1 or more, neither below 0.")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise TimbreflowError(f"vocoder.kernel is {self.kernel}; set it to an odd number.")
        if self.hop_length % self.upsample:
            raise TimbreflowError(
                f"vocoder.upsample ({self.upsample}) must divide vocoder.hop_length ({self.hop_length})."
            )
        if self.win_length % 2 or not 2 * self.fine_hop <= self.win_length <= self.n_fft or self.n_fft % 2:
            raise TimbreflowError(
                f"vocoder.win_length is {self.win_length} and vocoder.n_fft {self.n_fft}; set both to even numbers, "
                f"the first to at least {2 * self.fine_hop}, two of the transform's hops, and at most to the second."
            )

    @property
    def fine_hop(self) -> int:
        """Samples from one frame of the inverse transform to the next."""
        return self.hop_length // self.upsample

    @property
    def context_frames(self) -> int:
        """Frames of features on either side that a sample depends on."""
        half = self.kernel // 2
        # Reach of the overlap-add and of the fine blocks, in fine frames, then in frames of features.
        fine = math.ceil(self.win_length / 2 / self.fine_hop) + half * self.n_fine_blocks
        return math.ceil(fine / self.upsample) + half * (self.n_coarse_blocks + 1) + 1


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over frames, layer norm, two linear layers with GELU between, scaled, added to the input.

    Args:
        width: channels.
        inner: channels between the linear layers.
        kernel: frames of the convolution.
        scale: first value of the learned scale of each channel; small, so that a deep stack starts as the identity.
    """

    def __init__(self, width: int, inner: int, *, kernel: int, scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.expand = nn.Linear(width, inner)
        self.contract = nn.Linear(inner, width)
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, T] -> [B, width, T]."""
        h = self.norm(self.depthwise(x).transpose(1, 2))
        h = self.scale * self.contract(F.gelu(self.expand(h)))
        return x + h.transpose(1, 2)


class InverseSTFT(nn.Module):
    """Spectra to sound by windowed overlap-add, exactly `hop` samples a frame ("same" padding).

    Frame t is centred on sample t * hop + hop / 2, so that the first and the last frame lie inside the sound. torch's
    own inverse centres frames on t * hop and would have to invent the last half hop.

    Args:
        n_fft: length of the transform, in samples.
        win_length: its first samples, which a Hann window takes.
        hop: samples from frame to frame, at most win_length / 2.
    """

    window: Tensor

    def __init__(self, n_fft: int, win_length: int, hop: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.win_length = win_length
        self.hop = hop
        self.register_buffer("window", torch.hann_window(win_length), persistent=False)

    def forward(self, spectrum: Tensor) -> Tensor:
        """Complex [B, n_fft / 2 + 1, T] -> [B, T * hop]."""
        frames = torch.fft.irfft(spectrum, n=self.n_fft, dim=1)[:, : self.win_length] * self.window[:, None]
        count = spectrum.shape[-1]
        # Divided by the windows, not by their squares: neighbouring frames agree, and a held tone keeps its level.
        # Windows of two hops or more leave no sample without weight.
        return self._overlap(frames) / self._overlap(self.window[None, :, None].expand(1, -1, count))

    def _overlap(self, frames: Tensor) -> Tensor:
        """[B, win_length, T] -> [B, T * hop]: overlap-add, cropped to `hop` samples a frame."""
        count = frames.shape[-1]
        length = (count - 1) * self.hop + self.win_length
        summed = F.fold(frames, (1, length), kernel_size=(1, self.win_length), stride=(1, self.hop))[:, 0, 0]
        begin = (self.win_length - self.hop) // 2
        return summed[:, begin : begin + count * self.hop]


class Vocoder(nn.Module):
    """Sound from normalised log-mels, any number of frames, deterministic.

    Args:
        config: its shape.
    """

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        blocks = config.n_coarse_blocks + config.n_fine_blocks

        def stack(count: int) -> nn.Sequential:
            return nn.Sequential(
                *(
                    ConvNeXtBlock(config.width, config.expansion * config.width, kernel=config.kernel, scale=1 / blocks)
                    for _ in range(count)
                )
            )

        self.in_proj = nn.Conv1d(config.n_features, config.width, config.kernel, padding=config.kernel // 2)
        self.in_norm = nn.LayerNorm(config.width, eps=1e-6)
        self.coarse = stack(config.n_coarse_blocks)
        self.spread = nn.Linear(config.width, config.upsample * config.width) if config.upsample > 1 else None
        self.fine = stack(config.n_fine_blocks)
        self.out_norm = nn.LayerNorm(config.width, eps=1e-6)
        self.out_proj = nn.Linear(config.width, config.n_fft + 2)
        self.levels = nn.Linear(config.n_features, config.n_fft // 2 + 1, bias=False)
        self.inverse = InverseSTFT(config.n_fft, config.win_length, config.fine_hop)
        # A signal within full scale has no bin larger than the sum of the window.
        self._max_log_magnitude = math.log(config.n_fft / 2)
        self.apply(_initialize)
        with torch.no_grad():
            # Random phases: with equal ones all bins would add up to a click every n_fft samples.
            self.out_proj.bias[config.n_fft // 2 + 1 :].uniform_(-math.pi, math.pi)

    @torch.no_grad()
    def start_from(self, features: FeatureConfig, normalizer: Normalizer) -> None:
        """Initialise the levels of the bins by interpolation between the mel bands around them, before the first step.

        Args:
            features: log_mel features of the shape that this vocoder takes.
            normalizer: statistics of these features.

        Raises:
            TimbreflowError: the features are no log-mels, or of another shape than the vocoder's.
        """
        config = self.config
        if features.kind != "log_mel" or (features.n_mels, features.hop_length) != (
            config.n_features,
            config.hop_length,
        ):
            raise TimbreflowError(
                f"A vocoder of {config.n_features} bands and hop {config.hop_length} cannot take {features.kind} of "
                f"{features.n_features} rows and hop {features.hop_length}; make the two sections agree."
            )
        bank = mel_filterbank(features)
        frequencies = torch.linspace(0, features.sample_rate / 2, features.n_bins)
        centres = (bank * frequencies[:, None]).sum(0) / bank.sum(0)
        bins = torch.linspace(0, features.sample_rate / 2, config.n_fft // 2 + 1)
        upper = torch.searchsorted(centres, bins).clamp(1, config.n_features - 1)
        width = centres[upper] - centres[upper - 1]
        share = ((bins - centres[upper - 1]) / width).clamp(0, 1)
        weights = torch.zeros(len(bins), config.n_features)
        weights.scatter_(1, upper[:, None], share[:, None])
        weights.scatter_(1, upper[:, None] - 1, 1 - share[:, None])
        # A band sums the magnitudes of its spectrum's bins. Each of those sees a line of this transform at half the
        # ratio of the lengths, and under a Hann window the power of 1.5 ratios of lines at once.
        ratio = config.n_fft / features.win_length
        scale = math.log(2 * ratio) - math.log(1.5 * ratio) / 2
        crowd = (width * features.n_fft / features.sample_rate).clamp_min(1).log()
        self.levels.weight.copy_(weights * normalizer.std)
        self.out_proj.bias[: len(bins)] = weights @ normalizer.mean + scale - crowd

    def forward(self, features: Tensor, *, first_frame: int = 0) -> Tensor:
        """Sound of a batch.

        Args:
            features: [B, M, T] normalised, T >= 1.
            first_frame: index of the first frame in a longer clip, for the phases.

        Returns:
            [B, T * hop_length] float32 (float64 for float64 features).

        Raises:
            TimbreflowError: the features have another number of rows, or no frames.
        """
        if features.ndim != 3 or features.shape[1] != self.config.n_features or features.shape[2] < 1:
            raise TimbreflowError(
                f"Features of shape {tuple(features.shape)} do not fit this vocoder; give "
                f"[B, {self.config.n_features}, T] with at least one frame."
            )
        spectrum = self.spectrum(features, first_frame=first_frame)
        sound: Tensor = self.inverse(spectrum)
        return sound

    def spectrum(self, features: Tensor, *, first_frame: int = 0) -> Tensor:
        """[B, M, T] normalised -> complex [B, n_fft / 2 + 1, T * upsample]."""
        x = self.in_norm(self.in_proj(features).transpose(1, 2)).transpose(1, 2)
        x = self.coarse(x)
        if self.spread is not None:
            batch, width, frames = x.shape
            x = self.spread(x.transpose(1, 2)).reshape(batch, frames * self.config.upsample, width).transpose(1, 2)
        x = self.fine(x)
        out = self.out_proj(self.out_norm(x.transpose(1, 2))).transpose(1, 2)
        # bfloat16 has 8 bits, too few for phases, exp and the transform.
        with torch.autocast(features.device.type, enabled=False):
            level, phase = full_precision(out).chunk(2, dim=1)
            level = level + self._interpolated_levels(full_precision(features))
            phase = phase + self._rotation(first_frame * self.config.upsample, phase.shape[-1], phase.device)
            return torch.polar(level.clamp(max=self._max_log_magnitude).exp(), phase)

    def _interpolated_levels(self, features: Tensor) -> Tensor:
        """[B, M, T] -> [B, n_fft / 2 + 1, T * upsample]: levels from the bands, linear between frames."""
        upsample = self.config.upsample
        following = torch.cat([features[:, :, 1:], features[:, :, -1:]], dim=2)
        # Frames of features are centred on their first sample, those of the transform on the middle of their hop.
        share = (torch.arange(upsample, device=features.device) + 0.5) / upsample
        between = torch.lerp(features[..., None], following[..., None], share.to(features)).flatten(2)
        given: Tensor = self.levels(between.transpose(1, 2)).transpose(1, 2)
        return given

    def _rotation(self, first: int, count: int, device: torch.device) -> Tensor:
        """Phase of each bin at the start of each fine frame, in radians, [n_fft / 2 + 1, count]."""
        n_fft = self.config.n_fft
        start = (first + torch.arange(count, device=device)) * self.config.fine_hop % n_fft
        # Whole numbers until the end: after an hour a float32 would have lost the phase.
        turns = torch.arange(n_fft // 2 + 1, device=device)[:, None] * start % n_fft
        return turns * (2 * math.pi / n_fft)


def _initialize(module: nn.Module) -> None:
    """Small normal weights and no biases, as in the paper."""
    if isinstance(module, nn.Conv1d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INITIAL_DEVIATION)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
