"""Systems under test, the per-clip table and its figures, baselines and the promotion gate."""
