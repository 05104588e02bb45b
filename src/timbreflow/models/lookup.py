"""Notes looked up in the style: its own log-mel frames, brought to the pitches and the ages of the content's notes.

A frame of the style belongs to its most salient pitch. Transposed along the mel axis by the interval to a note of the
content, it shows how that note may look, inharmonic partials and noise included. The mean of the frames that fit best
in pitch, age and number of other notes is the note's spectrum; notes add by their power. The result, a *skeleton* of
the transfer, needs no training (`hand_set_skeleton`); `NoteLookup` learns which frames fit.

Log-mels here are raw, that is natural logarithms of magnitudes. Ages are frames since a note's onset.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timbreflow.models.blocks import full_precision
from timbreflow.models.content import N_PITCHES

THRESHOLD = 0.4
"""Probability above which a pitch of a predicted piano roll counts as sounding."""
TAIL_FRAMES = 24
"""Frames after a note's end, .75 s at the usual hop, in which its tail is looked up."""
BLOCK_FRAMES = 32
"""Frames of one pitch that are looked up together."""
BLOCKS_AT_ONCE = 8
OLDEST_FRAMES = 48
"""1.5 s at the usual hop: notes that are older are looked up as if they were as old as the style's oldest note, if that
is older than this. Without a limit, a note that is held for longer than any of the style fell by 3 dB."""
LONG_AGO = 1 << 30
"""Frames since what has not been yet."""
NEVER = -1e4
"""Logit of a frame that belongs to no note."""


def band_of(frequency: np.ndarray, *, n_bands: int, fmin: float, fmax: float) -> np.ndarray:
    """Places of frequencies in Hz among the centres of Slaney mel bands: 0 is the first band's."""

    def mel(hertz: np.ndarray) -> np.ndarray:
        return np.where(hertz < 1000, hertz * 3 / 200, 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / np.log(6.4))

    low, high = mel(np.array([fmin, fmax]))
    return (mel(frequency) - low) / (high - low) * (n_bands + 1) - 1


class Transposition(nn.Module):
    """Spectra moved along the mel axis by semitones, with linear interpolation between bands.

    Args:
        n_bands: M.
        fmin: lower edge of the first band, in Hz.
        fmax: upper edge of the last band, in Hz.
        floor: smallest magnitude; what comes from beyond the bands is silent.
    """

    def __init__(self, *, n_bands: int, fmin: float, fmax: float, floor: float) -> None:
        super().__init__()
        grid = np.linspace(0, fmax, 1 << 16)
        centres = np.interp(np.arange(n_bands), band_of(grid, n_bands=n_bands, fmin=fmin, fmax=fmax), grid)
        semitones = np.arange(1 - N_PITCHES, N_PITCHES)
        read = centres * 2.0 ** (-semitones[:, None] / 12)
        source = band_of(read, n_bands=n_bands, fmin=fmin, fmax=fmax)
        inside = (source > -1e-4) & (source < n_bands - 1 + 1e-4)
        index = np.where(inside, np.clip(np.floor(source + 1e-6), 0, n_bands - 2), n_bands)
        self.log_floor = float(np.log(floor))
        self.index: Tensor
        self.share: Tensor
        self.register_buffer("index", torch.from_numpy(index.astype(np.int64)), persistent=False)
        self.register_buffer("share", torch.from_numpy(np.clip(source - index, 0, 1).astype("f4")), persistent=False)

    def forward(self, frames: Tensor, semitones: Tensor) -> Tensor:
        """Transpose each frame by its own interval.

        Args:
            frames: [..., M] log-mels.
            semitones: [...] int64, -127..127, upwards where positive.
        """
        place = semitones + N_PITCHES - 1
        index = self.index[place]
        padded = F.pad(frames, (0, 2), value=self.log_floor)
        low = padded.gather(-1, index)
        return low.lerp_(padded.gather(-1, index + 1), self.share[place])


@dataclass(frozen=True)
class NoteTimes:
    """When each pitch was struck and let go, from a piano roll.

    Attributes:
        sounding: [B, 128, T] bool.
        age: [B, 128, T] int64, frames since the last onset, also after the note's end.
        released: [B, 128, T] int64, frames since the note's end; 0 while it sounds, `LONG_AGO` or more before
            the first note.
    """

    sounding: Tensor
    age: Tensor
    released: Tensor

    @staticmethod
    def of(sounding: Tensor, continued: Tensor | None = None) -> "NoteTimes":
        """Times in a piano roll [B, 128, T] bool.

        Notes that sound in the first frame begin there, but not in the clips that are `continued` [B] bool, which are
        cut out of the middle of a recording: they began `LONG_AGO`.
        """
        time = torch.arange(sounding.shape[-1], device=sounding.device)
        onset = sounding.clone()
        onset[..., 1:] &= ~sounding[..., :-1]
        if continued is not None:
            onset[..., 0] &= ~continued[:, None]

        def since(event: Tensor) -> Tensor:
            return time - torch.where(event, time, -LONG_AGO).cummax(-1).values

        return NoteTimes(sounding, since(onset), since(sounding))

    def limited(self, style: "StyleFrames") -> "NoteTimes":
        """With ages that the style's notes reach, or `OLDEST_FRAMES`."""
        oldest = torch.where(style.valid & (style.released == 0), style.age, 0).amax(1).clamp_min(OLDEST_FRAMES)
        return replace(self, age=torch.minimum(self.age, oldest[:, None, None]))


@dataclass(frozen=True)
class StyleFrames:
    """The note that each frame of a style belongs to.

    Attributes:
        pitch: [B, S] int64, the most salient pitch, or the last one that ended where none sounds.
        age: [B, S] int64.
        released: [B, S] int64.
        others: [B, S] int64, how many other pitches sound.
        valid: [B, S] bool, whether there is such a note.
    """

    pitch: Tensor
    age: Tensor
    released: Tensor
    others: Tensor
    valid: Tensor

    @staticmethod
    def of(roll: Tensor) -> "StyleFrames":
        """Notes of frames by a piano roll [B, 128, S] of probabilities, whose largest is the most salient."""
        times = NoteTimes.of(roll > THRESHOLD)
        sounds = times.sounding.any(1)
        pitch = torch.where(sounds, roll.argmax(1), times.released.argmin(1))
        age, released = (x.gather(1, pitch[:, None])[:, 0] for x in (times.age, times.released))
        others = (times.sounding.sum(1) - 1).clamp_min(0)
        return StyleFrames(pitch, age, released, others, released <= TAIL_FRAMES)


@dataclass(frozen=True)
class Blocks:
    """The frames to look up, in blocks of one pitch of one clip each.

    Attributes:
        clip: [K] int64, ascending.
        pitch: [K] int64.
        voice: [K] int64, which of the voices, that is the pitches of a clip, it belongs to.
        voice_clip: [V] int64.
        voice_pitch: [V] int64.
        frame: [K, L] int64; 0 where a block is not full.
        used: [K, L] bool.
    """

    clip: Tensor
    pitch: Tensor
    voice: Tensor
    voice_clip: Tensor
    voice_pitch: Tensor
    frame: Tensor
    used: Tensor

    @staticmethod
    def of(active: Tensor) -> "Blocks":
        """Blocks that cover all that is True in [B, 128, T]."""
        clip, pitch, frame = active.nonzero(as_tuple=True)
        voice, counts = torch.unique_consecutive(clip * N_PITCHES + pitch, return_counts=True)
        blocks = (counts + BLOCK_FRAMES - 1) // BLOCK_FRAMES
        owner = torch.repeat_interleave(torch.arange(len(voice), device=voice.device), blocks)
        number = torch.arange(len(frame), device=frame.device)
        number -= torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        block = torch.repeat_interleave(blocks.cumsum(0) - blocks, counts) + number // BLOCK_FRAMES
        place = (block, number % BLOCK_FRAMES)
        frames = frame.new_zeros(len(owner), BLOCK_FRAMES)
        frames[place] = frame
        used = torch.zeros_like(frames, dtype=torch.bool)
        used[place] = True
        voice_clip, voice_pitch = voice // N_PITCHES, voice % N_PITCHES
        return Blocks(voice_clip[owner], voice_pitch[owner], owner, voice_clip, voice_pitch, frames, used)

    def transposed(self, style: Tensor, pitch: Tensor, transpose: Transposition) -> Tensor:
        """The style's frames at each voice's pitch.

        Args:
            style: [B, M, S] log-mels.
            pitch: [B, S] int64, pitches of its frames.
            transpose: of its bands.

        Returns:
            [V, S, M].
        """
        interval = self.voice_pitch[:, None] - pitch[self.voice_clip]
        return transpose(style.transpose(1, 2)[self.voice_clip], interval)

    def of_notes(self, values: Tensor) -> Tensor:
        """Values of the blocks' notes, [B, 128, T] -> [K, L]."""
        return values[self.clip[:, None], self.pitch[:, None], self.frame]

    def of_frames(self, values: Tensor) -> Tensor:
        """Values of the blocks' frames, [B, T] -> [K, L]."""
        return values[self.clip[:, None], self.frame]

    def added(self, notes: Tensor, *, shape: tuple[int, int], log_floor: float) -> Tensor:
        """Add the spectra of notes by their power.

        Args:
            notes: [K, H, L, M] log-mels.
            shape: B and T.
            log_floor: of the result.

        Returns:
            [B, H, M, T]; the floor where nothing sounds.
        """
        heads, bands = notes.shape[1], notes.shape[-1]
        power = (2 * full_precision(notes)).exp().transpose(1, 2)[self.used]
        place = (self.clip[:, None] * shape[1] + self.frame)[self.used]
        total = power.new_full((shape[0] * shape[1], heads, bands), np.exp(2 * log_floor))
        total = total.index_add(0, place, power)
        return total.log().div(2).unflatten(0, shape).permute(0, 2, 3, 1)


def hand_set_skeleton(content_roll: Tensor, style_roll: Tensor, style: Tensor, transpose: Transposition) -> Tensor:
    """What the style's own frames make of the content's notes, without anything learned.

    A note of pitch p and age a' is the mean of the style's frames, of pitch q and age a, transposed by p - q semitones,
    with the weights softmax(-|p - q| / 3 - |a' - a| / 2 - number of other notes).

    Args:
        content_roll: [B, 128, T] probabilities.
        style_roll: [B, 128, S] probabilities.
        style: [B, M, S] log-mels.
        transpose: of the bands of style.

    Returns:
        [B, M, T] log-mels; the floor where nothing sounds, and in clips whose style has no notes.
    """
    times, keys = NoteTimes.of(content_roll > THRESHOLD), StyleFrames.of(style_roll)
    sounds = (style_roll > THRESHOLD).any(1)
    blocks = Blocks.of(times.sounding & sounds.any(1)[:, None, None])
    values = blocks.transposed(style, keys.pitch, transpose)[blocks.voice]
    interval = blocks.pitch[:, None] - keys.pitch[blocks.clip]
    age = (blocks.of_notes(times.age)[:, :, None] - keys.age[blocks.clip][:, None]).abs()
    logits = -interval.abs()[:, None] / 3 - age / 2 - keys.others[blocks.clip][:, None]
    weights = logits.masked_fill(~sounds[blocks.clip][:, None], -torch.inf).softmax(-1)
    shape = (len(content_roll), content_roll.shape[-1])
    return blocks.added((weights.to(values) @ values)[:, None], shape=shape, log_floor=transpose.log_floor)[:, 0]


class NoteLookup(nn.Module):
    """The look-up with learned weights: attention of notes to the style's frames, whose values are the frames.

    Queries are the content's notes, frame by frame, until `TAIL_FRAMES` after their end; keys are all frames of the
    style that belong to a note, so that tails find frames after a release. A logit is a learned bias of the interval
    plus a product of query and key: a fixed part, whose sharpness is learned, that compares ages, times since release
    and levels and begins much like `hand_set_skeleton`, and a learned one that begins at 0. One more key is silence.

    Args:
        transpose: of the bands.
        fundamentals: [128, M] weights that read each pitch's level off a spectrum.
        heads: look-ups, H, with biases of their own.
        width: of the learned part's hidden layer, and of its products.
    """

    def __init__(self, transpose: Transposition, fundamentals: Tensor, *, heads: int, width: int = 16) -> None:
        super().__init__()
        self.transpose = transpose
        self.heads = heads
        self.fundamentals: Tensor
        self.register_buffer("fundamentals", fundamentals, persistent=False)
        spread = torch.tensor([1.0, 0.5, 2.0, 1.0])[torch.arange(heads) % 4][:, None]
        interval = torch.arange(1 - N_PITCHES, N_PITCHES).abs()
        self.interval = nn.Parameter(-spread * interval / 3)
        # Sharpness in age, time since release and level; costs of other notes and of sounding where released.
        self.sharpness = nn.Parameter((torch.tensor([4.0, 2.0, 0.1, 1.0, 8.0]) * spread).log())
        self.silence = nn.Parameter(torch.full((heads,), -6.0))
        self.query = nn.Sequential(nn.Linear(7, 2 * width), nn.GELU(), nn.Linear(2 * width, heads * width))
        self.key = nn.Sequential(nn.Linear(7, 2 * width), nn.GELU(), nn.Linear(2 * width, heads * width))
        nn.init.zeros_(self.key[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.key[-1].bias)  # type: ignore[arg-type]

    def forward(
        self,
        content_roll: Tensor,
        content: Tensor,
        style_roll: Tensor,
        style: Tensor,
        continued: Tensor | None = None,
    ) -> Tensor:
        """Look the content's notes up.

        Args:
            content_roll: [B, 128, T] probabilities.
            content: [B, M, T] log-mels.
            style_roll: [B, 128, S] probabilities.
            style: [B, M, S] log-mels.
            continued: [B] bool, whether a content begins in the middle of its recording; None is never.

        Returns:
            [B, H, M, T] log-mels, one skeleton a head.
        """
        keys = StyleFrames.of(style_roll)
        times = NoteTimes.of(content_roll > THRESHOLD, continued).limited(keys)
        blocks = Blocks.of(times.released <= TAIL_FRAMES)
        others = (times.sounding.sum(1) - 1).clamp_min(0)
        level, key_level = self._levels(content), self._levels(style)
        queries = self._described(
            blocks.of_notes(times.age),
            blocks.of_notes(times.released),
            blocks.of_notes(level),
            blocks.of_frames(others),
            blocks.pitch[:, None].expand_as(blocks.frame),
        )
        described = self._described(
            keys.age, keys.released, key_level.gather(1, keys.pitch[:, None])[:, 0], keys.others, keys.pitch
        )
        silence = torch.full_like(style[:1, :1, 0], self.transpose.log_floor).expand(
            len(blocks.voice_clip), 1, style.shape[1]
        )
        values = torch.cat([blocks.transposed(style, keys.pitch, self.transpose), silence], dim=1)
        interval = blocks.voice_pitch[:, None] - keys.pitch[blocks.voice_clip]
        bias = self.interval[:, interval + N_PITCHES - 1].masked_fill(~keys.valid[blocks.voice_clip], NEVER)
        bias = torch.cat([bias, self.silence[:, None, None].expand(-1, bias.shape[1], 1)], dim=2)
        query = self._queries(queries).transpose(0, 1)
        key = F.pad(self._keys(described), (0, 0, 0, 1)).transpose(2, 3)
        counts = torch.bincount(blocks.clip, minlength=len(style)).tolist()
        found = []
        # A few blocks of one clip at a time: a copy of the keys for each block, and logits that do not fit the
        # processor's cache, would take longer than all products.
        for clip, (voices, asked) in enumerate(
            zip(blocks.voice.split(counts), query.split(counts, dim=1), strict=True)
        ):
            for voice, some in zip(voices.split(BLOCKS_AT_ONCE), asked.split(BLOCKS_AT_ONCE, dim=1), strict=True):
                logits = (some.flatten(1, 2) @ key[clip]).unflatten(1, some.shape[1:3]) + bias[:, voice, None]
                found.append(logits.softmax(-1).transpose(0, 1).flatten(1, 2) @ values[voice])
        notes = torch.cat(found).unflatten(1, (self.heads, BLOCK_FRAMES))
        shape = (len(content_roll), content_roll.shape[-1])
        return blocks.added(notes, shape=shape, log_floor=self.transpose.log_floor)

    def _levels(self, x: Tensor) -> Tensor:
        """Level of each pitch in each frame against the loudest one of the clip: [B, M, T] -> [B, 128, T]."""
        level = self.fundamentals @ full_precision(x)
        return level - level.amax((1, 2), keepdim=True)

    @staticmethod
    def _described(age: Tensor, released: Tensor, level: Tensor, others: Tensor, pitch: Tensor) -> Tensor:
        """[...] each -> [..., 7] features of notes, about 0 to 1."""
        old, gone = (x.to(level).log1p() for x in (age.clamp(0, 1000), released.clamp(0, TAIL_FRAMES)))
        ends = (released > 0).to(level)
        return torch.stack(
            [old, gone, level.clamp_min(-12), others.to(level), ends, pitch / 64 - 1, (-old).exp()], dim=-1
        )

    def _queries(self, x: Tensor) -> Tensor:
        """[K, L, 7] -> [K, H, L, D]."""
        age, gone, level, _, ends = x[..., :5].unbind(-1)
        one = torch.ones_like(age)
        fixed = [a for value in (age, gone, level) for a in (2 * value, one, value.square())]
        fixed += [one, ends, 1 - ends]
        return self._joined(self.query(x), torch.stack(fixed, dim=-1)[:, None].expand(-1, self.heads, -1, -1))

    def _keys(self, x: Tensor) -> Tensor:
        """[B, S, 7] -> [B, H, S, D]."""
        age, gone, level, others, ends = x[..., :5].unbind(-1)
        one = torch.ones_like(age)
        fixed = [a for value in (age, gone, level) for a in (value, -value.square(), -one)]
        fixed += [-others, ends - 1, -ends]
        sharpness = self.sharpness.exp()[:, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 4, 4]]
        return self._joined(self.key(x), torch.stack(fixed, dim=-1)[:, None] * sharpness[None, :, None])

    def _joined(self, learned: Tensor, fixed: Tensor) -> Tensor:
        return torch.cat([learned.unflatten(-1, (self.heads, -1)).transpose(1, 2), fixed.to(learned.dtype)], dim=-1)
