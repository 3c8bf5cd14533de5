"""Who else is told the figures of a training: TensorBoard, Weights & Biases, MLflow, Trackio, each by its own library.

    with loggers.of(context) as told:
        ...
        with context.write() as session:
            metrics.record(session, context.job_id, "train", index, values)
        told.log("train", index, values)

The store is always told; these are asked for in the spec's table ``[loggers]``. One that is not installed, cannot be reached, is
slow or breaks is told of once in the job's events, and training goes on without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, SupportsFloat

from app.errors import LostStep, StepCancelled
from app.settings import get_settings
from workers.runner import StepContext
from workers.trainer.loggers.base import Logger, Run
from workers.trainer.loggers.behind import CLOSE_S, Behind

__all__ = ["LOGGERS", "Logger", "Loggers", "Run", "of"]

LOGGERS: Final[Mapping[str, tuple[str, str]]] = {
    "tensorboard": ("workers.trainer.loggers.tensorboard:TensorBoard", "tensorboard"),
    "wandb": ("workers.trainer.loggers.wandb:WeightsAndBiases", "wandb"),
    "mlflow": ("workers.trainer.loggers.mlflow:MLflow", "mlflow-skinny"),
    "trackio": ("workers.trainer.loggers.trackio:Trackio", "trackio"),
}
"""Every logger by its key in the spec: its class, and what pip installs it as."""

FOLDER: Final = "loggers"
"""Below the home."""


class Loggers:
    """The loggers of one step. Use as a context manager, or ``close`` it."""

    def __init__(self, names: Sequence[str], run: Run, warn: Callable[[str], None], *, wait_s: float = CLOSE_S) -> None:
        self._behind = [Behind(name, _maker(name, run)) for name in names]
        self._warn, self._wait_s = warn, wait_s
        self._told: set[str] = set()

    def __enter__(self) -> Loggers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def log(self, scope: str, index: int, values: Mapping[str, SupportsFloat | None]) -> None:
        """Tell them all of a point; what is no finite number is left out. Returns at once."""
        numbers = {name: float(value) for name, value in values.items() if value is not None}
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        for each in self._behind:
            each.put((scope, index, finite))
        self._look()

    def close(self) -> None:
        """Have them take what is left, within a time, and end."""
        for each in self._behind:
            each.close(self._wait_s)
        self._look()

    def _look(self) -> None:
        """Tell of each that has failed, once."""
        for each in self._behind:
            fault = each.fault()
            if fault is not None and each.name not in self._told:
                self._told.add(each.name)
                self._warn(f"the logger {each.name} is told no more: {fault}; the store has all figures (`synthq metrics`)")


def of(context: StepContext) -> Loggers:
    """The loggers that the spec of a step's job asks for."""
    spec = context.spec
    run = Run(
        job=context.job_id,
        name=spec.name or context.job_id,
        project=spec.loggers.project,
        folder=get_settings().home / FOLDER,
        spec=context.claim.spec,
    )

    def warn(sentence: str) -> None:
        with suppress(LostStep, StepCancelled):  # a step that has lost its hold has nothing more to tell
            context.log(sentence, "warning", type="logger.failed")

    return Loggers(spec.loggers.names, run, warn)


def _maker(name: str, run: Run) -> Callable[[], Logger]:
    target, package = LOGGERS[name]
    module, _, attribute = target.partition(":")

    def make() -> Logger:
        kind: Any = getattr(import_module(module), attribute)
        try:
            made: Logger = kind(run)
        except ImportError as error:
            raise ImportError(f"it cannot be imported ({error}); `pip install {package}` on the trainer's machine") from error
        return made

    return make
