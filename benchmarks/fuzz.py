"""Fuzz the readers of what strangers give: files, tables, requests. Whatever comes, they give a result or one sentence.

    python benchmarks/fuzz.py midi --minutes 5
    python benchmarks/fuzz.py all --minutes 1 --out findings

Real files are changed (bits, bytes, lengths, cuts, splices of two) and read in a process of its own with limits of
time and memory. With atheris (extra fuzz, on Linux) the changes are led by what code they reach, else they are random.
A finding is any end but success or timbreflow's own errors: another exception, a crash, over 10 s of work, over 1 GB
of memory. Its input is kept, and the same one (exception and line) is counted once. Prints one line a reader; exit
code 1 where something was found.
"""

import argparse
import hashlib
import json
import logging
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 10
"""Of work, for one input."""
MEMORY = 1 << 30
"""Bytes, for one input, beside what the process has before."""
LONGEST = 200_000
"""Bytes of an input."""
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
WORDS = (
    b"-1",
    b"1e999",
    b"NaN",
    b"9" * 5000,
    b"[" * 3000,
    b"../../x",
    b"/dev/zero",
    b"\0",
    b"\xff\xfe",
    b"null",
    b"{}",
)

Read = Callable[[bytes], object]


class Wrong(Exception):
    """An answer that should not be."""


@dataclass(frozen=True)
class Reader:
    """What is fuzzed.

    Args:
        kinds: names of the files that it reads; the first byte of an input chooses one.
        prepare: in an empty folder; gives real inputs, each with the number of its kind, and the functions that read
            one of each kind.
    """

    kinds: tuple[str, ...]
    prepare: Callable[[Path], tuple[list[tuple[int, bytes]], list[Read]]]


def midi(folder: Path) -> tuple[list[tuple[int, bytes]], list[Read]]:
    """MIDI of the collection (notes) and of songs (all events)."""
    from timbreflow.inference.songs import read_song

    def chunk(name: bytes, data: bytes) -> bytes:
        return name + struct.pack(">I", len(data)) + data

    tracks = [chunk(b"MTrk", b"\0\xff\x51\x03\x07\xa1\x20\0\xff\x2f\0")]
    for channel, program in ((0, 0), (1, 40), (9, 0)):
        events = bytes([0, 0xC0 | channel, program, 0, 0xB0 | channel, 7, 100, 0, 0xE0 | channel, 0, 70])
        for step in range(64):
            pitch = 48 + step % 24
            events += bytes([0, 0x90 | channel, pitch, 80, 0x60, 0x80 | channel, pitch, 0])
        tracks.append(chunk(b"MTrk", events + b"\0\xff\x2f\0"))
    whole = chunk(b"MThd", struct.pack(">HHH", 1, len(tracks), 96)) + b"".join(tracks)
    wrapped = b"RIFF" + struct.pack("<I", len(whole) + 12) + b"RMIDdata" + struct.pack("<I", len(whole)) + whole
    path = folder / "song.mid"
    return [(0, whole), (1, whole), (0, wrapped), (1, wrapped)], [_notes("a.mid"), _by_file(path, read_song)]


def scores(folder: Path) -> tuple[list[tuple[int, bytes]], list[Read]]:
    """MusicXML, plain and packed, ABC and Humdrum."""
    del folder
    import music21

    places = Path(music21.__file__).parent / "corpus"
    names = ("*.musicxml", "*.mxl", "*.abc", "*.krn")
    seeds: list[tuple[int, bytes]] = []
    for kind, name in enumerate(names):
        found = sorted(places.rglob(name), key=lambda path: (path.stat().st_size, path.name))
        seeds += [(kind, path.read_bytes()) for path in found[:40:10]]
    return seeds, [_notes(name.replace("*", "a")) for name in names]


def _notes(name: str) -> Read:
    from timbreflow.config import preset_params
    from timbreflow.notes.reading import read_piece
    from timbreflow.notes.sources.archives import Item

    limits = preset_params("default").collect_midi.limits
    return lambda data: read_piece(Item(name, data, len(data)), limits)


def audio(folder: Path) -> tuple[list[tuple[int, bytes]], list[Read]]:
    """Sound files of every format that is taken, as content and as style."""
    import soundfile

    from timbreflow.audio.files import read_audio
    from timbreflow.inference.streaming.recordings import open_recording

    sound = 0.3 * np.sin(np.arange(3000)[:, None] * [[0.1, 0.2]])
    formats = {
        "a.wav": ("WAV", "PCM_16"), "b.wav": ("WAVEX", "FLOAT"), "c.wav": ("RF64", "PCM_24"),
        "d.wav": ("W64", "PCM_16"),
        "e.flac": ("FLAC", "PCM_16"), "f.ogg": ("OGG", "VORBIS"), "g.mp3": ("MP3", "MPEG_LAYER_III"),
        "h.wav": ("AIFF", "PCM_16"), "i.ogg": ("OGG", "OPUS"), "j.wav": ("CAF", "ALAC_16"), "k.wav": ("AU", "ULAW"),
        "l.wav": ("WAV", "IMA_ADPCM"),
    }  # fmt: skip
    seeds: list[tuple[int, bytes]] = []
    reads: list[Read] = []

    def read(path: Path) -> None:
        open_recording(path)
        read_audio(path, sample_rate=16000)

    for kind, (name, (form, subtype)) in enumerate(formats.items()):
        soundfile.write(folder / name, sound, 8000, format=form, subtype=subtype)
        seeds.append((kind, (folder / name).read_bytes()))
        reads.append(_by_file(folder / name, read))
    return seeds, reads


def soundfont(folder: Path) -> tuple[list[tuple[int, bytes]], list[Read]]:
    """Tables of SoundFonts."""
    from timbreflow.rendering.soundfonts import list_presets, played_samples

    def chunk(name: bytes, data: bytes) -> bytes:
        return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    samples = [np.arange(64, dtype="<i2").tobytes(), np.arange(50, dtype="<i2").tobytes()]
    tables = {
        b"phdr": [struct.pack("<20sHHHIII", b"p", n, 0, n, 0, 0, 0) for n in range(3)],
        b"pbag": [struct.pack("<HH", n, 0) for n in range(3)],
        b"pmod": [bytes(10)],
        b"pgen": [struct.pack("<HH", 41, 0), struct.pack("<HH", 41, 1), bytes(4)],
        b"inst": [struct.pack("<20sH", b"i", n) for n in range(3)],
        b"ibag": [struct.pack("<HH", n, 0) for n in range(3)],
        b"imod": [bytes(10)],
        b"igen": [struct.pack("<HH", 53, 0), struct.pack("<HH", 53, 1), bytes(4)],
        b"shdr": [struct.pack("<20sIIIIIBbHH", b"s", 64 * n, 64 + 50 * n, 0, 0, 16000, 60, 0, 0, 1) for n in (0, 1)]
        + [bytes(46)],
    }
    body = b"sfbk" + chunk(b"LIST", b"sdta" + chunk(b"smpl", b"".join(samples)))
    body += chunk(b"LIST", b"pdta" + b"".join(chunk(name, b"".join(rows)) for name, rows in tables.items()))

    def read(path: Path) -> None:
        list_presets(path, "a")
        played_samples(path)

    return [(0, chunk(b"RIFF", body))], [_by_file(folder / "a.sf2", read)]


def bundle(folder: Path) -> tuple[list[tuple[int, bytes]], list[Read]]:
    """A model's config.json, and its weights."""
    from timbreflow.audio.features import FeatureConfig
    from timbreflow.models.bundle import CONFIG, WEIGHTS, ModelBundle, load_bundle, save_bundle
    from timbreflow.models.vocoder import Vocoder, VocoderConfig

    features = FeatureConfig("log_mel", 16000, 1024, 1000, 500, 24, 30.0, 8000.0, 0.01)
    config = VocoderConfig(24, 500, 4, 1000, 512, 8, 2, 1, 1, 5)
    save_bundle(folder / "m", ModelBundle("vocoder", Vocoder(config), features, None, {}))
    seeds = [(kind, (folder / "m" / name).read_bytes()) for kind, name in enumerate((CONFIG, WEIGHTS))]

    def reading(changed: int) -> Read:
        def read(data: bytes) -> None:
            for kind, whole in seeds:
                (folder / "m" / (CONFIG, WEIGHTS)[kind]).write_bytes(data if kind == changed else whole)
            load_bundle(folder / "m")

        return read

    return seeds, [reading(0), reading(1)]


def params(folder: Path) -> tuple[list[tuple[int, bytes]], list[Read]]:
    """params.yaml."""
    from timbreflow.config import load_params, preset_text

    bombs = b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n"
    return [(0, preset_text("default").encode()), (0, bombs)], [_by_file(folder / "params.yaml", load_params)]


def study(folder: Path) -> tuple[list[tuple[int, bytes]], list[Read]]:
    """study.yaml of a listening test."""
    from timbreflow.app.listening.study import STUDY, read_study

    _write_study(folder)
    whole = (folder / STUDY).read_bytes()
    return [(0, whole), (0, whole[:600])], [_by_file(folder / STUDY, lambda path: read_study(folder))]


def _write_study(folder: Path) -> None:
    from timbreflow.app.listening.study import Study, Trial, write_study
    from timbreflow.audio.files import write_audio

    write_audio(folder / "a.wav", np.full((1, 160), 0.1, np.float32), 16000)
    clips = {"vqvae": "a.wav", "glow": "a.wav"}
    ab = [Trial(f"t{n}", "ab", "notes", "x", clips, "a.wav", "") for n in range(3)]
    mushra = Trial("m", "mushra", "near", "x", clips | {"reference": "a.wav", "anchor35": "a.wav"}, "a.wav", "")
    checks = [Trial(name, "ab", "timbre", "x", clips, "a.wav", "glow") for name in ("training", "c1", "c2")]
    phones = [Trial(f"h{n}", "headphones", "", "", clips, "", "glow") for n in range(2)]
    names = {"vqvae": "V", "glow": "G"}
    write_study(
        folder,
        Study(1, "A", "B", "real", "0", 0, -23.0, names, 4, 2, [*ab, mushra], checks[:1], checks[1:], phones),
    )


def tables(folder: Path) -> tuple[list[tuple[int, bytes]], list[Read]]:
    """The manifest of clips (Parquet), and pairs (CSV)."""
    import pandas as pd

    from timbreflow.data.manifest import MANIFEST_SCHEMA, read_manifest, triple_positions, write_manifest
    from timbreflow.inference.pairs import read_pairs

    plain = {"string": "x", "float": 0.5, "double": 0.5}
    row = {field.name: plain.get(str(field.type), 1) for field in MANIFEST_SCHEMA}
    rows = [row | {"role": role, "split": "train", "clip_id": role} for role in ("content", "style", "target")]
    write_manifest(folder, pd.DataFrame(rows))
    (folder / "a.wav").write_bytes(b"x")
    pairs = b'id,content,style\none,a.wav,a.wav\n"two",a.wav,a.wav\n'

    def read(path: Path) -> None:
        triple_positions(read_manifest(path.parent), "train")

    manifest = folder / "manifest.parquet"
    seeds = [(0, manifest.read_bytes()), (1, pairs), (1, pairs.decode().replace(",", ";").encode("utf-16"))]
    return seeds, [_by_file(manifest, read), _by_file(folder / "pairs.csv", read_pairs)]


def _by_file(path: Path, read: Callable[[Path], object]) -> Read:
    def write_and_read(data: bytes) -> None:
        path.write_bytes(data)
        read(path)

    return write_and_read


def http(folder: Path) -> tuple[list[tuple[int, bytes]], list[Read]]:
    """Requests to the page of a listening test; an answer of 500, or none at all, is wrong."""
    import uvicorn

    from timbreflow.app.listening.server import ListeningTest

    _write_study(folder)
    test = ListeningTest(folder, open_to_all=True)
    name, secret = test.answers.begin()
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    bound = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(test.application(), log_level="critical", access_log=False))
    threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True).start()
    address = bound.getsockname()
    head = f"Host: 127.0.0.1\r\nCookie: listener-{test.answers.token[:6]}={secret}\r\nConnection: close\r\n"

    def get(path: str, more: str = "") -> bytes:
        return f"GET {path} HTTP/1.1\r\n{head}{more}\r\n".encode()

    def post(path: str, body: bytes) -> bytes:
        return f"POST {path} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    answer = b'{"position": 0, "answer": 1, "seconds": 2.5}'
    session = f"/api/sessions/{name}"
    requests = [
        get("/"),
        get("/?token=x"),
        get("/api/study"),
        get(session),
        get(f"{session}/sound/0/0", "Range: bytes=0-9\r\n"),
    ]
    requests += [post(f"{session}/answers", answer), post("/api/sessions", b"")]

    def ask(data: bytes) -> None:
        with socket.create_connection(address, timeout=0.3) as connection:
            try:
                connection.sendall(data)
                status = connection.recv(65536).split(b" ", 2)[1:2]
            except TimeoutError:
                # It waits for the rest of what was cut; somebody else must be answered meanwhile.
                status = []
            except OSError:
                return
        if not status:
            with socket.create_connection(address, timeout=SECONDS) as connection:
                connection.sendall(requests[2])
                status = connection.recv(65536).split(b" ", 2)[1:2]
        if status and status[0].startswith(b"5"):
            raise Wrong(f"status {status[0].decode(errors='replace')}")

    return [(0, request) for request in requests], [ask]


def forms(folder: Path) -> tuple[list[tuple[int, bytes]], list[Read]]:
    """Forms for /transfer and /batch of `timbreflow serve`: a line with the Content-Type, then the body."""
    import asyncio

    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.types import Message

    from timbreflow.app.serving.forms import read_job
    from timbreflow.app.serving.limits import Limits
    from timbreflow.app.web import Refused
    from timbreflow.audio.files import write_audio

    sound = folder / "a.flac"
    write_audio(sound, 0.3 * np.sin(np.arange(800, dtype=np.float32) / 5)[None], 16000)
    files = [(f'{role}"; filename="a.flac', sound.read_bytes()) for role in ("content", "style")]
    fields = {
        "seed": "7",
        "temperature": "0.5",
        "blend": "0.5,0.5",
        "stereo": "mid",
        "transpose": "-12",
        "format": "ogg",
    }
    options = [(name, value.encode()) for name, value in fields.items()]

    def form(parts: Sequence[tuple[str, bytes]]) -> bytes:
        told = [b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (n.encode(), v) for n, v in parts]
        return b"multipart/form-data; boundary=x\r\n" + b"".join(told) + b"--x--\r\n"

    runner = asyncio.Runner()

    async def ask(data: bytes, private: Path, *, batch: bool) -> None:
        kind, _, body = data.partition(b"\r\n")
        pieces = [body[: len(body) // 2], body[len(body) // 2 :]]

        async def receive() -> Message:
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

        scope = {"type": "http", "method": "POST", "path": "/", "app": None, "headers": [(b"content-type", kind)]}
        try:
            await read_job(Request(scope, receive), private, Limits(max_bytes=LONGEST), batch=batch)
        except HTTPException as error:
            raise Refused(error.detail, error.status_code) from error

    def reading(batch: bool) -> Read:
        def read(data: bytes) -> None:
            with tempfile.TemporaryDirectory(dir=folder) as private:
                runner.run(ask(data, Path(private), batch=batch))

        return read

    seeds = [(0, form(files)), (0, form([*files, files[1], *options])), (1, form([*files * 2, *options[:1]]))]
    return seeds, [reading(False), reading(True)]


READERS: dict[str, Reader] = {
    "midi": Reader(("notes", "song"), midi),
    "scores": Reader(("musicxml", "mxl", "abc", "kern"), scores),
    "audio": Reader(tuple("abcdefghijkl"), audio),
    "soundfont": Reader(("sf2",), soundfont),
    "bundle": Reader(("config.json", "weights.safetensors"), bundle),
    "params": Reader(("params.yaml",), params),
    "study": Reader(("study.yaml",), study),
    "tables": Reader(("manifest.parquet", "pairs.csv"), tables),
    "http": Reader(("request",), http),
    "forms": Reader(("transfer", "batch"), forms),
}
SEPARATE = ("midi", "scores")
"""Readers whose files timbreflow itself reads in a process with limits: MemoryError is an answer there."""


def changed(seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """A real input with one to six changes; the first byte, the kind, stays."""
    seed = draw.choice(seeds)
    data = bytearray(seed[1:])
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(data) + 1)
        size = draw.choice((1, 2, 4, 8, 16, 64, 1000))
        match draw.randrange(8):
            case 0 if at < len(data):
                data[at] ^= 1 << draw.randrange(8)
            case 1:
                data[at : at + size] = draw.randbytes(size)
            case 2:
                width, order = draw.choice((1, 2, 4, 8)), draw.choice(("little", "big"))
                data[at : at + width] = (draw.choice(NUMBERS) % 256**width).to_bytes(width, order)
            case 3:
                del data[at:]
            case 4:
                del data[at : at + size]
            case 5:
                data[at:at] = data[at : at + size] * draw.choice((1, 1, 2, 100))
            case 6:
                other = draw.choice(seeds)
                begin = draw.randrange(len(other))
                data[at : at + size] = other[begin : begin + size]
            case 7:
                data[at : at + size] = draw.choice(WORDS)
    return seed[:1] + bytes(data[:LONGEST])


class Worker:
    """Reads inputs in this process and notes what goes wrong.

    Args:
        name: of the reader.
        folder: private; holds what is read now, counts and findings.
    """

    def __init__(self, name: str, folder: Path) -> None:
        from timbreflow.errors import TimbreflowError
        from timbreflow.notes.pieces import Reject

        self._refusals: tuple[type[BaseException], ...] = (TimbreflowError, Reject)
        if name in SEPARATE:
            self._refusals += (MemoryError,)
        self._folder = folder
        place = folder / "files"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        self._reader = READERS[name]
        seeds, self._reads = self._reader.prepare(place)
        self.seeds = [bytes([kind]) + data for kind, data in seeds]
        self._counts = {"read": 0, "refused": 0, "wrong": 0}
        for seed in self.seeds:
            self(seed)
        if not self._counts["read"] or self._counts["wrong"]:
            raise SystemExit(f"the reader {name} does not take its own files: {self._counts}")
        _limit_memory()

    def __call__(self, data: bytes) -> None:
        """Read one input."""
        if not data:
            return
        (self._folder / "now").write_bytes(data)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            self._reads[data[0] % len(self._reads)](data[1:])
            self._counts["read"] += 1
        except self._refusals:
            self._counts["refused"] += 1
        except Exception as error:
            self._counts["wrong"] += 1
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "timbreflow" in frame.filename]
            place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
            keep(self._folder, data, f"{type(error).__name__} {place}", traceback.format_exc())
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        if sum(self._counts.values()) % 64 == 0:
            self.count()

    def count(self) -> None:
        """Write how many inputs were read, refused and wrong."""
        (self._folder / f"counts-{os.getpid()}.json").write_text(json.dumps(self._counts))

    def run(self, seconds: float, seed: int, *, guided: bool) -> None:
        """Read changed inputs for a while."""
        if guided:
            import atheris

            corpus = self._folder / "corpus"
            corpus.mkdir(exist_ok=True)
            for number, data in enumerate(self.seeds):
                (corpus / f"seed-{number}").write_bytes(data)
            options = [f"-max_total_time={seconds:.0f}", f"-seed={seed}", f"-max_len={LONGEST}", "-rss_limit_mb=0"]
            # Its own changes leak some 15 KB each, so that a process ends, and another begins, before it has no memory.
            options += ["-runs=40000"]
            options += ["-timeout=1000", "-print_final_stats=0", "-verbosity=0", "-handle_int=0", "-len_control=0"]
            options += [f"-artifact_prefix={self._folder}/"]  # slow-unit-* and crash-*, else where it was started
            draw = random.Random(seed)

            def mutate(data: bytes, most: int, number: int) -> bytes:
                # Half by libFuzzer, which knows what code a change has reached, half of our own, larger changes.
                if number % 2:
                    return bytes(atheris.Mutate(data, most))
                return changed([data or self.seeds[0], *self.seeds], draw)[:most]

            atheris.Setup(["fuzz", *options, str(corpus)], self, custom_mutator=mutate)
            atheris.Fuzz()
            return
        draw, end = random.Random(seed), time.monotonic() + seconds
        while time.monotonic() < end:
            self(changed(self.seeds, draw))
        self.count()


def keep(folder: Path, data: bytes, words: str, details: str) -> None:
    """Keep an input that went wrong, once for each kind of error."""
    place = folder / "findings" / hashlib.sha256(words.encode()).hexdigest()[:12]
    if not place.exists():
        place.mkdir(parents=True)
        (place / "input").write_bytes(data)
        (place / "error.txt").write_text(f"{words}\n\n{details}")


def _limit_memory() -> None:
    status = Path("/proc/self/status")
    if status.exists():
        used = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmData")) << 10
        resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, resource.RLIM_INFINITY))


def fuzz(name: str, seconds: float, out: Path, *, seed: int = 0, guided: bool = False) -> dict[str, Any]:
    """Fuzz a reader in processes of its own, a new one wherever one dies.

    Returns:
        Counts of inputs that were read, refused and wrong, and the sentences of the findings.
    """
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began = time.monotonic()
    while (left := seconds - (time.monotonic() - began)) > 0:
        command = [sys.executable, __file__, name, "--worker", str(folder), "--seconds", str(left), "--seed", str(seed)]
        with open(folder / "output", "wb") as output:
            done = subprocess.run(
                [*command, *(["--guided"] if guided else [])], stdout=output, stderr=output, check=False
            )
        seed += 1
        if done.returncode > 0 and not (folder / "now").exists():
            raise SystemExit((folder / "output").read_text(errors="replace")[-3000:])
        if done.returncode:
            late = done.returncode == -signal.SIGPROF
            words = f"over {SECONDS} s of work" if late else f"died with status {done.returncode}"
            # Deaths have no line: those of one kind of input are told apart by their first hundred bytes.
            data = (folder / "now").read_bytes()
            keep(
                folder,
                data,
                f"{words} {hashlib.sha256(data[:100]).hexdigest()[:6]}",
                (folder / "output").read_text(errors="replace")[-3000:],
            )
    counts = {"read": 0, "refused": 0, "wrong": 0}
    for file in folder.glob("counts-*.json"):
        for key, value in json.loads(file.read_text()).items():
            counts[key] += value
    found = [place.read_text().partition("\n")[0] for place in sorted(folder.glob("findings/*/error.txt"))]
    return {"reader": name, "seconds": round(time.monotonic() - began), **counts, "findings": found}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", choices=[*READERS, "all"])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--out", type=Path, help="folder of findings; a temporary one by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true", help="random changes, though atheris is there")
    parser.add_argument("--again", type=Path, help="read the input of a finding once, with its traceback")
    for hidden in ("--worker", "--seconds"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--guided", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        with _instrumented() if arguments.guided else nullcontext():
            # The readers are imported here.
            worker = Worker(arguments.reader, Path(arguments.worker))
        worker.run(float(arguments.seconds), arguments.seed, guided=arguments.guided)
        return 0
    if arguments.again:
        _limit_memory()
        with tempfile.TemporaryDirectory() as folder:
            data = arguments.again.read_bytes()
            reads = READERS[arguments.reader].prepare(Path(folder))[1]
            reads[data[0] % len(reads)](data[1:])
        return 0
    out = arguments.out or Path(tempfile.mkdtemp(prefix="fuzz-"))
    guided = not arguments.plain and _has_atheris()
    found = False
    for name in READERS if arguments.reader == "all" else [arguments.reader]:
        line = fuzz(name, 60 * arguments.minutes, out, seed=arguments.seed, guided=guided)
        print(json.dumps(line | {"guided": guided}), flush=True)
        found |= bool(line["findings"])
    if found:
        print(f"inputs and errors are in {out}", file=sys.stderr)
    return int(found)


def _instrumented() -> AbstractContextManager[None]:
    import atheris

    found: AbstractContextManager[None] = atheris.instrument_imports(
        include=["timbreflow", "python_multipart", "starlette.formparsers"],
        exclude=["timbreflow.notes.compiled"],  # numba compiles it, and knows nothing of counters
    )
    return found


def _has_atheris() -> bool:
    import importlib.util

    return importlib.util.find_spec("atheris") is not None


if __name__ == "__main__":
    sys.exit(main())
