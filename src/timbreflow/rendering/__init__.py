"""From notes to sound: SoundFonts, timbres, effects, FluidSynth, and the recipes of triples."""
