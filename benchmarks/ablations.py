"""The ablation table, one command a row: `python benchmarks/ablations.py ROW`, then `--table`.

Each arm changes one setting of the preset cpu-long, trains for equal steps below .scratch/ablations/ROW (killed, the
same command goes on), is evaluated on the frozen test sets, and leaves ROW.json and per_clip/ROW.csv in the output
folder and a run in MLflow. `--prepare` renders what they are trained on from the notes of this checkout: squares of
clips with layers, synthesis parameters and equalizer, and as many without them for the row plain_timbres.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

from ruamel.yaml import YAML

from benchmarks import ablation
from benchmarks.ablation_table import write_table
from timbreflow.config import Params, as_mapping, load_params, parse_params, preset_text
from timbreflow.errors import TimbreflowError
from timbreflow.files import read_json
from timbreflow.stages import extract_mels, render_triples, validate_data
from timbreflow.stages.layout import Layout
from timbreflow.tracking.runs import open_run
from timbreflow.workers import worker_count

ROOT = Path(__file__).resolve().parents[1]
PLAIN = {f"timbre.{name}_probability": 0.0 for name in ("layer", "synthesis", "equalizer")}


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; 2 after an error, which is one sentence."""
    options = _options(arguments)
    try:
        if options.list:
            for name, row in ablation.ROWS.items():
                changes = ", ".join(f"{key} = {value}" for key, value in row.changes.items())
                print(f"{name:24}{changes or ('plain data' if row.data == 'plain' else 'nothing changed')}")
            return 0
        params = _params(options.params)
        if options.prepare:
            for kind in ("plain", "varied"):
                prepare(params, kind, Layout(options.root), squares=options.squares)
        if options.row:
            run_row(options, params)
        if options.table:
            draws = {"samples": params.evaluate.bootstrap_samples, "seed": params.evaluate.seed}
            print(write_table(options.out, list(ablation.ROWS), **draws), end="")
    except TimbreflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run_row(options: argparse.Namespace, params: Params) -> None:
    """Train and evaluate one arm inside an MLflow run."""
    row = ablation.ROWS[options.row]
    layout = Layout(options.root)
    data = _prepared(layout, row.data).root
    passed = data / "results" / "validate_data" / "passed.json"
    if not passed.is_file():
        raise TimbreflowError(f"{passed} is missing, so there is no data to train on; run this command with --prepare.")
    reference = ablation.changed(params, ablation.short_training(row.section, options.steps))
    if row.system == "refiner":
        reference = ablation.changed(reference, {"train_refiner.models": ("vqvae",)})
    params = ablation.changed(reference, row.changes)
    if row.changes and params == reference:
        raise TimbreflowError(f"{', '.join(row.changes)} is so in the reference too; give --params that differ.")
    sections = {"vqvae": params.train_vqvae.base, "glow": params.train_glow, "refiner": params.train_refiner}
    section = sections[row.system]
    logged = {"row": options.row, row.section: as_mapping(section), "evaluate": as_mapping(params.evaluate)}
    tags = {"mlflow.source.name": "benchmarks.ablations"}
    with open_run(f"ablations/{options.row}", logged, root=options.root, tags=tags) as run:
        run.dataset("data", read_json(passed)["digest"])
        places = {"layout": layout, "data": data, "out": options.out}
        result = ablation.run(
            options.row, section, params.audio, params.evaluate, **places, clips=options.clips, log=run.log
        )
        figures = {
            f"{testset}/{metric}": bounds["value"]
            for testset, metrics in result["figures"].items()
            for metric, bounds in metrics.items()
        }
        run.log(options.steps, {f"testset/{key}": figures[key] for key in figures})
        run.log(options.steps, {"cpu_seconds": result["cpu_seconds"]})
        run.artifact(options.out / f"{options.row}.json")
    print(f"{options.row}: " + ", ".join(f"{key} {value:.3f}" for key, value in figures.items()))


def prepare(params: Params, kind: str, layout: Layout, *, squares: int) -> None:
    """Render, measure and check the data set `kind` below .scratch/ablations/data/; what is finished stays."""
    sizes = {"complete_squares": True, "triples.train": squares}
    render = ablation.changed(params.render_triples, sizes | (PLAIN if kind == "plain" else {}))
    place = _prepared(layout, kind)
    ablation.link_to(place.notes, layout.notes)
    ablation.link_to(place.soundfonts, layout.soundfonts)
    # Half precision, whatever the preset has by now: rows of one table need the very same data.
    extract = ablation.changed(params.extract_mels, {"storage": "float16"})
    for module, sections in ((render_triples, (render,)), (extract_mels, (extract, params.audio))):
        shards = module.plan(*sections, layout=place)
        with ProcessPoolExecutor(worker_count(), mp_context=get_context("spawn")) as pool:
            # The first error cancels what waits.
            list(pool.map(partial(module.run_one, layout=place), shards, *map(repeat, sections)))
        print(f"{kind}: {module.finish(*sections, layout=place).summary}")
    print(f"{kind}: {validate_data.run(params.validate_data, render, layout=place).summary}")


def _prepared(layout: Layout, kind: str) -> Layout:
    return Layout(layout.scratch("ablations", f"data/{kind}"))


def _params(path: Path | None) -> Params:
    if path is not None:
        return load_params(path)
    return parse_params(YAML(typ="safe", pure=True).load(preset_text("cpu-long")), source="preset cpu-long")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train and evaluate one arm of the ablation table, or write the table.",
        epilog="For example: python benchmarks/ablations.py reference_vqvae --steps 1500",
    )
    parser.add_argument("row", nargs="?", metavar="ROW", choices=list(ablation.ROWS), help="one of --list")
    parser.add_argument("--list", action="store_true", help="say which rows there are")
    parser.add_argument("--table", action="store_true", help="write OUT/table.md from the rows that exist")
    parser.add_argument("--prepare", action="store_true", help="render the data of all rows")
    parser.add_argument("--squares", type=_positive, default=3000, help="squares of either (%(default)s)")
    parser.add_argument("--steps", type=_positive, default=1500, help="of each training (%(default)s)")
    parser.add_argument("--clips", type=_positive, default=60, help="triples of each test set (%(default)s)")
    parser.add_argument("--out", type=Path, help="folder of the figures; results/ablations")
    parser.add_argument("--params", type=Path, help="a params.yaml for the reference; the preset cpu-long")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout (%(default)s)")
    options = parser.parse_args(arguments)
    if not (options.row or options.list or options.table or options.prepare):
        parser.error("name a ROW, or --list, --table or --prepare")
    options.out = options.out or options.root / "results" / "ablations"
    return options


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
