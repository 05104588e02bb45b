"""Data for the benchmarks, made by the house's own stages in a folder that is given."""

import dataclasses
from pathlib import Path

from timbreflow.config import Params, load_params
from timbreflow.data.mels import ExtractConfig
from timbreflow.files import write_json
from timbreflow.rendering.config import SplitFractions, TripleCounts
from timbreflow.stages import collect_midi, extract_mels, render_triples
from timbreflow.stages.layout import Layout

ROOT = Path(__file__).resolve().parents[1]
SCORES = ("music21/joplin", "music21/mozart", "music21/haydn", "music21/schubert")


def small_params(triples: int, *, validation: int = 0, preset: Path = ROOT / "params.yaml") -> Params:
    """Settings of params.yaml with so many training and validation triples, scores that every checkout has, no test.

    Args:
        triples: of training.
        validation: validation triples.
        preset: file of settings.
    """
    params = load_params(preset)
    fonts = tuple(font for font in params.render_triples.soundfonts if font.name == "TimGM6mb")
    counts = TripleCounts(train=triples, validation=validation, test=0, test_seen=0)
    held_out = SplitFractions(
        validation_pieces=0.3 if validation else 0.0, test_pieces=0.0, test_programs=0.0, test_effects=0.0
    )
    render = dataclasses.replace(params.render_triples, triples=counts, splits=held_out, soundfonts=fonts)
    collect = dataclasses.replace(params.collect_midi, sources=SCORES)
    return dataclasses.replace(params, render_triples=render, collect_midi=collect)


def prepare(folder: Path, params: Params, *, mels: ExtractConfig | None = None) -> Layout:
    """Collect, render and extract in this process; what is there already stays.

    Args:
        folder: root of the data.
        params: from `small_params`.
        mels: other settings of the extraction than params has.
    """
    layout = Layout(folder)
    if not layout.notes.is_dir():
        collect_midi.collect(params.collect_midi.sources, layout.notes, params.collect_midi, root=ROOT, workers=1)
    if not layout.audio.is_dir():
        for shard in render_triples.plan(params.render_triples, layout=layout):
            render_triples.run_one(shard, params.render_triples, layout=layout)
        render_triples.finish(params.render_triples, layout=layout)
    if not layout.mels.is_dir():
        sections = (mels or params.extract_mels, params.audio)
        for part in extract_mels.plan(*sections, layout=layout):
            extract_mels.run_one(part, *sections, layout=layout)
        extract_mels.finish(*sections, layout=layout)
    passed = layout.results("validate_data") / "passed.json"
    if not passed.is_file():
        # The suites need minutes; what a benchmark measures does not depend on them.
        write_json(passed, {"digest": "benchmark", "suites": []})
    return layout
