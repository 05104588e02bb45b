"""Sound that comes in blocks, goes through a model in batches of chunks, and leaves in blocks."""
