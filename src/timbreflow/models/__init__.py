"""Networks: content and style encoders, the VQ-VAE, the conditioned Glow, the timbre metric, and their files."""
