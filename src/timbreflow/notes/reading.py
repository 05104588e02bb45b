"""One music file of any known kind to a piece."""

import gzip
import io
import zlib

from timbreflow.notes.abc_tunes import read_abc
from timbreflow.notes.kern import read_kern
from timbreflow.notes.limits import ReadLimits
from timbreflow.notes.midi import read_midi
from timbreflow.notes.musicxml import read_musicxml
from timbreflow.notes.pieces import Piece, Reject
from timbreflow.notes.sources import MIDI_SUFFIXES, Item

_GZIP = b"\x1f\x8b"


def read_piece(item: Item, limits: ReadLimits) -> Piece:
    """Read one music file, its kind told by its first bytes, else by its name.

    Raises:
        Reject: it gives no piece, with the reason.
    """
    if item.reject:
        raise item.reject
    limits.check_size(item.size)
    data, name = item.data, item.path.lower()
    if data[:2] == _GZIP:
        data, name = _unpacked(data, limits), name.removesuffix(".gz")
    if data[:4] in (b"MThd", b"RIFF") or name.endswith(MIDI_SUFFIXES):
        return read_midi(data, limits)
    if name.endswith(".abc"):
        return read_abc(data, limits)
    return read_kern(data, limits) if name.endswith(".krn") else read_musicxml(data, limits)


def _unpacked(data: bytes, limits: ReadLimits) -> bytes:
    try:
        # One byte over the limit is enough to know, whatever a bomb would unpack to.
        unpacked = gzip.GzipFile(fileobj=io.BytesIO(data)).read(limits.max_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Reject("broken", f"it is not a readable gzip file ({error}).") from error
    limits.check_size(len(unpacked))
    return unpacked
