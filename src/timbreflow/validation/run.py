"""Run the suites over their tables, keep a page of what came of it and a history, and say what failed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from timbreflow.validation.engine import gx
from timbreflow.validation.failure import Checked

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.core.expectation_validation_result import ExpectationValidationResult

NOT_SHOWN = ("column", "column_A", "column_B", "column_list", "batch_id", "severity")
"""Settings of an expectation that are no limits."""


@dataclass(frozen=True)
class Outcome:
    """What came of all suites.

    Attributes:
        checked: every expectation, in the order of the suites.
        rows: of each suite's table.
    """

    checked: list[Checked]
    rows: dict[str, int]

    @property
    def expectations(self) -> dict[str, int]:
        """Number of expectations by suite."""
        return {suite: sum(one.suite == suite for one in self.checked) for suite in self.rows}

    @property
    def failures(self) -> list[Checked]:
        """Those that do not hold."""
        return [one for one in self.checked if not one.passed]


def run_suites(tables: Mapping[str, pd.DataFrame], suites: "Mapping[str, ExpectationSuite]") -> Outcome:
    """Validate every table with the suite of its name.

    Args:
        tables: by name.
        suites: by the same names.
    """
    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    bars = gx.data_context.types.base.ProgressBarsConfig
    context.variables.progress_bars = bars(globally=False, metric_calculations=False)
    source = context.data_sources.add_pandas("timbreflow")
    checked: list[Checked] = []
    for name, suite in suites.items():
        definition = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        batch = definition.get_batch({"dataframe": tables[name]})
        checked += [_checked(name, result) for result in batch.validate(suite, result_format="SUMMARY").results]
    return Outcome(checked, {name: len(tables[name]) for name in suites})


def _checked(suite: str, result: "ExpectationValidationResult") -> Checked:
    config = result.expectation_config
    kwargs: dict[str, Any] = dict(config.kwargs) if config else {}
    if "column_list" in kwargs:
        column = ", ".join(kwargs["column_list"])
    elif "column_A" in kwargs:
        column = f"{kwargs['column_A']}, {kwargs['column_B']}"
    else:
        column = str(kwargs.get("column", "table"))
    limits = ", ".join(
        f"{key} {value}" for key, value in kwargs.items() if key not in NOT_SHOWN and value not in (None, False, 1.0)
    )
    kind = config.type if config else "an expectation"
    return Checked(suite, kind, column, limits, _detail(result.result or {}), bool(result.success))


def _detail(result: Mapping[str, Any]) -> str:
    if "unexpected_count" in result:
        examples = ", ".join(str(value) for value in result.get("partial_unexpected_list", [])[:3])
        return f"{result['unexpected_count']} of {result['element_count']} rows" + (
            f" ({examples})" if examples else ""
        )
    if "observed_value" in result:
        mismatched = result.get("details", {}).get("mismatched", {}) if result.get("details") else {}
        return f"observed {mismatched or result['observed_value']}"
    return "could not be evaluated"
