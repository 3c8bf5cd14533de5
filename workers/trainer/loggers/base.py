"""What a logger is, and what it is told of the job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Values = Mapping[str, float]
"""Figures by name."""


class Logger(Protocol):
    """A place outside synthq that is told figures. It may raise anything, and take any time."""

    def log(self, scope: str, index: int, values: Values) -> None:
        """Take the figures of one point; the same point may come again when its step ran twice."""

    def close(self) -> None:
        """Hand on what is held, and end. The job may go on with another logger of the same run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The job whose figures are told: every step of it goes on with the same run."""

    job: str
    """Id, by which the run is known again."""
    name: str
    """For people; other jobs may have it too."""
    project: str
    folder: Path
    """Where loggers of all jobs may write on this machine; what is there stays when a job is removed."""
    spec: Mapping[str, Any]
    """The resolved spec."""

    @property
    def title(self) -> str:
        """A name that no other job has, for loggers that know runs by their names."""
        return self.job if self.name == self.job else f"{self.name}-{self.job}"


def named(scope: str, values: Values) -> dict[str, float]:
    """The figures as loggers know them: ``train/loss``."""
    return {f"{scope}/{name}": value for name, value in values.items()}


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A table of tables as one, by dotted key; what is not set is left out."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            found[f"{prefix}{key}"] = value
    return found
