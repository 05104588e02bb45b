"""An expectation and what came of it, and the error of data that failed; without Great Expectations, for flows."""

from dataclasses import dataclass
from pathlib import Path

from timbreflow.errors import TimbreflowError

NAMED_FAILURES = 3
"""Failed expectations that the error message names."""


@dataclass(frozen=True)
class Checked:
    """One expectation and what came of it.

    Attributes:
        suite: name of the suite.
        expectation: such as expect_column_values_to_be_unique.
        column: what it looks at; several are joined by a comma, the whole table is "table".
        limits: what it asks for, such as "min_value 0, max_value 127".
        detail: how many rows do not keep it, or what was observed.
        passed: whether it holds.
    """

    suite: str
    expectation: str
    column: str
    limits: str
    detail: str
    passed: bool

    def __str__(self) -> str:
        return f"suite {self.suite}, column {self.column}: {self.expectation}, {self.detail}"


class InvalidData(TimbreflowError):
    """Data that failed a suite.

    Attributes:
        failures: all that failed; the message names the first few.
        page: where all is shown.
    """

    def __init__(self, failures: list[Checked], page: Path, *, what: str, remedy: str) -> None:
        self.failures, self.page = failures, page
        named = "; ".join(str(failure) for failure in failures[:NAMED_FAILURES])
        more = len(failures) - NAMED_FAILURES
        super().__init__(
            f"The {what} failed validation ({named}{f'; and {more} more' if more > 0 else ''}); open {page}, {remedy}."
        )
