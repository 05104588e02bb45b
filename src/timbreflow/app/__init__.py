"""What a person opens: the Prefect and MLflow servers of this checkout."""
