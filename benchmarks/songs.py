"""Whole songs by `reinstrument`: length, stereo, peak, and whether every styled track is heard in the mix.

The two tracks with the most notes get the two sounds that ship. Each is then made again alone: what is missing of it in
the mix would not correlate with it. A line of JSON for each song.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from timbreflow.inference.songs import TAIL_SECONDS, read_song, reinstrument
from timbreflow.inference.transfer import TimbreTransfer

ROOT = Path(__file__).resolve().parents[1]
SOUNDS = (ROOT / "docs/sounds/xylophone.ogg", ROOT / "docs/sounds/violin-tune.ogg")


def measure(session: TimbreTransfer, path: Path, folder: Path) -> dict[str, Any]:
    """One song."""
    song = read_song(path)
    pitched = sorted((track for track in song.tracks if not track.is_drum), key=lambda track: -track.n_notes)
    styles: dict[int, str | Path] = {track.number: sound for track, sound in zip(pitched, SOUNDS, strict=False)}
    reinstrument(session, path, styles, folder / "mix.wav")
    mix, rate = soundfile.read(folder / "mix.wav", dtype="float32")
    result: dict[str, Any] = {
        "song": path.name,
        "tracks": len(song.tracks),
        "seconds": round(song.seconds, 3),
        "length_minus_expected": round(len(mix) / rate - song.seconds - TAIL_SECONDS, 4),
        "channels": mix.shape[1],
        "stereo_difference_db": round(float(10 * np.log10(np.mean((mix[:, 0] - mix[:, 1]) ** 2) / np.mean(mix**2))), 1),
        "peak_dbfs": round(float(20 * np.log10(np.abs(mix).max())), 2),
        "styled": {},
    }
    stems = []
    for number, sound in styles.items():
        reinstrument(session, path, {number: sound}, folder / "stem.wav", others="leave-out")
        stems.append(soundfile.read(folder / "stem.wav", dtype="float32")[0].mean(axis=1))
    # Stems that overlap are told apart by fitting all to the mix at once.
    gains, *_ = np.linalg.lstsq(np.stack(stems, axis=1), mix.mean(axis=1), rcond=None)
    for number, stem, gain in zip(styles, stems, gains, strict=True):
        correlation = float(np.corrcoef(mix.mean(axis=1), stem)[0, 1])
        result["styled"][song.tracks[number].description] = {
            "correlation": round(correlation, 3),
            "share_of_power": round(float(np.mean((gain * stem) ** 2) / np.mean(mix.mean(axis=1) ** 2)), 3),
        }
    return result


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Songs by `timbreflow reinstrument`: are all styled tracks heard?")
    parser.add_argument("songs", type=Path, nargs="+", help=".mid files with several tracks")
    parser.add_argument("--model", default="vqvae", help="vqvae or glow (%(default)s)")
    options = parser.parse_args()
    session = TimbreTransfer.released(options.model)
    for path in options.songs:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(session, path, Path(folder))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
