"""Figures as a run of Weights & Biases. ``WANDB_API_KEY`` and its other variables are the environment's."""

from __future__ import annotations

from workers.trainer.loggers.base import Run, Values, named


class WeightsAndBiases:
    """One run, whose id is the job's. Each scope has its own x-axis, so that points may come in any order and again."""

    def __init__(self, run: Run) -> None:
        import wandb

        run.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=run.project,
            id=run.job,
            name=run.name,
            config=dict(run.spec),
            dir=str(run.folder),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )
        self._scopes: set[str] = set()

    def log(self, scope: str, index: int, values: Values) -> None:
        """One row for the point."""
        axis = f"{scope}/index"
        if scope not in self._scopes:
            self._run.define_metric(axis)
            self._run.define_metric(f"{scope}/*", step_metric=axis)
            self._scopes.add(scope)
        self._run.log({**named(scope, values), axis: index})

    def close(self) -> None:
        """Send what is held."""
        self._run.finish()
