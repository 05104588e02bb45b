"""Contents analysed as if they were played higher or lower, their length exact.

Sound read faster by a factor is higher by it, and shorter. Its frames are then taken closer together by the same
factor, so that each stands for the same moment as before. Models see magnitudes alone, so no phases need repair, as a
phase vocoder's would. Nothing else is shifted as well: log-mel bands are no musical intervals below 1 kHz.
"""

import numpy as np
import soxr
import torch
from torch import Tensor

from timbreflow.audio.features import FeatureExtractor


@torch.inference_mode()
def transposed_features(audio: Tensor, semitones: float, extract: FeatureExtractor) -> Tensor:
    """Raw features of transposed sound.

    Args:
        audio: [B, N] float32 at the feature rate, on the device of `extract`.
        semitones: higher where positive.
        extract: makes the features, on its device.

    Returns:
        [B, M, T] raw, T = N // hop_length as without a transposition.
    """
    config, factor = extract.config, 2 ** (semitones / 12)
    read = soxr.resample(np.ascontiguousarray(audio.T.cpu().numpy(), np.float32), factor, 1.0, quality="HQ")
    window = extract.spectrogram.window
    device = window.device
    sound = torch.from_numpy(np.ascontiguousarray(read.reshape(len(read), -1).T)).to(device)
    centres = torch.arange(config.n_frames(audio.shape[1]), device=device) * config.hop_length / factor
    start = centres.round().long()
    half = config.n_fft // 2
    sound = torch.nn.functional.pad(sound, (half, half + config.hop_length))
    frames = sound[:, start[:, None] + torch.arange(config.n_fft, device=device)]
    before = (config.n_fft - config.win_length) // 2
    padded = torch.nn.functional.pad(window, (before, config.n_fft - config.win_length - before))
    return extract.from_magnitude(torch.fft.rfft(frames * padded).abs().transpose(1, 2))
