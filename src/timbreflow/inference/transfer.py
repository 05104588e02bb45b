"""Timbre transfer of recordings: any rate, channels and length, in constant memory.

content -> mono at the feature rate, level of the training clips -> overlapping chunks -> `synthesis` -> joined (see
`streaming.chunks`) -> the content's rate -> the content's level -> file or array.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Unpack

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from timbreflow.audio.files import AudioWriter
from timbreflow.audio.inversion import GriffinLimInverter
from timbreflow.errors import Cancelled, TimbreflowError
from timbreflow.inference.familiarity import Familiarity, KnownStyles, read_known_styles, style_bits_per_dim
from timbreflow.inference.pairs import read_pairs
from timbreflow.inference.pianoroll import HeardNote, joined, notes_of, write_midi
from timbreflow.inference.released import released_folder
from timbreflow.inference.streaming.batches import StreamBatches, TransferStream
from timbreflow.inference.streaming.chunks import ChunkPlan, cut, overlap_add
from timbreflow.inference.streaming.recordings import Recording, from_array, open_recording, resampled
from timbreflow.inference.streaming.writing import (
    Wet,
    exactly,
    finished,
    limited,
    output_gain,
    read_back,
    require_no_inputs,
    require_writable,
    scratch_beside,
)
from timbreflow.inference.style import (
    DEFAULT_NOISE,
    LONGEST_STYLE_SECONDS,
    SHORTEST_STYLE_SECONDS,
    StyleBlend,
    Styles,
    blend,
)
from timbreflow.inference.synthesis import (
    DecodeRequest,
    Synthesizer,
    TransferArguments,
    TransferOptions,
    encoding,
)
from timbreflow.inference.takes import MOST_TAKES, TakeFigures, TakeJudge, ranked
from timbreflow.inference.vocoding import open_inverter, vocoder_beside
from timbreflow.models.bundle import ModelBundle, load_bundle, weights_sha256
from timbreflow.models.glow.model import Glow

CHUNK_SECONDS = 8.0
"""Length of the clips that the models were trained on."""
FADE_SECONDS = 0.1
MARGIN_SECONDS = 0.1
RESAMPLER_SECONDS = 0.25
"""That two resamplers of soxr hold back at most; measured at rates from 8 to 96 kHz: .07 to .22 s."""
MAX_LAG_SECONDS = 0.002
"""Measured on melodies of one and three voices sent through the inverter alone in 4 s chunks: RMS error of the level at
the joints 2.8 and 2.2 dB with a linear fade, 1.9 and 1.2 with equal power, .6 and .7 with chunks moved by at most 2 ms,
which is what it is elsewhere. 12 ms does no better there and smears the timing (LSD 1.5 -> 2.3 dB)."""
BATCH_SIZE = 4
"""Chunks that are decoded at once."""

Progress = Callable[[float], None]
"""Called with the fraction that is done, 0..1."""
Cancel = Callable[[], bool]
"""Asked before each chunk; where it says True, `Cancelled` is raised and nothing is left half-written."""
Styled = ArrayLike | Sequence[np.ndarray]
"""One recording, or a list of up to four arrays."""
SCORES = (".mid", ".midi")


@dataclass(frozen=True)
class Levels:
    """What a transfer must know of a whole recording, as two factors.

    Attributes:
        into: brings the content to the level of the training clips.
        out: brings the result to its own level.
    """

    into: float
    out: float


@dataclass(frozen=True)
class TransferResult:
    """What `transfer_file` wrote.

    Args:
        path: the new file.
        seconds: its length.
        sample_rate: in Hz, the content's.
        channels: the content's.
        notes: sentences that a listener should be told.
        levels: factors of this transfer, for `TimbreTransfer.stream`.
    """

    path: Path
    seconds: float
    sample_rate: int
    channels: int
    notes: tuple[str, ...]
    levels: Levels


@dataclass(frozen=True, eq=False)
class Take:
    """One of several takes of a transfer.

    Attributes:
        seed: that gives it again.
        temperature: of its samples.
        figures: the model's own judgement; `figures.words` says it for a person.
        audio: float32 of the content's shape; None where it was written to a file.
        result: the file; None where it is in memory.
    """

    seed: int
    temperature: float
    figures: TakeFigures
    audio: np.ndarray | None = None
    result: TransferResult | None = None


@dataclass(eq=False)
class _Lane:
    """The content, or one channel of it, on its way through the model.

    Attributes:
        content: what is transferred, with the level that it is to get.
        channels: of the result that it is heard in.
        stream: its chunks.
    """

    content: Recording
    channels: Sequence[int]
    stream: TransferStream


@dataclass(eq=False, kw_only=True)
class _FileTransfer(TransferStream):
    """A transfer from file to file, checked and not yet run."""

    content: Recording
    style: StyleBlend
    out: Path
    options: TransferOptions
    lanes: list[_Lane]
    notes: tuple[str, ...]


class TimbreTransfer:
    """A trained model with all that stands between it and sound.

    Args:
        bundle: model, features and statistics.
        device: torch device.
        vocoder: folder of a vocoder, which is used where it has beaten Griffin-Lim on these features.
        known_styles: the distribution that `familiarity` compares with.

    Raises:
        TimbreflowError: the bundle's model is none that transfers.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        *,
        device: str | torch.device = "cpu",
        vocoder: Path | None = None,
        known_styles: KnownStyles | None = None,
    ) -> None:
        self.bundle = bundle
        self.known_styles = known_styles
        self.device = torch.device(device)
        self.sample_rate = bundle.features.sample_rate
        self.synthesizer = Synthesizer(bundle, open_inverter(bundle.features, vocoder), device=self.device)
        rate, hop = self.sample_rate, bundle.features.hop_length
        self.plan = ChunkPlan(
            length=round(CHUNK_SECONDS * rate / hop) * hop,
            fade=round(FADE_SECONDS * rate),
            margin=round(MARGIN_SECONDS * rate),
            max_lag=round(MAX_LAG_SECONDS * rate),
        )
        self.styles = Styles(bundle, self._features, frames=self.plan.length // hop)

    @classmethod
    def load(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> "TimbreTransfer":
        """Load `weights.safetensors` and `config.json` of a folder, and the vocoder beside it if there is one.

        Raises:
            TimbreflowError: the folder holds no model that can be read.
        """
        folder = Path(folder)
        bundle = load_bundle(folder)
        known = read_known_styles(folder, weights=weights_sha256(folder)) if bundle.kind == "glow" else None
        return cls(bundle, device=device, vocoder=vocoder_beside(folder), known_styles=known)

    @classmethod
    def released(cls, name: str, *, device: str | torch.device = "cpu") -> "TimbreTransfer":
        """Load a released model; `released.released_folder` says where its weights are looked for.

        Args:
            name: "vqvae" or "glow".
            device: torch device.

        Raises:
            TimbreflowError: there is no such model, or its weights are not there.
        """
        return cls.load(released_folder(name), device=device)

    def transfer(
        self,
        content: ArrayLike,
        style: Styled,
        *,
        sample_rate: int | None = None,
        style_sample_rate: int | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[TransferArguments],
    ) -> np.ndarray:
        """Play the content's notes with the style's timbre.

        What is not taken as it is, such as samples beyond full scale, is told by a warning.

        Args:
            content: [N], or [C, N] with the channels first; float in [-1, 1], int16, int32 or uint8.
            style: the same, at least half a second, whose most active 16 s are used; or a list of up to four arrays,
                which are blended.
            sample_rate: of content, styles and result, in Hz; None is the model's own, `self.sample_rate`.
            style_sample_rate: of the styles, where that is another.
            progress: called after each batch of chunks.
            cancel: asked before each chunk.
            **options: the fields of `TransferOptions`.

        Returns:
            float32 of the content's shape, rate, length and level; peaks are bent below full scale. The models are
            mono: without the option `stereo` all channels are the same.

        Raises:
            TimbreflowError: a sound is silent, NaN, too short or of another shape or type, an option means nothing, or
                the model is no flow and one is asked for.
            Cancelled: `cancel` said so.
        """
        asked = self._options(options)
        music, blended = self._given(content, style, sample_rate, style_sample_rate, asked)
        for note in music.notes + blended.notes:
            warnings.warn(note, stacklevel=2)
        audio, _ = self._in_memory(music, blended, asked, progress=progress, cancel=cancel)
        return audio[0] if np.ndim(content) == 1 else audio

    def transfer_file(
        self,
        content_path: str | Path,
        style_path: str | Path | Sequence[str | Path],
        out_path: str | Path,
        *,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[TransferArguments],
    ) -> TransferResult:
        """As `transfer`, from files to a file, in memory that does not grow with the content.

        Args:
            content_path: wav, flac, ogg or mp3; any rate, channels and length. A .mid file is played plainly first.
            style_path: the same, at least half a second, whose most active 16 s are used; or up to four.
            out_path: ends in .wav, .flac, .ogg or .mp3; gets the content's length, rate, channels and level,
                and its bits in a format that has them.
            progress: called after each batch of chunks.
            cancel: asked before each chunk.
            **options: the fields of `TransferOptions`.

        Raises:
            TimbreflowError: a file is missing, corrupt, silent, NaN or too short; `out_path` is an input, of no known
                format, or its format does not take the content's rate and channels; the model is no flow and one is
                asked for. Nothing is written then.
            Cancelled: `cancel` said so.
        """
        asked, styles, out = self._options(options), _paths(style_path), Path(out_path)
        require_no_inputs([out], [Path(content_path), *styles])
        with self._opened(Path(content_path), out) as content:
            transfer = self._open(content, styles, out, asked)
            streams = StreamBatches(self._decode, batch_size=BATCH_SIZE)
            return self._run(transfer, streams, progress=progress, cancel=cancel)

    def takes(
        self,
        content: ArrayLike,
        style: Styled,
        n: int = 4,
        *,
        sample_rate: int | None = None,
        style_sample_rate: int | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[TransferArguments],
    ) -> list[Take]:
        """Several takes, with the seeds from `seed` on, the best first by the model's own judgement (see `takes`).

        Args:
            content: as in `transfer`, as are the others.
            style: one, or a list of up to four.
            n: takes.
            sample_rate: in Hz.
            style_sample_rate: in Hz.
            progress: called after each batch of chunks.
            cancel: asked before each chunk.
            **options: the fields of `TransferOptions`.

        Raises:
            TimbreflowError: as in `transfer`; or all takes would be the same.
            Cancelled: `cancel` said so.
        """
        asked = self._options(options)
        self._require_variety(asked, n)
        music, blended = self._given(content, style, sample_rate, style_sample_rate, asked)
        made = []
        for number in range(n):
            one = replace(asked, seed=asked.seed + number)
            judge = self._judge()
            audio, _ = self._in_memory(
                music, blended, one, progress=share(progress, number, n), cancel=cancel, judge=judge
            )
            audio = audio[0] if np.ndim(content) == 1 else audio
            made.append(Take(one.seed, one.temperature, judge.figures, audio=audio))
        return [made[number] for number in ranked([take.figures for take in made])]

    def takes_files(
        self,
        content_path: str | Path,
        style_path: str | Path | Sequence[str | Path],
        out_path: str | Path,
        n: int = 4,
        *,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[TransferArguments],
    ) -> list[Take]:
        """As `takes`, from files to files: OUT-1.wav is the best, OUT-2.wav the next; all appear together.

        Args:
            content_path: as in `transfer_file`, as are the others.
            style_path: one, or up to four.
            out_path: name and format; the takes' numbers are put before its suffix.
            n: takes.
            progress: called after each batch of chunks.
            cancel: asked before each chunk.
            **options: the fields of `TransferOptions`.

        Raises:
            TimbreflowError: as in `transfer_file`; or all takes would be the same.
            Cancelled: `cancel` said so.
        """
        asked, styles, out = self._options(options), _paths(style_path), Path(out_path)
        self._require_variety(asked, n)
        names = [out.with_name(f"{out.stem}-{number + 1}{out.suffix}") for number in range(n)]
        require_no_inputs(names, [Path(content_path), *styles])
        with self._opened(Path(content_path), out) as content, folder_beside(out) as folder:
            for name in names:
                require_writable(name, content.sample_rate, content.channels, like=content.subtype)
            made = []
            for number in range(n):
                one, judge = replace(asked, seed=asked.seed + number), self._judge()
                transfer = self._open(content, styles, folder / names[number].name, one)
                streams = StreamBatches(self._judging(judge), batch_size=BATCH_SIZE)
                result = self._run(transfer, streams, progress=share(progress, number, n), cancel=cancel)
                made.append(Take(one.seed, one.temperature, judge.figures, result=result))
            takes = []
            for name, number in zip(names, ranked([take.figures for take in made]), strict=True):
                written = made[number].result
                assert written is not None
                written.path.replace(name)
                notes = tuple(note.replace(str(written.path), str(name)) for note in written.notes)
                takes.append(replace(made[number], result=replace(written, path=name, notes=notes)))
            return takes

    def stream(
        self,
        blocks: Iterable[np.ndarray],
        style: Styled,
        *,
        sample_rate: int | None = None,
        style_sample_rate: int | None = None,
        levels: Levels | None = None,
        **options: Unpack[TransferArguments],
    ) -> Iterator[np.ndarray]:
        """As `transfer`, for a mono content that comes in pieces; sample n leaves when n + `latency` has come.

        Args:
            blocks: [n] float32 in [-1, 1] each, of any lengths.
            style: one, or a list of up to four.
            sample_rate: of content, styles and result, in Hz.
            style_sample_rate: of the styles, where that is another.
            levels: of the whole content, such as `TransferResult.levels` of an earlier transfer; None takes those of
                its first 8 s.
            **options: the fields of `TransferOptions`; `strength`, `mix`, `loudness`, `stereo` and mode "convert" need
                the whole content and must be left as they are.

        Yields:
            [n] float32 blocks, in all as many samples as came.

        Raises:
            TimbreflowError: as in `transfer`.
        """
        asked = self._options(options)
        if replace(asked, strength=1.0, mix=1.0, loudness="keep", stereo="mono", mode="sample") != asked:
            raise TimbreflowError(
                "A stream has no whole content: strength, mix, loudness, stereo and mode convert cannot be used."
            )
        rate = self.sample_rate if sample_rate is None else sample_rate
        blended = self._blend_of(style, style_sample_rate or rate, asked)
        return self._streamed(iter(blocks), blended, rate, levels, asked)

    def latency(self, sample_rate: int) -> int:
        """Samples at a rate, in Hz, by which `stream` is behind its content at most."""
        # A chunk, and what the two resamplers hold back.
        return math.ceil((self.plan.length / self.sample_rate + RESAMPLER_SECONDS) * sample_rate)

    def familiarity(self, style: Styled, *, sample_rate: int | None = None) -> Familiarity:
        """How well the model knows a style, before anything is rendered.

        Args:
            style: an array, at least half a second; of a list, the least known one counts.
            sample_rate: in Hz.

        Raises:
            TimbreflowError: the model has no likelihood, or no distribution to compare with.
        """
        rate = self.sample_rate if sample_rate is None else sample_rate
        known = self._known()
        styles = self._blend_of(style, rate, TransferOptions()).references
        return min((known.place(self.bits_per_dim(one.features)) for one in styles), key=lambda found: found.rank)

    def familiarity_of_file(self, style_path: str | Path) -> Familiarity:
        """As `familiarity`, of a sound file."""
        known = self._known()
        return known.place(self.bits_per_dim(self.styles.read(Path(style_path)).features))

    def bits_per_dim(self, style: Tensor) -> float:
        """Bits per dimension of a style's features, [1, M, S], under its own notes and tokens.

        Raises:
            TimbreflowError: the model has no likelihood.
        """
        if not isinstance(self.bundle.model, Glow):
            raise TimbreflowError(f"A {self.bundle.kind} has no likelihood, so it cannot say; use a glow.")
        return style_bits_per_dim(self.bundle.model, style, noise=self._noise)

    def active_part(self, style_path: str | Path) -> tuple[float, float]:
        """Start and end, in s, of the part of a style file that is used: its most active 16 s."""
        return open_recording(Path(style_path)).active_part(LONGEST_STYLE_SECONDS)

    def piano_roll(self, content: ArrayLike, *, sample_rate: int | None = None, transpose: float = 0.0) -> np.ndarray:
        """The notes that the model hears: [128, T] probabilities of each MIDI pitch, hop_length / 16000 s a frame.

        Raises:
            TimbreflowError: the content cannot be used, or the model has no piano-roll head.
        """
        rate = self.sample_rate if sample_rate is None else sample_rate
        return self._roll(from_array(content, rate, name="the content"), transpose)

    def notes(self, content: ArrayLike, *, sample_rate: int | None = None, transpose: float = 0.0) -> list[HeardNote]:
        """The piano roll of a content as notes."""
        roll = self.piano_roll(content, sample_rate=sample_rate, transpose=transpose)
        return notes_of(roll, self.bundle.features.seconds_per_frame)

    def midi_file(self, content_path: str | Path, out_path: str | Path, *, transpose: float = 0.0) -> list[HeardNote]:
        """Write the notes that the model hears in a file as a .mid file.

        Raises:
            TimbreflowError: the content cannot be used, the model has no piano-roll head, or pretty_midi is missing.
        """
        require_no_inputs([Path(out_path)], [Path(content_path)])
        with self._opened(Path(content_path), Path(out_path)) as content:
            notes = notes_of(self._roll(content, transpose), self.bundle.features.seconds_per_frame)
        write_midi(notes, out_path)
        return notes

    def transfer_pairs(
        self,
        table: str | Path,
        out_dir: str | Path,
        *,
        report: Callable[[str], None] | None = None,
        **options: Unpack[TransferArguments],
    ) -> list[Path]:
        """Do all transfers of a table (see `pairs`) and write <out_dir>/<id>.wav for each.

        Args:
            table: CSV file with the columns id, content, style; all of it is checked before anything is written.
            out_dir: folder for the results; made where it is missing.
            report: told a sentence after each pair.
            **options: the fields of `TransferOptions`; a style that several pairs share is fitted once.

        Returns:
            The files that were written, in the table's order.

        Raises:
            TimbreflowError: the table cannot be used, and nothing was written; or some pairs failed, and all others
                were written.
        """
        asked = self._options(options)
        pairs = read_pairs(table)
        inputs = [path for pair in pairs for path in (pair.content, pair.style)]
        require_no_inputs((Path(out_dir) / f"{pair.id}.wav" for pair in pairs), [Path(table), *inputs])

        def transfers() -> Iterator[TransferStream]:
            for pair in pairs:
                try:
                    content = open_recording(pair.content)
                    yield self._open(content, [pair.style], Path(out_dir) / f"{pair.id}.wav", asked)
                except TimbreflowError as error:
                    yield TransferStream(iter(()), None, failed=error)

        written, failures = [], []
        streams = StreamBatches(self._decode, batch_size=BATCH_SIZE, coming=transfers())
        for pair, stream in zip(pairs, streams, strict=True):
            try:
                if stream.failed is not None:
                    raise stream.failed
                assert isinstance(stream, _FileTransfer)
                result = self._run(stream, streams)
                written.append(result.path)
                message = " ".join([f"wrote {result.path}.", *result.notes])
            except TimbreflowError as error:
                failures.append(f"{pair.id}: {error}")
                message = f"failed {failures[-1]}"
            if report is not None:
                report(message)
        if failures:
            raise TimbreflowError(
                f"{len(failures)} of {len(pairs)} pairs failed, the others are in {out_dir}: {' | '.join(failures)}"
            )
        return written

    def without_effect(self, options: TransferOptions) -> list[str]:
        """Which of temperature and seed change nothing for this model and these options."""
        samples = isinstance(self.synthesizer.model, Glow) and options.mode == "sample"
        phases = isinstance(self.synthesizer.invert, GriffinLimInverter)
        draws = (samples and options.temperature > 0) or options.fit_style > 0 or phases
        return [name for name, used in (("temperature", samples), ("seed", draws)) if not used]

    def _given(
        self,
        content: ArrayLike,
        style: Styled,
        sample_rate: int | None,
        style_sample_rate: int | None,
        options: TransferOptions,
    ) -> tuple[Recording, StyleBlend]:
        """Arrays as recordings, measured."""
        rate = self.sample_rate if sample_rate is None else sample_rate
        music = from_array(content, rate, name="the content")
        return music, self._blend_of(style, rate if style_sample_rate is None else style_sample_rate, options)

    def _blend_of(self, style: Styled, rate: int, options: TransferOptions) -> StyleBlend:
        several = isinstance(style, list | tuple) and all(isinstance(one, np.ndarray) and one.ndim for one in style)
        sounds = style if several and isinstance(style, Sequence) else [style]
        names = ["the style"] if len(sounds) == 1 else [f"style {number + 1}" for number in range(len(sounds))]
        return blend(
            [
                self.styles.reference(from_array(sound, rate, name=name, minimum_seconds=SHORTEST_STYLE_SECONDS))
                for sound, name in zip(sounds, names, strict=True)
            ],
            options.blend,
        )

    @contextmanager
    def _opened(self, path: Path, out: Path) -> Iterator[Recording]:
        """A content to read from; a score is played into a file beside the output first, which goes away again."""
        if path.suffix.lower() not in SCORES:
            yield open_recording(path)
            return
        from timbreflow.inference.songs import play_plainly

        with folder_beside(out) as folder:
            note = play_plainly(path, folder / "played.wav")
            content = open_recording(folder / "played.wav")
            yield replace(content, name=str(path), subtype="PCM_16", notes=(note, *content.notes))

    def _open(self, content: Recording, styles: Sequence[Path], out: Path, options: TransferOptions) -> _FileTransfer:
        """A transfer that can be run: content, style and output are found to be usable, nothing is written."""
        require_writable(out, content.sample_rate, content.channels, like=content.subtype)
        style = blend([self.styles.read(path) for path in styles], options.blend)
        lanes = self._lanes(content, style, options)
        return _FileTransfer(
            lanes[0].stream.chunks,
            lanes[0].stream.request,
            content=content,
            style=style,
            out=out,
            options=options,
            lanes=lanes,
            notes=content.notes + style.notes,
        )

    def _lanes(self, content: Recording, style: StyleBlend, options: TransferOptions) -> list[_Lane]:
        """What goes through the model: the mean of the channels, or each that sounds."""
        everywhere = range(content.channels)
        if options.stereo == "channels":
            alone = [(content.channel(number), [number]) for number in everywhere]
            parts: list[tuple[Recording, Sequence[int]]] = [(one, at) for one, at in alone if one is not None]
        elif options.stereo == "mid" and content.channels > 1:
            parts = [(replace(content, rms=content.mono_rms), everywhere)]
        else:
            parts = [(content, everywhere)]
        return [_Lane(part, channels, TransferStream(*self._asked(part, style, options))) for part, channels in parts]

    def _in_memory(
        self,
        content: Recording,
        style: StyleBlend,
        options: TransferOptions,
        *,
        progress: Progress | None,
        cancel: Cancel | None,
        judge: TakeJudge | None = None,
    ) -> tuple[np.ndarray, Levels]:
        """The result as an array [C, N], and the factors of its first lane."""
        lanes = self._lanes(content, style, options)
        streams = StreamBatches(self._judging(judge) if judge else self._decode, batch_size=BATCH_SIZE)
        wets = []
        for number, lane in enumerate(lanes):
            shown = share(progress, number, len(lanes))
            samples = self._samples(lane.content, streams, lane.stream, progress=shown, cancel=cancel)
            audio = np.concatenate(list(samples))
            wets.append(Wet([audio], self._gain(lane, style, options, _square_sum(audio)), lane.channels))
        side = self._side(content, style, options)
        whole = np.concatenate([limited(b) for b in finished(content, wets, mix=options.mix, side=side)], axis=1)
        levels = Levels(lanes[0].content.gain, wets[0].gain)
        return np.ascontiguousarray(np.broadcast_to(whole, (content.channels, whole.shape[1]))), levels

    def _gain(self, lane: _Lane, style: StyleBlend, options: TransferOptions, square_sum: float) -> float:
        """Factor that brings what the model made of a lane to its level."""
        gain = output_gain(lane.content, square_sum)
        return gain * style.level / lane.content.level if options.loudness == "match" else gain

    @staticmethod
    def _side(content: Recording, style: StyleBlend, options: TransferOptions) -> float | None:
        """Factor of what the channels differ by; None where it is not kept."""
        if options.stereo != "mid" or content.channels == 1:
            return None
        return style.level / content.level if options.loudness == "match" else 1.0

    def _run(
        self,
        transfer: _FileTransfer,
        streams: StreamBatches,
        *,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> TransferResult:
        """Decode a transfer and write its file."""
        content, style, out, options = transfer.content, transfer.style, transfer.out, transfer.options
        # The level is known only when all is generated: samples wait in unnamed files beside the output, not in
        # memory (nor in /tmp, which may be memory).
        with ExitStack() as scratch:
            wets = []
            for number, lane in enumerate(transfer.lanes):
                stream = lane.stream if number else transfer
                waiting = scratch.enter_context(scratch_beside(out))
                square_sum = 0.0
                shown = share(progress, number, len(transfer.lanes))
                for part in self._samples(lane.content, streams, stream, progress=shown, cancel=cancel):
                    square_sum += _square_sum(part)
                    waiting.write(np.ascontiguousarray(part, dtype=np.float32).data)
                wets.append(Wet(read_back(waiting), self._gain(lane, style, options, square_sum), lane.channels))
            n_over = 0
            side = self._side(content, style, options)
            with AudioWriter(out, content.sample_rate, content.channels, like=content.subtype) as writer:
                for block in finished(content, wets, mix=options.mix, side=side):
                    ask(cancel)
                    n_over += int(np.count_nonzero((np.abs(block) > 1.0).any(axis=0)))
                    writer.write(np.broadcast_to(limited(block), (content.channels, block.shape[1])))
        notes = list(transfer.notes)
        if n_over:
            level = "content" if options.loudness == "keep" else "style"
            notes.append(
                f"At the {level}'s level {n_over} of {content.n_samples} samples of {out} would be beyond full scale; "
                "they are bent below it."
            )
        if content.channels > 1 and options.stereo == "mono" and options.mix == 1:
            notes.append(f"The models are mono: all {content.channels} channels of {out} hold the same sound.")
        if options.fit_style:
            for reference in style.references:
                fitted = self.styles.fitted(reference.features, options)
                notes.append(
                    f"The style's likelihood went from {fitted.bits_per_dim_before:.3f} to "
                    f"{fitted.bits_per_dim_after:.3f} bits per dimension."
                )
        levels = Levels(transfer.lanes[0].content.gain, wets[0].gain)
        return TransferResult(out, content.seconds, content.sample_rate, content.channels, tuple(notes), levels)

    def _streamed(
        self,
        blocks: Iterator[np.ndarray],
        style: StyleBlend,
        rate: int,
        levels: Levels | None,
        options: TransferOptions,
    ) -> Iterator[np.ndarray]:
        n_samples = 0

        def counted() -> Iterator[np.ndarray]:
            nonlocal n_samples
            for block in blocks:
                one = np.asarray(block, np.float32)
                n_samples += len(one)
                yield one

        coming: Iterator[np.ndarray] = counted()
        out = None
        if levels is None:
            first: list[np.ndarray] = []
            while sum(map(len, first)) < round(CHUNK_SECONDS * rate) and (one := next(coming, None)) is not None:
                first.append(one)
            head = np.concatenate(first) if first else np.zeros(0, np.float32)
            known = from_array(head, rate, name="the beginning of the stream")
            coming = (part for parts in ([head], coming) for part in parts)
            into = known.gain
        else:
            into, out, known = levels.into, levels.out, None
        own_rate, tokens = self.sample_rate, self.styles.tokens(None, style, options)

        def generated() -> int:
            return max(1, round(n_samples * own_rate / rate))

        content = resampled((block * np.float32(into) for block in coming), rate, own_rate)
        stream = TransferStream(cut(content, self.plan), self._request(style, options, tokens=tokens))
        made = overlap_add(StreamBatches(self._decode, batch_size=1).run(stream), self.plan, generated)
        for part in exactly(resampled(made, own_rate, rate), lambda: n_samples):
            if out is None and known is not None and len(part):
                rms = math.sqrt(_square_sum(part) / len(part))
                out = known.rms / rms if rms > 1e-9 else 1.0
            if len(part):
                yield limited(part * np.float32(out if out is not None else 1.0))

    def _roll(self, content: Recording, transpose: float) -> np.ndarray:
        """[128, T] probabilities."""
        model = encoding(self.bundle.model)
        if model.content_path.pianoroll_head is None:
            raise TimbreflowError("This model hears no notes: it was trained without a piano-roll head.")
        config = self.bundle.features

        @torch.inference_mode()
        def rolls() -> Iterator[np.ndarray]:
            for chunk in cut(content.mono(self.sample_rate), self.plan):
                logits = model.content_path(self._content_features([chunk], transpose)).pianoroll_logits
                assert logits is not None
                yield logits[0].sigmoid().float().cpu().numpy()

        hop = self.plan.hop / config.hop_length
        starts = (number * hop for number in range(self.plan.count(content.n_samples * 10)))
        roll = joined(rolls(), starts, overlap=self.plan.overlap / config.hop_length)
        return roll[:, : max(1, round(content.seconds / config.seconds_per_frame))]

    def _known(self) -> KnownStyles:
        if not isinstance(self.bundle.model, Glow):
            raise TimbreflowError(f"A {self.bundle.kind} has no likelihood, so it cannot say; use a glow.")
        if self.known_styles is None:
            raise TimbreflowError(
                "Beside these weights lies no distribution of known styles; make it with `timbreflow familiarity`."
            )
        return self.known_styles

    @property
    def _noise(self) -> float:
        return float(self.bundle.training.get("section", {}).get("noise", DEFAULT_NOISE))

    def _judge(self) -> TakeJudge:
        return TakeJudge(self.bundle, self._noise)

    def _require_variety(self, options: TransferOptions, n: int) -> None:
        if not 1 <= n <= MOST_TAKES:
            raise TimbreflowError(f"{n} takes are asked for; give 1 to {MOST_TAKES}.")
        if n > 1 and "seed" in self.without_effect(options):
            raise TimbreflowError(
                f"All takes would be the same: a {self.bundle.kind} draws no samples with these options; "
                "use a glow, mode sample and a temperature above 0."
            )

    def _options(self, given: TransferArguments) -> TransferOptions:
        """What is asked for, checked against the model before anything is read or written."""
        options = TransferOptions(**given)
        if (options.fit_style or options.mode == "convert") and not isinstance(self.synthesizer.model, Glow):
            wanted = "fit_style" if options.fit_style else "mode 'convert'"
            raise TimbreflowError(
                f"{wanted} needs a flow with an exact likelihood, and this is a {self.bundle.kind}; use a glow."
            )
        return options

    def _features(self, audio: np.ndarray, *, transpose: float = 0.0) -> Tensor:
        """[B, N] sound at the feature rate -> [B, M, T] normalised features on the device."""
        sound = torch.from_numpy(np.ascontiguousarray(audio, np.float32)).to(self.device)
        return self.synthesizer.features(sound, transpose=transpose)

    def _content_features(self, chunks: Sequence[np.ndarray], transpose: float) -> Tensor:
        """Normalised features of chunks of one length, [B, M, T], of at least a second."""
        hop, n_samples = self.bundle.features.hop_length, len(chunks[0])
        # A lone short chunk gets at least a second, in whole frames: encoders step over several frames at once.
        padded = max(-(-n_samples // hop) * hop, -(-self.sample_rate // hop) * hop)
        audio = np.stack([np.pad(chunk, (0, padded - n_samples)) for chunk in chunks])
        return self._features(audio, transpose=transpose)

    def _request(
        self,
        style: StyleBlend,
        options: TransferOptions,
        *,
        tokens: Tensor | None = None,
        own_style: Tensor | None = None,
    ) -> DecodeRequest:
        return DecodeRequest(
            style.features,
            options.temperature,
            options.seed,
            torch.Generator(self.device).manual_seed(options.seed),
            tokens=tokens,
            own_style=own_style,
            transpose=options.transpose,
        )

    def _asked(
        self, content: Recording, style: StyleBlend, options: TransferOptions
    ) -> tuple[Iterator[np.ndarray], DecodeRequest]:
        """Chunks of a content, and how they are to sound: the first two fields of a `TransferStream`."""
        request = self._request(
            self.styles.weakened(content, style, options),
            options,
            tokens=self.styles.tokens(content, style, options),
            own_style=self.styles.features_of(content) if options.mode == "convert" else None,
        )
        return cut(content.mono(self.sample_rate), self.plan), request

    def _samples(
        self,
        content: Recording,
        streams: StreamBatches,
        stream: TransferStream,
        *,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> Iterator[np.ndarray]:
        """[n] samples at the content's rate, as many as it has, not yet at its level."""
        n_samples = max(1, round(content.n_samples * self.sample_rate / content.sample_rate))

        def generate() -> Iterator[np.ndarray]:
            done = 0
            ask(cancel)
            for part in overlap_add(streams.run(stream), self.plan, n_samples):
                ask(cancel)
                done += len(part)
                if progress is not None:
                    progress(done / n_samples)
                yield part

        return exactly(resampled(generate(), self.sample_rate, content.sample_rate), content.n_samples)

    def _decode(self, chunks: Sequence[np.ndarray], requests: Sequence[DecodeRequest]) -> np.ndarray:
        """Sound of chunks of one length, [B, n]."""
        content = self._content_features(chunks, requests[0].transpose)
        sound = self.synthesizer(content, DecodeRequest.joined(requests))
        return sound.float().cpu().numpy()[:, : len(chunks[0])]

    def _judging(self, judge: TakeJudge) -> Callable[[Sequence[np.ndarray], Sequence[DecodeRequest]], np.ndarray]:
        """As `_decode`, and a judge listens."""

        def decode(chunks: Sequence[np.ndarray], requests: Sequence[DecodeRequest]) -> np.ndarray:
            sound = self._decode(chunks, requests)
            transpose = requests[0].transpose
            content, made = self._content_features(chunks, transpose), self._content_features(list(sound), 0.0)
            judge.add(content, made, DecodeRequest.joined(requests))
            return sound

        return decode


def _paths(styles: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(styles)] if isinstance(styles, str | Path) else [Path(style) for style in styles]


def share(progress: Progress | None, number: int, count: int) -> Progress | None:
    """Progress of one of several equal parts."""
    return None if progress is None else lambda fraction: progress((number + fraction) / count)


def ask(cancel: Cancel | None) -> None:
    """Raise `Cancelled` where the caller wants to stop."""
    if cancel is not None and cancel():
        raise Cancelled("The transfer was cancelled; nothing was written.")


@contextmanager
def folder_beside(out: Path) -> Iterator[Path]:
    """A hidden folder on the output's own disk, which goes away again."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=".timbreflow-") as folder:
        yield Path(folder)


def _square_sum(audio: np.ndarray) -> float:
    return float(np.sum(np.square(audio, dtype=np.float64)))
