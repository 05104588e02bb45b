"""One module a metric: pure arrays in, floats out."""
