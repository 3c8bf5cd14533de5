"""What a training keeps in its job's folder: the newest checkpoints, and the best model so far."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from app import runs
from app.errors import BadModel
from app.weights import read_json
from workers.trainer.learner import Learner
from workers.trainer.learner.checkpoint import FACTS
from workers.trainer.learner.ranks import together, world

MOST: Final = 2
"""Checkpoints that are kept: one may be damaged by what ended the machine."""
BYTES_KEPT, BYTES_TOLD = 12, 4
"""What a trained number takes at most: in a checkpoint with the optimizer's two, and in an export."""
BEST, LAST = "best", "last"
"""What exports are called."""


class Kept:
    """The folder of one job. Processes that train together all call the same; the first one looks, writes and removes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def checkpoints(self) -> list[Path]:
        """Whole ones, the newest first."""
        return together(self._listed)[0]

    def _listed(self) -> list[Path]:
        return sorted((path for path in self._folder.glob("step-*") if (path / FACTS).is_file()), reverse=True)

    def save(self, learner: Learner, state: dict[str, Any]) -> Path:
        """Write a checkpoint of a learner and the state that goes with it, if it is not there; older ones go."""
        path = self._folder / f"step-{learner.steps:08d}"
        if not _there(path / FACTS):
            _make_sure_of(BYTES_KEPT * learner.parameters)
            learner.save(path, state)
        if world()[0] == 0:
            _remove(self._listed()[MOST:])
        return path

    def best(self, learner: Learner) -> Path:
        """Write what was trained so far as the best; what was the best before goes, unless a checkpoint goes on from it."""
        path = self.export(learner, BEST)
        if world()[0] == 0:
            named = {self.path(BEST, int(state_of(each)["best_step"])) for each in self._listed()}
            _remove(each for each in self._folder.glob(f"{BEST}-*") if each != path and each not in named)
        return path

    def export(self, learner: Learner, name: str) -> Path:
        """Write what was trained so far, if it is not there."""
        path = self.path(name, learner.steps)
        if not _there(path):
            _make_sure_of(BYTES_TOLD * learner.parameters)
            learner.export(path)
        return path

    def path(self, name: str, step: int) -> Path:
        """Where the export of a step is."""
        return self._folder / f"{name}-{step:08d}"


def _there(path: Path) -> bool:
    """Whether it was there when the first process looked: the others may look while it writes."""
    return together(path.exists)[0]


def _make_sure_of(needed: int) -> None:
    together(lambda: runs.check_room(needed))


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        shutil.rmtree(path, ignore_errors=True)


def state_of(checkpoint: Path) -> dict[str, Any]:
    """The state that was saved with a checkpoint. Raises BadModel."""
    state = read_json(checkpoint / FACTS).get("extra")
    if not isinstance(state, dict):
        raise BadModel(f"{checkpoint / FACTS} has no state of a training")
    return state
