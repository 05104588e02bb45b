"""MLflow runs, the model registry, promotion and rollback."""
