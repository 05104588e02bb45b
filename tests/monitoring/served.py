"""Records of transfers that never were: figures drawn from what is asked for."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from timbreflow.monitoring.config import LimitConfig, MonitorConfig
from timbreflow.monitoring.records import append
from timbreflow.monitoring.reference import MEASURED, Reference

CONFIG = MonitorConfig(
    days=7,
    min_records=30,
    p_value=0.001,
    distance=0.3,
    limits={
        "style": {"seconds": LimitConfig(2.0, 0.25)},
        "output": {"level_dbfs": LimitConfig(-60.0, 0.02), "notes_kept": LimitConfig(0.5, 0.25)},
    },
)


def drawn(n: int, *, seed: int) -> list[dict[str, float]]:
    """Figures of n sounds of the training."""
    random = np.random.default_rng(seed)
    return [
        {
            "seconds": 8.0,
            "level_dbfs": -23.0,
            "silent_share": float(random.choice([0.0, 0.0, random.uniform(0, 0.4)])),
            "polyphony": float(random.uniform(1, 3)),
            "pitched_share": float(random.uniform(0.8, 1)),
            "band_hz": float(random.lognormal(7.5, 0.5)),
            "flatness_db": float(random.normal(-30, 5)),
            "rank": float(random.uniform()),
        }
        for _ in range(n)
    ]


def reference(n: int = 400) -> Reference:
    """Of the training."""
    sounds = drawn(n, seed=0)
    return Reference("drawn", "ears", n, {name: tuple(sorted(sound[name] for sound in sounds)) for name in MEASURED})


def serve(folder: Path, n: int = 60, *, seed: int = 1, **changes: dict[str, float]) -> None:
    """Record n transfers; `style={"band_hz": 7000.0}` gives all styles this figure."""
    contents, styles = drawn(n, seed=seed), drawn(n, seed=seed + 1)
    for content, style in zip(contents, styles, strict=True):
        roles = {"content": content, "style": style, "output": dict(content)}
        row = {role: figures | changes.get(role, {}) for role, figures in roles.items()}
        append(folder, {"model": "glow", "seconds": 2.0, "sample_rate": 16000, **row}, now=datetime.now(UTC))
