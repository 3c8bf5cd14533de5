"""A home in which jobs were really played, to be brought into other stores, saved and spoiled."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
from data.flow import at_home, eval_tables, filter_tables, run_spec
from stores.store_kit import Home

from app import db, migrate
from app.models import AdapterVersion, ModelUse
from app.store import metrics


@pytest.fixture(scope="session")
def played_once(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with an eval of two policies on two seeds and a filter over it, both played to their ends."""
    with at_home(tmp_path_factory.mktemp("stores") / "home") as folder:
        migrate.upgrade()
        played = run_spec(eval_tables(seeds="0-1", max_turns=8))
        kept = run_spec(filter_tables(jobs=[played.id]))
        assert (played.state, kept.state) == ("succeeded", "succeeded"), (played.reason, kept.reason)
        with db.writing() as session:  # as if a model had played, been trained, and published
            use = ModelUse(job_id=played.id, label="model:/tiny", base="/tiny", options={"max_loras": 4}, facts={"patch": 7})
            session.add(use)
            metrics.record(session, played.id, "update", 0, {"loss": 0.25, "kl": math.nan})
            told = {"base": "/tiny", "path": "/versions/1", "sha256": "1" * 64, "state": "retired"}
            session.add(AdapterVersion(line=played.id, version=1, published_at=1.0, **told))
    return Home(folder=folder, eval_id=played.id, filter_id=kept.id)


@pytest.fixture
def other(played_once: Home, tmp_path: Path) -> Home:
    """A copy of that home which the test may spoil; nothing is open in it."""
    shutil.copytree(played_once.folder, tmp_path / "other")
    return Home(folder=tmp_path / "other", eval_id=played_once.eval_id, filter_id=played_once.filter_id)
