"""A home and a store of their own for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from flow import at_home, eval_tables, job_of, run_spec

from app import migrate
from app.models import Job
from benchmarks import sloppy
from workers.rollout.policies import POLICIES


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


@pytest.fixture(scope="session")
def mixed_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A home in which the expert, random play and a policy that makes mistakes played five seeds, 60 turns; and the job's id."""
    with at_home(tmp_path_factory.mktemp("mixed") / "home") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setitem(POLICIES, sloppy.NAME, sloppy.PLACE)
        migrate.upgrade()
        tables = eval_tables(policies=["scripted", "random", sloppy.NAME], seeds="0-2,4-5", max_turns=60)
        return folder, run_spec({**tables, "name": "mixed"}).id


@pytest.fixture
def mixed(home: Path, mixed_once: tuple[Path, str]) -> Job:
    """That eval, in a copy of its store that the test may spoil."""
    shutil.copytree(mixed_once[0], home)
    return job_of(mixed_once[1])


@pytest.fixture
def store(home: Path) -> Path:
    """An empty database in ``home``."""
    migrate.upgrade()
    return home
