"""Any preset, shrunk until a whole pipeline runs in a minute or two: same shape, same stages, tiny sizes."""

from io import StringIO
from typing import Any

from ruamel.yaml import YAML

_SMALLER = {
    "width": 16,
    "dim": 8,
    "hidden_channels": 16,
    "context_width": 16,
    "pianoroll_head_width": 8,
    "code_dim": 8,
    "codebook_size": 32,
    "n_steps": 2,
    "steps": 4,
    "batch_size": 4,
    "grad_accumulation": 1,
    "warmup_steps": 1,
    "log_every": 1,
    "validate_every": 2,
    "checkpoint_every": 2,
    "l1_every": 2,
    "validation_triples": 4,
    "validation_triplets": 8,
    "griffin_lim_iterations": 2,
    "bootstrap_samples": 50,
    "n_coarse_blocks": 1,
    "n_fine_blocks": 1,
    "validation_crops": 4,
    "comparison_clips": 2,
    "examples": 1,
    "worst_examples": 1,
}


def shrink(values: Any) -> Any:
    """Replace every size by a tiny one, at any depth."""
    if isinstance(values, dict):
        return {key: _SMALLER.get(key, shrink(value)) for key, value in values.items()}
    return values


def tiny(text: str) -> dict[str, Any]:
    """Values of a params.yaml in a tiny size, with the sources and fonts that every checkout has."""
    values: dict[str, Any] = shrink(YAML(typ="safe").load(text))
    values["collect_midi"] |= {"sources": ["music21/haydn", "music21/mozart", "music21/schumann_robert"]}
    fonts = values["render_triples"]["soundfonts"]
    values["render_triples"]["soundfonts"] = [font for font in fonts if font["name"] == "TimGM6mb"]
    values["render_triples"] |= {
        "triples": {"train": 24, "validation": 6, "test": 6, "test_seen": 6},
        "triples_per_shard": 12,
        "splits": values["render_triples"]["splits"] | {"validation_pieces": 0.2, "test_pieces": 0.3},
    }
    values["register_models"]["gate"] |= {"min_triples": 1}
    values["register_models"]["gate"]["criteria"] = {"lsd": {"better": "lower", "slack": 0.0, "limit": 1000.0}}
    return values


def dump(values: dict[str, Any]) -> str:
    """As params.yaml."""
    stream = StringIO()
    YAML().dump(values, stream)
    return stream.getvalue()
