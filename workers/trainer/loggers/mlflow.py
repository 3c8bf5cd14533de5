"""Figures as a run of MLflow, at ``MLFLOW_TRACKING_URI``; without that in a file of this machine."""

from __future__ import annotations

import os
import time
from typing import Any, Final

from workers.trainer.loggers.base import Run, Values, flat, named

JOB: Final = "synthq.job"
"""Tag by which the job's run is found again."""
LONGEST: Final = 500
"""Letters of a parameter that every MLflow server takes."""


class MLflow:
    """One run in the experiment that is the project, with the spec as its parameters."""

    def __init__(self, run: Run) -> None:
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.folder.absolute() / 'mlflow.db'}"
        run.folder.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(tracking_uri=address)
        self._id = self._found(run) or self._made(run)

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found is not None else self._client.create_experiment(name))

    def _found(self, run: Run) -> str | None:
        rows: Any = self._client.search_runs([self._experiment(run.project)], f"tags.`{JOB}` = '{run.job}'", max_results=1)
        if not rows:
            return None
        self._client.set_terminated(rows[0].info.run_id, "RUNNING")
        return str(rows[0].info.run_id)

    def _made(self, run: Run) -> str:
        made = self._client.create_run(self._experiment(run.project), run_name=run.name, tags={JOB: run.job})
        for key, value in flat(run.spec).items():
            self._client.log_param(made.info.run_id, key, str(value)[:LONGEST])
        return str(made.info.run_id)

    def log(self, scope: str, index: int, values: Values) -> None:
        """One batch for the point."""
        at = int(time.time() * 1000)
        self._client.log_batch(
            self._id, metrics=[self._metric(key, value, at, index) for key, value in named(scope, values).items()]
        )

    def close(self) -> None:
        """Say that nobody writes to the run now."""
        self._client.set_terminated(self._id)
