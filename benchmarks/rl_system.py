"""What the benchmarks and tests of whole rl systems share: a small job that has something to learn, and its updates done again.

A model without training earns nothing in Crafter, and where nobody earns anything there is nothing to learn. So the store pays
for what is said (``pay``): each turn as it is written, whoever plays, and every group has something to teach.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PAY = """
CREATE TRIGGER pay AFTER INSERT ON turn WHEN NEW.output_ids IS NOT NULL BEGIN
  UPDATE turn SET reward = json_extract(NEW.output_ids, '$[0]') % 2
  WHERE episode_id = NEW.episode_id AND "index" = NEW."index";
END
"""
"""1 for a reply whose first token is odd, else 0."""


def spec(
    model: Path | str,
    *,
    iterations: int,
    episodes: int = 8,
    group: int = 4,
    turns: int = 4,
    reply: int = 3,
    image: int = 63,
    **tables: dict[str, Any],
) -> dict[str, Any]:
    """The tables of a small rl job that keeps every checkpoint; ``tables`` are laid over them."""
    given: dict[str, dict[str, Any]] = {
        "model": {"base": str(model)},
        "rollout": {
            "max_turns": turns,
            "episodes_per_batch": episodes,
            "max_concurrent_rollouts": 2 * episodes,
            "reply_format": "text",
            "env_config": {"image_size": image},
            "policy_config": {"rules": "none", "max_actions": 1, "max_tokens": reply, "image_only_mode": True},
        },
        "training": {"iterations": iterations, "group_size": group, "batch_size": episodes, "learning_rate": 1e-3},
        "lora": {"r": 8, "alpha": 16.0},
        "evaluation": {"seeds": "0-1", "at_start": False, "every_n_iters": max(2, iterations)},
        "checkpoint": {"keep": iterations + 1},
    }
    return {"kind": "rl", **{name: {**given.get(name, {}), **tables.get(name, {})} for name in {*given, *tables}}}


def pay(home: Path) -> None:
    """Have the SQLite store of a home pay for what is said from now on."""
    connection = sqlite3.connect(home / "synthq.db", timeout=30)
    try:
        connection.execute(_PAY)
        connection.commit()
    finally:
        connection.close()


def updates(home: Path, job_id: str) -> list[str]:
    """The sha256 of the adapter after each update, of a system that ran in ``home``; with which it began, first."""
    from workers.trainer.rl.runs import Runs

    with _at(home):
        runs = Runs(job_id)
        found = [runs.result(at) for at in range(runs.before, runs.updates)]
    return [told["sha256"] for told in found if told is not None]


def again(home: Path, job_id: str, into: Path) -> list[str]:
    """What ``updates`` would give if nothing had disturbed them: each is done once more, by one process, from the samples that
    are stored. ``home`` stays as it is; ``into``: a folder for a copy."""
    from sqlmodel import col, select

    from app import db
    from app.models import Job, ModelUse
    from workers.trainer.child.held import Held
    from workers.trainer.child.ranks import Alone
    from workers.trainer.rl import update
    from workers.trainer.rl.runs import Runs

    count = len(updates(home, job_id)) - 1
    _copied(home, into, job_id)
    with _at(into):
        with db.reading() as session:
            job = session.get_one(Job, job_id)
            use = session.exec(select(ModelUse).where(col(ModelUse.job_id) == job_id)).one()
            args = {"job": job_id, "spec": job.spec, "base": use.base, "adapter": use.adapter_path}
        held = Held(Alone(), threading.Event())
        for iteration in range(count):
            update.run({**args, "iteration": iteration, "version": iteration + 1}, lambda event: None, held)
        assert Runs(job_id).updates == count, "every update was done again"
    return updates(into, job_id)


def _copied(home: Path, into: Path, job_id: str) -> None:
    """The store, and what the job's training began from."""
    into.mkdir(parents=True, exist_ok=True)
    source, target = sqlite3.connect(home / "synthq.db"), sqlite3.connect(into / "synthq.db")
    source.backup(target)
    source.close()
    target.close()
    shutil.copytree(home / "runs" / job_id / "begin", into / "runs" / job_id / "begin")


@contextmanager
def _at(home: Path) -> Iterator[None]:
    """Work on another home for a while."""
    from app import db
    from app.settings import get_settings

    before = os.environ.get("SYNTHQ_HOME")
    os.environ["SYNTHQ_HOME"] = str(home)
    get_settings.cache_clear()
    db.dispose()
    try:
        yield
    finally:
        if before is not None:
            os.environ["SYNTHQ_HOME"] = before
        get_settings.cache_clear()
        db.dispose()
