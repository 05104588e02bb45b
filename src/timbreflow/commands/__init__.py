"""The commands of `timbreflow`, by subject. Heavy imports are inside the commands."""
