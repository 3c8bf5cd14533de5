"""The command line against the real API over real HTTP, each test in a home of its own. There is no broker."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from console import Ran, Synthq, unused_port

from app import broker, db, migrate
from app.main import create_app
from app.settings import get_settings
from cli.main import main

NAMES = ("URL", "API_KEY", "API_KEYS", "API_HOST", "API_PORT", "DATABASE_URL", "ARTIFACTS_URL", "DEBUG")


@pytest.fixture(scope="session")
def api_url() -> Iterator[str]:
    """The address of the whole API. It works on the home that the present test has set."""
    server = uvicorn.Server(uvicorn.Config(create_app(), port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive(), "the API ended before it was up"
        assert time.monotonic() < deadline, "the API did not start"
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(30)


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home that is not there yet, no settings of the outside, a broker that nobody runs, an empty folder to work in."""
    for name in NAMES:
        monkeypatch.delenv(f"SYNTHQ_{name}", raising=False)
    monkeypatch.setenv("SYNTHQ_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SYNTHQ_REDIS_URL", f"redis://127.0.0.1:{unused_port()}/0")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    get_settings.cache_clear()
    broker.client.cache_clear()
    yield tmp_path / "home"
    db.dispose()
    broker.client.cache_clear()
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of this version with nothing in it, to be copied."""
    home = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNTHQ_HOME", str(home))
        patch.delenv("SYNTHQ_DATABASE_URL", raising=False)
        get_settings.cache_clear()
        migrate.upgrade()
        db.dispose()
    get_settings.cache_clear()
    return home / "synthq.db"


@pytest.fixture
def home(outside: Path, empty_database: Path) -> Path:
    """The home, with an empty database."""
    outside.mkdir()
    shutil.copy(empty_database, outside / "synthq.db")
    return outside


@pytest.fixture
def synthq(capsys: pytest.CaptureFixture[str]) -> Synthq:
    """Runs a command line in this process."""

    def run(*args: str) -> Ran:
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        said = capsys.readouterr()
        return Ran(code=code, out=said.out, err=said.err)

    return run


@pytest.fixture
def served(home: Path, api_url: str, synthq: Synthq, monkeypatch: pytest.MonkeyPatch) -> Synthq:
    """Runs a command line in this process against the API."""
    monkeypatch.setenv("SYNTHQ_URL", api_url)
    return synthq
