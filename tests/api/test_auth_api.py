"""Who may call: with keys everybody who has one, without keys this machine alone."""

from __future__ import annotations

import hashlib
import re

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from served import client_of, eval_tables

from app import db
from app.auth import any_key, is_loopback
from app.models import ApiKey
from app.settings import get_settings

REQUEST = {"kind": "eval", "spec": eval_tables()}
GUARDED = ["/v1/jobs", "/v1/traces", "/v1/workers", "/v1/queues", "/v1/keys", "/metrics", "/v1/frames/" + "0" * 64]
OPEN = ["/health", "/version", "/readyz"]


@pytest.fixture
def key(api: TestClient) -> dict[str, str]:
    return dict(api.post("/v1/keys", json={"name": "mine"}).json())


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("path", GUARDED)
def test_without_keys_another_machine_is_refused(app: FastAPI, home, path: str):
    response = client_of(app, address="192.0.2.7").get(path)
    assert (response.status_code, response.json()["code"]) == (403, "loopback_only")
    assert client_of(app).get(path).status_code in (200, 404)
    assert client_of(app, address="::1", host="localhost").get(path).status_code in (200, 404)


@pytest.mark.parametrize("path", OPEN)
def test_health_is_open_to_all(app: FastAPI, home, path: str):
    assert client_of(app, address="192.0.2.7").get(path).status_code in (200, 503)


def test_without_keys_a_web_page_in_this_machines_browser_is_refused(app: FastAPI, home):
    rebound = client_of(app, host="evil.example:8484").get("/v1/jobs")
    assert (rebound.status_code, rebound.json()["code"]) == (403, "loopback_only")
    foreign = client_of(app).post("/v1/jobs/x/cancel", headers={"Origin": "https://evil.example"})
    assert (foreign.status_code, foreign.json()["code"]) == (403, "loopback_only")
    assert client_of(app).get("/v1/jobs", headers={"Origin": "http://localhost:8484"}).status_code == 200


def test_the_first_key_is_made_on_the_servers_machine_and_ends_calls_without_one(app: FastAPI, api: TestClient, key):
    assert re.fullmatch(r"sq_[0-9a-z]{8}_[A-Za-z0-9_-]{43}", key["key"])
    assert key["key"].split("_")[1] == key["id"]
    assert api.get("/v1/jobs").status_code == 401
    assert api.post("/v1/keys", json={"name": "another"}).status_code == 401
    elsewhere = client_of(app, address="192.0.2.7", host="synthq.example")
    for headers in (bearer(key["key"]), {"X-API-Key": key["key"]}):
        for path in GUARDED:
            assert elsewhere.get(path, headers=headers).status_code in (200, 404)
    assert elsewhere.post("/v1/jobs", json=REQUEST, headers=bearer(key["key"])).json()["submitted_by"] == key["id"]


def test_only_the_hash_of_a_key_is_kept_and_lists_do_not_show_it(api: TestClient, key):
    with db.reading() as session:
        row = session.get(ApiKey, key["id"])
        assert row is not None
        assert row.sha256 == hashlib.sha256(key["key"].encode()).hexdigest()
    listed = api.get("/v1/keys", headers=bearer(key["key"]))
    assert [(k["id"], k["name"], k["revoked_at"]) for k in listed.json()["data"]] == [(key["id"], "mine", None)]
    assert key["key"] not in listed.text
    assert key["key"].split("_", 2)[2] not in listed.text


def test_every_wrong_key_gets_the_same_answer(api: TestClient, key):
    id, secret = key["key"].split("_", 2)[1:]
    wrong = ["", "x", secret, f"sq_{id}_{secret[:-1]}", f"sq_{id}_{'A' * 43}", f"sq_00000000_{secret}", key["key"] + "x"]
    answers = []
    for presented in wrong:
        response = api.get("/v1/jobs", headers={"X-API-Key": presented})
        assert response.headers["www-authenticate"] == "Bearer"
        answers.append({**response.json(), "request_id": ""})
    assert all(answer == answers[0] for answer in answers)
    assert answers[0]["status"] == 401
    assert answers[0]["code"] == "not_allowed"
    assert secret not in str(answers)


def test_a_revoked_key_is_refused_at_once(api: TestClient, key):
    other = api.post("/v1/keys", json={"name": "other"}, headers=bearer(key["key"])).json()
    assert api.delete(f"/v1/keys/{other['id']}", headers=bearer(key["key"])).status_code == 204
    assert api.get("/v1/jobs", headers=bearer(other["key"])).status_code == 401
    assert api.delete(f"/v1/keys/{other['id']}", headers=bearer(key["key"])).status_code == 204
    assert api.delete("/v1/keys/00000000", headers=bearer(key["key"])).status_code == 404
    listed = {k["id"]: k["revoked_at"] for k in api.get("/v1/keys", headers=bearer(key["key"])).json()["data"]}
    assert listed[key["id"]] is None
    assert listed[other["id"]] is not None


def test_keys_of_the_environment_are_taken(api: TestClient, home, monkeypatch):
    monkeypatch.setenv("SYNTHQ_API_KEYS", f" one-long-secret ,sq_abcdefgh_{'B' * 43}")
    get_settings.cache_clear()
    assert api.get("/v1/jobs").status_code == 401
    assert api.get("/v1/jobs", headers=bearer("two")).status_code == 401
    first = api.post("/v1/jobs", json=REQUEST, headers=bearer("one-long-secret")).json()
    second = api.post("/v1/jobs", json=REQUEST, headers=bearer(f"sq_abcdefgh_{'B' * 43}")).json()
    assert re.fullmatch("env-[0-9a-f]{8}", first["submitted_by"])
    assert second["submitted_by"] == "abcdefgh"
    assert "one-long-secret" not in str(first)


def test_idempotency_keys_of_two_callers_do_not_meet(api: TestClient, key):
    other = api.post("/v1/keys", json={"name": "other"}, headers=bearer(key["key"])).json()
    made = {
        api.post("/v1/jobs", json=REQUEST, headers={**bearer(k["key"]), "Idempotency-Key": "same"}).json()["id"]
        for k in (key, other)
    }
    assert len(made) == 2


def test_no_key_means_none_in_the_store_that_is_in_force(api: TestClient, key):
    api.delete(f"/v1/keys/{key['id']}", headers=bearer(key["key"]))
    with db.reading() as session:
        assert not any_key(session)
    assert api.get("/v1/jobs").status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "localhost", "a.localhost"])
def test_loopback_is_this_machine(host: str):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "192.0.2.7", "localhost.evil.example", "127.0.0.1.evil.example"])
def test_all_else_is_not(host: str):
    assert not is_loopback(host)
