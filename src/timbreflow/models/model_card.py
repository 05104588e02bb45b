"""Model cards: what a released model is, what it was trained on and under which licences, and how well it does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from timbreflow.models.bundle import ModelBundle, Storage
from timbreflow.notes.sources.catalogue import CATALOGUE, Corpus

TITLES = {"vqvae": "VQ-VAE", "glow": "Glow", "refiner": "refiner", "triplet": "timbre metric", "vocoder": "vocoder"}
STORAGE: dict[str, Storage] = {"triplet": "float32", "vqvae": "int8", "glow": "int8", "refiner": "int8"}
"""How kinds are stored, others in float16. Rounding a metric's weights would change all stored figures; what 8 bits
change of the models is in docs/performance.md."""
SUMMARIES = {
    "vqvae": "Plays the notes of one recording with the timbre of another: a vector-quantised autoencoder with a "
    "quantised code of the content and an encoding of the style. Deterministic.",
    "glow": "Plays the notes of one recording with the timbre of another: a normalizing flow, conditioned on a "
    "content code of the notes and on tokens of the style. It samples, converts, and fits the style at test time.",
    "refiner": "Corrects what either transfer model predicts, with frames of the style itself that are looked up and "
    "brought to the pitches of the content's notes. `timbreflow transfer` uses it where it lies beside the model.",
    "triplet": "Embeds a recording such that sounds of one timbre lie near each other: the timbre metric of the "
    "tables.",
    "vocoder": "Turns log-mel spectrograms into sound.",
}
USES = {
    "vqvae": ("timbreflow transfer melody.wav cello.wav -o out.wav --model {name}",),
    "glow": (
        "timbreflow transfer melody.wav cello.wav -o out.wav --model {name} --temperature 0.25",
        "timbreflow transfer melody.wav cello.wav -o out.wav --model {name} --mode convert",
        "timbreflow transfer melody.wav cello.wav -o out.wav --model {name} --fit-style 50",
    ),
    "refiner": ("timbreflow transfer melody.wav cello.wav -o out.wav",),
}
COLUMNS = {
    "lsd": "LSD (dB)",
    "timbre": "timbre",
    "timbre_mfcc": "MFCC distance",
    "note_score": "note score",
    "lsd_ratio": "LSD / better copy's",
    "timbre_gap_closed": "gap closed (timbre)",
    "timbre_mfcc_gap_closed": "gap closed (MFCC distance)",
}
"""Figures of a card, where the tables have them, under the names of `metrics.registry`."""


@dataclass(frozen=True)
class Origin:
    """What a model was trained on.

    Attributes:
        fonts: names of the SoundFonts.
        corpora: sources of notes, as collect_midi names them.
        cost: what the training cost, in words; empty where it is not known.
    """

    fonts: tuple[str, ...]
    corpora: tuple[str, ...]
    cost: str


def model_card(
    name: str, bundle: ModelBundle, origin: Origin, *, megabytes: float, tables: Mapping[str, Mapping[str, Any]]
) -> str:
    """The card as Markdown.

    Args:
        name: of the folder below released/.
        bundle: the model.
        origin: fonts, corpora and cost.
        megabytes: size of the weights file.
        tables: test set to {"figures": {metric: {value, low, high}}, "content_copied": …, "triples": n}; empty where
            these weights were not evaluated.
    """
    parameters = sum(parameter.numel() for parameter in bundle.model.parameters())
    lines = [
        f"# {name}: {TITLES.get(bundle.kind, bundle.kind)}",
        "",
        SUMMARIES.get(bundle.kind, ""),
        "",
        *_use(name, bundle.kind),
        "## What it is",
        "",
        "| | |",
        "|---|---|",
        f"| parameters | {parameters / 1e6:.2f} M |",
        f"| weights | {megabytes:.1f} MB, `weights.safetensors` in {_precision(bundle)}; used in float32 |",
        f"| input | {_features(bundle)} |",
        "| shape | `model` in `config.json` |",
        "",
        "## Training",
        "",
        *_training(bundle, origin),
        "",
        "## Data and licences",
        "",
        *_kept_away(origin),
        "| source | what | licence |",
        "|---|---|---|",
        *(_source(font, "SoundFont") for font in origin.fonts),
        *(_source(corpus, "notes") for corpus in origin.corpora),
        "",
        "The weights come under the licence of this repository, Apache-2.0.",
        "",
        *_results(bundle.kind, tables),
        "## Limits",
        "",
        "Made for one line or a few voices of one instrument: no drums, no singing, no mixes. Mono, up to "
        f"{bundle.features.sample_rate / 2000:g} kHz. Worst clips: `docs/results.md`.",
        "",
    ]
    return "\n".join(lines)


def catalogued(source: str) -> Corpus | None:
    """The catalogue's entry of a SoundFont or a source of notes; None for a user's own file."""
    name = source.split("/", maxsplit=1)[0]
    if name in CATALOGUE:
        return CATALOGUE[name]
    return next((corpus for corpus in CATALOGUE.values() if PurePosixPath(corpus.inside).stem == source), None)


def _use(name: str, kind: str) -> list[str]:
    commands = USES.get(kind, ())
    return ["## Use", "", *(f"    {command.format(name=name)}" for command in commands), ""] if commands else []


def _precision(bundle: ModelBundle) -> str:
    words = {"float32": "full precision", "float16": "half precision", "int8": "8 bits (a flow: 16)"}
    return words[STORAGE.get(bundle.kind, "float16")]


def _features(bundle: ModelBundle) -> str:
    config = bundle.features
    if bundle.kind == "triplet":
        return "MFCC 2 to 13, hop 500, 16000 Hz"
    kind = f"log-mel, {config.n_mels} bands" if config.kind == "log_mel" else f"log-STFT, {config.n_features} bins"
    return f"{kind}, n_fft {config.n_fft}, hop {config.hop_length}, {config.sample_rate} Hz"


def _training(bundle: ModelBundle, origin: Origin) -> list[str]:
    facts = bundle.training
    fit: Mapping[str, Any] = facts.get("section", {}).get("fit", {})
    lines = []
    if "steps" in facts:
        lines.append(f"- steps: {facts['steps']}" + (f", stored: {facts['best_step']}" if "best_step" in facts else ""))
    if "steps" in facts and "batch_size" in fit:
        seen = facts["steps"] * fit["batch_size"] * fit.get("grad_accumulation", 1)
        precision = facts.get("precision", fit.get("precision", "float32"))
        lines.append(f"- samples seen: {seen:,}, in batches of {fit['batch_size']} ({precision})")
    if facts.get("begun"):
        lines.append(f"- continued from the weights with sha256 `{facts['begun']}`, whose training is not counted here")
    for mean in facts.get("averaged", []):
        parts = mean["parts"] if isinstance(mean["parts"], str) else " and ".join(mean["parts"])
        lines.append(
            f"- averaged afterwards ({parts}): {mean['share']:.0%} are of the weights "
            f"`{mean.get('other', 'not recorded')}`"
        )
    if bundle.kind == "glow" and "noise" in facts.get("section", {}):
        lines.append(f"- noise added to the target, in standard deviations: {facts['section']['noise']:g}")
    if "best_loss" in facts:
        lines.append(f"- validation criterion: {facts['best_loss']:.4f}")
    digest = facts.get("data", {}).get("digest")
    if digest:
        lines.append(f"- sha256 of the data: `{digest}`")
    lines.append(f"- cost: {origin.cost or 'not recorded'}")
    lines.append("- all settings: `training` in `config.json`")
    return lines


def _kept_away(origin: Origin) -> list[str]:
    if not origin.fonts:
        return []
    return [
        "All training sound was rendered from notes with SoundFonts; there are no recordings in it. Held out from "
        "training: the font GeneralUser GS, an eighth of the programs, a tenth of the pieces, and the recorded "
        "instruments of the test set `real`.",
        "",
    ]


def _source(name: str, what: str) -> str:
    corpus = catalogued(name)
    if corpus is None:
        return f"| {name} | {what} | the user's own file |"
    where = f"{corpus.manager} package {', '.join(corpus.packages)}" if corpus.manager != "manual" else corpus.contents
    return f"| {name} | {what}: {where} | {corpus.licence} |"


def _results(kind: str, tables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if kind == "refiner":
        return ["## Results", "", "Figures of both models with it and without it: `docs/results.md`.", ""]
    if kind not in ("vqvae", "glow"):
        return []
    if not tables:
        return [
            "## Results",
            "",
            "These weights have not been evaluated; run `timbreflow evaluate --testset NAME`.",
            "",
        ]
    columns = [metric for metric in COLUMNS if any(metric in table["figures"] for table in tables.values())]
    lines = [
        "## Results",
        "",
        "Frozen test sets: mean and 95 % interval; in square brackets, the score of the unchanged content.",
        "",
        "| set | triples | " + " | ".join(COLUMNS[metric] for metric in columns) + " |",
        "|---|" + "---|" * (len(columns) + 1),
    ]
    for testset, table in tables.items():
        copied = table.get("content_copied", {})
        cells = [_cell(table["figures"].get(metric), copied.get(metric)) for metric in columns]
        lines.append(f"| {testset} | {table['triples']} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _cell(figure: Mapping[str, float] | None, copied: Mapping[str, float] | None) -> str:
    if figure is None or "value" not in figure:
        return "-"
    bounds: Sequence[float] = [figure[name] for name in ("low", "high") if name in figure]
    text = f"{figure['value']:.3g}" + (f" ({bounds[0]:.3g} to {bounds[1]:.3g})" if len(bounds) == 2 else "")
    return text + (f" [{copied['value']:.3g}]" if copied is not None and "value" in copied else "")
