"""How fast the models train with the data already there, with loading, and in how much memory.

VQ-VAE base and Glow of a preset's settings take optimizer steps (forward, backward, clipping, AdamW) on batches of
triples: `in_place` on one batch that already lies on the device, `with_loading` on the loader's batches, as a
training has them. Passes of both take turns. `peak_memory_mb` is `torch.cuda.max_memory_allocated` on CUDA, else VmHWM
of this process, data and libraries included. Figures are medians; the last line is JSON.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from small_data import ROOT, prepare, small_params

from timbreflow.config import Params
from timbreflow.data.triples import TripleBatch
from timbreflow.models.devices import resolve_device
from timbreflow.models.glow.model import Glow
from timbreflow.models.refiner import Refiner
from timbreflow.models.vqvae import VQVAE
from timbreflow.stages import train_refiner
from timbreflow.stages.layout import Layout
from timbreflow.training.data import open_triples
from timbreflow.training.device import choose_precision, place_batch, place_model
from timbreflow.training.objectives import GlowObjective, VQVAEObjective
from timbreflow.training.progress import Stopwatch
from timbreflow.training.seeding import seed_everything
from timbreflow.training.steps import build_optimizer, training_step

MODELS = ("vqvae", "glow")


def main() -> int:
    """Measure and print."""
    options = _options()
    device = resolve_device()
    with tempfile.TemporaryDirectory(prefix="timbreflow-benchmark-") as folder:
        params = small_params(options.triples, validation=4, preset=options.params)
        print("rendering and extracting", file=sys.stderr, flush=True)
        layout = prepare(options.data or Path(folder), params)
        result = {name: measure(name, params, layout, device, options) for name in options.models}
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(json.dumps({"device": place, "steps": options.steps, "repeats": options.repeats, **result}))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Optimizer steps a second, with and without loading.")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--steps", type=int, default=4, help="steps of each pass (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="passes of each way (%(default)s)")
    parser.add_argument("--triples", type=int, default=64, help="training triples rendered (%(default)s)")
    parser.add_argument("--params", type=Path, default=ROOT / "params.yaml", help="settings (%(default)s)")
    parser.add_argument("--data", type=Path, help="folder that keeps the rendered data for the next time")
    options = parser.parse_args()
    if min(options.steps, options.repeats, options.triples) < 1:
        parser.error("--steps, --repeats and --triples must be 1 or more")
    return options


def measure(
    name: str, params: Params, layout: Layout, device: torch.device, options: argparse.Namespace
) -> dict[str, Any]:
    """Medians of one model.

    Args:
        name: vqvae, glow, or refiner, which needs both of them below data/models; its steps are those with predicted
            notes.
        params: settings of the model, and of the data.
        layout: the data.
        device: where to train.
        options: of the command line.
    """
    section: Any = section_of(name, params)
    config = dataclasses.replace(section.fit, precision=choose_precision(section.fit.precision, device))
    source = open_triples(layout.mels, layout.audio, params.audio, section, kind="log_mel", device=device)
    seed_everything(section.fit.seed, "model")
    if name == "refiner":
        model: Any = Refiner(section.model)
        assert source.normalizer is not None
        objective: Any = train_refiner.refiner_objective(
            section, params.audio, source.normalizer, layout=layout, device=device
        )
    else:
        model, objective = _model(name, section)
    place_model(model, config.precision, device)
    batches = iter(source.batches(0))
    here = place_batch(next(batches), config.precision, device)
    if isinstance(objective, GlowObjective):
        objective.initialize(model, here)
    optimizer = build_optimizer(model, config)
    ways: dict[str, Iterator[TripleBatch]] = {"in_place": repeat(here), "with_loading": batches}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    watch = Stopwatch(device)
    done = max(section.note_steps, section.true_steps) if name == "refiner" else 0

    def steps(data: Iterator[TripleBatch], n: int) -> None:
        nonlocal done
        for _ in range(n):
            training_step(model, objective, data, optimizer, config, step=done, device=device, watch=watch)
            done += 1
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    steps(batches, 2)  # k-means, plans of the kernels, loader processes
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(options.repeats):
        for way, way_batches in ways.items():
            began = time.perf_counter()
            steps(way_batches, options.steps)
            seconds[way].append((time.perf_counter() - began) / options.steps)
    median = {way: statistics.median(taken) for way, taken in seconds.items()}
    examples = config.batch_size * config.grad_accumulation
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "batch_size": config.batch_size,
        "precision": config.precision,
        "steps_per_second": {way: round(1 / taken, 3) for way, taken in median.items()},
        "triples_per_second": {way: round(examples / taken, 2) for way, taken in median.items()},
        "ratio_to_in_place": round(median["in_place"] / median["with_loading"], 3),
        "peak_memory_mb": _peak_memory(device),
    }


def section_of(name: str, params: Params) -> Any:
    """The section of params.yaml that trains vqvae, glow or refiner."""
    return {"vqvae": params.train_vqvae.base, "glow": params.train_glow, "refiner": params.train_refiner}[name]


def _model(name: str, section: Any) -> tuple[Any, Any]:
    if name == "vqvae":
        return VQVAE(section.model), VQVAEObjective(reconstruction=section.reconstruction, weights=section.losses)
    objective = GlowObjective(noise=section.noise, l1=section.l1, l1_every=section.l1_every, weights=section.losses)
    return Glow(section.model), objective


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6)
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
    return round(1024 * kilobytes / 1e6)


if __name__ == "__main__":
    sys.exit(main())
