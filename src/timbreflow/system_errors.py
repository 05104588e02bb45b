"""What the system refuses, in one sentence: memory."""

OUT_OF_MEMORY = ("allocate memory", "out of memory", "bad_alloc", "not enough memory", "is killed by signal: Killed")
"""What PyTorch says in a RuntimeError; the last is of a loader process that the system ended."""


def out_of_memory(error: BaseException | None) -> str | None:
    """Why there was not enough memory, or None for other errors."""
    reason = " ".join(str(error).split())
    short = isinstance(error, RuntimeError) and any(words in reason for words in OUT_OF_MEMORY)
    return reason[:200].rstrip(".") or "MemoryError" if short or isinstance(error, MemoryError) else None
