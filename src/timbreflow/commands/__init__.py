"""What `timbreflow` can be told to do, by subject. Heavy imports stand inside the commands."""
