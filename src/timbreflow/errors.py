"""The one exception family that timbreflow shows to people."""


class TimbreflowError(Exception):
    """Something a person can mend.

    The message is one sentence that says what is wrong, with which file, and what to do.
    The command line prints it without a traceback and exits with code 2.
    """
