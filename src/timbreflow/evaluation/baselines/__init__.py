"""Baselines of the comparison: systems that learn nothing, each from a paper or from common sense."""
