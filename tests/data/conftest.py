"""A home and a store of their own for each test, and jobs that are really run in it: no fake play, no fake rows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app import artifacts, claims, db, lifecycle, migrate, specs
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


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """An empty home."""
    with at_home(tmp_path / "home") as folder:
        yield folder


@pytest.fixture(scope="session")
def played_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A home in which an eval was played: both policies, three seeds, 40 turns; and the job's id."""
    with at_home(tmp_path_factory.mktemp("played") / "home") as folder:
        migrate.upgrade()
        return folder, run_spec(eval_tables(seeds="0-2", max_turns=40)).id


@pytest.fixture
def played(home: Path, played_once: tuple[Path, str]) -> Job:
    """That eval, in a copy of its store that the test may spoil."""
    shutil.copytree(played_once[0], home)
    return job_of(played_once[1])


@pytest.fixture
def store(home: Path) -> Path:
    """An empty database in ``home``."""
    migrate.upgrade()
    return home


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
