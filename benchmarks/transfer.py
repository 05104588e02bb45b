"""How much faster than real time a recording is transferred, beside the same with librosa's Griffin-Lim.

Both ways take the same models, files and chunks, and take turns, so that a busy machine slows both alike:

- `ours`: `timbreflow transfer` from file to file, as released: vocoder and Griffin-Lim on batches of chunks;
- `librosa`: the same with `librosa.feature.inverse.mel_to_stft` and `librosa.griffinlim` for each chunk, which is how
  sound was made of spectrograms in 2021.

With `ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2` before the command torch takes the processor for one with AVX2
alone, as most laptops have.
The content is real music: scores of music21 played by one SoundFont. The last line is JSON.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import soundfile
import torch
from small_data import prepare, small_params
from torch import Tensor

from timbreflow.audio.features import FeatureConfig
from timbreflow.data.manifest import read_manifest
from timbreflow.data.shards import AudioShards
from timbreflow.inference.transfer import TimbreTransfer
from timbreflow.models.devices import resolve_device

ROOT = Path(__file__).resolve().parents[1]
ITERATIONS = 32


class LibrosaInverter:
    """Sound from log-mels by librosa, clip by clip.

    Args:
        features: to invert.
    """

    def __init__(self, features: FeatureConfig) -> None:
        self.features = features

    def __call__(self, features: Tensor, *, seed: int = 0) -> Tensor:
        """[B, M, T] raw -> [B, T * hop_length]."""
        config = self.features
        made = []
        for mel in features.double().exp().sub(config.floor).clamp_min(0).cpu().numpy():
            magnitude = librosa.feature.inverse.mel_to_stft(
                mel, sr=config.sample_rate, n_fft=config.n_fft, power=1.0, norm=None, fmin=config.fmin, fmax=config.fmax
            )
            sound = librosa.griffinlim(
                magnitude,
                n_iter=ITERATIONS,
                hop_length=config.hop_length,
                win_length=config.win_length,
                random_state=seed,
            )
            made.append(librosa.util.fix_length(sound.astype(np.float32), size=mel.shape[1] * config.hop_length))
        return torch.from_numpy(np.stack(made))


def main() -> int:
    """Measure and print."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="timbreflow-benchmark-") as folder:
        result = measure(Path(folder), seconds=options.seconds, repeats=options.repeats)
    print(json.dumps(result))
    return 0


def measure(folder: Path, *, seconds: float, repeats: int) -> dict[str, Any]:
    """Medians of both ways for both models.

    Args:
        folder: empty, for data and sound files.
        seconds: length of the content.
        repeats: transfers of each way, interleaved.
    """
    content, style = _recordings(folder, seconds)
    sessions = {
        name: TimbreTransfer.load(ROOT / "released" / name, device=resolve_device()) for name in ("vqvae", "glow")
    }
    taken: dict[str, list[float]] = {}
    for turn in range(repeats + 1):
        for name, session in sessions.items():
            ways: dict[str, Callable[..., Tensor]] = {
                "ours": session.synthesizer.invert,
                "librosa": LibrosaInverter(session.bundle.features),
            }
            for way, inverter in ways.items():
                session.synthesizer.invert = inverter
                began = time.perf_counter()
                session.transfer_file(content, style, folder / f"{name}-{way}.wav")
                if turn:  # the first of each compiles and caches
                    taken.setdefault(f"{name}/{way}", []).append(time.perf_counter() - began)
            session.synthesizer.invert = ways["ours"]
        print(f"turn {turn} of {repeats}", file=sys.stderr, flush=True)
    factor = {key: seconds / statistics.median(times) for key, times in taken.items()}
    return {
        "content_seconds": seconds,
        "repeats": repeats,
        "cores": len(os.sched_getaffinity(0)),
        "device": str(resolve_device()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "inverter": type(sessions["vqvae"].synthesizer.invert).__name__,
        "real_time_factor": {key: round(value, 2) for key, value in factor.items()},
        "speedup_over_librosa": {
            name: round(factor[f"{name}/ours"] / factor[f"{name}/librosa"], 2) for name in sessions
        },
    }


def _recordings(folder: Path, seconds: float) -> tuple[Path, Path]:
    """A content of real music of that length, and a style of 8 s."""
    layout = prepare(folder / "data", small_params(max(1, round(seconds / 8))))
    clips = read_manifest(layout.audio)
    shards = AudioShards(layout.audio, sample_rate=16000)

    def sounds(role: str) -> list[np.ndarray]:
        rows = clips.loc[clips["role"] == role, ["shard", "offset", "nbytes"]].to_numpy(dtype=object)
        return [shards.read(str(shard), int(offset), int(size)) for shard, offset, size in rows]

    music = np.concatenate(sounds("content"))
    for name, sound in (("content", np.resize(music, round(seconds * 16000))), ("style", sounds("style")[0])):
        soundfile.write(folder / f"{name}.wav", sound, 16000)
    return folder / "content.wav", folder / "style.wav"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Real-time factor of transfers, beside librosa's Griffin-Lim.")
    parser.add_argument("--seconds", type=float, default=64.0, help="length of the content (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="transfers of each way (%(default)s)")
    options = parser.parse_args()
    if options.seconds < 8 or options.repeats < 1:
        parser.error("--seconds must be 8 or more, and --repeats positive")
    return options


if __name__ == "__main__":
    sys.exit(main())
