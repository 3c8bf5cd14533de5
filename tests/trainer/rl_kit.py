"""What tests of rl in the trainer share: a job, its play by the tiny model behind the real engine core, and its updates here."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from inference.core_kit import engine

from app import db, specs
from app.models import Job, TurnRow, served_name
from app.records import EpisodeKey
from app.specs.rl import RlSpec
from benchmarks.rl_play import Player, one_side, pay, play, submitted, turns_of
from workers.model.loading import load
from workers.model.types import Prompt
from workers.trainer.child.held import Held
from workers.trainer.child.ranks import Alone
from workers.trainer.rl import update
from workers.trainer.rl.runs import Runs

torch.set_num_threads(1)  # more of them, beside whatever else runs, only wait for one another

BASE: dict[str, Any] = {
    "rollout": {
        "max_turns": 4,
        "episodes_per_batch": 8,
        "max_concurrent_rollouts": 8,
        "reply_format": "text",
        "env_config": {"image_size": 63},
        "policy_config": {"rules": "none", "max_actions": 1, "max_tokens": 3, "image_only_mode": True},
    },
    "training": {"group_size": 4, "iterations": 2, "batch_size": 8, "learning_rate": 1e-2},
    "lora": {"r": 4, "alpha": 8.0},
    "evaluation": {"seeds": "0-1"},
}
"""A spec without its model."""


def spec_of(model: Path | str, **tables: dict[str, Any]) -> RlSpec:
    """A small rl job on a model; ``tables`` are laid over those of ``BASE``."""
    given = {name: {**BASE.get(name, {}), **tables.get(name, {})} for name in {*BASE, *tables}}
    made = specs.build({"kind": "rl", "model": {"base": str(model)}, **given})
    assert isinstance(made, RlSpec)
    return made


class Stage:
    """One job's play and updates in this process."""

    def __init__(self, model: Path, spec: RlSpec, job: Job | None = None) -> None:
        self.spec, self.base = spec, model
        self.job = job or submitted(spec, model)
        self.told: list[dict[str, Any]] = []
        self.prompts: dict[tuple[EpisodeKey, int], Prompt] = {}

    def play(self, iteration: int, *, adapter: Path | None = None, number: int | None = None) -> float:
        """Play an iteration with the adapter in a folder, as version ``number``; by default with that of the last update.

        Gives the share of replies that earned something.
        """
        path = adapter or Path(self.result(iteration - 1)["path"])
        loaded = load(self.base, device="cpu")
        served = served_name(self.job.id, number if number is not None else iteration + 1)
        with engine(loaded) as core:
            sha256 = core.load_adapter(served, str(path))
            player = Player(loaded, core, self.spec, served, sha256)
            play(self.job.id, self.spec, player, iteration)
        self.prompts |= player.prompts
        return pay(self.job.id, iteration, one_side(self.base))

    # -- the trainer's child --------------------------------------------------------------------------------------------

    def args(self, **more: Any) -> dict[str, Any]:
        """What the step functions hand to the child."""
        return {"job": self.job.id, "spec": specs.resolved(self.spec), "base": str(self.base), "adapter": "", **more}

    def begin(self, held: Held) -> dict[str, Any]:
        """What training begins from."""
        return update.begin(self.args(), self.told.append, held)

    def update(self, iteration: int, held: Held) -> dict[str, Any]:
        """Update from an iteration's play."""
        return update.run(self.args(iteration=iteration, version=iteration + 1), self.told.append, held)

    def result(self, iteration: int) -> dict[str, Any]:
        """What an update told, or, for the one before the first, what training begins from."""
        told = Runs(self.job.id, self.spec.begun).result(iteration)
        assert told is not None, f"update {iteration} is not done"
        return told

    def turns(self, iteration: int = 0) -> list[TurnRow]:
        """Every turn of an iteration, by seed, member and index."""
        with db.reading() as session:
            found = list(session.exec(turns_of(self.job.id, iteration)))
            session.expunge_all()
            return found


def begun(model: Path, home: Path, **tables: dict[str, Any]) -> Stage:
    """In a fresh home, a job that began and played iteration 0. What cost time is made once and copied.

    ``tables`` may say anything but how it is played.
    """
    kept, spec = _KEPT.get(model), spec_of(model, **tables)
    if kept is None:
        made = Stage(model, spec_of(model))
        made.begin(held())
        made.play(0)
        db.dispose()
        folder = Path(tempfile.mkdtemp(prefix="played-", dir=model.parent))
        shutil.copytree(home, folder, dirs_exist_ok=True)
        kept = _KEPT[model] = folder, made.job
        shutil.rmtree(home / "runs")
    folder, job = kept
    db.dispose()
    shutil.copytree(folder, home, dirs_exist_ok=True)
    return Stage(model, spec, job)


_KEPT: dict[Path, tuple[Path, Job]] = {}


def held() -> Held:
    """What a fresh child holds: nothing."""
    return Held(Alone(), threading.Event())


@contextmanager
def changed(row: TurnRow) -> Iterator[TurnRow]:
    """The turn's row, to be changed in the store."""
    with db.writing() as session:
        found = session.get(TurnRow, (row.episode_id, row.index))
        assert found is not None
        yield found
        session.add(found)
