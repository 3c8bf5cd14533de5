"""A request that is sent twice makes one job."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from fastapi.testclient import TestClient
from served import eval_tables, row
from sqlalchemy import update

from app import db, idempotency
from app.models import Idempotency

REQUEST = {"kind": "eval", "spec": eval_tables(), "name": "once"}
KEY = {"Idempotency-Key": "a-key"}


def jobs_in(api: TestClient) -> list[str]:
    return [job["id"] for job in api.get("/v1/jobs").json()["data"]]


def test_a_repeat_is_answered_with_the_job_of_the_first(api: TestClient):
    first = api.post("/v1/jobs", json=REQUEST, headers=KEY)
    again = api.post("/v1/jobs", json=dict(reversed(REQUEST.items())), headers=KEY)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert (again.status_code, again.json(), again.headers["location"]) == (202, first.json(), first.headers["location"])
    assert jobs_in(api) == [first.json()["id"]]


def test_another_request_under_the_same_key_is_refused(api: TestClient):
    api.post("/v1/jobs", json=REQUEST, headers=KEY)
    response = api.post("/v1/jobs", json={**REQUEST, "priority": 1}, headers=KEY)
    assert (response.status_code, response.json()["code"]) == (422, "key_reused")
    assert len(jobs_in(api)) == 1


def test_a_request_that_was_refused_does_not_use_its_key_up(api: TestClient):
    assert api.post("/v1/jobs", json={**REQUEST, "after": [{"job": "nobody"}]}, headers=KEY).status_code == 404
    assert api.post("/v1/jobs", json=REQUEST, headers=KEY).status_code == 202


def test_many_at_once_make_one_job(api: TestClient):
    together = Barrier(8)

    def post(_: int) -> tuple[int, str]:
        together.wait()
        response = api.post("/v1/jobs", json=REQUEST, headers=KEY)
        return response.status_code, response.json()["id"]

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(post, range(8)))
    assert answers == {(202, jobs_in(api)[0])}
    assert len(jobs_in(api)) == 1


def test_the_second_of_two_that_missed_each_other_takes_the_job_of_the_first(api: TestClient, monkeypatch):
    """On Postgres two transactions can both find the key unused; the primary key then ends the second."""
    first = api.post("/v1/jobs", json=REQUEST, headers=KEY).json()
    recall, missed = idempotency._recall, []

    def blind_once(*args):
        if not missed:
            missed.append(args)
            return None
        return recall(*args)

    monkeypatch.setattr(idempotency, "_recall", blind_once)
    again = api.post("/v1/jobs", json=REQUEST, headers=KEY)
    assert (again.json()["id"], again.headers["idempotent-replayed"]) == (first["id"], "true")
    assert jobs_in(api) == [first["id"]]


def test_a_key_is_forgotten_after_a_day(api: TestClient):
    first = api.post("/v1/jobs", json=REQUEST, headers=KEY).json()["id"]
    with db.writing() as session:
        session.connection().execute(update(Idempotency).values(created_at=db.now() - 24 * 3600 - 1))
    second = api.post("/v1/jobs", json=REQUEST, headers=KEY)
    assert second.json()["id"] != first
    assert "idempotent-replayed" not in second.headers


def test_a_repeat_after_the_job_was_removed_does_not_make_it_again(api: TestClient):
    job = api.post("/v1/jobs", json=REQUEST, headers=KEY).json()
    api.post(f"/v1/jobs/{job['id']}/cancel")
    api.delete(f"/v1/jobs/{job['id']}")
    assert api.post("/v1/jobs", json=REQUEST, headers=KEY).status_code == 409


def test_without_a_key_each_request_makes_a_job(api: TestClient):
    assert len({api.post("/v1/jobs", json=REQUEST).json()["id"] for _ in range(2)}) == 2
    assert row("once").id == jobs_in(api)[0]


def test_a_key_that_is_no_key_is_refused(api: TestClient):
    for key in ("", "x" * 201, "a b"):
        assert api.post("/v1/jobs", json=REQUEST, headers={"Idempotency-Key": key}).status_code == 422
