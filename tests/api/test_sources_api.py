"""What a filter reads is looked at when it is submitted: jobs that are there, that play, and whose pictures agree."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from served import Submit, eval_tables

from app import db
from app.models import Imported


def problems(api: TestClient, *, dry_run: bool = False, **table: Any) -> dict[str, str]:
    """The problems of a filter, by key; none when it is accepted."""
    url = "/v1/jobs?dry_run=true" if dry_run else "/v1/jobs"
    answer = api.post(url, json={"kind": "filter", "spec": {"filter": table}})
    if answer.status_code in (200, 202):
        return {}
    assert (answer.status_code, answer.json()["code"]) == (422, "spec_problems"), answer.text
    return {error["key"]: error["message"] for error in answer.json()["errors"]}


def evals(submit: Submit, **table: Any) -> str:
    return str(submit(spec=eval_tables(policies=["random"], **table))["id"])


def imported(*jobs: str) -> None:
    with db.writing() as session:
        session.add(Imported(id="imp_1", name="rollouts.db", form="tracing_v3", jobs=list(jobs), counts={}, at=0.0))


def test_jobs_that_are_there_and_play_are_accepted(api: TestClient, submit: Submit) -> None:
    first, second = evals(submit), evals(submit)
    assert problems(api, jobs=[first, second[:-1]]) == {}
    assert problems(api) == {}, "the whole store, whatever is in it"


@pytest.mark.parametrize("dry_run", [False, True])
def test_every_job_that_cannot_be_read_is_told_by_its_place(api: TestClient, submit: Submit, dry_run: bool) -> None:
    played = evals(submit)
    answer = api.post("/v1/jobs", json={"kind": "filter", "spec": {"filter": {"jobs": played}}, "name": "lines"})
    made = answer.json()["id"]
    found = problems(api, dry_run=dry_run, jobs=[played, "gone", made, "job_", "@last"])
    assert list(found) == [f"filter.jobs.{i}" for i in (1, 2, 3, 4)]
    assert found["filter.jobs.1"].startswith("no job matches 'gone'")
    said = f"job {made} (lines) is of the kind filter, and only eval and rl jobs have episodes to filter"
    assert found["filter.jobs.2"] == said
    assert "fits several jobs" in found["filter.jobs.3"]
    assert found["filter.jobs.4"] == "@last will be the filter itself when it runs; write the job's id or its name"
    before = len(api.get("/v1/jobs").json()["data"])
    problems(api, dry_run=dry_run, jobs="gone")
    assert len(api.get("/v1/jobs").json()["data"]) == before, "nothing was stored"


NO_VISION, PICTURES_ALONE = {"policy_config": {"use_vision": False}}, {"policy_config": {"image_only_mode": True}}
NO_FRAMES = {"save_frames": "none"}
CLASHES: list[tuple[dict[str, Any], bool, str]] = [
    (NO_VISION, True, "was played without pictures (use_vision = false); include_images = false writes its text alone"),
    (NO_FRAMES, True, 'kept no pictures (save_frames = "none"); play it again with its frames kept'),
    (
        NO_FRAMES | NO_VISION,
        True,
        "was played without pictures (use_vision = false); include_images = false writes its text alone",
    ),
    (PICTURES_ALONE, False, "was played from pictures alone (image_only_mode = true); write include_images = true"),
    (NO_FRAMES, False, 'kept no prompts of random (save_frames = "none"); play it again with its frames kept'),
]


@pytest.mark.parametrize(("played", "include_images", "said"), CLASHES)
def test_pictures_that_do_not_agree_are_told_with_the_way_out(
    api: TestClient, submit: Submit, played: dict[str, Any], include_images: bool, said: str
) -> None:
    fine, other = evals(submit), evals(submit, **played)
    flag = "true" if include_images else "false"
    found = problems(api, jobs=[fine, other], include_images=include_images)
    assert list(found) == ["filter.include_images"]
    assert found["filter.include_images"].startswith(f"{flag} does not agree with filter.jobs.1: job {other} {said}")


@pytest.mark.parametrize(
    ("played", "include_images"),
    [({}, True), ({}, False), (PICTURES_ALONE, True), (NO_VISION, False), (NO_FRAMES | NO_VISION, False)],
)
def test_pictures_that_agree_are_accepted(api: TestClient, submit: Submit, played: dict[str, Any], include_images: bool) -> None:
    assert problems(api, jobs=evals(submit, **played), include_images=include_images) == {}


def test_an_import_must_be_there_and_hold_the_jobs(api: TestClient, submit: Submit) -> None:
    mine, brought = evals(submit), evals(submit)
    message = problems(api, db="traces/rollouts.db")["filter.db"]
    assert message.startswith("no imported store named 'rollouts.db'")
    assert "synthq traces import" in message
    assert 'db = "store" reads what was played here' in message
    imported(brought)
    assert problems(api, db="traces/rollouts.db", jobs=brought) == {}
    assert problems(api, db="traces/rollouts.db") == {}
    assert problems(api, db="rollouts.db", jobs=[brought, mine]) == {
        "filter.jobs.1": f"job {mine} did not come with rollouts.db; leave out db or the job"
    }


def test_play_with_black_pictures_is_told_of(api: TestClient, submit: Submit) -> None:
    seen = {
        "policies": ["openai:gpt-test", "random"],
        "policy_config": {"use_vision": True, "inference_url": "http://127.0.0.1:9/v1"},
    }
    ids = [str(submit(spec=eval_tables(**seen, blank_frames=blank))["id"]) for blank in (True, False)]

    def cautions(**table: Any) -> list[str]:
        answer = api.post("/v1/jobs?dry_run=true", json={"kind": "filter", "spec": {"filter": {"jobs": ids, **table}}})
        assert answer.status_code == 200, answer.text
        return [text for text in answer.json()["warnings"] if "black" in text]

    (told,) = cautions()
    assert told.startswith(f"filter.jobs.0: job {ids[0]} was played with black pictures, ")
    assert cautions(policies=["random"]) == [], "it reads no pictures"
    assert cautions(splits=["another"]) == []
