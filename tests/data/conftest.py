"""A home and a store of their own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import SQLModel

from app import db
from app.settings import get_settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home that this process's settings point to."""
    for name in ("DATABASE_URL", "ARTIFACTS_URL"):
        monkeypatch.delenv(f"SYNTHQ_{name}", raising=False)
    monkeypatch.setenv("SYNTHQ_HOME", str(tmp_path / "home"))
    get_settings.cache_clear()
    yield tmp_path / "home"
    db.dispose()
    get_settings.cache_clear()


@pytest.fixture
def store(home: Path) -> Path:
    """An empty database in ``home``."""
    SQLModel.metadata.create_all(db.engine())
    return home
