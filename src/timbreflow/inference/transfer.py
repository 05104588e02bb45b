"""Timbre transfer of recordings: any rate, channels and length, in constant memory.

`TimbreTransfer` is what programs call. It checks what is asked for; `playing` makes the sound, `live` the sound of a
content that comes in pieces, `takes` judges several, and `pianoroll` says which notes are heard.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from timbreflow.audio.inversion import GriffinLimInverter
from timbreflow.errors import TimbreflowError
from timbreflow.inference import live
from timbreflow.inference.familiarity import Familiarity, KnownStyles, read_known_styles, style_figures
from timbreflow.inference.pairs import read_pairs
from timbreflow.inference.pianoroll import HeardNote, heard_roll, notes_of, write_midi
from timbreflow.inference.playing import BATCH_SIZE, FileTransfer, Levels, Player, TransferResult
from timbreflow.inference.refining import refiner_beside
from timbreflow.inference.released import released_folder
from timbreflow.inference.running import Cancel, Progress, share
from timbreflow.inference.songs import SCORES, render_midi
from timbreflow.inference.streaming.batches import StreamBatches, TransferStream
from timbreflow.inference.streaming.recordings import Recording, from_array, open_recording
from timbreflow.inference.streaming.writing import folder_beside, require_no_inputs, require_writable
from timbreflow.inference.style import DEFAULT_NOISE, LONGEST_STYLE_SECONDS, StyleBlend, Styled
from timbreflow.inference.synthesis import TransferArguments, TransferOptions
from timbreflow.inference.takes import MOST_TAKES, Take, TakeJudge, best_first, take_paths
from timbreflow.inference.vocoding import vocoder_beside
from timbreflow.models.bundle import ModelBundle, load_bundle, weights_sha256
from timbreflow.models.glow.model import Glow


class TimbreTransfer:
    """A trained model with all that stands between it and sound.

    Args:
        bundle: model, features and statistics.
        device: torch device.
        vocoder: folder of a vocoder, which is used where it has beaten Griffin-Lim on these features.
        known_styles: the distribution that `familiarity` compares with.
        refiner: folder of a refiner, which is used where the model predicts notes from these features.

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
        refiner: Path | None = None,
    ) -> None:
        self.bundle = bundle
        self.known_styles = known_styles
        self.player = Player(bundle, device=device, vocoder=vocoder, refiner=refiner)
        self.device, self.sample_rate = self.player.device, self.player.sample_rate
        self.synthesizer, self.plan, self.styles = self.player.synthesizer, self.player.plan, self.player.styles

    @classmethod
    def load(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> "TimbreTransfer":
        """Load `weights.safetensors` and `config.json` of a folder, and vocoder and refiner beside it if any.

        Raises:
            TimbreflowError: the folder holds no model that can be read.
        """
        place = Path(folder)
        bundle = load_bundle(place)
        return cls(
            bundle,
            device=device,
            vocoder=vocoder_beside(place),
            refiner=refiner_beside(place),
            known_styles=read_known_styles(place, weights=weights_sha256(place)) if bundle.kind == "glow" else None,
        )

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
        audio = self.player.in_memory(music, blended, asked, progress=progress, cancel=cancel)
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
            content_path: wav, flac, ogg or mp3; any rate, channels and length. A .mid file is first rendered with a
                SoundFont.
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
            transfer = self.player.open(content, styles, out, asked)
            streams = StreamBatches(self.player.decode, batch_size=BATCH_SIZE)
            return self.player.write(transfer, streams, progress=progress, cancel=cancel)

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
            audio = self.player.in_memory(
                music,
                blended,
                one,
                progress=share(progress, number, n),
                cancel=cancel,
                decode=judge.listening(self.synthesizer),
            )
            audio = audio[0] if np.ndim(content) == 1 else audio
            made.append(Take(one.seed, one.temperature, judge.figures, audio=audio))
        return best_first(made)

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
        names = take_paths(out, n)
        require_no_inputs(names, [Path(content_path), *styles])
        with self._opened(Path(content_path), out) as content, folder_beside(out) as folder:
            for name in names:
                require_writable(name, content.sample_rate, content.channels, like=content.subtype)
            made = []
            for number in range(n):
                one, judge = replace(asked, seed=asked.seed + number), self._judge()
                transfer = self.player.open(content, styles, folder / names[number].name, one)
                streams = StreamBatches(judge.listening(self.synthesizer), batch_size=BATCH_SIZE)
                result = self.player.write(transfer, streams, progress=share(progress, number, n), cancel=cancel)
                made.append(Take(one.seed, one.temperature, judge.figures, result=result))
            return [take.moved(name) for take, name in zip(best_first(made), names, strict=True)]

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

        Expression is kept but for dynamics, which are known only of a whole content: `levels` bring them, else they are
        left to the model.

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
        blended = self.styles.given(style, style_sample_rate or rate, asked.blend)
        return live.streamed(self.player, iter(blocks), blended, rate=rate, levels=levels, options=asked)

    def latency(self, sample_rate: int) -> int:
        """Samples at a rate, in Hz, by which `stream` is behind its content at most."""
        return live.latency(self.player, sample_rate)

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
        styles = self.styles.given(style, rate).references
        placed = (known.place(*self.style_figures(one.features)) for one in styles)
        return min(placed, key=lambda found: found.echo_rank)

    def familiarity_of_file(self, style_path: str | Path) -> Familiarity:
        """As `familiarity`, of a sound file."""
        known = self._known()
        return known.place(*self.style_figures(self.styles.read(Path(style_path)).features))

    def style_figures(self, style: Tensor) -> tuple[float, float]:
        """Bits per dimension and echo of a style's features [1, M, S], as `Familiarity` explains them.

        Raises:
            TimbreflowError: the model has no likelihood.
        """
        return style_figures(self._flow(), self.synthesizer, style, noise=self._noise)

    def active_part(self, style_path: str | Path) -> tuple[float, float]:
        """Start and end, in s, of the part of a style file that is used: its most active 16 s."""
        return open_recording(Path(style_path)).active_part(LONGEST_STYLE_SECONDS)

    def piano_roll(self, content: ArrayLike, *, sample_rate: int | None = None, transpose: float = 0.0) -> np.ndarray:
        """The notes that the model hears: [128, T] probabilities of each MIDI pitch, hop_length / 16000 s a frame.

        Raises:
            TimbreflowError: the content cannot be used, or the model has no piano-roll head.
        """
        rate = self.sample_rate if sample_rate is None else sample_rate
        return heard_roll(self.player, from_array(content, rate, name="the content"), transpose=transpose)

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
            notes = notes_of(
                heard_roll(self.player, content, transpose=transpose), self.bundle.features.seconds_per_frame
            )
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
                    yield self.player.open(content, [pair.style], Path(out_dir) / f"{pair.id}.wav", asked)
                except TimbreflowError as error:
                    yield TransferStream(iter(()), None, failed=error)

        written, failures = [], []
        streams = StreamBatches(self.player.decode, batch_size=BATCH_SIZE, coming=transfers())
        for pair, stream in zip(pairs, streams, strict=True):
            try:
                if stream.failed is not None:
                    raise stream.failed
                assert isinstance(stream, FileTransfer)
                result = self.player.write(stream, streams)
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
        return music, self.styles.given(style, rate if style_sample_rate is None else style_sample_rate, options.blend)

    @contextmanager
    def _opened(self, path: Path, out: Path) -> Iterator[Recording]:
        """A content to read from; a score is played into a file beside the output first, which goes away again."""
        if path.suffix.lower() not in SCORES:
            yield open_recording(path)
            return
        with folder_beside(out) as folder:
            note = render_midi(path, folder / "played.wav")
            content = open_recording(folder / "played.wav")
            yield replace(content, name=str(path), subtype="PCM_16", notes=(note, *content.notes))

    def _flow(self) -> Glow:
        if not isinstance(self.bundle.model, Glow):
            raise TimbreflowError(
                f"A {self.bundle.kind} has no likelihood, so it cannot say how well it knows a style; use a glow."
            )
        return self.bundle.model

    def _known(self) -> KnownStyles:
        self._flow()
        if self.known_styles is None:
            raise TimbreflowError(
                "These weights have no distribution of known styles beside them; make it with "
                "`timbreflow familiarity --model FOLDER --write data/testsets/seen`."
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


def _paths(styles: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(styles)] if isinstance(styles, str | Path) else [Path(style) for style in styles]
