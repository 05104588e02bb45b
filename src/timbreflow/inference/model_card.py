"""Model cards: what a released model is, what it was trained on and under which licences, and how well it does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from timbreflow.models.bundle import ModelBundle
from timbreflow.notes.catalogue import CATALOGUE, Corpus

TITLES = {"vqvae": "VQ-VAE", "glow": "Glow", "triplet": "timbre metric", "vocoder": "vocoder"}
MEASURES = ("triplet",)
"""Kinds that stay in full precision: figures are compared over years, and rounding moves them."""
SUMMARIES = {
    "vqvae": "Plays the notes of one recording with the timbre of another: a vector-quantised autoencoder with a "
    "quantised code of the content and an encoding of the style. Deterministic.",
    "glow": "Plays the notes of one recording with the timbre of another: a normalizing flow, conditioned on a "
    "content code of the notes and tokens of the style. It samples, converts, and fits the style at test time.",
    "triplet": "Embeds a recording so that sounds of one timbre lie near each other: the timbre metric of the tables.",
    "vocoder": "Makes sound of log-mel spectrograms.",
}
USES = {
    "vqvae": ("timbreflow transfer melody.wav cello.wav -o out.wav --model {name}",),
    "glow": (
        "timbreflow transfer melody.wav cello.wav -o out.wav --model {name} --temperature 0.25",
        "timbreflow transfer melody.wav cello.wav -o out.wav --model {name} --mode convert",
        "timbreflow transfer melody.wav cello.wav -o out.wav --model {name} --fit-style 50",
    ),
}
COLUMNS = {
    "lsd": "LSD (dB)",
    "timbre": "timbre (triplet)",
    "timbre_mfcc": "timbre (MFCC)",
    "note_score": "note score",
    "lsd_ratio": "LSD / better copy's",
    "timbre_gap_closed": "gap closed (triplet)",
    "timbre_mfcc_gap_closed": "gap closed (MFCC)",
}
"""Figures of a card, where the tables have them."""


@dataclass(frozen=True)
class Origin:
    """What a model was made of.

    Attributes:
        fonts: SoundFonts that it was trained on, by name.
        corpora: sources of notes, as collect_midi names them.
        cost: what the training cost, in words; empty where nobody said.
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
            these very weights were not evaluated.
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
        "One line or a few voices of one instrument; no drums, no singing, no mixes. The band ends at "
        f"{bundle.features.sample_rate / 2000:g} kHz, mono. Worst clips: `docs/results.md`.",
        "",
    ]
    return "\n".join(lines)


def catalogued(source: str) -> Corpus | None:
    """The entry of the catalogue that a SoundFont or a source of notes comes from; None for a user's own file."""
    name = source.split("/", maxsplit=1)[0]
    if name in CATALOGUE:
        return CATALOGUE[name]
    return next((corpus for corpus in CATALOGUE.values() if PurePosixPath(corpus.inside).stem == source), None)


def _use(name: str, kind: str) -> list[str]:
    commands = USES.get(kind, ())
    return ["## Use", "", *(f"    {command.format(name=name)}" for command in commands), ""] if commands else []


def _precision(bundle: ModelBundle) -> str:
    return "full precision" if bundle.kind in MEASURES else "half precision"


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
        lines.append(f"- samples seen: {seen:,}, in batches of {fit['batch_size']} ({fit.get('precision', 'float32')})")
    if facts.get("begun"):
        lines.append(f"- that was the last part: it went on from the weights with sha256 `{facts['begun']}`")
    for mean in facts.get("averaged", []):
        parts = mean["parts"] if isinstance(mean["parts"], str) else " and ".join(mean["parts"])
        lines.append(
            f"- then averaged, {parts}: {mean['share']:.0%} of the weights `{mean.get('other', 'not recorded')}`"
        )
    if bundle.kind == "glow" and "noise" in facts.get("section", {}):
        lines.append(f"- noise on the target, at which likelihoods hold: {facts['section']['noise']:g} deviations")
    if "best_loss" in facts:
        lines.append(f"- validation criterion: {facts['best_loss']:.4f}")
    digest = facts.get("data", {}).get("digest")
    if digest:
        lines.append(f"- digest of the data: `{digest}`")
    lines.append(f"- cost: {origin.cost or 'not recorded'}")
    lines.append("- all settings: `training` in `config.json`")
    return lines


def _kept_away(origin: Origin) -> list[str]:
    if not origin.fonts:
        return []
    return [
        "No recording was trained on: all sound was rendered from notes with SoundFonts. Never trained on: the font "
        "GeneralUser GS, an eighth of the programs, a tenth of the pieces, the recordings of the set `real`.",
        "",
    ]


def _source(name: str, what: str) -> str:
    corpus = catalogued(name)
    if corpus is None:
        return f"| {name} | {what} | the user's own file |"
    where = f"{corpus.manager} package {', '.join(corpus.packages)}" if corpus.manager != "manual" else corpus.contents
    return f"| {name} | {what}: {where} | {corpus.licence} |"


def _results(kind: str, tables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if kind not in ("vqvae", "glow"):
        return []
    if not tables:
        return ["## Results", "", "These weights have not been evaluated: `timbreflow evaluate --testset NAME`.", ""]
    columns = [metric for metric in COLUMNS if any(metric in table["figures"] for table in tables.values())]
    lines = [
        "## Results",
        "",
        "Frozen test sets, mean and 95 % interval; in brackets what copying the content scores.",
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
