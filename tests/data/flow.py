"""Jobs that are really run, in a home of the test's own: no fake play, no fake rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app import artifacts, claims, db, lifecycle, specs
from app.models import Artifact, Job, Queue
from app.settings import get_settings
from app.store import jobs
from workers import runner
from workers.tasks import STEPS


@contextmanager
def at_home(folder: Path) -> Iterator[Path]:
    """This process's settings point to ``folder`` for a while."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DATABASE_URL", "ARTIFACTS_URL"):
            patch.delenv(f"SYNTHQ_{name}", raising=False)
        patch.setenv("SYNTHQ_HOME", str(folder))
        patch.setenv("SYNTHQ_WORKER_ID", "worker-of-the-test")
        get_settings.cache_clear()
        yield folder
        db.dispose()
    get_settings.cache_clear()


def run_spec(tables: dict[str, Any]) -> Job:
    """Submit a spec, given as tables, and work through its steps as a worker would; gives the job as it ended."""
    return finish(submit(tables).id)


def submit(tables: dict[str, Any]) -> Job:
    """Submit a spec, given as tables."""
    spec = specs.build(tables)
    with db.writing() as session:
        return lifecycle.submit(
            session, kind=spec.kind, spec=specs.resolved(spec), spec_sha256=specs.sha256(spec), name=spec.name
        )


def finish(job_id: str) -> Job:
    """Work through everything that waits; gives the job as it is then."""
    while any(_work(queue) for queue in (Queue.ROLLOUT, Queue.DATA)):
        pass
    return job_of(job_id)


def _work(queue: Queue) -> bool:
    claim = claims.claim(queue, owner=runner.worker_id())
    if claim is None:
        return False
    runner.run_claim(claim, STEPS)
    return True


def job_of(ref: str) -> Job:
    """A job as it is now."""
    with db.reading() as session:
        return jobs.find(session, ref)


def files_of(job: Job) -> dict[str, Artifact]:
    """What a job made, by kind."""
    with db.reading() as session:
        return {artifact.kind: artifact for artifact in jobs.artifacts(session, job)}


def bytes_of(job: Job, kind: str) -> bytes:
    """The bytes of the one artifact of a kind, checked."""
    return artifacts.read_artifact(files_of(job)[kind])


def eval_tables(**table: Any) -> dict[str, Any]:
    """A small eval; keywords go over the keys of its table."""
    env_config = {"length": 60, **table.pop("env_config", {})}
    asked = {"policies": ["scripted", "random"], "seeds": "0-1", "max_turns": 12, **table}
    return {"kind": "eval", "eval": {**asked, "env_config": env_config}}


def filter_tables(**table: Any) -> dict[str, Any]:
    """A filter with these keys."""
    return {"kind": "filter", "filter": table}
