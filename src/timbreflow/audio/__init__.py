"""Reading and writing sound, spectral features, and the way back from features to sound."""
