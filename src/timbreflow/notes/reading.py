"""One music file of any known kind to a piece."""

from timbreflow.notes.abc_tunes import read_abc
from timbreflow.notes.kern import read_kern
from timbreflow.notes.limits import ReadLimits
from timbreflow.notes.midi import read_midi
from timbreflow.notes.musicxml import read_musicxml
from timbreflow.notes.pieces import Piece, Reject
from timbreflow.notes.sources import Item


def read_piece(item: Item, limits: ReadLimits) -> Piece:
    """Read one music file, its kind told by its first bytes, else by its name.

    Raises:
        Reject: it gives no piece, with the reason.
    """
    if item.error:
        raise Reject("broken", item.error)
    limits.check_size(item.size)
    suffix = item.path.lower().rpartition(".")[2]
    if item.data[:4] in (b"MThd", b"RIFF") or suffix in ("mid", "midi", "kar"):
        return read_midi(item.data, limits)
    if suffix == "abc":
        return read_abc(item.data, limits)
    return read_kern(item.data, limits) if suffix == "krn" else read_musicxml(item.data, limits)
