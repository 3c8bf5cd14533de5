"""Lines of real expert play, and a model that learnt from them: what benchmarks of learning begin with.

Play, filter and training are the product's own code, in this process and without broker and server.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SIDE_PX = 63
SHOWN = {"image_only_mode": True, "rules": "bare", "max_actions": 1}
"""A prompt that is one picture and nothing else: 19 tokens, 9 of them the picture's."""
TURNS = 200


@contextmanager
def store(home: Path) -> Iterator[None]:
    """An empty store in a folder, for this process."""
    from app import db, migrate
    from app.settings import get_settings

    before = os.environ.get("SYNTHQ_HOME")
    os.environ["SYNTHQ_HOME"] = str(home)
    get_settings.cache_clear()
    db.dispose()
    migrate.upgrade()
    try:
        yield
    finally:
        db.dispose()
        if before is None:
            del os.environ["SYNTHQ_HOME"]
        else:
            os.environ["SYNTHQ_HOME"] = before
        get_settings.cache_clear()


def expert_lines(into: Path, seeds: str, count: int) -> Path:
    """Have the expert play seeds in the store, and write ``count`` of its turns as a filter job makes lines of them.

    Raises SystemExit where they are fewer.
    """
    from app import artifacts, db
    from app.models import Job
    from app.store import jobs
    from benchmarks.bench_filter import submit, work

    played = {
        "seeds": seeds,
        "policies": ["scripted:reactive"],
        "reply_format": "text",
        "max_turns": TURNS,
        "env_config": {"image_size": SIDE_PX, "length": TURNS},
        "policy_config": SHOWN,
    }
    of = submit("eval", {"eval": played})
    work("bench")
    wanted = submit("filter", {"filter": {"jobs": [of], "shuffle": True, "limit": count}})
    work("bench")
    with db.reading() as session:
        job = session.get_one(Job, wanted)
        found = [artifact for artifact in jobs.artifacts(session, job) if artifact.kind == "dataset"]
    if not found:
        raise SystemExit(f"no lines could be made: {job.reason}")
    into.write_bytes(artifacts.read_artifact(found[0]))
    if (lines := into.read_bytes().count(b"\n")) != count:
        raise SystemExit(f"seeds {seeds} gave {lines} lines, and {count} are wanted; name more seeds")
    return into


def teach(settings: Any, lines: Path, into: Path, *, steps: int, batch: int) -> dict[str, float]:
    """Have a learner imitate the lines, as an sft job does, and export what came of it; figures of the last step."""
    from workers.trainer.learner import Learner
    from workers.trainer.sft.data import Data, Limits
    from workers.trainer.sft.lines import reading
    from workers.trainer.sft.order import steps_of
    from workers.trainer.sft.training import imitation

    learner = Learner(settings)
    data = Data(lines, lines.name, reading(settings.base), Limits(tokens=1024))
    lengths = [entry.tokens for entry in data.entries]
    told: dict[str, float] = {}
    epoch = 0
    while learner.steps < steps:
        for numbers in steps_of(lengths, seed=settings.seed, epoch=epoch, batch=batch, batches=1)[: steps - learner.steps]:
            samples = [data.sample(number) for number in numbers]
            targets = sum(len(sample.targets) for sample in samples)
            tally = learner.accumulate(samples, imitation, scale=1 / targets)
            learner.step()
            told = {"loss": tally.loss, "accuracy": tally.figures["right"] / targets}
        epoch += 1
    learner.export(into)
    return told
