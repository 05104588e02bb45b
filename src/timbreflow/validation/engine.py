"""Great Expectations with its telemetry switched off before it is loaded: the others take it from here."""

import os
from types import ModuleType

# Read when great_expectations is imported, so it must come first.
os.environ["GX_ANALYTICS_ENABLED"] = "false"

import great_expectations
import great_expectations.expectations

# As plain modules: the package is typed, but does not mark the names that it means to export.
gx: ModuleType = great_expectations
gxe: ModuleType = great_expectations.expectations
