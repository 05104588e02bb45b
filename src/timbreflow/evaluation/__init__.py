"""Metrics, systems under test, statistics, the promotion gate and the report."""
