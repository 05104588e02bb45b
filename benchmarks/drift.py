"""Does monitoring see styles of a kind that no model was trained on, and is it silent on the test sets?

    python benchmarks/drift.py [--records 60] [--sets seen artificial real drums speech noise] [--transfer] [--glow]

Each set is recorded by the recorder that serving uses, and examined with the thresholds of params.yaml. `seen`,
`artificial` and `real` are the frozen test sets, which are built where they are missing. `drums` are recorded hits of
Hydrogen's drum kits in drawn rhythms, `speech` recorded syllables of KLettres, both from Debian; `noise`
is filtered noise, drawn. Their contents are those of `seen`. The row `seen` is held against a reference of that set's
other half; all other rows are held against the released reference.

Without --transfer the output that is recorded is the triple's true target, or for strangers the content. With --glow
the likelihood is recorded too.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from timbreflow.audio.files import read_audio
from timbreflow.config import load_params
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.clips import EvaluationClips
from timbreflow.inference.transfer import TimbreTransfer
from timbreflow.monitoring.drift import Report, examine
from timbreflow.monitoring.figures import SAMPLE_RATE, Ears
from timbreflow.monitoring.record_table import read_records
from timbreflow.monitoring.recorder import Recorder
from timbreflow.monitoring.reference import read_reference
from timbreflow.monitoring.watch import learn, released_reference
from timbreflow.notes.sources.catalogue import CATALOGUE, Corpus
from timbreflow.notes.sources.corpora import fetch
from timbreflow.stages.layout import Layout
from timbreflow.testsets.build import build

ROOT = Path(__file__).resolve().parents[1]
TEST_SETS = ("seen", "artificial", "real")
STRANGERS = ("drums", "speech", "noise")
SECONDS = 8.0
RECORDINGS = {
    "drums": Corpus(
        "hydrogen-drumkits", "recordings", "debian", ("hydrogen-drumkits",), 142_675_622, "GPL, CC-BY-SA",
        "usr/share/hydrogen/data/drumkits", "drum kits, one folder each",
    ),
    "speech": Corpus(
        "klettres-data", "recordings", "debian", ("klettres-data",), 39_529_084, "GPL-2+",
        "usr/share/klettres", "syllables, one folder a language",
    ),
}  # fmt: skip
SUFFIXES = (".wav", ".flac", ".ogg")

Sounds = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Content, style and true target [N] of one transfer."""


def folders(name: str, layout: Layout) -> list[list[Path]]:
    """Recordings of strangers: files of each kit or speaker that has five or more."""
    CATALOGUE[RECORDINGS[name].name] = RECORDINGS[name]
    root = fetch(RECORDINGS[name].name, layout.corpora).path
    found: dict[Path, list[Path]] = {}
    for path in sorted(root.rglob("*")) if root else ():
        if path.suffix.lower() in SUFFIXES:
            found.setdefault(path.parent, []).append(path)
    return [paths for paths in found.values() if len(paths) >= 5]


def drum_pattern(kit: Sequence[Path], random: np.random.Generator) -> np.ndarray:
    """[N] of a bar of four to six drums at 90 to 150 beats a minute, repeated."""
    eighth = round(SAMPLE_RATE * 30 / random.uniform(90, 150))
    sound = np.zeros(round(SECONDS * SAMPLE_RATE), np.float32)
    for path in random.choice(np.array(kit), min(len(kit), int(random.integers(4, 7))), replace=False):
        hit = mono(path)
        bar = random.random(8) < 0.35
        bar[random.integers(8)] = True
        for step in range(len(sound) // eighth):
            if bar[step % 8]:
                part = hit[: len(sound) - step * eighth]
                sound[step * eighth : step * eighth + len(part)] += part
    return levelled(sound)


def speech(voice: Sequence[Path], random: np.random.Generator) -> np.ndarray:
    """[N] of syllables one after the other."""
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < SECONDS * SAMPLE_RATE:
        parts.append(mono(voice[int(random.integers(len(voice)))]))
    return levelled(np.concatenate(parts)[: round(SECONDS * SAMPLE_RATE)])


def noise(random: np.random.Generator) -> np.ndarray:
    """[N] of noise whose power falls by 0 to 6 dB an octave, in bursts or steady."""
    n = round(SECONDS * SAMPLE_RATE)
    spectrum = np.fft.rfft(random.standard_normal(n))
    frequencies = np.fft.rfftfreq(n, 1 / SAMPLE_RATE)
    spectrum *= np.maximum(frequencies, 20.0) ** -random.uniform(0, 1)
    bursts = np.repeat(random.random(16) < random.uniform(0.4, 1.0), n // 16)
    bursts[: n // 16] = True
    return levelled(np.fft.irfft(spectrum, n).astype(np.float32) * bursts)


def mono(path: Path) -> np.ndarray:
    """[N] at 16 kHz, not longer than 3 s."""
    audio, _ = read_audio(path, sample_rate=SAMPLE_RATE)
    return np.asarray(audio.mean(axis=0)[: 3 * SAMPLE_RATE], np.float32)


def levelled(sound: np.ndarray) -> np.ndarray:
    """At -23 dBFS, as all clips are."""
    gain = min(10 ** (-23 / 20) / np.sqrt(np.mean(sound**2)), 0.99 / np.abs(sound).max())
    return (sound * gain).astype(np.float32)


def strangers(name: str, layout: Layout) -> Iterator[np.ndarray]:
    """Styles of a kind that no model was trained on, without end."""
    random = np.random.default_rng(sum(map(ord, name)))
    makers: list[Callable[[np.random.Generator], np.ndarray]] = [noise]
    if name != "noise":
        make = {"drums": drum_pattern, "speech": speech}[name]
        makers = [partial(make, paths) for paths in folders(name, layout)]
    while True:
        for maker in makers:
            try:
                yield maker(random)
            except TimbreflowError:  # a file that cannot be read
                continue


def halves(name: str, layout: Layout) -> tuple[list[str], list[str]]:
    """Ids of every second triple of a test set, and of the others."""
    clips = EvaluationClips(layout.testsets / name, name, sample_rate=SAMPLE_RATE, max_triples=0)
    return clips.triple_ids[::2], clips.triple_ids[1::2]


def transfers(name: str, layout: Layout, n: int) -> Iterator[Sounds]:
    """The sounds of n transfers of a set."""
    testset = name if name in TEST_SETS else "seen"
    if not (layout.testsets / testset).is_dir():
        build([testset], layout=layout, released=layout.released_testsets, out=layout.testsets, say=print)
    first, second = halves(testset, layout)
    ids = sorted(second if testset == "seen" else first + second)
    # Spread over the set, whose first half plays one voice.
    only = [ids[number * len(ids) // n] for number in range(n)] if n < len(ids) else ids
    clips = EvaluationClips(layout.testsets / testset, testset, sample_rate=SAMPLE_RATE, max_triples=0, only=only)
    batches = clips.batches(8)
    triples = (sounds for b in batches for sounds in zip(b.content, b.style, b.target, strict=True))
    if name in TEST_SETS:
        yield from triples
    else:
        yield from ((content, style, content) for (content, _, _), style in zip(triples, strangers(name, layout)))  # noqa: B905


@dataclass(frozen=True)
class Sessions:
    """Released models, where they are asked for."""

    vqvae: TimbreTransfer | None
    glow: TimbreTransfer | None


def record(name: str, folder: Path, layout: Layout, n: int, sessions: Sessions) -> float:
    """Record n transfers of a set; seconds that recording one took."""
    recorder, spent = Recorder(folder), 0.0
    familiarity = partial(sessions.glow.familiarity, sample_rate=SAMPLE_RATE) if sessions.glow else None
    for content, style, output in transfers(name, layout, n):
        made, started = output, time.perf_counter()
        if sessions.vqvae:
            made = sessions.vqvae.transfer(content, style, sample_rate=SAMPLE_RATE)
        took, started = time.perf_counter() - started, time.perf_counter()
        recorder.record(content, style, made, SAMPLE_RATE, model="vqvae", familiarity=familiarity, seconds=took)
        spent += time.perf_counter() - started
    return spent / n


def main() -> None:
    """Print a row for each set: what alerts, and the distances of its styles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=60)
    parser.add_argument("--sets", nargs="+", choices=(*TEST_SETS, *STRANGERS), default=(*TEST_SETS, *STRANGERS))
    parser.add_argument("--transfer", action="store_true", help="transfer by the released VQ-VAE, a few s each")
    parser.add_argument("--glow", action="store_true", help="record the likelihood under the released Glow, too")
    parser.add_argument("--keep", type=Path, help="folder for the records, one folder a set")
    arguments = parser.parse_args()
    layout, config = Layout(ROOT), load_params(ROOT / "params.yaml").monitor
    sessions = Sessions(
        TimbreTransfer.released("vqvae") if arguments.transfer else None,
        TimbreTransfer.released("glow") if arguments.glow else None,
    )
    with TemporaryDirectory() as temporary:
        for name in arguments.sets:
            folder = (arguments.keep or Path(temporary)) / name
            seconds = record(name, folder, layout, arguments.records, sessions)
            reference = read_reference(released_reference(), Ears())
            if name == "seen":
                half = Path(temporary) / "half.json"
                reference = learn(layout.testsets / name, half, triples=0, only=tuple(halves(name, layout)[0]))
            show(name, examine(read_records(folder, days=1), reference, config), seconds)


def show(name: str, report: Report, seconds: float) -> None:
    """Print the checks of a set."""
    print(f"\n{name}: {report.summary} Recording took {seconds:.2f} s a transfer.")
    for check in report.checks:
        if check.state != "too few":
            print(f"  {check.state:6} {check.sentence}")


if __name__ == "__main__":
    main()
