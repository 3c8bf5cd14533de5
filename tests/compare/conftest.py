"""The API on an empty store, for comparisons of what was really played."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from app.main import create_app


@pytest.fixture
def api(sqlite_store: str) -> Iterator[TestClient]:
    """A client on the API's own machine."""
    with TestClient(create_app(), base_url="http://127.0.0.1", client=("127.0.0.1", 50000)) as client:
        yield client
