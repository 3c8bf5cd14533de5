"""A trainer that is interrupted says the same again: its versions keep their numbers, and what is there stays as it is."""

from __future__ import annotations

import pytest
from core import kit
from core.serving import BASE, OTHER, bring_there, look, submit_play, up, use
from sqlalchemy import select
from sqlmodel import col

from app import claims, db, lifecycle
from app.endpoints import publish
from app.errors import Conflict, LostStep
from app.models import AdapterVersion, Job
from workers.runner import StepContext

ONE, TWO = "1" * 64, "2" * 64


def line() -> Job:
    """A job that runs and publishes versions."""
    job = submit_play(use(label="model:/line", line="x"), seeds="0-3")
    kit.write("UPDATE job SET state = 'running' WHERE id = :id", id=job.id)
    return job


def publish_it(job: Job, version: int | None, sha256: str = ONE, *, base: str = BASE, path: str = "/versions/1") -> int:
    with db.writing() as session:
        return publish.publish(session, job.id, base, path, sha256=sha256, version=version)


def rows(job: Job) -> list[AdapterVersion]:
    query = select(AdapterVersion).where(col(AdapterVersion.line) == job.id).order_by(col(AdapterVersion.version))
    with db.reading() as session:
        return list(session.scalars(query))


def told(job: Job) -> list[str]:
    return [event.message for event in kit.job_events(job.id) if event.type == "adapter.published"]


def test_the_same_version_said_again_changes_nothing(store: str) -> None:
    job = line()
    assert [publish_it(job, 1), publish_it(job, 2, TWO)] == [1, 2]
    before = [row.model_dump() for row in rows(job)]

    assert [publish_it(job, 2, TWO, path="/moved"), publish_it(job, 1)] == [2, 1]

    assert [row.model_dump() for row in rows(job)] == before
    assert len(told(job)) == 2


@pytest.mark.parametrize(
    ("again", "said"),
    [
        ({"version": 1, "sha256": TWO}, "version 1 of the adapter of job .* is published already, with other weights"),
        ({"version": 1, "base": OTHER}, "with other weights"),
        ({"version": 3}, "version 3 of the adapter of job .* cannot be published: the next one is 2"),
        ({"version": 0}, "the next one is 2"),
    ],
)
def test_a_number_stands_for_one_adapter_and_none_is_left_out(store: str, again: dict[str, object], said: str) -> None:
    job = line()
    publish_it(job, 1)
    with pytest.raises(Conflict, match=said):
        publish_it(job, **again)  # type: ignore[arg-type]

    assert [(row.version, row.sha256, row.base) for row in rows(job)] == [(1, ONE, BASE)]


def test_after_a_retry_the_last_version_is_loaded_anew_and_goes_live(store: str) -> None:
    job = line()
    publish_it(job, 1)
    publish_it(job, 2, TWO)
    kit.write("UPDATE job SET state = 'failed', finished_at = 1 WHERE id = :id", id=job.id)
    look()
    assert [row.state for row in rows(job)] == ["retired", "retired"]
    kit.write("UPDATE job SET state = 'running', finished_at = NULL WHERE id = :id", id=job.id)

    assert publish_it(job, 2, TWO, path="/moved") == 2
    assert [(row.state, row.path) for row in rows(job)] == [("retired", "/versions/1"), ("loading", "/moved")]
    assert publish_it(job, 1) == 1
    assert [row.state for row in rows(job)] == ["retired", "loading"], "what was before it stays away"

    here = up("one")
    look()
    bring_there(here)
    look()
    assert [row.state for row in rows(job)] == ["retired", "live"]
    assert rows(job)[1].retired_at is None


def test_a_version_that_failed_may_be_tried_again(store: str) -> None:
    job = line()
    publish_it(job, 1)
    kit.write("UPDATE adapter_version SET state = 'failed', reason = 'no such file' WHERE line = :id", id=job.id)

    publish_it(job, 1)

    assert [(row.state, row.reason) for row in rows(job)] == [("loading", None)]


def test_a_step_that_has_lost_its_hold_publishes_nothing(store: str) -> None:
    job = submit_play(use(label="random", line="x"), seeds="0")
    context = StepContext(kit.claim())
    with db.writing() as session:
        lifecycle.lose_step(session, context.step_id, context.claim.fence, "it went away")
    taken = claims.claim("rollout", owner="another")
    assert taken is not None

    with pytest.raises(LostStep), context.write() as session:
        publish.publish(session, job.id, BASE, "/versions/1", sha256=ONE, version=1)
    assert rows(job) == []

    with StepContext(taken).write() as session:
        publish.publish(session, job.id, BASE, "/versions/1", sha256=ONE, version=1)
    assert [row.version for row in rows(job)] == [1]
