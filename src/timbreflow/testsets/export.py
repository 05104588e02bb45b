"""`timbreflow testset export`: the pairs of a frozen test set as WAV files, for systems that are other programs."""

import csv
from pathlib import Path

import soundfile

from timbreflow.data.manifest import read_manifest
from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_directory
from timbreflow.testsets.frozen import SAMPLE_RATE, ReleasedSet, read_flacs, require_built, samples_of

README = """\
Test set {name} of timbreflow: {pairs} pairs of recordings, 16-bit mono at {rate} Hz, {seconds:g} s each.

pairs.csv lists them: id, content (the recording whose notes are to be played), style (the recording whose timbre they
are to be played with). The true results are not in this folder, and the recordings are not for training.

To score another program:

1. For each line of pairs.csv, let it play the notes of content with the timbre of style.
2. Write the result as OUTPUTS/ID.wav, such as OUTPUTS/{example}.wav. Any sample rate will do, mono or stereo. It is
   scored as mono at {rate} Hz, and cut or padded with silence to {seconds:g} s.
3. In a checkout of timbreflow: timbreflow evaluate --testset {name} --outputs OUTPUTS --name MINE

Set of this folder (sha256): {digest}. Results are comparable only where this is the same.
"""


def export(released: ReleasedSet, *, built: Path, out: Path) -> int:
    """Write OUT/{pairs.csv, README.txt, content/ID.wav, style/ID.wav}, all or nothing; returns the number of pairs.

    Raises:
        TimbreflowError: the set is not built or has been changed, or `out` holds files.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise TimbreflowError(f"{out} exists and is not an empty folder; name another folder.")
    require_built(built, released)
    clips = read_manifest(built)
    ids = sorted(set(clips["triple_id"]))
    places = {clip: (role, triple) for clip, role, triple in clips[["clip_id", "role", "triple_id"]].to_numpy()}
    with atomic_directory(out) as folder:
        for role in ("content", "style"):
            (folder / role).mkdir()
        for clip_id, flac in read_flacs(built):
            role, triple = places[clip_id]
            if role != "target":
                # Integers: the samples are those of the set, bit for bit.
                soundfile.write(folder / role / f"{triple}.wav", samples_of(flac, clip_id), SAMPLE_RATE, "PCM_16")
        with open(folder / "pairs.csv", "w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["id", "content", "style"])
            table.writerows([triple, f"content/{triple}.wav", f"style/{triple}.wav"] for triple in ids)
        text = README.format(
            name=released.name,
            pairs=len(ids),
            rate=SAMPLE_RATE,
            seconds=clips["n_samples"].max() / SAMPLE_RATE,
            example=ids[0],
            digest=released.checksums.digest,
        )
        (folder / "README.txt").write_text(text, encoding="utf-8")
    return len(ids)
