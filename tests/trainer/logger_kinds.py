"""Loggers of the tests: one that keeps what it is told, and some that do what a logger must not."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from workers.trainer.loggers import Run

TOLD: list[object] = []
"""What ``Keeps`` was told, in order."""
GO_ON = threading.Event()
"""Lets ``Hangs`` go on."""


class Keeps:
    def __init__(self, run: Run) -> None:
        TOLD.append(run.job)

    def log(self, scope: str, index: int, values: Mapping[str, float]) -> None:
        TOLD.append((scope, index, dict(values)))

    def close(self) -> None:
        TOLD.append("closed")


class CannotBegin(Keeps):
    def __init__(self, run: Run) -> None:
        raise ConnectionError(f"nobody answers for {run.project}")


class NotInstalled(Keeps):
    def __init__(self, run: Run) -> None:
        import no_such_logger  # type: ignore[import-not-found]  # noqa: F401


class Breaks(Keeps):
    def log(self, scope: str, index: int, values: Mapping[str, float]) -> None:
        raise RuntimeError(f"no room for {scope} {index}")


class Hangs(Keeps):
    def log(self, scope: str, index: int, values: Mapping[str, float]) -> None:
        GO_ON.wait(60)
