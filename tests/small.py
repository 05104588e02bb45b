"""Settings small enough for tests; a test replaces what it is about."""

from timbreflow.audio.features import FeatureConfig
from timbreflow.models.vocoder import VocoderConfig
from timbreflow.training.config import FitConfig

MELS = FeatureConfig(
    kind="log_mel",
    sample_rate=16_000,
    n_fft=1024,
    win_length=1000,
    hop_length=500,
    n_mels=24,
    fmin=30.0,
    fmax=8000.0,
    floor=0.01,
)
FIT = FitConfig(
    steps=6,
    batch_size=4,
    learning_rate=1e-3,
    warmup_steps=2,
    schedule="cosine",
    weight_decay=0.0,
    grad_clip=1.0,
    ema_decay=0.9,
    precision="float32",
    log_every=2,
    validate_every=3,
    checkpoint_every=2,
    patience=0,
    seed=1,
    grad_accumulation=1,
)
VOCODER = VocoderConfig(
    n_features=MELS.n_mels,
    hop_length=MELS.hop_length,
    upsample=4,
    n_fft=1000,
    win_length=512,
    width=16,
    expansion=2,
    n_coarse_blocks=1,
    n_fine_blocks=1,
    kernel=5,
)
