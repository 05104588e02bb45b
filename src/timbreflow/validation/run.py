"""Run the suites over their tables, keep the Data Docs, and say what failed."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_directory
from timbreflow.validation.engine import gx

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.core.expectation_validation_result import ExpectationValidationResult

NAMED_FAILURES = 3
"""Failed expectations that the error message names."""


@dataclass(frozen=True)
class Failure:
    """One expectation that did not hold.

    Args:
        suite: name of the suite.
        expectation: such as expect_column_values_to_be_unique.
        column: what it looks at; several are joined by a comma, the whole table is "table".
        detail: how many rows, or what was observed.
    """

    suite: str
    expectation: str
    column: str
    detail: str

    def __str__(self) -> str:
        return f"suite {self.suite}, column {self.column}: {self.expectation}, {self.detail}"


@dataclass(frozen=True)
class Outcome:
    """What came of all suites.

    Args:
        expectations: number of expectations by suite.
        failures: those that did not hold, in the order of the suites.
    """

    expectations: dict[str, int]
    failures: list[Failure]


class InvalidData(TimbreflowError):
    """Data that failed a suite.

    Attributes:
        failures: all that failed; the message names the first few.
    """

    def __init__(self, failures: list[Failure], docs: Path) -> None:
        self.failures = failures
        named = "; ".join(str(failure) for failure in failures[:NAMED_FAILURES])
        more = len(failures) - NAMED_FAILURES
        super().__init__(
            f"The data failed validation ({named}{f'; and {more} more' if more > 0 else ''}); "
            f"open {docs / 'index.html'}, then correct the parameters or run render_triples and extract_mels again."
        )


def run_suites(
    tables: Mapping[str, pd.DataFrame],
    suites: "Mapping[str, ExpectationSuite]",
    *,
    workdir: Path,
    docs: Path,
) -> Outcome:
    """Validate every table with the suite of its name.

    Args:
        tables: by name.
        suites: by the same names.
        workdir: scratch folder for Great Expectations' file context; emptied first.
        docs: folder for the Data Docs (open index.html); replaced as a whole, failures or not.
    """
    shutil.rmtree(workdir, ignore_errors=True)
    workdir.mkdir(parents=True)
    context = gx.get_context(mode="file", project_root_dir=workdir)
    context.enable_analytics(False)
    bars = gx.data_context.types.base.ProgressBarsConfig
    context.variables.progress_bars = bars(globally=False, metric_calculations=False)
    source = context.data_sources.add_pandas("timbreflow")
    expectations: dict[str, int] = {}
    failures: list[Failure] = []
    for name, suite in suites.items():
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        definition = context.validation_definitions.add(
            gx.ValidationDefinition(name=name, data=batch, suite=context.suites.add(suite))
        )
        checkpoint = context.checkpoints.add(
            gx.Checkpoint(name=name, validation_definitions=[definition], result_format="SUMMARY")
        )
        outcome = checkpoint.run(batch_parameters={"dataframe": tables[name]})
        results = [result for run in outcome.run_results.values() for result in run.results]
        expectations[name] = len(results)
        failures += [_failure(name, result) for result in results if not result.success]
    context.build_data_docs()
    with atomic_directory(docs) as folder:
        shutil.copytree(workdir / "gx" / "uncommitted" / "data_docs" / "local_site", folder, dirs_exist_ok=True)
    shutil.rmtree(workdir)
    return Outcome(expectations, failures)


def _failure(suite: str, result: "ExpectationValidationResult") -> Failure:
    config = result.expectation_config
    kwargs: dict[str, Any] = dict(config.kwargs) if config else {}
    if "column_list" in kwargs:
        column = ", ".join(kwargs["column_list"])
    elif "column_A" in kwargs:
        column = f"{kwargs['column_A']}, {kwargs['column_B']}"
    else:
        column = str(kwargs.get("column", "table"))
    return Failure(suite, config.type if config else "an expectation", column, _detail(result.result or {}))


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
