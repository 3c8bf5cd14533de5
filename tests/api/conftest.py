"""The API on a real database in a home of its own. There is no broker: the API must not need one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from core.kit import WORKER
from fastapi import FastAPI
from fastapi.testclient import TestClient
from served import Submit, client_of, eval_tables, forget_broker, unused_port

from app import db, migrate
from app.main import create_app
from app.settings import get_settings


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy: migrating takes longer than most of these tests."""
    home = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SYNTHQ_DATABASE_URL", raising=False)
        patch.setenv("SYNTHQ_HOME", str(home))
        get_settings.cache_clear()
        migrate.upgrade()
        db.dispose()
    get_settings.cache_clear()
    return home / "synthq.db"


@pytest.fixture
def home(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home with an empty database, and a broker's address that nobody listens on."""
    for name in ("DATABASE_URL", "ARTIFACTS_URL", "API_KEYS", "API_HOST", "API_PORT"):
        monkeypatch.delenv(f"SYNTHQ_{name}", raising=False)
    monkeypatch.setenv("SYNTHQ_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SYNTHQ_REDIS_URL", f"redis://127.0.0.1:{unused_port()}/0")
    monkeypatch.setenv("SYNTHQ_WORKER_ID", WORKER)
    get_settings.cache_clear()
    forget_broker()
    (tmp_path / "home").mkdir()
    shutil.copy(empty_database, tmp_path / "home" / "synthq.db")
    yield tmp_path / "home"
    db.dispose()
    forget_broker()
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def app() -> FastAPI:
    """The whole API. It holds no state of a home, so one serves all tests."""
    return create_app()


@pytest.fixture
def api(app: FastAPI, home: Path) -> Iterator[TestClient]:
    """A client on the API's own machine."""
    with client_of(app) as client:
        yield client


@pytest.fixture
def submit(api: TestClient) -> Submit:
    """Submits a small eval over HTTP; keywords are fields of the request. Gives the job."""

    def post(**fields: Any) -> dict[str, Any]:
        response = api.post("/v1/jobs", json={"kind": "eval", "spec": eval_tables(), **fields})
        assert response.status_code == 202, response.text
        return dict(response.json())

    return post
