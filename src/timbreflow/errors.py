"""The exception of every error that is shown to users."""


class TimbreflowError(Exception):
    """An error that the user can correct.

    The message is one sentence that says what is wrong, with which file, and what to do.
    The command line prints it without a traceback and exits with code 2.
    """


class Cancelled(TimbreflowError):
    """The caller's `cancel` asked to stop; nothing was written."""
