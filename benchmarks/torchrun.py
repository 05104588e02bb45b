"""Whether several processes train as one does: the same loss at the same whole batch, by the commands that people type.

For each model two trainings on the same data, each in a root of its own with its own Prefect and MLflow databases:

    python -m flows.train_vqvae base
    torchrun --nproc-per-node 2 -m flows.train_vqvae base

on the CPU (Gloo), with the settings of params.yaml, few steps and float64. Compared are the training loss of the last
step, and of all steps, and the validation loss after it. A codebook turns rounding into other codes, and these into
other codebooks, so in --precision float32 or bfloat16 single steps part though nothing but rounding differs: --control
trains a third time, with one process in two threads, which shows what rounding alone does. With --kill the processes
are killed after their first checkpoint and started again. The last line is JSON; exit code 1 where the validation
losses, or in float64 the training losses of the last step, differ by more than 1e-3, or a training had more than one
MLflow run and one flow run.
"""

import argparse
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from ruamel.yaml import YAML
from small_data import ROOT, prepare, small_params

from timbreflow.config import load_params
from timbreflow.models.bundle import load_bundle
from timbreflow.stages.layout import Layout
from timbreflow.tracking.connection import connect

TOLERANCE = 1e-3
FLOWS = {"vqvae": ("flows.train_vqvae", "base"), "glow": ("flows.train_glow",)}


def main() -> int:
    """Compare and print."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="timbreflow-torchrun-") as folder:
        root = options.data or Path(folder)
        _say("rendering and extracting")
        data = prepare(root, small_params(options.triples, validation=8, preset=options.params))
        result = {model: _compare(model, data, Path(folder), options) for model in options.models}
    # A training goes on in the MLflow run in which it began.
    flow_runs = 2 if options.kill else 1
    agree = all(
        max(row["relative_difference"], row["training_loss"]["last"] if options.precision == "float64" else 0.0)
        <= TOLERANCE
        and (row["mlflow_runs"], row["flow_runs"]) == (1, flow_runs)
        for row in result.values()
    )
    settings = {name: getattr(options, name) for name in ("processes", "steps", "precision")}
    print(json.dumps({**settings, "agree": agree, **result}))
    return 0 if agree else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Loss of one process beside that of several, at the same batch.")
    parser.add_argument("--models", nargs="+", choices=FLOWS, default=list(FLOWS))
    parser.add_argument("--processes", type=int, default=2, help="of the second training (%(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps (%(default)s)")
    parser.add_argument("--accumulation", type=int, default=1, help="batches a step (%(default)s)")
    parser.add_argument(
        "--precision", choices=["float64", "float32", "bfloat16"], default="float64", help="of training (%(default)s)"
    )
    parser.add_argument("--triples", type=int, default=64, help="training triples rendered (%(default)s)")
    parser.add_argument("--params", type=Path, default=ROOT / "params.yaml", help="settings (%(default)s)")
    parser.add_argument("--data", type=Path, help="folder that keeps the rendered data for the next time")
    parser.add_argument("--control", action="store_true", help="also train with one process in two threads")
    parser.add_argument("--kill", action="store_true", help="kill the processes at half the steps and go on")
    return parser.parse_args()


def _compare(model: str, data: Layout, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    one = _training(model, data, folder / f"{model}-one", options, processes=1)
    several = _training(model, data, folder / f"{model}-several", options, processes=options.processes)
    result = {
        "loss_of_one": one.validation,
        "loss_of_several": several.validation,
        "relative_difference": abs(several.validation - one.validation) / abs(one.validation),
        "codebook_relative_difference": float(torch.dist(one.codebook, several.codebook) / one.codebook.norm()),
        "training_loss": _differences(one, several),
        "mlflow_runs": several.mlflow_runs,
        "flow_runs": several.flow_runs,
        "seconds": {"one": one.seconds, "several": several.seconds},
    }
    if options.control:
        control = _training(model, data, folder / f"{model}-control", options, processes=1, threads=2)
        result["control"] = {
            "relative_difference": abs(control.validation - one.validation) / abs(one.validation),
            "training_loss": _differences(one, control),
        }
    return result


@dataclass(frozen=True)
class Training:
    """What is compared of one training.

    Attributes:
        validation: loss of the averaged weights after the last step.
        losses: of the training batch, by step.
        codebook: [heads, codes, D] stored with the model.
        mlflow_runs, flow_runs: how many it made.
        seconds: of the whole command.
    """

    validation: float
    losses: dict[int, float]
    codebook: torch.Tensor
    mlflow_runs: int
    flow_runs: int
    seconds: float


def _differences(first: Training, second: Training) -> dict[str, float]:
    """Relative differences of the training losses: of their mean, at the last step, and the largest at any step.

    A killed process takes the losses with it that it had not yet handed to MLflow.
    """
    steps = sorted(first.losses.keys() & second.losses.keys())
    each = [abs(second.losses[step] - first.losses[step]) / abs(first.losses[step]) for step in steps]
    means = [sum(training.losses[step] for step in steps) for training in (first, second)]
    return {"mean": abs(means[1] - means[0]) / abs(means[0]), "last": each[-1], "largest": max(each)}


def _training(
    model: str, data: Layout, root: Path, options: argparse.Namespace, *, processes: int, threads: int = 1
) -> Training:
    _make_root(root, data, options)
    began = time.monotonic()
    _train(model, root, processes, threads=threads, kill=options.kill and processes > 1)
    seconds = time.monotonic() - began
    validation = _history(root, "val/loss")[options.steps]
    _say(f"{model}: {processes} process(es), {threads} thread(s): loss {validation:.6f} after {options.steps} steps")
    network = load_bundle(Layout(root).model(model)).model
    return Training(
        validation=validation,
        losses=_history(root, "train/loss"),
        codebook=network.get_submodule("content_path.quantizer.vq._codebook").get_buffer("embed"),
        mlflow_runs=len(_runs(root)),
        flow_runs=_flow_runs(root),
        seconds=round(seconds, 1),
    )


def _make_root(root: Path, data: Layout, options: argparse.Namespace) -> None:
    """A checkout's settings and data, with few steps and every loss logged."""
    shutil.copytree(data.root / "results", root / "results")
    shutil.copy(ROOT / "dvc.yaml", root)
    (root / "data").mkdir()
    for part in ("audio", "mels", "notes"):
        (root / "data" / part).symlink_to((data.root / "data" / part).resolve())
    yaml = YAML()
    values = yaml.load(options.params.read_text())
    for section in (values["train_vqvae"]["base"], values["train_glow"]):
        section["validation_triples"] = 8
        section["fit"] |= {
            "steps": options.steps,
            "grad_accumulation": options.accumulation,
            "log_every": 1,
            "validate_every": options.steps,
            "checkpoint_every": max(1, options.steps // 2),
            "precision": options.precision,
        }
    with (root / "params.yaml").open("w") as file:
        yaml.dump(values, file)
    load_params(root / "params.yaml")


def _train(model: str, root: Path, processes: int, *, threads: int, kill: bool) -> None:
    """The command of the training, and again where it is killed."""
    command = [sys.executable, "-m"]
    if processes > 1:
        command += ["torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(_port()), "-m"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "src"),
        "TIMBREFLOW_ROOT": str(root),
        "TIMBREFLOW_DEVICE": "cpu",
        "TIMBREFLOW_PREFECT_PORT": str(_port()),
        "TIMBREFLOW_MLFLOW_PORT": str(_port()),
        "OMP_NUM_THREADS": str(threads),
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    log = root / "training.log"
    for round_ in range(2 if kill else 1):
        with log.open("a") as output:
            process = subprocess.Popen(
                [*command, *FLOWS[model]], cwd=ROOT, env=environment, stdout=output, stderr=output,
            )  # fmt: skip
            if kill and round_ == 0:
                while not list((root / ".scratch").rglob("step-*/state.json")):
                    if process.poll() is not None:
                        break
                    time.sleep(0.05)
                # torchrun gives each of its processes a session of its own.
                parent = psutil.Process(process.pid)
                for one in [parent, *parent.children(recursive=True)]:
                    one.kill()
                process.wait()
                _say(f"{model}: killed after its first checkpoint; started again")
            elif process.wait() != 0:
                raise SystemExit(f"error: {' '.join(command)} failed:\n{log.read_text()[-4000:]}")
    if kill:
        _say(next(line for line in log.read_text().splitlines() if "resumed at" in line))


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _runs(root: Path) -> list[Any]:
    client = connect(root)
    return list(client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]))


def _history(root: Path, metric: str) -> dict[int, float]:
    """A metric by step, from all MLflow runs of a root."""
    client = connect(root)
    found: dict[int, float] = {}
    for run in reversed(_runs(root)):
        found |= {value.step: value.value for value in client.get_metric_history(run.info.run_id, metric)}
    return found


def _flow_runs(root: Path) -> int:
    with sqlite3.connect(root / ".prefect" / "prefect.db") as database:
        return int(database.execute("select count(*) from flow_run").fetchone()[0])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
