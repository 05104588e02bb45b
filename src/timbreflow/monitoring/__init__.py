"""What is served is watched: figures of each transfer, and their drift from the training."""
