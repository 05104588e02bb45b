"""A conditional normalizing flow on spectrograms: its layers, its prior and the whole model."""
