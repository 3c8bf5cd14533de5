"""What a client sees when something goes wrong on the server's side."""

from __future__ import annotations

import logging

import pytest
from fastapi.testclient import TestClient
from served import Submit

from app import db
from app.routes import jobs as routes
from app.settings import get_settings


def test_an_unexpected_error_is_told_by_an_id_and_nothing_else(api: TestClient, submit: Submit, monkeypatch, caplog):
    url = submit()["links"]["self"]

    def explode(*_: object) -> None:
        raise RuntimeError("a secret of the server")

    monkeypatch.setattr(routes, "waiting_reason", explode)
    with caplog.at_level(logging.ERROR, "synthq.api"):
        response = api.get(url)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (500, "internal_error")
    assert response.headers["content-type"] == "application/problem+json"
    assert "secret" not in response.text
    assert response.headers["x-request-id"] == problem["request_id"]
    assert problem["request_id"] in caplog.text
    assert "a secret of the server" in caplog.text


def test_a_database_that_is_not_there_is_503_and_may_be_tried_again(api: TestClient, home, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNTHQ_DATABASE_URL", f"sqlite:///{tmp_path}/another.db")
    get_settings.cache_clear()
    response = api.get("/v1/jobs")
    assert response.status_code == 503
    assert (response.json()["code"], response.json()["retryable"]) == ("store_unavailable", True)
    assert "SELECT" not in response.text
    ready = api.get("/readyz")
    assert ready.status_code == 503
    assert "run `synthq db migrate`" in ready.json()["parts"]["database"]["detail"]
    db.dispose()


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/jobs/", "/v1/jobs/a/b/c", "/%00", "/\udcff"])
def test_every_path_that_is_not_there_is_a_problem(api: TestClient, path: str):
    response = api.get(path.encode("utf-8", "surrogateescape").decode("latin-1"))
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
