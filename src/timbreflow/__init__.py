"""One-shot music timbre transfer."""
