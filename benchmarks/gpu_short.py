"""A quarter of an hour on one rented GPU without a network: render, train wide models, bring the weights home in parts.

    python benchmarks/gpu_short.py prepare                 # at home: packs code, notes, SoundFonts, libraries, wheels
    python3 gpu-short/benchmarks/gpu_short.py run --out OUT   # on the GPU machine, in a copy of .scratch/gpu-short
    python benchmarks/gpu_short.py join OUT data/models    # at home: the models from the parts

The GPU machine needs Python 3.12, PyTorch 2.11 or newer with CUDA, torchaudio, SciPy, pandas, pyarrow and numba; it
needs no FluidSynth, no root and no network. `run` renders the squares of the preset on all cores, keeps their features
in the memory of the GPU, trains VQ-VAE and Glow at the same time, in two processes, for as many steps as fit, and then
the refiner behind them. Now and then it writes what there is to OUT: half-precision bundles, as .tar.xz in parts of at
most 16 MiB, with a log.
"""

import argparse
import importlib.metadata
import logging
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:  # `run` begins where timbreflow is not installed
    from multiprocessing.synchronize import Barrier

    from timbreflow.config import Params
    from timbreflow.stages.layout import Layout

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent / ".scratch" / "gpu-short"
TRANSFER_MODELS = ("vqvae", "glow")
MODELS = (*TRANSFER_MODELS, "refiner")
REFINER_SHARE = 0.2
"""Of the time that is left once the data is there."""
WHEELS = (
    "annotated-types", "cffi", "einops", "einx", "frozendict", "isal", "loguru", "platformdirs", "pycparser",
    "pydantic", "pydantic-core", "pyfluidsynth", "pySmartDL", "ruamel.yaml", "safetensors", "soundfile", "soxr",
    "symusic", "torch-einops-utils", "tqdm", "typing-extensions", "typing-inspection", "vector-quantize-pytorch",
)  # fmt: skip
"""Python packages that a machine with PyTorch may lack, in the versions of this environment."""
PLATFORMS = [f"--platform=manylinux{name}_x86_64" for name in ("_2_28", "_2_27", "_2_17", "2014", "1", "_2_5", "_2_34")]
SYSTEM = (
    "linux-vdso",
    "ld-linux",
    "libc.",
    "libm.",
    "libdl.",
    "libpthread.",
    "librt.",
    "libresolv.",
    "libstdc++.",
    "libgcc_s.",
)
"""Shared objects that belong to each machine's own C library, or come with every PyTorch."""
PART = 16 * 2**20
LARGEST = 64 * 2**20
SECONDS_BETWEEN_PARTS = 90.0
RESERVE = 45.0
"""Seconds kept for opening the data once more, the last validation and the last parts."""
STOP_BEFORE = 15.0
"""Seconds before the deadline at which trainings that still run are asked to end at their next validation."""
MARGIN = 1.1
"""Steps are taken to last so many times as long as when they were measured: validations and checkpoints come on top."""
INSIDE = "TIMBREFLOW_GPU_SHORT"
"""Set once the packed packages can be imported: when the command began, in seconds since the epoch."""

logger = logging.getLogger("timbreflow.gpu_short")


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; 2 after an error, which is one sentence."""
    options = _options(arguments)
    if options.command == "run" and INSIDE not in os.environ:
        _inside(options.folder, sys.argv[1:] if arguments is None else arguments)
    from timbreflow.errors import TimbreflowError

    try:
        if options.command == "prepare":
            prepare(options.folder, options.params, wheels=options.wheels)
        elif options.command == "run":
            run(options.folder, options.out, deadline=float(os.environ[INSIDE]) + 60 * options.minutes)
        else:
            join(options.out, options.models)
    except TimbreflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def prepare(folder: Path, params_file: Path | None, *, wheels: bool = True) -> None:
    """Pack all that the GPU machine needs into one folder.

    Args:
        folder: made anew, notes aside.
        params_file: settings; None takes the preset gpu-short.
        wheels: whether to download the Python packages of `WHEELS`, for CPython 3.12 on x86-64 Linux.

    Raises:
        TimbreflowError: a source of notes, a SoundFont or FluidSynth is missing, or the folder is larger than 64 MiB.
    """
    from timbreflow.config import load_params, preset_text
    from timbreflow.errors import TimbreflowError
    from timbreflow.notes.sources.corpora import fetch
    from timbreflow.rendering.soundfonts import find_soundfont, install_soundfont
    from timbreflow.stages import collect_midi
    from timbreflow.stages.layout import Layout

    root, layout, home = HERE.parent, Layout(folder), Layout(HERE.parent)
    for made in ("src", "benchmarks", "lib", "wheels", "data/soundfonts"):
        shutil.rmtree(folder / made, ignore_errors=True)
        (folder / made).mkdir(parents=True)
    text = params_file.read_text(encoding="utf-8") if params_file else preset_text("gpu-short")
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    params = load_params(folder / "params.yaml")
    for code in ("src/timbreflow", "benchmarks"):
        shutil.copytree(root / code, folder / code, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for font in params.render_triples.soundfonts:
        try:
            path = find_soundfont(font, home.soundfonts)
        except TimbreflowError:
            path = fetch(font.name, home.corpora).path or Path()
        install_soundfont(path, layout.soundfonts)
        find_soundfont(font, layout.soundfonts)
    if not layout.notes.is_dir():
        for source in params.collect_midi.sources:
            if "/" not in source:
                fetch(source, home.corpora)
        collect_midi.collect(params.collect_midi.sources, layout.notes, params.collect_midi, root=root)
    _copy_fluidsynth(folder / "lib")
    if wheels:
        _download(folder / "wheels")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > LARGEST:
        raise TimbreflowError(f"{folder} is {size / 2**20:.0f} MiB, more than {LARGEST >> 20}; take fewer SoundFonts.")
    print(f"{folder} is ready, {size / 2**20:.1f} MiB; copy it and start benchmarks/gpu_short.py run in it.")


def _copy_fluidsynth(folder: Path) -> None:
    """The library libfluidsynth and the libraries that it needs, but none of the C library's."""
    import fluidsynth

    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    name = Path(fluidsynth._fl._name).name
    library = next(line.split()[-1] for line in listed.splitlines() if line.split()[:1] == [name])
    needed = subprocess.run(["ldd", library], capture_output=True, text=True, check=True).stdout
    paths = [line.split()[2] for line in needed.splitlines() if "=> /" in line]
    for path in paths:
        if not Path(path).name.startswith(SYSTEM):
            shutil.copy(path, folder / Path(path).name)
    # pyfluidsynth asks the linker, which does not search this folder, then looks for this name below HOMEBREW_PREFIX.
    shutil.copy(library, folder / "libfluidsynth.dylib")
    shutil.make_archive(str(folder), "xztar", folder)  # a third of the room
    shutil.rmtree(folder)


def _download(folder: Path) -> None:
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in WHEELS]
    target = ["--python-version=3.12", "--implementation=cp", "--only-binary=:all:", "--no-deps", *PLATFORMS]
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", *target, "-d", str(folder), *wanted], check=True)


def _inside(folder: Path, arguments: list[str]) -> NoReturn:
    """Start again with the packed packages, and those of the packed libraries that the machine lacks."""
    began = time.time()
    site, wheels = folder / "site", sorted((folder / "wheels").glob("*.whl"))
    if wheels and not site.is_dir():
        install = ["install", "-q", "--no-index", "--no-deps", "--no-compile", "--target", str(site), *map(str, wheels)]
        subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    if not (folder / "lib").is_dir():
        shutil.unpack_archive(folder / "lib.tar.xz", folder / "lib")
    paths = {
        "PYTHONPATH": [str(folder / "src"), str(site), str(folder / "benchmarks")],
        "LD_LIBRARY_PATH": [*filter(None, [os.environ.get("LD_LIBRARY_PATH")]), str(_lacking(folder / "lib"))],
    }
    environment = {
        **os.environ,
        **{name: os.pathsep.join(places) for name, places in paths.items()},
        "HOMEBREW_PREFIX": str(folder),
        "TIMBREFLOW_PRELOAD": "1",
        "PYTHONUNBUFFERED": "1",
        INSIDE: str(began),
    }
    os.execve(sys.executable, [sys.executable, __file__, *arguments], environment)


def _lacking(packed: Path) -> Path:
    """A folder with only those libraries that the machine lacks: other versions of its own could break programs."""
    chosen = packed / "lacking"
    chosen.mkdir(exist_ok=True)
    while True:
        command = ["ldd", str(packed / "libfluidsynth.dylib")]
        environment = {**os.environ, "LD_LIBRARY_PATH": str(chosen)}
        listed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        names = [line.split()[0] for line in listed.splitlines() if line.endswith("=> not found")]
        if not names:
            return chosen
        for name in names:
            shutil.copy(packed / name, chosen)


def run(folder: Path, out: Path, *, deadline: float) -> None:
    """Render, train and write to `out` until `deadline`; a second call keeps the data and trains anew.

    Args:
        folder: of `prepare`.
        out: gets log.txt and the parts.
        deadline: in seconds since the epoch.

    Raises:
        TimbreflowError: a model could not be trained.
    """
    from timbreflow.config import load_params
    from timbreflow.stages.layout import Layout

    out.mkdir(parents=True, exist_ok=True)
    _log_to(out)
    params, layout = load_params(folder / "params.yaml"), Layout(folder)
    began = time.monotonic()
    _make_data(params, layout)
    logger.info("data ready after %.0f s", time.monotonic() - began)
    for earlier in [layout.root / "data" / "models", layout.scratch("out"), *layout.root.glob(".scratch/train_*")]:
        shutil.rmtree(earlier, ignore_errors=True)
    now = time.time()
    _train_together(TRANSFER_MODELS, params, layout, out, deadline=deadline - REFINER_SHARE * max(0.0, deadline - now))
    for name in TRANSFER_MODELS:
        stored = _stored(layout, name)
        if stored.is_dir() and not layout.model(name).is_dir():  # it did not come to its end
            shutil.copytree(stored, layout.model(name))
    if all(layout.model(name).is_dir() for name in TRANSFER_MODELS):
        _train_together(("refiner",), params, layout, out, deadline=deadline)
    else:
        logger.info("no refiner: it needs both models")


def _train_together(names: tuple[str, ...], params: "Params", layout: "Layout", out: Path, *, deadline: float) -> None:
    """Train models at the same time, each in a process of its own, and write what there is now and then.

    Raises:
        TimbreflowError: one could not be trained.
    """
    from safetensors import SafetensorError

    from timbreflow.errors import TimbreflowError
    from timbreflow.training.fit import STOP_FILE

    began = time.monotonic()
    context = get_context("spawn")
    barrier = context.Barrier(len(names))
    arguments = (layout.root, deadline, out, barrier)
    trainings = {name: context.Process(target=_train, args=(name, *arguments)) for name in names}
    for process in trainings.values():
        process.start()
    late = set()
    while alive := [name for name, process in trainings.items() if process.is_alive()]:
        trainings[alive[0]].join(1.0)
        if time.monotonic() - began > SECONDS_BETWEEN_PARTS:
            began = time.monotonic()
            try:
                bring(params, layout, out, names)
            except (OSError, SafetensorError) as error:  # a checkpoint that was replaced while it was read
                logger.info("the weights were not written this time (%s)", error)
        if time.time() > deadline - STOP_BEFORE:
            for workdir in (layout.root / ".scratch").glob("train_*/*"):
                with suppress(OSError):  # a training that has just finished removes its folder
                    (workdir / STOP_FILE).touch()
        if time.time() > deadline:
            logger.info("stopping %s: its best weights so far are kept", " and ".join(alive))
            late.update(alive)
            for name in alive:
                trainings[name].terminate()
                trainings[name].join()
    bring(params, layout, out, names)
    failed = [name for name, process in trainings.items() if process.exitcode and name not in late]
    if failed:
        raise TimbreflowError(f"{' and '.join(failed)} could not be trained; {out / 'log.txt'} says why.")


def _log_to(out: Path) -> None:
    logging.basicConfig(
        format="%(asctime)s %(processName)s: %(message)s",
        handlers=[logging.StreamHandler(), logging.FileHandler(out / "log.txt")],
        force=True,
    )
    logging.getLogger("timbreflow").setLevel(logging.INFO)


def _make_data(params: "Params", layout: "Layout") -> None:
    """Render and extract in a process a core, each with one thread."""
    from timbreflow.files import sha256_file, write_json
    from timbreflow.stages import extract_mels, render_triples
    from timbreflow.workers import worker_count

    passed = layout.results("validate_data") / "passed.json"
    if passed.is_file():
        return
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    stages: tuple[tuple[Any, tuple[Any, ...]], ...] = (
        (render_triples, (params.render_triples,)),
        (extract_mels, (params.extract_mels, params.audio)),
    )
    with ProcessPoolExecutor(worker_count(), mp_context=get_context("spawn")) as pool:
        for stage, sections in stages:
            shards = stage.plan(*sections, layout=layout)
            done = pool.map(partial(stage.run_one, layout=layout), shards, *map(repeat, sections))
            for number, _ in enumerate(done, 1):
                if number * 10 // len(shards) > (number - 1) * 10 // len(shards):
                    logger.info("%s: %d of %d shards", stage.__name__.rpartition(".")[2], number, len(shards))
            logger.info(stage.finish(*sections, layout=layout).summary)
    del os.environ["OMP_NUM_THREADS"]
    if threads:
        os.environ["OMP_NUM_THREADS"] = threads
    # The suites of validate_data need Great Expectations, and take minutes.
    write_json(passed, {"digest": sha256_file(layout.audio / "manifest.parquet")[:32], "suites": []})


def _train(name: str, folder: Path, deadline: float, out: Path, barrier: "Barrier") -> None:
    """Measure a step while the other model does so too, choose the number of steps, train."""
    import dataclasses

    from train_step import measure, section_of

    from timbreflow.config import load_params
    from timbreflow.models.devices import resolve_device
    from timbreflow.stages import train_glow, train_refiner, train_vqvae
    from timbreflow.stages.layout import Layout
    from timbreflow.stages.result import ignore_metrics

    _log_to(out)
    params, layout = load_params(folder / "params.yaml"), Layout(folder)
    barrier.wait(timeout=120.0)  # the other training may have failed
    device = resolve_device()
    counts = argparse.Namespace(steps=30 if device.type == "cuda" else 2, repeats=3)
    if name == "refiner":
        counts.steps = 2  # of hundreds, not of thousands
    measured = measure(name, params, layout, device, counts)
    pace = 1 / measured["steps_per_second"]["with_loading"]
    section: Any = section_of(name, params)
    steps = max(section.fit.warmup_steps, int((deadline - time.time() - RESERVE) / (pace * MARGIN)))
    steps = min(steps, section.fit.steps)
    logger.info("%s: %.1f ms a step in %s, so %d steps", name, 1000 * pace, measured["precision"], steps)
    section = dataclasses.replace(section, fit=dataclasses.replace(section.fit, steps=steps))
    arguments: dict[str, Any] = {"layout": layout, "log": ignore_metrics}
    others = (params.audio, params.render_triples)
    if name == "refiner":  # most steps are as in use, with notes that are heard
        notes, true = min(section.note_steps, steps // 6), min(section.true_steps, steps // 3)
        section = dataclasses.replace(section, note_steps=notes, true_steps=true)
        report = train_refiner.run(section, *others, **arguments)
    elif name == "glow":
        report = train_glow.run(section, *others, **arguments)
    else:
        report = train_vqvae.run("base", section, *others, **arguments)
    logger.info(report.summary)


def bring(params: "Params", layout: "Layout", out: Path, names: tuple[str, ...]) -> None:
    """Write each model to `out`: as it was trained to the end, else the best weights of its newest checkpoint."""
    for name in names:
        half = _stored(layout, name)
        scratch = half.parent
        if not _halve(name, params, layout, half):
            continue
        archive = scratch / f"{name}.tar.xz"
        # One context for even and one for odd bytes: of half-precision numbers, only one of the two is compressible.
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "lc": 0, "lp": 1, "pb": 1}]
        with lzma.open(archive, "wb", filters=filters) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(half, arcname=name)
        data = archive.read_bytes()
        parts = {f"{archive.name}.{k:02d}": data[k * PART : (k + 1) * PART] for k in range(-(-len(data) // PART))}
        for part, content in parts.items():
            (scratch / part).write_bytes(content)
        for part in parts:
            shutil.copy(scratch / part, out / part)
        logger.info("wrote %s: %.1f MiB in %d parts", name, len(data) / 2**20, len(parts))


def _stored(layout: "Layout", name: str) -> Path:
    return layout.scratch("out", name)


def _halve(name: str, params: "Params", layout: "Layout", folder: Path) -> bool:
    """Store a model in half precision; False where there is nothing yet."""
    import dataclasses

    from safetensors.torch import load_file
    from train_step import section_of

    from timbreflow.data.mels import read_statistics
    from timbreflow.models.bundle import ModelBundle, load_bundle, save_bundle
    from timbreflow.models.glow.model import Glow
    from timbreflow.models.refiner import Refiner
    from timbreflow.models.vqvae import VQVAE

    if layout.model(name).is_dir():
        bundle = load_bundle(layout.model(name))
    else:
        best = sorted((layout.root / ".scratch" / f"train_{name}").glob("*/step-*/best.safetensors"))
        if not best:
            return False
        section = section_of(name, params)
        kinds: dict[str, Any] = {"vqvae": VQVAE, "glow": Glow, "refiner": Refiner}
        model = kinds[name](section.model)
        model.load_state_dict(load_file(best[-1]))
        normalizer, features = read_statistics(layout.mels)
        record = {"section": dataclasses.asdict(section), "checkpoint": best[-1].parent.name}
        bundle = ModelBundle(name, model, features, None if name == "refiner" else normalizer, record)
    save_bundle(folder, bundle, storage="float16")
    return True


def join(out: Path, models: Path) -> None:
    """Make the models' folders, `models`/vqvae, glow and refiner, from the parts in `out`.

    Raises:
        TimbreflowError: there are no parts, or they do not fit together.
    """
    from timbreflow.errors import TimbreflowError
    from timbreflow.models.bundle import load_bundle

    found = [name for name in MODELS if (out / f"{name}.tar.xz.00").is_file()]
    if not found:
        raise TimbreflowError(
            f"{out} holds no part of a model, such as glow.tar.xz.00; name the folder of `run --out`."
        )
    for name in found:
        archive = models / f".{name}.tar.xz"
        models.mkdir(parents=True, exist_ok=True)
        archive.write_bytes(b"".join(part.read_bytes() for part in sorted(out.glob(f"{name}.tar.xz.*"))))
        try:
            with tarfile.open(archive, "r:xz") as tar:
                tar.extractall(models, filter="data")
        except (lzma.LZMAError, tarfile.TarError, EOFError) as error:
            raise TimbreflowError(
                f"The parts of {name} in {out} do not fit together ({error}); fetch them again."
            ) from error
        finally:
            archive.unlink()
        load_bundle(models / name)
        print(f"{models / name} is whole")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    pack = commands.add_parser("prepare", help="pack one folder of at most 64 MiB for the GPU machine")
    pack.add_argument("--folder", type=Path, default=FOLDER, help="%(default)s")
    pack.add_argument("--params", type=Path, help="settings; the preset gpu-short")
    pack.add_argument("--no-wheels", dest="wheels", action="store_false", help="leave the Python packages out")
    train = commands.add_parser("run", help="render and train, on the GPU machine")
    train.add_argument("--folder", type=Path, default=HERE.parent, help="%(default)s")
    train.add_argument("--out", type=Path, required=True, help="gets the weights in parts, and log.txt")
    train.add_argument("--minutes", type=float, default=9.0, help="for everything (%(default)s)")
    whole = commands.add_parser("join", help="make model folders from the parts")
    whole.add_argument("out", type=Path, help="folder of the parts")
    whole.add_argument("models", type=Path, help="folder that gets vqvae, glow and refiner, such as data/models")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
