"""Traces, frames and artifacts over HTTP, of a job that was really played."""

from __future__ import annotations

import hashlib
import io
import json

import pytest
from core.kit import work_through
from fastapi.testclient import TestClient
from PIL import Image
from served import Submit, eval_tables


@pytest.fixture
def played(api: TestClient, submit: Submit) -> dict:
    """A job of two seeds and two policies, played to its end."""
    job = submit(name="played", spec=eval_tables(policies=["scripted", "random"]))
    work_through()
    return dict(api.get(job["links"]["self"]).json())


def traces(api: TestClient, query: str = "") -> list[dict]:
    return list(api.get(f"/v1/traces?{query}").json()["data"])


def test_traces_are_listed_newest_first_without_turns_and_filtered(api: TestClient, played):
    everything = traces(api)
    assert len(everything) == 4
    assert [t["created_at"] for t in everything] == sorted((t["created_at"] for t in everything), reverse=True)
    assert {t["job_name"] for t in everything} == {"played"}
    assert "snapshot" not in everything[0]
    assert {t["policy"] for t in traces(api, "policy=random")} == {"random"}
    assert {t["seed"] for t in traces(api, "seed=1")} == {1}
    assert len(traces(api, f"job={played['id'][:12]}&state=done")) == 4
    assert traces(api, "state=failed") == traces(api, "policy=nobody") == traces(api, "min_unlocked=23") == []
    most = max(t["unlocked"] for t in everything)
    assert {t["unlocked"] for t in traces(api, f"min_unlocked={most}")} == {most}
    assert api.get("/v1/traces?job=nobody").status_code == 404


def test_pages_of_traces_give_each_once(api: TestClient, played):
    seen, page = [], api.get("/v1/traces?limit=3").json()
    seen += page["data"]
    page = api.get(f"/v1/traces?limit=3&after={page['next_cursor']}").json()
    assert seen + page["data"] == traces(api)
    assert (page["has_more"], page["next_cursor"]) == (False, None)


def test_a_trace_is_found_by_id_and_start_of_id(api: TestClient, played):
    trace = traces(api)[0]
    for ref in (trace["id"], trace["id"][:-1]):
        assert api.get(f"/v1/traces/{ref}").json() == trace
    for ref in ("nobody", "%00", "a%25"):
        assert api.get(f"/v1/traces/{ref}").json()["code"] in ("trace_not_found", "no_such_path")
        assert api.get(f"/v1/traces/{ref}/turns").status_code == 404
        assert api.get(f"/v1/traces/{ref}/replay").status_code == 404


def test_turns_carry_the_whole_prompt_the_reply_and_the_frame(api: TestClient, played):
    trace = traces(api, "policy=scripted")[0]
    url = f"/v1/traces/{trace['id']}/turns"
    first = api.get(f"{url}?limit=2").json()
    rest = api.get(f"{url}?after={first['data'][-1]['index']}").json()
    turns = first["data"] + rest["data"]
    assert [turn["index"] for turn in turns] == list(range(trace["turns"]))
    assert (first["has_more"], rest["has_more"]) == (True, False)
    for turn in turns:
        roles = [message["role"] for message in turn["messages"]]
        assert roles == ["system", "user"]
        assert turn["messages"][0]["parts"][0]["text"]
        images = [part for part in turn["messages"][1]["parts"] if part["type"] == "image"]
        assert [image["sha256"] for image in images] == [turn["frame"]]
        assert turn["actions"]
        assert turn["reply"]["finish"] == "stop"


def test_a_frame_is_its_png_and_may_be_kept_for_ever(api: TestClient, played):
    sha256 = api.get(f"/v1/traces/{traces(api)[0]['id']}/turns").json()["data"][0]["frame"]
    response = api.get(f"/v1/frames/{sha256}")
    assert response.headers["content-type"] == "image/png"
    assert hashlib.sha256(response.content).hexdigest() == sha256
    assert Image.open(io.BytesIO(response.content)).size == (64, 64)
    assert "immutable" in response.headers["cache-control"]
    unchanged = api.get(f"/v1/frames/{sha256}", headers={"If-None-Match": response.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    for missing in ("0" * 64, "x", sha256.upper(), "%00"):
        assert api.get(f"/v1/frames/{missing}").status_code == 404


@pytest.mark.parametrize("format", ["gif", "png"])
def test_a_replay_is_a_picture_of_the_asked_format(api: TestClient, played, format: str):
    response = api.get(f"/v1/traces/{traces(api)[0]['id']}/replay?format={format}&scale=2&max_turns=3")
    assert response.headers["content-type"] == f"image/{format}"
    picture = Image.open(io.BytesIO(response.content))
    assert picture.format == format.upper()
    assert picture.width >= 128


@pytest.mark.parametrize("query", ["format=mp4", "scale=0", "scale=17", "fps=0", "max_turns=0"])
def test_a_replay_that_cannot_be_drawn_is_refused(api: TestClient, played, query: str):
    assert api.get(f"/v1/traces/{traces(api)[0]['id']}/replay?{query}").status_code == 422


def test_an_artifact_is_listed_described_and_given_whole(api: TestClient, played, submit: Submit):
    tables = {"filter": {"jobs": [played["id"]]}}
    made = submit(kind="filter", spec=tables, after=[{"job": played["id"]}])
    work_through()
    assert api.get(made["links"]["self"]).json()["state"] == "succeeded"
    listed = {artifact["kind"]: artifact for artifact in api.get(made["links"]["artifacts"]).json()["data"]}
    dataset = listed["dataset"]
    assert api.get(f"/v1/artifacts/{dataset['id']}").json() == dataset
    response = api.get(f"/v1/artifacts/{dataset['id']}/content")
    assert hashlib.sha256(response.content).hexdigest() == dataset["sha256"] == response.headers["etag"].strip('"')
    assert int(response.headers["content-length"]) == dataset["bytes"] == len(response.content)
    assert dataset["name"] in response.headers["content-disposition"]
    assert all(json.loads(line) for line in response.content.splitlines())
    headers = {"If-None-Match": f'"other", {response.headers["etag"]}'}
    assert api.get(f"/v1/artifacts/{dataset['id']}/content", headers=headers).status_code == 304


def test_an_artifact_whose_bytes_are_gone_is_not_found(api: TestClient, played, submit: Submit, home):
    made = submit(kind="filter", spec={"filter": {"jobs": [played["id"]]}})
    work_through()
    artifact = api.get(made["links"]["artifacts"]).json()["data"][0]
    for path in (home / "artifacts" / made["id"]).iterdir():
        path.unlink()
    response = api.get(f"/v1/artifacts/{artifact['id']}/content")
    assert (response.status_code, response.json()["code"]) == (404, "artifact_not_found")
    for missing in ("nobody", "%00"):
        assert api.get(f"/v1/artifacts/{missing}").status_code == 404
        assert api.get(f"/v1/artifacts/{missing}/content").status_code == 404
