"""A job's checkpoints: a folder for each update, which is there only when all of it is.

<home>/runs/<job>/begin/    what training begins from
<home>/runs/<job>/iter-3/   what update 3 came to; a job that goes on from another one counts on from there
    state/        the learner's checkpoint; only the newest few stay
    adapter/      what is published
    result.json   what the update told
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from app import runs
from app.packed import sync
from workers.model.folder import write_json

_NAMED: Final = re.compile(r"iter-(\d+)")


class Runs:
    """The checkpoints of one job, whose first update is the number ``begun``."""

    def __init__(self, job_id: str, begun: int = 0) -> None:
        self.folder, self.begun = runs.folder(job_id).absolute(), begun

    @property
    def before(self) -> int:
        """The number of what stands before the first update."""
        return self.begun - 1

    def at(self, iteration: int) -> Path:
        """The folder of an update; ``before``: of what stands before the first."""
        return self.folder / ("begin" if iteration == self.before else f"iter-{iteration}")

    def state(self, iteration: int) -> Path:
        """Where its learner is saved."""
        return self.at(iteration) / "state"

    def adapter(self, iteration: int) -> Path:
        """Where the adapter is that it came to."""
        return self.at(iteration) / "adapter"

    def result(self, iteration: int) -> dict[str, Any] | None:
        """What an update told when it was done, and where its adapter is, as ``path``; None when it is not done."""
        path = self.at(iteration) / "result.json"
        if not path.is_file():
            return None
        return self._with_path(iteration, json.loads(path.read_text(encoding="utf-8")))

    def _with_path(self, iteration: int, told: dict[str, Any]) -> dict[str, Any]:
        return {**told, "path": str(self.adapter(iteration))}  # not in the file: a home may be moved

    @property
    def updates(self) -> int:
        """How many updates are done, with those before the first."""
        done = self.begun
        while self.result(done) is not None:
            done += 1
        return done

    def write(self, iteration: int, fill: Callable[[Path], Mapping[str, Any]], *, first: bool) -> dict[str, Any]:
        """Have ``fill`` write ``state`` and ``adapter`` in a folder, and give that its name once all of it is there.

        Gives what ``result`` does from then on. Where several train together all fill one folder, and the ``first`` names it.
        """
        final = self.at(iteration)
        draft = final.with_name(f".{final.name}")
        if first:
            shutil.rmtree(draft, ignore_errors=True)  # of a try that broke off
            draft.mkdir(parents=True)
        told = dict(fill(draft))
        if first:
            write_json(draft / "result.json", told)
            sync(draft / "result.json")
            sync(draft)
            draft.rename(final)
            sync(final.parent)
        return self._with_path(iteration, told)

    def prune(self, keep: int) -> None:
        """Drop the states of all but the newest ``keep`` updates; what was published stays."""
        done = [int(found[1]) for path in self.folder.iterdir() if (found := _NAMED.fullmatch(path.name))]
        for iteration in [self.before, *sorted(done)][:-keep]:
            shutil.rmtree(self.state(iteration), ignore_errors=True)
