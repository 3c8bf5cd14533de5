"""Jobs over HTTP: what is accepted, what is refused and how, which job a name means, what changes a job."""

from __future__ import annotations

import re

import pytest
from core.kit import claim, work_through
from fastapi.testclient import TestClient
from served import Submit, eval_tables, fail, row
from sqlalchemy import func, select

from app import artifacts, db
from app.models import Episode, Outbox, Step
from app.store import jobs

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def count(table: type) -> int:
    with db.reading() as session:
        return int(session.connection().execute(select(func.count()).select_from(table)).scalar_one())


def test_an_accepted_job_is_stored_whole_before_the_answer_goes_out(api: TestClient):
    response = api.post(
        "/v1/jobs",
        json={
            "kind": "eval",
            "spec": eval_tables(concurrency=3),
            "name": "first",
            "labels": {"team": "vision"},
            "source": "a.toml",
            "priority": 5,
        },
    )
    job = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"/v1/jobs/{job['id']}" == job["links"]["self"]
    assert (job["state"], job["name"], job["labels"], job["source"]) == ("queued", "first", {"team": "vision"}, "a.toml")
    assert (job["priority"], job["max_parallel"], job["attempt"], job["submitted_by"]) == (5, 3, 1, None)
    assert job["progress"] == {"done": 0, "failed": 0, "total": 2, "unit": "episodes", "cut_short": 0}
    assert TIME.fullmatch(job["created_at"])
    assert job["started_at"] is None
    assert job["spec"]["eval"]["reward"] == "unlocked", "defaults are written out"
    assert count(Step) == 2
    assert count(Outbox) == 1
    assert api.get(job["links"]["self"]).json() == {
        key: value for key, value in job.items() if key not in ("warnings", "estimate")
    }
    for link in job["links"].values():
        assert api.get(link).status_code == 200


def test_a_job_takes_the_name_in_its_spec_unless_the_request_has_one(submit: Submit):
    tables = {"name": "in-the-spec", **eval_tables()}
    assert submit(spec=tables)["name"] == "in-the-spec"
    assert submit(spec=tables, name="in-the-request")["name"] == "in-the-request"


def test_a_dry_run_checks_everything_and_stores_nothing(api: TestClient):
    request = {"kind": "eval", "spec": eval_tables(), "name": "dry"}
    checked = api.post("/v1/jobs?dry_run=true", json=request, headers={"Idempotency-Key": "k"})
    assert checked.status_code == 200
    assert (checked.json()["dry_run"], checked.json()["name"]) == (True, "dry")
    assert checked.json()["spec"]["eval"]["seeds"] == [0, 1]
    bad = api.post("/v1/jobs?dry_run=true", json={"kind": "eval", "spec": {"eval": {}}})
    assert bad.status_code == 422
    assert api.get("/v1/jobs").json()["data"] == []


def test_every_problem_of_a_spec_is_told_with_its_key(api: TestClient):
    response = api.post("/v1/jobs", json={"kind": "eval", "spec": {"eval": {"seedz": "0", "max_turns": -1}}})
    problem = response.json()
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["code"] == "spec_problems"
    assert problem["type"] == "/docs/errors#spec_problems"
    assert problem["instance"] == "/v1/jobs"
    assert problem["request_id"] == response.headers["x-request-id"]
    assert {error["key"] for error in problem["errors"]} == {"eval.seeds", "eval.seedz", "eval.max_turns"}
    assert "did you mean 'seeds'?" in response.text


def test_the_warnings_of_a_spec_are_in_the_answer_and_among_the_events(api: TestClient, submit: Submit):
    job = submit(spec=eval_tables(seeds="0-1", policy_config={"top_p": 0.5}, policies=["random"], max_turns=100_000))
    told = [e["message"] for e in api.get(job["links"]["events"]).json()["data"] if e["type"] == "spec.warning"]
    assert told == job["warnings"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"kind": "eval", "spec": {}, "pryority": 1}, "did you mean 'priority'?"),
        ({"kind": "eval", "spec": {}, "after": [{"job": "x", "onn": "ok"}]}, "did you mean 'on'?"),
        ({"kind": "eval"}, "spec: is missing"),
        ({"kind": "evil", "spec": {}}, "did you mean 'eval'?"),
        ({"kind": "eval", "spec": {}, "priority": "high"}, "not 'high'"),
        ({"kind": "eval", "spec": {}, "name": "a b"}, "name"),
        ({"kind": "eval", "spec": {}, "labels": {"a": "\x00"}}, "labels"),
        ([], "body"),
    ],
)
def test_a_request_that_cannot_be_right_is_refused_with_what_would_be(api: TestClient, body, says):
    response = api.post("/v1/jobs", json=body)
    assert response.status_code == 422
    assert says in response.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [b"{", b"\xff\xfe", b'{"kind": "eval", "spec": {"eval": {"seeds": "\\ud800"}}}', b'{"kind": "\\ud800", "spec": {}}', b""],
)
def test_a_body_that_is_broken_is_a_problem_and_no_server_error(api: TestClient, body: bytes):
    response = api.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)
    assert response.headers["content-type"] == "application/problem+json"


def test_a_page_of_another_site_cannot_post_a_form_as_a_job(api: TestClient):
    body = '{"kind": "eval", "spec": {"eval": {"seeds": "0"}}}'
    assert api.post("/v1/jobs", content=body, headers={"content-type": "text/plain"}).status_code == 422


@pytest.mark.parametrize("told", [True, False])
def test_a_body_that_is_too_long_is_not_read(api: TestClient, told: bool):
    body = b'{"kind": "' + b"x" * (4 * 1024 * 1024) + b'"}'
    content = body if told else iter([body[:1000], body[1000:]])
    response = api.post("/v1/jobs", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 413
    assert response.json()["code"] == "body_too_large"
    assert response.headers["x-request-id"] == response.json()["request_id"]


def test_unknown_query_parameters_and_paths_are_told_the_nearest_name(api: TestClient):
    assert "did you mean 'limit'?" in api.get("/v1/jobs?limmit=3").json()["detail"]
    assert "did you mean '/v1/jobs'?" in api.get("/v1/jobz").json()["detail"]
    wrong_method = api.put("/v1/jobs")
    assert wrong_method.status_code == 405
    assert wrong_method.json()["code"] == "method_not_allowed"
    assert wrong_method.headers["allow"]


@pytest.mark.parametrize("limit", [0, 501, "many"])
def test_a_page_is_1_to_500_long(api: TestClient, limit):
    assert api.get(f"/v1/jobs?limit={limit}").status_code == 422


# -- which job ---------------------------------------------------------------------------------------------------------------


def test_a_job_is_found_by_id_start_of_id_name_and_last(api: TestClient, submit: Submit):
    older, newer = submit(name="same"), submit(name="same")
    for ref in (older["id"], older["id"][:12], older["id"].removeprefix("job_"), older["id"].removeprefix("job_")[:8]):
        assert api.get(f"/v1/jobs/{ref}").json()["id"] == older["id"]
    assert api.get("/v1/jobs/same").json()["id"] == newer["id"]
    assert api.get("/v1/jobs/@last").json()["id"] == newer["id"]


def test_a_start_that_fits_several_jobs_is_refused_with_their_ids(api: TestClient, submit: Submit):
    ids = [submit()["id"], submit()["id"]]
    response = api.get("/v1/jobs/job_")
    assert (response.status_code, response.json()["code"]) == (409, "ambiguous_name")
    assert all(id in response.json()["detail"] for id in ids)


def test_a_whole_name_goes_before_the_start_of_an_id(api: TestClient, submit: Submit):
    other = submit()
    named = submit(name=other["id"].removeprefix("job_")[:6])
    assert api.get(f"/v1/jobs/{named['name']}").json()["id"] == named["id"]


@pytest.mark.parametrize("ref", ["nothing", "@first", "%00", "job_%25", "a%2Fb", "%F0%9F%8E%AE", "_", "job__"])
def test_a_name_that_no_job_has_is_not_found(api: TestClient, submit: Submit, ref: str):
    submit()
    response = api.get(f"/v1/jobs/{ref}")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


# -- pages -------------------------------------------------------------------------------------------------------------------


def test_pages_give_every_job_once_while_new_ones_come(api: TestClient, submit: Submit):
    ids = [submit()["id"] for _ in range(7)]
    seen, cursor = [], ""
    while True:
        page = api.get(f"/v1/jobs?limit=3{cursor}").json()
        seen += [job["id"] for job in page["data"]]
        submit()
        if not page["has_more"]:
            assert page["next_cursor"] is None
            break
        cursor = f"&after={page['next_cursor']}"
    assert seen == ids[::-1]


def test_jobs_are_filtered_by_state_kind_name_and_labels(api: TestClient, submit: Submit):
    a = submit(name="a", labels={"team": "x", "run.no": "1"})["id"]
    b = submit(name="b", labels={"team": "x"})["id"]
    c = submit(name="c")["id"]
    api.post(f"/v1/jobs/{c}/cancel")

    def found(query: str) -> list[str]:
        return [job["id"] for job in api.get(f"/v1/jobs?{query}").json()["data"]]

    assert found("label=team=x") == [b, a]
    assert found("label=team=x&label=run.no=1") == [a]
    assert found("state=cancelled") == [c]
    assert found("state=cancelled&state=queued&name=b") == [b]
    assert found("kind=filter") == []
    assert api.get("/v1/jobs?label=team").status_code == 422
    for query in ("state=done", "name=%00", "kind=%00", "label=a%22=b", "label=a=%00"):
        assert api.get(f"/v1/jobs?{query}").status_code == 422


@pytest.mark.parametrize("cursor", ["x", "AAAA", "W10", "WzEsICJhIl0", "%00", "WzFlOTk5LCAiYSJd", "bnVsbA"])
def test_a_cursor_that_no_page_gave_is_refused(api: TestClient, cursor: str):
    response = api.get(f"/v1/jobs?after={cursor}")
    assert response.status_code == 422
    assert "is no cursor" in response.json()["detail"]


# -- jobs that wait for jobs -------------------------------------------------------------------------------------------------


def test_the_jobs_to_wait_for_are_kept_by_full_id(api: TestClient, submit: Submit):
    first = submit(name="first")
    second = submit(after=[{"job": "first"}, {"job": first["id"][:14], "on": "any"}])
    assert second["after"] == [{"job": first["id"], "on": "ok"}, {"job": first["id"], "on": "any"}]
    assert api.get(f"{second['links']['self']}/steps").json()["data"] == []


def test_waiting_for_the_success_of_a_job_that_failed_is_refused(api: TestClient, submit: Submit):
    dead = submit()
    api.post(f"/v1/jobs/{dead['id']}/cancel")
    request = {"kind": "eval", "spec": eval_tables(), "after": [{"job": dead["id"]}]}
    refused = api.post("/v1/jobs", json=request)
    assert refused.status_code == 409
    assert "ended as cancelled" in refused.json()["detail"]
    assert submit(after=[{"job": dead["id"], "on": "any"}])["state"] == "queued"
    assert api.post("/v1/jobs", json={**request, "after": [{"job": "nobody"}]}).status_code == 404


# -- changes -----------------------------------------------------------------------------------------------------------------


def test_cancel_may_be_repeated_and_retry_needs_an_end(api: TestClient, submit: Submit):
    url = submit()["links"]["self"]
    assert api.post(f"{url}/retry").status_code == 409
    cancelled = api.post(f"{url}/cancel").json()
    assert (cancelled["state"], cancelled["reason"], cancelled["waiting"]) == ("cancelled", "cancelled by the user", None)
    assert api.post(f"{url}/cancel").json() == cancelled
    retried = api.post(f"{url}/retry").json()
    assert (retried["state"], retried["attempt"], retried["finished_at"]) == ("queued", 2, None)
    assert api.post(f"{url}/retry").status_code == 409


def test_a_job_that_runs_is_cancelled_when_its_step_has_stopped(api: TestClient, submit: Submit):
    job = submit()
    claim()
    asked = api.post(f"/v1/jobs/{job['id']}/cancel").json()
    assert (asked["state"], asked["cancel_requested"]) == ("running", True)
    assert asked["waiting"] == "is being cancelled; 1 running step still to stop"


def test_a_job_that_was_played_has_its_scores_and_can_only_be_removed(api: TestClient, submit: Submit):
    job = submit()
    work_through()
    done = api.get(job["links"]["self"]).json()
    assert (done["state"], done["waiting"]) == ("succeeded", None)
    assert done["progress"] == {"done": 2, "failed": 0, "total": 2, "unit": "episodes", "cut_short": 0}
    assert done["summary"]["episodes"]["done"] == 2
    assert api.post(f"{job['links']['self']}/cancel").status_code == 409
    assert api.post(f"{job['links']['self']}/retry").status_code == 409
    steps = api.get(job["links"]["steps"]).json()["data"]
    assert [step["state"] for step in steps] == ["succeeded"] * len(steps)
    assert {step["kind"] for step in steps} == {"play", "report"}


def test_removing_a_job_takes_its_rows_and_files(api: TestClient, submit: Submit):
    job = submit()
    assert api.delete(job["links"]["self"]).status_code == 409
    work_through()
    kept = api.get(job["links"]["artifacts"]).json()["data"]
    with db.reading() as session:
        rows = jobs.artifacts(session, row(job["id"]))
    removed = api.delete(job["links"]["self"])
    assert (removed.status_code, removed.content) == (204, b"")
    assert api.get(job["links"]["self"]).status_code == 404
    assert count(Episode) == 0
    for artifact in rows:
        assert api.get(f"/v1/artifacts/{artifact.id}").status_code == 404
        with pytest.raises(artifacts.ArtifactNotFound):
            artifacts.open_artifact(artifact)
    assert len(rows) == len(kept)


def test_a_failed_job_tells_why(api: TestClient, submit: Submit):
    job = submit(spec=eval_tables(seeds="0"))
    fail(claim(), "the world would not start")
    assert api.get(job["links"]["steps"]).json()["data"][0]["reason"] == "the world would not start"
