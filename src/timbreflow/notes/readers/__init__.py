"""Readers of one file each: bytes to a `Piece`, or a `Reject` with the reason."""
