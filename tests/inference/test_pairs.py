"""Tables of transfers."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from tests.inference.tiny import melody
from timbreflow.errors import TimbreflowError
from timbreflow.inference.pairs import read_pairs
from timbreflow.inference.streaming.batches import StreamBatches, TransferStream
from timbreflow.inference.synthesis import DecodeRequest
from timbreflow.inference.transfer import TimbreTransfer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "a.wav", melody(1, 16000), 16000)
    soundfile.write(tmp_path / "b.flac", melody(1, 22050), 22050)
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    return tmp_path


def table(folder: Path, text: str) -> Path:
    path = folder / "pairs.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_start_from_the_table_and_spreadsheet_marks_do_no_harm(folder: Path) -> None:
    path = table(folder, "\ufeffstyle,note,id,content\r\nb.flac,x,one,a.wav\r\na.wav,,Zwei 2.0-ä,b.flac\r\n")
    pairs = read_pairs(path)
    assert [(pair.id, pair.content.name, pair.style.name) for pair in pairs] == [
        ("one", "a.wav", "b.flac"),
        ("Zwei 2.0-ä", "b.flac", "a.wav"),
    ]
    assert all(pair.content.parent == folder for pair in pairs)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "lines",
    [
        ["id;content;style", "one;a.wav;ä.flac", ";;"],
        ["sep=;", "id;content;style", "one;a.wav;ä.flac"],
        ["sep=,", "id,content,style", "one,a.wav,ä.flac"],
        ["sep=\t", "id\tcontent\tstyle", "one\ta.wav\tä.flac"],
        ["id\tcontent\tstyle", "one\ta.wav\tä.flac"],
        ["id|content|style", "one|a.wav|ä.flac"],
        ["ID; Content ;Style;remarks", 'one;a.wav;"ä.flac";"yes, it is"'],
        ["id,content,style,,", "one,a.wav,ä.flac,,", ",,,,"],
    ],
    ids=str,
)
def test_tables_are_read_as_spreadsheets_write_them(folder: Path, lines: list[str], end: str, encoding: str) -> None:
    (folder / "b.flac").rename(folder / "ä.flac")
    (folder / "pairs.csv").write_bytes((end.join(lines) + end).encode(encoding))
    (pair,) = read_pairs(folder / "pairs.csv")
    assert (pair.id, pair.content, pair.style) == ("one", folder / "a.wav", folder / "ä.flac")


def test_lines_are_counted_behind_a_line_that_names_the_separator(folder: Path) -> None:
    with pytest.raises(TimbreflowError, match="line 4: style .*gone.wav is missing"):
        read_pairs(table(folder, "sep=;\nid;content;style\none;a.wav;b.flac\ntwo;a.wav;gone.wav\n"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("b,a.wav,b.flac\na,a.wav,b.flac\n", r"a\.wav is an input.*overwritten"),
        ("x,a.wav,b.flac\nlinked,a.wav,b.flac\n", r"linked\.wav is an input \(the same file as .*a\.wav\)"),
        ("x,a.wav,b.flac\ntwin,a.wav,b.flac\n", r"twin\.wav and .*x\.wav are the same file"),
    ],
)
def test_outputs_that_are_inputs_or_one_file_are_refused_before_the_work(
    bundles: dict[str, Path], folder: Path, rows: str, message: str
) -> None:
    (folder / "linked.wav").symlink_to("a.wav")
    (folder / "twin.wav").symlink_to("x.wav")
    before = sorted(folder.iterdir())
    path = table(folder, f"id,content,style\n{rows}")
    with pytest.raises(TimbreflowError, match=message):
        TimbreTransfer.load(bundles["vqvae"]).transfer_pairs(path, folder)
    assert sorted(folder.iterdir()) == sorted([*before, path])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column id, content, style"),
        ("id,content\none,a.wav\n", "no column style"),
        ("id,content,style\n", "no rows"),
        ("id,content,style\none,a.wav,b.flac\none,a.wav,b.flac\n", "line 3: id 'one' was used in line 2"),
        ("id,content,style\none,a.wav,b.flac\nONE,a.wav,b.flac\n", "line 3: id 'ONE' was used in line 2"),
        ("id,content,style\n../x,a.wav,b.flac\n", "no plain file name"),
        ("id,content,style\n/x,a.wav,b.flac\n", "no plain file name"),
        ("id,content,style\n.x,a.wav,b.flac\n", "no plain file name"),
        ("id,content,style\nx\\y,a.wav,b.flac\n", "no plain file name"),
        (f"id,content,style\n{'x' * 300},a.wav,b.flac\n", "no plain file name"),
        ("id,content,style\none,a.wav\n", "line 2: style is empty"),
        ("id,content,style\none,a.wav,b.flac\ntwo,a.wav,gone.wav\n", "line 3: style .*gone.wav is missing"),
        ('id,content,style\none,"a.wav,b.flac\n', "not a CSV file"),
        ("id,content,style\none,a,b.wav,b.flac\n", "line 2 has 4 cells below 3 columns"),
        ("id;content\none;a.wav\n", "no column style"),
    ],
)
def test_a_table_with_a_fault_is_refused_whole(folder: Path, text: str, message: str) -> None:
    with pytest.raises(TimbreflowError, match=message):
        read_pairs(table(folder, text))


def test_a_table_that_is_no_text_or_missing_is_refused(folder: Path) -> None:
    for name, message in (("b.flac", "b.flac"), ("none.csv", "none.csv is missing")):
        with pytest.raises(TimbreflowError, match=message):
            read_pairs(folder / name)


def test_one_bad_pair_does_not_stop_the_others(bundles: dict[str, Path], folder: Path) -> None:
    path = table(folder, "id,content,style\none,a.wav,b.flac\nbad,silent.wav,a.wav\ntwo,b.flac,a.wav\n")
    heard: list[str] = []
    with pytest.raises(TimbreflowError, match=r"1 of 3 pairs failed.*bad: .*silent.wav is silent"):
        TimbreTransfer.load(bundles["vqvae"]).transfer_pairs(path, folder / "out", report=heard.append)
    assert sorted(file.name for file in (folder / "out").iterdir()) == ["one.wav", "two.wav"]
    assert soundfile.info(folder / "out" / "two.wav").samplerate == 22050
    assert [line.split()[0] for line in heard] == ["wrote", "failed", "wrote"]


@pytest.mark.parametrize("asked", [{}, {"mode": "convert"}, {"fit_style": 3}], ids=str)
def test_pairs_share_batches_and_sound_as_alone(
    bundles: dict[str, Path], folder: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]
) -> None:
    """Five contents of a second and one of three chunks: each has the noise that it has alone."""
    names = ["long", *(f"short{number}" for number in range(5))]
    for number, name in enumerate(names):
        seconds = 17 if name == "long" else 1
        soundfile.write(folder / f"{name}.wav", melody(seconds, 16000, seed=number), 16000)
    session = TimbreTransfer.load(bundles["glow"])
    sizes: list[int] = []
    decode = session.player.decode
    monkeypatch.setattr(
        session.player, "decode", lambda chunks, asked: sizes.append(len(chunks)) or decode(chunks, asked)
    )
    rows = "".join(f"{name},{name}.wav,{'a.wav' if number % 2 else 'b.flac'}\n" for number, name in enumerate(names))
    session.transfer_pairs(table(folder, f"id,content,style\n{rows}"), folder / "out", temperature=0.8, **asked)
    # The long one's chunks are of another length than the short ones, which go four at a time.
    assert sizes == [3, 4, 1]
    for number, name in enumerate(names):
        style = folder / ("a.wav" if number % 2 else "b.flac")
        session.transfer_file(folder / f"{name}.wav", style, folder / "alone.wav", temperature=0.8, **asked)
        (alone, _), (together, _) = (
            soundfile.read(path) for path in (folder / "alone.wav", folder / f"out/{name}.wav")
        )
        np.testing.assert_allclose(together, alone, atol=2e-3)


def test_a_content_that_breaks_in_the_middle_fails_alone() -> None:
    def chunks(n_good: int) -> Iterator[np.ndarray]:
        yield from (np.full(4, number, np.float32) for number in range(n_good))
        raise TimbreflowError("the file ends too early.")

    def whole(n: int) -> Iterator[np.ndarray]:
        return iter([np.full(4, 10.0, np.float32)] * n)

    request = DecodeRequest(torch.zeros(1, 2, 3), 0.0, 0, torch.Generator())
    streams = StreamBatches(
        lambda chunks, _: list(chunks),
        batch_size=4,
        coming=[
            TransferStream(whole(1), request),
            TransferStream(chunks(2), request),
            TransferStream(whole(9), request),
        ],
    )
    heard: list[int | str] = []
    for stream in streams:
        try:
            heard.append(len(list(streams.run(stream))))
        except TimbreflowError as error:
            heard.append(str(error))
    assert heard == [1, "the file ends too early.", 9]


def test_all_chunks_but_the_first_are_known_to_continue_their_recording() -> None:
    seen: list[tuple[float, tuple[bool, ...]]] = []

    def decode(chunks: Sequence[np.ndarray], requests: Sequence[DecodeRequest]) -> list[np.ndarray]:
        seen.extend(zip([float(chunk[0]) for chunk in chunks], [one.continued for one in requests], strict=True))
        assert DecodeRequest.joined(requests).continued == tuple(one.continued[0] for one in requests)
        return list(chunks)

    request = DecodeRequest(torch.zeros(1, 2, 3), 0.0, 0, torch.Generator())
    first, second = (
        TransferStream(iter(np.full((count, 4), value, np.float32)), request) for count, value in ((5, 1.0), (2, 2.0))
    )
    for one in (streams := StreamBatches(decode, batch_size=4, coming=[first, second])):
        list(streams.run(one))
    assert seen == [(1.0, (False,))] + 4 * [(1.0, (True,))] + [(2.0, (False,)), (2.0, (True,))]


def test_what_cannot_be_decoded_fails_alone_and_not_in_silence() -> None:
    def decode(chunks: Sequence[np.ndarray], _: object) -> list[np.ndarray]:
        if any(np.isnan(chunk).any() for chunk in chunks):
            raise TimbreflowError("NaN.")
        return list(chunks)

    def stream(value: float) -> TransferStream:
        return TransferStream(
            iter([np.full(4, value, np.float32)]), DecodeRequest(torch.zeros(1, 2, 3), 0.0, 0, torch.Generator())
        )

    streams = StreamBatches(decode, batch_size=4, coming=[stream(1.0), stream(np.nan), stream(2.0)])
    heard: list[float | str] = []
    for one in streams:
        try:
            heard.append(float(np.concatenate(list(streams.run(one)))[0]))
        except TimbreflowError as error:
            heard.append(str(error))
    assert heard == [1.0, "NaN.", 2.0]


def test_a_good_table_gives_all_files(bundles: dict[str, Path], folder: Path) -> None:
    path = table(folder, "id,content,style\none,a.wav,b.flac\ntwo,b.flac,a.wav\n")
    written = TimbreTransfer.load(bundles["glow"]).transfer_pairs(path, folder / "out", seed=2)
    assert [file.name for file in written] == ["one.wav", "two.wav"]
    assert all(file.is_file() for file in written)


def test_a_refused_table_leaves_nothing_behind(bundles: dict[str, Path], folder: Path) -> None:
    path = table(folder, "id,content,style\none,a.wav,b.flac\n../two,b.flac,a.wav\n")
    with pytest.raises(TimbreflowError, match="line 3"):
        TimbreTransfer.load(bundles["vqvae"]).transfer_pairs(path, folder / "out")
    assert not (folder / "out").exists()
