"""Great Expectations suites over the rendered data: the only importer of great_expectations."""
