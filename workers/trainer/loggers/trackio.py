"""Figures as a run of Trackio."""

from __future__ import annotations

from workers.trainer.loggers.base import Run, Values, named


class Trackio:
    """One run, named after the job and its id, for Trackio knows runs by their names."""

    def __init__(self, run: Run) -> None:
        import trackio

        self._run = trackio.init(project=run.project, name=run.title, config=dict(run.spec), resume="allow", embed=False)

    def log(self, scope: str, index: int, values: Values) -> None:
        """One row for the point."""
        self._run.log(named(scope, values), step=index)

    def close(self) -> None:
        """Send what is held."""
        self._run.finish()
