"""The only import of great_expectations: with its telemetry switched off before it is loaded."""

import importlib
import os
from types import ModuleType

# Read when great_expectations is imported, so it must come first.
os.environ["GX_ANALYTICS_ENABLED"] = "false"

gx: ModuleType = importlib.import_module("great_expectations")
gxe: ModuleType = importlib.import_module("great_expectations.expectations")
