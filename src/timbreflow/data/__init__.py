"""Shards of sound and of features, their manifest, and the triples that models learn from."""
