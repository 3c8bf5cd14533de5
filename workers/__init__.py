"""The data plane: what Celery workers run. Three roles (rollout, inference, trainer) that never import one another."""
