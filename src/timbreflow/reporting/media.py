"""Sound and spectrograms small enough to live inside a page."""

import base64
import io

import matplotlib.image
import numpy as np
import soundfile
from numpy.typing import NDArray

from timbreflow.audio.files import resample
from timbreflow.metrics.lsd import DYNAMIC_RANGE_DB, mel_decibels
from timbreflow.metrics.signals import SAMPLE_RATE

COLOURS = "magma"
JPEG_QUALITY = 82


def audio_uri(audio: NDArray[np.float32], sample_rate: int) -> str:
    """Data URI of a sound [N] as MP3, which every browser plays and which takes a third of FLAC's space.

    Where libsndfile was built without MP3 it is FLAC.
    """
    buffer = io.BytesIO()
    if "MP3" in soundfile.available_formats():
        soundfile.write(buffer, audio, sample_rate, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.3)
        return _uri("audio/mpeg", buffer)
    soundfile.write(buffer, audio, sample_rate, format="FLAC", subtype="PCM_16")
    return _uri("audio/flac", buffer)


def spectrogram_uri(audio: NDArray[np.float32], sample_rate: int) -> str:
    """Data URI of a JPEG of the mel spectrogram (128 bands, 80 dB) of a sound [N], low bands below."""
    decibels = mel_decibels(resample(audio, sample_rate, SAMPLE_RATE))
    peak = float(decibels.max())
    buffer = io.BytesIO()
    matplotlib.image.imsave(
        buffer,
        decibels,
        vmin=peak - DYNAMIC_RANGE_DB,
        vmax=peak,
        cmap=COLOURS,
        origin="lower",
        format="jpg",
        pil_kwargs={"quality": JPEG_QUALITY},
    )
    return _uri("image/jpeg", buffer)


def _uri(kind: str, buffer: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
