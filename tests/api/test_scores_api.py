"""Scores of judges over HTTP: attached all or none, merged by judge, shown with the trace."""

from __future__ import annotations

import json
from typing import Any

import pytest
from core.kit import work_through
from fastapi.testclient import TestClient
from served import Submit, eval_tables
from sqlmodel import col, update

from app import db
from app.models import Episode


@pytest.fixture
def ids(api: TestClient, submit: Submit) -> list[str]:
    """Episodes that were really played, newest first."""
    submit(spec=eval_tables(policies=["random"]))
    work_through()
    return [trace["id"] for trace in api.get("/v1/traces").json()["data"]]


def give(api: TestClient, *given: tuple[str, Any]) -> Any:
    return api.post("/v1/scores", json={"data": [{"episode": episode, "scores": scores} for episode, scores in given]})


def scores_of(api: TestClient, id: str) -> Any:
    return api.get(f"/v1/traces/{id}").json()["scores"]


def test_a_score_is_attached_and_shown_with_the_trace(api: TestClient, ids: list[str]) -> None:
    assert scores_of(api, ids[0]) is None
    before = api.get(f"/v1/traces/{ids[0]}").json()
    answer = give(api, (ids[0], {"quality": 0.8, "style": -3}))
    assert answer.status_code == 200
    assert answer.json() == {"object": "list", "data": [{"episode": ids[0], "scores": {"quality": 0.8, "style": -3.0}}]}
    assert api.get(f"/v1/traces/{ids[0]}").json() == {**before, "scores": {"quality": 0.8, "style": -3.0}}
    listed = {trace["id"]: trace["scores"] for trace in api.get("/v1/traces").json()["data"]}
    assert listed == dict.fromkeys(ids) | {ids[0]: {"quality": 0.8, "style": -3.0}}


def test_judges_do_not_touch_each_others_scores_and_null_takes_one_away(api: TestClient, ids: list[str]) -> None:
    give(api, (ids[0], {"a": 1, "b": 2}))
    give(api, (ids[0], {"b": 5, "c": 3}))
    assert scores_of(api, ids[0]) == {"a": 1.0, "b": 5.0, "c": 3.0}
    assert give(api, (ids[0], {"a": None, "b": None, "nobody": None})).json()["data"][0]["scores"] == {"c": 3.0}
    give(api, (ids[0], {"c": None}))
    assert scores_of(api, ids[0]) is None


def test_one_bad_item_keeps_all_out_and_every_bad_item_is_told(api: TestClient, ids: list[str]) -> None:
    answer = give(api, (ids[0], {"a": 1}), (ids[1][:-1], {"a": 1}), (ids[1], {"a": 1}), (ids[0], {"b": 1, "a": 2}), ("ep_", {}))
    assert answer.status_code == 422  # the empty scores of the last one
    assert [error["key"] for error in answer.json()["errors"]] == ["data.4.scores"]
    answer = give(api, (ids[0], {"a": 1}), (ids[1][:-1], {"a": 1}), (ids[1], {"a": 1}), (ids[0], {"b": 1, "a": 2}))
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_scores")
    told = {error["key"]: error["message"] for error in answer.json()["errors"]}
    assert list(told) == ["data.1.episode", "data.3.scores.a"]
    assert told["data.1.episode"].startswith(f"no trace matches '{ids[1][:-1]}'")
    assert told["data.3.scores.a"] == f"episode {ids[0]} has a score by a in data.0 already; keep one"
    assert [scores_of(api, id) for id in ids] == [None] * len(ids)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ("NaN", "finite number"),
        ("Infinity", "finite number"),
        ("1e999", "finite number"),
        ("true", "number"),
        ('"0.8"', "number"),
        ("[]", "number"),
    ],
)
def test_a_score_is_a_finite_number(api: TestClient, ids: list[str], scores: str, said: str) -> None:
    body = f'{{"data": [{{"episode": "{ids[0]}", "scores": {{"judge": {scores}}}}}]}}'
    answer = api.post("/v1/scores", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert [error["key"] for error in answer.json()["errors"]] == ["data.0.scores.judge"]
    assert said in answer.json()["detail"]
    assert scores_of(api, ids[0]) is None


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"data": []},
        {"data": [{"episode": "ep_1"}]},
        {"data": [{"episode": "ep_1", "scores": {"a judge": 1}}]},
        {"data": [{"episode": "ep_1", "scores": {"": 1}}]},
        {"data": [{"episode": "ep_1", "score": {"a": 1}}]},
        {"data": [{"episode": "ep_1", "scores": {f"j{i}": 1 for i in range(33)}}]},
        {"data": [{"episode": "ep_1", "scores": {"a": 1}}] * 10_001},
    ],
)
def test_a_body_of_another_form_is_refused(api: TestClient, body: Any) -> None:
    answer = api.post("/v1/scores", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["errors"]


def test_an_episode_that_is_still_played_has_no_scores_yet(api: TestClient, ids: list[str]) -> None:
    with db.writing() as session:
        session.connection().execute(update(Episode).where(col(Episode.id) == ids[0]).values(state="running"))
    answer = give(api, (ids[0], {"a": 1}))
    assert answer.status_code == 422
    assert "is still played" in answer.json()["detail"]
