"""What is measured of a job: written by steps, read over HTTP."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from alembic import command
from core.kit import submit_noop, write
from fastapi.testclient import TestClient
from served import Submit

from app import db, migrate
from app.fsck import __main__ as fsck
from app.store import metrics


def recorded(job_id: str, scope: str, index: int, **values: Any) -> None:
    with db.writing() as session:
        metrics.record(session, job_id, scope, index, values)


def series(job_id: str, *args: Any, **more: Any) -> list[tuple[str, int, dict[str, float | None]]]:
    with db.reading() as session:
        return [(row.scope, row.index, row.values) for row in metrics.series(session, job_id, *args, **more)]


def test_points_come_back_by_index_and_scope(store: str) -> None:
    job_id = submit_noop().id
    for scope, index in (("update", 1), ("eval", 1), ("update", 0), ("train", 2)):
        recorded(job_id, scope, index, loss=index / 4)
    recorded(submit_noop().id, "update", 0, loss=9.0)
    every = [("update", 0), ("eval", 1), ("update", 1), ("train", 2)]
    assert series(job_id) == [(scope, index, {"loss": index / 4}) for scope, index in every]
    assert [point[:2] for point in series(job_id, "update")] == [("update", 0), ("update", 1)]
    assert [point[:2] for point in series(job_id, after=1)] == [("train", 2)]
    assert [point[:2] for point in series(job_id, limit=2)] == every[:3]


def test_a_point_that_is_measured_again_takes_the_place_of_the_first(store: str) -> None:
    job_id = submit_noop().id
    recorded(job_id, "train", 7, loss=1.0, grad_norm=2.0)
    with db.reading() as session:
        (before,) = (row.at for row in metrics.series(session, job_id))
    recorded(job_id, "train", 7, loss=0.5)
    assert series(job_id) == [("train", 7, {"loss": 0.5})]
    with db.reading() as session:
        assert metrics.series(session, job_id)[0].at >= before


def test_what_is_no_finite_number_is_kept_as_null(store: str) -> None:
    job_id = submit_noop().id
    recorded(job_id, "train", 0, a=math.nan, b=math.inf, c=-math.inf, d=None, e=np.float32(0.5), f=3)
    assert series(job_id) == [("train", 0, {"a": None, "b": None, "c": None, "d": None, "e": 0.5, "f": 3.0})]


def record_both(job_id: str) -> None:
    with db.writing() as session:
        metrics.record(session, job_id, "train", 0, {"loss": 1.0})
        metrics.record(session, job_id, "train", 1, {"loss": "low"})  # type: ignore[dict-item]


def test_a_point_of_a_transaction_that_fails_is_not_there(store: str) -> None:
    job_id = submit_noop().id
    with pytest.raises(ValueError, match="could not convert"):
        record_both(job_id)
    assert series(job_id) == []


def test_points_go_with_their_job(store: str) -> None:
    job_id = submit_noop().id
    recorded(job_id, "train", 0, loss=1.0)
    assert write("DELETE FROM job WHERE id = :id", id=job_id) == 1
    assert series(job_id) == []


@pytest.mark.parametrize("revision", ["0001", "0003", "0005"])
def test_a_store_of_an_earlier_version_keeps_its_jobs_and_takes_points(store: str, revision: str) -> None:
    job_id = submit_noop().id
    with db.engine().connect().execution_options(synthq_write=True) as connection, connection.begin():
        made = migrate.config()
        made.attributes["connection"] = connection
        command.downgrade(made, revision)
    migrate.upgrade()
    recorded(job_id, "train", 0, loss=1.0)
    assert series(job_id) == [("train", 0, {"loss": 1.0})]


def test_fsck_tells_of_points_that_cannot_be_read(store: str) -> None:
    job_id = submit_noop().id
    recorded(job_id, "train", 3, loss=1.0, bad=math.nan)
    assert [problem for check in fsck.run() for problem in check.problems] == []
    write("""UPDATE metric SET "values" = '{"loss": "low"}'""")
    (problem,) = [problem for check in fsck.run() for problem in check.problems]
    assert problem.subject == job_id
    assert problem.sentence.startswith(f"train 3 of job {job_id} has in its column values what cannot be read")


def test_the_api_gives_points_page_by_page_and_tells_every_scope(api: TestClient, submit: Submit) -> None:
    job = submit()
    for index in range(5):
        recorded(job["id"], "update", index, loss=1 / (index + 1))
    recorded(job["id"], "eval", 4, score=2.5)
    url = job["links"]["metrics"]
    first = api.get(url, params={"limit": 4}).json()
    assert ([point["index"] for point in first["data"]], first["has_more"], first["next_after"]) == ([0, 1, 2, 3], True, 3)
    rest = api.get(url, params={"after": first["next_after"]}).json()
    assert [(point["scope"], point["index"]) for point in rest["data"]] == [("eval", 4), ("update", 4)]
    assert (rest["has_more"], rest["next_after"]) == (False, 4)
    assert rest["scopes"] == [
        {"scope": "eval", "points": 1, "last": 4},
        {"scope": "update", "points": 5, "last": 4},
    ]
    of_one = api.get(url, params={"scope": "eval", "after": 4}).json()
    assert (of_one["data"], of_one["has_more"], of_one["next_after"], len(of_one["scopes"])) == ([], False, 4, 2)


def test_a_job_of_which_nothing_was_measured_has_no_points(api: TestClient, submit: Submit) -> None:
    found = api.get(submit()["links"]["metrics"]).json()
    assert (found["data"], found["scopes"], found["has_more"], found["next_after"]) == ([], [], False, None)


def test_metrics_of_no_job_are_not_found(api: TestClient) -> None:
    assert api.get("/v1/jobs/job_nothere/metrics").status_code == 404
