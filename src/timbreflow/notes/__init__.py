"""Note sources (MIDI, scores, archives, game data) to note tables and 8 s segments; numpy and pyarrow, no torch."""
