"""Sound files in and out: wav, flac, ogg and mp3 through libsndfile, resampled by soxr.

`audio: [C, N] float32` throughout, channels first, nominally in [-1, 1].
One guard (`require_valid`) stands at every entrance, so that no module behind it meets NaN or an empty signal.
"""

import io
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from timbreflow.audio.file_bytes import Stitched
from timbreflow.audio.truncation import CHECKED, reading_of
from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_file

READABLE = (".wav", ".flac", ".ogg", ".mp3")
SUBTYPES = {".wav": "PCM_16", ".flac": "PCM_16", ".ogg": "VORBIS", ".mp3": "MPEG_LAYER_III"}
"""How samples are stored where nothing else is asked for."""
FINER = {
    ".wav": {"PCM_24": "PCM_24", "PCM_32": "PCM_32", "FLOAT": "FLOAT", "DOUBLE": "FLOAT", "ALAC_24": "PCM_24"},
    ".flac": {"PCM_24": "PCM_24", "PCM_32": "PCM_24", "FLOAT": "PCM_24", "DOUBLE": "PCM_24", "ALAC_24": "PCM_24"},
}
"""How they are stored where they are to be like those of another file, by its subtype."""
FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}
_KNOWN = ", ".join(suffix[1:] for suffix in READABLE)
SILENCE_DBFS = -70.0
"""A signal whose RMS is below this is called silence: 16-bit dither lies near -93 dBFS, quiet recordings near -50."""

MP3_LOST_FRAMES = 2
"""An mp3 cut out of a longer one refers to frames before it; libsndfile leaves out what it cannot decode without."""


@dataclass(frozen=True)
class AudioInfo:
    """What a sound file's header says.

    Args:
        sample_rate: in Hz.
        channels: number of channels.
        n_samples: samples a channel.
        subtype: libsndfile's name of how samples are stored, such as PCM_24.
        notes: sentences on what of the file is not as its header says.
    """

    sample_rate: int
    channels: int
    n_samples: int
    subtype: str
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.sample_rate


def require_valid(audio: np.ndarray, source: str) -> None:
    """The one guard for valid audio: floating point, at least one sample, all finite.

    Args:
        audio: any shape.
        source: what the error calls the signal, such as its path.

    Raises:
        TimbreflowError: the signal is empty, of integer type, or holds NaN or infinity.
    """
    if not np.issubdtype(audio.dtype, np.floating):
        raise TimbreflowError(f"{source} is {audio.dtype}, not floating point; scale it to [-1, 1] float32 first.")
    if audio.size == 0:
        raise TimbreflowError(f"{source} holds no samples; give a recording that is not empty.")
    if not np.isfinite(audio).all():
        raise TimbreflowError(f"{source} holds samples that are NaN or infinite; export it again from its source.")


def rms_dbfs(audio: np.ndarray) -> float:
    """Root mean square over all samples, in dB relative to 1.0; -inf for digital silence."""
    mean_square = float(np.mean(np.square(audio, dtype=np.float64)))
    return 10.0 * math.log10(mean_square) if mean_square > 0 else -math.inf


def audio_info(path: str | Path) -> AudioInfo:
    """Read a sound file's header.

    Raises:
        TimbreflowError: the file is missing, empty, cut off, or not a sound file that can be read.
    """
    with _opened(path) as sound:
        notes = reading_of(Path(path), str(path)).notes
        return AudioInfo(sound.samplerate, sound.channels, sound.frames, sound.subtype, notes)


def read_audio(path: str | Path, *, sample_rate: int | None = None) -> tuple[np.ndarray, int]:
    """Read a whole sound file.

    Args:
        path: wav, flac, ogg or mp3.
        sample_rate: resample to this rate, in Hz; None keeps the file's.

    Returns:
        audio [C, N] float32, and its sample rate in Hz.

    Raises:
        TimbreflowError: the file is missing, empty, corrupt, or holds NaN.
    """
    with _opened(path) as sound:
        audio = sound.read(dtype="float32", always_2d=True).T
        _require_all(sound, audio.shape[1], str(path))
        rate = int(sound.samplerate)
    require_valid(audio, str(path))
    return resample(audio, rate, sample_rate or rate), sample_rate or rate


def stream_audio(path: str | Path, *, block: int) -> Iterator[np.ndarray]:
    """Read a sound file in blocks, in constant memory.

    Args:
        path: wav, flac, ogg or mp3.
        block: samples a block.

    Yields:
        [C, n] float32 with n = block but for the last.

    Raises:
        TimbreflowError: as `read_audio`, but a fault is met only when its block is read.
    """
    with _opened(path, kind=_ForwardOnly) as sound:
        n_read = 0
        while True:
            # No sample more than a FLAC holds: libsndfile would look for a frame in the zeros that may stand behind it.
            left = sound.frames - n_read if sound.format == "FLAC" else block
            audio = sound.read(min(block, left), dtype="float32", always_2d=True).T
            if audio.shape[1] == 0:
                break
            require_valid(audio, str(path))
            n_read += audio.shape[1]
            yield np.ascontiguousarray(audio)
        _require_all(sound, n_read, str(path))
        if n_read == 0:
            raise TimbreflowError(f"{path} holds no samples; give a recording that is not empty.")


def resample(audio: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Resample [C, N] or [N] from one rate to another (Hz) at soxr's high quality; the length is rounded."""
    if source_rate == target_rate:
        return np.ascontiguousarray(audio, dtype=np.float32)
    resampled = soxr.resample(audio.T, source_rate, target_rate, quality="HQ").T
    return np.ascontiguousarray(resampled, dtype=np.float32)


def write_audio(path: str | Path, audio: np.ndarray, sample_rate: int) -> None:
    """Write a sound file atomically in the format that its suffix names, 16 bits where the format has bits.

    Args:
        path: ends in .wav, .flac, .ogg or .mp3.
        audio: [C, N] or [N] float; samples beyond [-1, 1] are clipped.
        sample_rate: in Hz.

    Raises:
        TimbreflowError: the suffix is unknown, the audio is not valid, or the format does not take the sample rate.
    """
    audio = np.atleast_2d(audio)
    with AudioWriter(path, sample_rate, audio.shape[0]) as writer:
        writer.write(audio)


class AudioWriter:
    """Context manager that writes a sound file block by block and moves it into place when all went well.

    Args:
        path: ends in .wav, .flac, .ogg or .mp3.
        sample_rate: in Hz.
        channels: number of channels.
        like: subtype of a file whose samples these are to be stored like, where the format can; 16 bits otherwise.

    Raises:
        TimbreflowError: on entering, when the suffix is unknown or the format does not take the rate or channels.
    """

    def __init__(self, path: str | Path, sample_rate: int, channels: int, *, like: str = "PCM_16") -> None:
        self.path = Path(path)
        self.sample_rate = sample_rate
        self.channels = channels
        self.like = like
        if self.path.suffix.lower() not in FORMATS:
            raise TimbreflowError(
                f"{path} does not end in {', '.join(FORMATS)}; name the output file with one of them."
            )

    def __enter__(self) -> "AudioWriter":
        suffix = self.path.suffix.lower()
        with ExitStack() as opening:
            temporary = opening.enter_context(atomic_file(self.path))
            try:
                self._sound = soundfile.SoundFile(
                    os.fsencode(temporary),  # the name need not be UTF-8, which soundfile takes text for
                    "w",
                    self.sample_rate,
                    self.channels,
                    subtype=FINER.get(suffix, {}).get(self.like, SUBTYPES[suffix]),
                    format=FORMATS[suffix],
                )
            except soundfile.LibsndfileError as error:
                raise TimbreflowError(
                    f"{self.path} cannot be written with {self.channels} channels at {self.sample_rate} Hz "
                    f"({_reason(error)}); write a .wav instead."
                ) from error
            opening.enter_context(self._sound)
            self._open = opening.pop_all()
        return self

    def write(self, audio: np.ndarray) -> None:
        """Append audio [C, n] float; samples beyond [-1, 1] are clipped."""
        require_valid(audio, f"the sound for {self.path}")
        # Lossy encoders get the same samples as the others, which libsndfile clips itself.
        self._sound.write(np.clip(audio, -1.0, 1.0).astype(np.float32).T)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, value, trace)


def to_int16(audio: np.ndarray) -> np.ndarray:
    """The 16-bit samples that `encode_flac` stores; divided by 32768 they are what decoding gives back.

    Raises:
        TimbreflowError: the audio is not valid.
    """
    require_valid(audio, "the sound to encode")
    samples: np.ndarray = np.clip(np.rint(np.clip(audio, -1.0, 1.0) * 32768.0), -32768, 32767).astype(np.int16)
    return samples


def encode_flac(audio: np.ndarray, sample_rate: int) -> bytes:
    """Encode mono audio [N] float in [-1, 1] as 16-bit FLAC; the same samples give the same bytes.

    Raises:
        TimbreflowError: the audio is not valid.
    """
    buffer = io.BytesIO()
    soundfile.write(buffer, to_int16(audio), sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def decode_audio(data: bytes, *, name: str = "the audio data") -> tuple[np.ndarray, int]:
    """Decode the bytes of a sound file.

    Args:
        data: a whole wav, flac, ogg or mp3 file.
        name: what the error calls it.

    Returns:
        audio [C, N] float32, and its sample rate in Hz.

    Raises:
        TimbreflowError: the bytes are empty, corrupt, or hold NaN.
    """
    if not data:
        raise TimbreflowError(f"{name} is empty (0 bytes); give a recording.")
    with _sound(io.BytesIO(data), name) as sound:
        audio = np.ascontiguousarray(sound.read(dtype="float32", always_2d=True).T)
        _require_all(sound, audio.shape[1], name)
        rate = int(sound.samplerate)
    require_valid(audio, name)
    return audio, rate


class _ForwardOnly(soundfile.SoundFile):
    """Reads block after block without the seek that soundfile does after each.

    In an mp3 that seek lands elsewhere: with soundfile 0.14 and libsndfile 1.2, blocks after the first few are shifted
    against the whole.
    """

    def seekable(self) -> bool:
        return False


@contextmanager
def _opened(path: str | Path, kind: type[soundfile.SoundFile] = soundfile.SoundFile) -> Iterator[soundfile.SoundFile]:
    path = Path(path)
    if not path.exists():
        raise TimbreflowError(f"{path} is missing; check the path.")
    if not path.is_file():
        raise TimbreflowError(f"{path} is not a file; name one sound file.")
    if path.stat().st_size == 0:
        raise TimbreflowError(f"{path} is empty (0 bytes); record or download it again.")
    with _sound(path, str(path), kind) as sound:
        yield sound


@contextmanager
def _sound(
    source: Path | BinaryIO, name: str, kind: type[soundfile.SoundFile] = soundfile.SoundFile
) -> Iterator[soundfile.SoundFile]:
    reading = reading_of(source, name)
    with ExitStack() as open_files:
        try:
            file: bytes | BinaryIO | Stitched = os.fsencode(source) if isinstance(source, Path) else source
            if reading.parts is not None:
                whole = open_files.enter_context(open(source, "rb")) if isinstance(source, Path) else source
                file = Stitched(whole, reading.parts)
            sound = open_files.enter_context(kind(file))
        except (soundfile.LibsndfileError, TypeError, ValueError, OSError) as error:
            # soundfile takes a name that ends in .raw for headerless samples, and asks for their rate by a TypeError.
            raise TimbreflowError(
                f"{name} cannot be read as sound ({_reason(error)}); convert it to one of {_KNOWN} and try again."
            ) from error
        if sound.format not in CHECKED:
            raise TimbreflowError(
                f"{name} is a {sound.format} file, of which nobody can tell whether it is whole; "
                f"convert it to one of {_KNOWN} and try again."
            )
        try:
            yield sound
        except (soundfile.LibsndfileError, OSError) as error:
            raise TimbreflowError(
                f"{name} is damaged or cut off ({_reason(error)}); export or download it again."
            ) from error


def _require_all(sound: soundfile.SoundFile, n_read: int, name: str) -> None:
    """Refuse a file that gave less than its header promises, which was found true before."""
    spare = MP3_LOST_FRAMES * 1152 if sound.format == "MP3" else 0
    if n_read + spare < sound.frames:
        raise TimbreflowError(
            f"{name} is damaged or cut off: only {n_read} of {sound.frames} samples can be read; "
            "export or download it again."
        )


def _reason(error: Exception) -> str:
    return (error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)).rstrip(".")
