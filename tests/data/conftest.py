"""A home and a store of their own for each test, and jobs that are really run in it: no fake play, no fake rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app import artifacts, claims, db, lifecycle, migrate, specs
from app.models import Artifact, Job, Queue
from app.settings import get_settings
from app.store import jobs
from workers import runner
from workers.tasks import STEPS

RunJob = Callable[..., Job]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home that this process's settings point to."""
    for name in ("DATABASE_URL", "ARTIFACTS_URL"):
        monkeypatch.delenv(f"SYNTHQ_{name}", raising=False)
    monkeypatch.setenv("SYNTHQ_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SYNTHQ_WORKER_ID", "worker-of-the-test")
    get_settings.cache_clear()
    yield tmp_path / "home"
    db.dispose()
    get_settings.cache_clear()


@pytest.fixture
def store(home: Path) -> Path:
    """An empty database in ``home``."""
    migrate.upgrade()
    return home


@pytest.fixture
def run_job(store: Path) -> RunJob:
    """Submits a spec, given as tables, and works through its steps as a worker would; gives the job as it ended."""

    def run(tables: dict[str, Any]) -> Job:
        spec = specs.build(tables)
        with db.writing() as session:
            job = lifecycle.submit(
                session, kind=spec.kind, spec=specs.resolved(spec), spec_sha256=specs.sha256(spec), name=spec.name
            )
        return finish(job.id)

    return run


def finish(job_id: str) -> Job:
    """Work through everything that waits; gives the job as it is then."""
    while any(_work(queue) for queue in (Queue.ROLLOUT, Queue.DATA)):
        pass
    with db.reading() as session:
        return jobs.find(session, job_id)


def _work(queue: Queue) -> bool:
    claim = claims.claim(queue, owner=runner.worker_id())
    if claim is None:
        return False
    runner.run_claim(claim, STEPS)
    return True


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
