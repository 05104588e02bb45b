"""How `timbreflow serve` does under load: latency, memory, and what it says when every place is taken.

A server of its own on a free port of the loopback. Clients send transfers of the recorded sounds of docs/sounds, cut
at different places, one after the other each. Memory is the server's own figure (`process_resident_memory_bytes`).
Then the places are filled at once, and one more request comes. The last line is JSON; exit code 1 where a request
failed, memory grew by more than a tenth, or the server did not refuse exactly the request too many.
"""

import argparse
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile
import torch

from timbreflow.audio.files import encode_flac, read_audio

ROOT = Path(__file__).resolve().parents[1]
PAIRS = (("violin-tune", "xylophone"), ("clavinet-tune", "crystal"))
MOST_GROWTH = 1.1


def main() -> int:
    """Measure and print."""
    options = _options()
    result = measure(
        options.model if "/" in options.model else ROOT / "released" / options.model,
        clients=options.clients,
        transfers=options.transfers,
        first=options.first,
        seconds=options.seconds,
        held_seconds=options.held_seconds,
    )
    print("| requests | errors | p50 s | p99 s | longest s | MB after the first | MB at the end | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    print(
        f"| {result['transfers']} | {result['errors']} | {result['p50']} | {result['p99']} | {result['longest']} "
        f"| {result['megabytes_first']} | {result['megabytes_last']} | {result['growth']} |"
    )
    print(json.dumps(result))
    full = result["full"]
    right = full["refused"] == {"status": 503, "retry_after": True} and full["served"] == full["places"]
    return 0 if right and result["errors"] == 0 and result["growth"] <= MOST_GROWTH else 1


def measure(
    model: str | Path, *, clients: int, transfers: int, first: int, seconds: float, held_seconds: float
) -> dict[str, Any]:
    """Figures of one server.

    Args:
        model: folder of its weights.
        clients: that send at the same time; the server has a place for each.
        transfers: in all.
        first: after so many memory is read, and at the end again.
        seconds: length of the contents.
        held_seconds: length of the contents that fill the places; the last must not be served before all have come.
    """
    sounds = {name: read_audio(ROOT / "docs" / "sounds" / f"{name}.ogg") for pair in PAIRS for name in pair}

    def files(number: int, length: float) -> dict[str, bytes]:
        """A pair, cut somewhere else each time."""
        content, style = PAIRS[number % len(PAIRS)]
        audio, rate = sounds[content]
        end = np.flatnonzero(np.abs(audio[0]) > 0.01)[-1]  # what is silent is refused
        start = number * 1009 % max(1, end - round(length * rate))
        cut = np.resize(audio[0, start:], round(length * rate))
        return {"content": encode_flac(cut, rate), "style": encode_flac(sounds[style][0][0], sounds[style][1])}

    with (
        _server(model, places=clients) as address,
        httpx.Client(base_url=address, timeout=600, trust_env=False) as client,
    ):
        while client.get("/readyz").status_code != 200:
            time.sleep(0.1)

        def send(number: int, length: float = seconds) -> tuple[float, httpx.Response]:
            given = files(number, length)
            began = time.perf_counter()
            answer = client.post("/transfer", files=given)
            return time.perf_counter() - began, answer

        def errors(answers: list[tuple[float, httpx.Response]]) -> int:
            return sum(not _is_sound(answer, seconds) for _, answer in answers)

        with ThreadPoolExecutor(clients) as pool:
            answers = list(pool.map(send, range(first)))
            megabytes = [_figure(client, "process_resident_memory_bytes") / 1e6]
            answers += pool.map(send, range(first, transfers))
            megabytes.append(_figure(client, "process_resident_memory_bytes") / 1e6)

            held = [pool.submit(send, number, held_seconds) for number in range(clients)]
            while _figure(client, "timbreflow_requests_in_server") < clients:
                if any(one.done() for one in held):
                    raise SystemExit("error: the places were never all taken; give a longer --held-seconds")
            _, refused = send(0)
            served = sum(_is_sound(one.result()[1], held_seconds) for one in held)
        after = _is_sound(send(0)[1], seconds)
    taken = np.array([took for took, _ in answers])
    return {
        "model": Path(model).name,
        "clients": clients,
        "transfers": transfers,
        "content_seconds": seconds,
        "errors": errors(answers) + (not after),
        "p50": round(float(np.quantile(taken, 0.5)), 2),
        "p99": round(float(np.quantile(taken, 0.99)), 2),
        "longest": round(float(taken.max()), 2),
        "megabytes_first": round(megabytes[0]),
        "megabytes_last": round(megabytes[1]),
        "growth": round(megabytes[1] / megabytes[0], 3),
        "full": {
            "places": clients,
            "served": served,
            "refused": {
                "status": refused.status_code,
                "retry_after": refused.headers.get("retry-after", "").isdecimal(),
            },
            "sentence": refused.json()["error"] if refused.status_code != 200 else "",
        },
        "cores": len(os.sched_getaffinity(0)),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "load": round(os.getloadavg()[0], 1),
    }


@contextmanager
def _server(model: str | Path, *, places: int) -> Iterator[str]:
    """Address of `timbreflow serve`, which must end with 0 on SIGTERM."""
    words = ["serve", "--model", str(model), "--port", "0", "--queue", str(places - 1)]
    process = subprocess.Popen([sys.executable, "-m", "timbreflow.cli", *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        found = next(filter(None, (re.search(r"http://\S+", line) for line in process.stderr)), None)
        if found is None:
            raise SystemExit(f"error: the server did not start (exit code {process.wait()})")
        yield found[0]
    finally:
        process.terminate()
        _, said = process.communicate()
    if process.returncode != 0 or said:
        raise SystemExit(f"error: the server ended with {process.returncode}: {said}")


def _figure(client: httpx.Client, name: str) -> float:
    line = next(line for line in client.get("/metrics").text.splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])


def _is_sound(answer: httpx.Response, seconds: float) -> bool:
    if answer.status_code != 200:
        print(f"{answer.status_code}: {answer.text}", file=sys.stderr)
        return False
    info = soundfile.info(io.BytesIO(answer.content))
    return abs(info.duration - seconds) < 0.01


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Latency and memory of `timbreflow serve` under load.")
    parser.add_argument("--model", default="vqvae", help="vqvae, glow or a folder of weights (%(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="that send at a time (%(default)s)")
    parser.add_argument("--transfers", type=int, default=200, help="in all (%(default)s)")
    parser.add_argument("--first", type=int, default=20, help="transfers before memory is read (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of the contents (%(default)s)")
    parser.add_argument("--held-seconds", type=float, default=8.0, help="of those that fill all places (%(default)s)")
    options = parser.parse_args()
    if not 0 < options.first < options.transfers or options.clients < 2:
        parser.error("--first must be below --transfers, and --clients at least 2")
    return options


if __name__ == "__main__":
    sys.exit(main())
