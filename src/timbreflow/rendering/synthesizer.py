"""FluidSynth as a pure function: notes and a timbre's patch in, samples out, the same bits every time.

What a voice of FluidSynth 2 does in its first 64 samples depends on the voice that used its slot before (the amplitude
is ramped up from the last one's), and a reset does not clear that. So every clip gets a fresh synthesizer, while the
SoundFonts stay loaded in one that exists as long as the process and are shared with each in turn: .1 ms a clip.
Samples are taken as floats, because the 16-bit output is dithered from a running sequence.
"""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import numpy as np

from timbreflow.errors import TimbreflowError
from timbreflow.notes.tables import Notes
from timbreflow.rendering.timbres import GENERATORS, Layer, Synthesis

BLOCK = 64
"""Samples that FluidSynth renders at a time: events fall on multiples of it (4 ms at 16 kHz)."""

GAIN = 0.5
"""FluidSynth's output gain: music then peaks between .05 and .3, which is what the overdrive's gain builds on."""

POLYPHONY = 256

_ATTENUATION = 48

_PROBE = Notes.of([0.0], [0.3], [0], [100])
"""This note tests whether a preset sounds at a pitch: in its first .3 s, above the amplitude below."""

_PROBE_AMPLITUDE = 1e-5


@lru_cache(maxsize=1)
def _library() -> ModuleType:
    """pyfluidsynth, with the functions of libfluidsynth that it does not bind typed in its `_fl`."""
    try:
        import fluidsynth  # fails without the system library, which the error below explains
    except (ImportError, OSError) as error:
        raise TimbreflowError(
            "FluidSynth's library (libfluidsynth) is missing; install it with `sudo apt-get install libfluidsynth3` "
            "(Debian, Ubuntu) or `brew install fluid-synth` (macOS)."
        ) from error
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    prototypes = {
        "fluid_synth_write_float": (integer, [pointer, integer, pointer, integer, integer, pointer, integer, integer]),
        "fluid_synth_set_gen": (integer, [pointer, integer, integer, ctypes.c_float]),
        "fluid_synth_get_sfont_by_id": (pointer, [pointer, integer]),
        "fluid_synth_add_sfont": (integer, [pointer, pointer]),
        "fluid_synth_remove_sfont": (integer, [pointer, pointer]),
        "fluid_set_log_function": (pointer, [integer, pointer, pointer]),
        "fluid_version_str": (ctypes.c_char_p, []),
    }
    try:
        for name, (result, arguments) in prototypes.items():
            function = getattr(fluidsynth._fl, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise TimbreflowError(f"FluidSynth is too old ({error}); install version 2 (libfluidsynth3).") from error
    for level in range(5):
        # Faults come back as return values and become our errors; the library's own lines would only clutter.
        fluidsynth._fl.fluid_set_log_function(level, None, None)
    module: ModuleType = fluidsynth
    return module


def fluidsynth_version() -> str:
    """Version of the system's FluidSynth, such as `2.3.1`: the hash of a clip's sound holds for it alone.

    Raises:
        TimbreflowError: libfluidsynth is not installed.
    """
    version: bytes = _library()._fl.fluid_version_str()
    return version.decode()


class Synthesizer:
    """SoundFonts kept loaded, and clips played from them one at a time. Not to be shared between threads.

    Args:
        soundfonts: name of each font and its path.
        sample_rate: in Hz, 8000 to 96000.

    Raises:
        TimbreflowError: libfluidsynth is not installed, or a font cannot be loaded.
    """

    def __init__(self, soundfonts: Mapping[str, Path], *, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._library = _library()
        self._c: ctypes.CDLL = self._library._fl
        self._owner = self._library.Synth(
            gain=GAIN,
            samplerate=float(sample_rate),
            channels=16,
            **{
                "synth.reverb.active": 0,
                "synth.chorus.active": 0,
                "synth.cpu-cores": 1,
                "synth.polyphony": POLYPHONY,
                "synth.lock-memory": 0,
            },
        )
        self._fonts: dict[str, int] = {}
        self._reached: dict[tuple[str, int, int, int], bool] = {}
        for name, path in soundfonts.items():
            number = self._owner.sfload(str(path))
            if number < 0:
                raise TimbreflowError(f"{path} cannot be loaded by FluidSynth; copy the right SoundFont there.")
            self._fonts[name] = self._c.fluid_synth_get_sfont_by_id(self._owner.synth, number)

    def close(self) -> None:
        """Unload the fonts; the object cannot be used afterwards."""
        self._owner.delete()
        self._fonts.clear()

    def play(self, notes: Notes, layers: Sequence[Layer], synthesis: Synthesis | None, *, seconds: float) -> np.ndarray:
        """Render notes with layered presets, without effects.

        Sound that has not died away at the end is cut there. Both channels are averaged.

        Args:
            notes: onsets relative to the clip.
            layers: presets that all play every note.
            synthesis: offsets to the presets' generators.
            seconds: length of the clip.

        Returns:
            [N] float32, N = round(seconds * sample_rate); not scaled, may exceed 1.

        Raises:
            TimbreflowError: a layer names a font or a preset that is not loaded.
        """
        n_samples = round(seconds * self.sample_rate)
        n_blocks = -(-n_samples // BLOCK)
        synth = self._library.new_fluid_synth(self._owner.settings)
        shared = []
        try:
            numbers = {}
            for name in {layer.soundfont: None for layer in layers}:
                if name not in self._fonts:
                    raise TimbreflowError(f"SoundFont {name} is not loaded; give its path to the synthesizer.")
                numbers[name] = self._c.fluid_synth_add_sfont(synth, self._fonts[name])
                shared.append(self._fonts[name])
            for channel, layer in enumerate(layers):
                self._select(synth, channel, numbers[layer.soundfont], layer, synthesis)
            stereo = self._run(synth, _events(notes, n_blocks, self.sample_rate), len(layers), n_blocks)
        finally:
            for font in shared:
                self._c.fluid_synth_remove_sfont(synth, font)
            self._library.delete_fluid_synth(synth)
        mono: np.ndarray = (stereo[:n_samples, 0] + stereo[:n_samples, 1]) * np.float32(0.5)
        return mono

    def reaches(self, layer: Layer, pitch: int) -> bool:
        """Whether a preset sounds at a pitch: SoundFonts leave keys out, and some of their samples are empty.

        Raises:
            TimbreflowError: the font or the preset is not loaded.
        """
        key = (layer.soundfont, layer.bank, layer.program, pitch)
        if key not in self._reached:
            audio = self.play(replace(_PROBE, pitch=np.array([pitch], np.uint8)), [layer], None, seconds=0.3)
            self._reached[key] = bool(np.max(np.abs(audio)) > _PROBE_AMPLITUDE)
        return self._reached[key]

    def _select(self, synth: int, channel: int, number: int, layer: Layer, synthesis: Synthesis | None) -> None:
        if self._library.fluid_synth_program_select(synth, channel, number, layer.bank, layer.program) != 0:
            raise TimbreflowError(
                f"SoundFont {layer.soundfont} has no preset {layer.program} in bank {layer.bank}; "
                "list its presets and correct the timbre."
            )
        # 1 cB is .1 dB of attenuation.
        self._c.fluid_synth_set_gen(synth, channel, _ATTENUATION, -10.0 * layer.gain_db)
        if synthesis is not None:
            for field, (generator, *_) in GENERATORS.items():
                self._c.fluid_synth_set_gen(synth, channel, generator, float(getattr(synthesis, field)))

    def _run(self, synth: int, events: list[tuple[int, int, int]], n_channels: int, n_blocks: int) -> np.ndarray:
        library, write = self._library, self._c.fluid_synth_write_float
        stereo = np.zeros((n_blocks * BLOCK, 2), np.float32)
        address, now = stereo.ctypes.data, 0
        for block, velocity, pitch in [*events, (n_blocks, 0, -1)]:
            if block > now:
                first = 2 * now * BLOCK
                write(synth, (block - now) * BLOCK, address, first, 2, address, first + 1, 2)
                now = block
            if pitch < 0:
                break
            for channel in range(n_channels):
                if velocity:
                    library.fluid_synth_noteon(synth, channel, pitch, velocity)
                else:
                    library.fluid_synth_noteoff(synth, channel, pitch)
        return stereo


def _events(notes: Notes, n_blocks: int, sample_rate: int) -> list[tuple[int, int, int]]:
    """(block, velocity, pitch) in playing order; velocity 0 ends a note, and ends come before beginnings."""
    blocks_per_second = sample_rate / BLOCK
    first = np.rint(notes.onset.astype(np.float64) * blocks_per_second).astype(np.int64)
    end = np.rint((notes.onset.astype(np.float64) + notes.duration) * blocks_per_second).astype(np.int64)
    end = np.maximum(end, first + 1)
    begins = zip(first.tolist(), np.maximum(notes.velocity, 1).tolist(), notes.pitch.tolist(), strict=True)
    ends = zip(end.tolist(), [0] * len(notes), notes.pitch.tolist(), strict=True)
    return [event for event in sorted([*begins, *ends]) if event[0] < n_blocks]
