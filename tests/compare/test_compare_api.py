"""Comparisons over HTTP, of jobs that were really played."""

from __future__ import annotations

from typing import Any

import pytest
from core.kit import job, submit, submit_eval, work_through, write
from fastapi.testclient import TestClient
from sqlmodel import select

from app import db, specs
from app.models import Episode, Job, new_id
from app.scores import EpisodeScore, summarise
from app.specs.crafter import ACHIEVEMENTS

SMALL: dict[str, Any] = {"max_turns": 30, "env_config": {"length": 30}, "save_frames": "none"}


def compared(api: TestClient, *arms: str, status: int = 200, **more: Any) -> dict[str, Any]:
    response = api.get("/v1/compare", params={"arm": arms, **more})
    assert response.status_code == status, response.text
    return dict(response.json())


def test_jobs_are_compared_by_name_policy_by_policy(api: TestClient) -> None:
    base = submit_eval("0-5", name="base", **SMALL)
    submit_eval("2-7", name="tuned", policies=["random", "scripted"], **SMALL)
    work_through()
    found = compared(api, "base", "tuned")
    assert [(arm["label"], arm["policy"], arm["done"]) for arm in found["arms"]] == [
        ("base", "random", 6),
        ("tuned random", "random", 6),
        ("tuned scripted", "scripted", 6),
    ]
    assert found["seeds"] == {"compared": 4, "not_asked_of_all": 4, "not_whole": 0}
    assert found["achievements"] == list(ACHIEVEMENTS)
    assert found["conditions"]["max_turns"] == 30
    assert found["differences"][0]["return"] == {"mean": 0.0, "low": 0.0, "high": 0.0}, "the same policy, the same draws"
    with db.reading() as session:
        rows = session.exec(select(Episode).where(Episode.job_id == base.id, Episode.seed >= 2)).all()
        scores = [
            EpisodeScore(seed=row.seed, achievements=tuple(row.achievements), return_=row.returns["native"], length=row.length)
            for row in rows
        ]
    report = summarise(scores, ACHIEVEMENTS)
    for name in ("crafter_score", "achievements", "progress", "return", "length"):
        assert found["results"]["base"][name]["mean"] == pytest.approx(report[name]["mean"])
    one = compared(api, "base", "tuned:scripted")
    assert [arm["label"] for arm in one["arms"]] == ["base", "tuned"]
    assert one["results"]["tuned"] == found["results"]["tuned scripted"]


def test_what_was_not_played_alike_is_refused_unless_asked_for(api: TestClient) -> None:
    submit_eval("0-1", name="short", **SMALL)
    submit_eval("0-1", name="long", **{**SMALL, "max_turns": 31, "env_config": {"length": 31}})
    work_through()
    problem = compared(api, "short", "long", status=409)
    assert problem["code"] == "not_comparable"
    assert "env_config.length: 30 (short), 31 (long)" in problem["detail"]
    found = compared(api, "short", "long", anyway=True)
    assert [each["key"] for each in found["different"]] == ["env_config.length", "max_turns"]


def test_a_job_that_has_not_ended_is_compared_as_far_as_it_is_and_told(api: TestClient) -> None:
    whole, part = submit_eval("0-3", name="whole", **SMALL), submit_eval("0-3", name="part", **SMALL)
    work_through()
    write("UPDATE job SET state = 'running' WHERE id = :id", id=part.id)
    write("DELETE FROM episode WHERE job_id = :id AND seed = 3", id=part.id)
    found = compared(api, whole.id, part.id)
    assert found["seeds"] == {"compared": 3, "not_asked_of_all": 0, "not_whole": 1}
    assert f"part: 3 of 4 episodes are done; its job {part.id} is running" in found["notes"]


@pytest.mark.parametrize(
    ("arms", "status", "said"),
    [
        (("nothere", "base"), 404, "no job"),
        (("base",), 422, "takes two arms or more, and random is one"),
        (("base", "base"), 422, "is there twice; name it once"),
        (("base", "base:scripted"), 422, "no policy of job"),
        (("base", "base@3"), 422, "an eval has no iterations; write base"),
        (("base", "base@x"), 422, "names no arm; write JOB, JOB:POLICY, or JOB@ITERATION"),
        (("base", "kept"), 422, "is of the kind filter, and only what eval and rl jobs play is compared"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(
    api: TestClient, arms: tuple[str, ...], status: int, said: str
) -> None:
    submit_eval("0", name="base", **SMALL)
    spec = specs.build({"kind": "filter", "filter": {"jobs": ["base"]}})
    submit("filter", specs.resolved(spec), name="kept")
    assert said in compared(api, *arms, status=status)["detail"]


# -- rl ----------------------------------------------------------------------------------------------------------------------


def rl_job(*, name: str = "trained", state: str = "succeeded", **evaluation: Any) -> Job:
    """The row of an rl job that was evaluated on the seeds 100 to 102."""
    tables = {
        "kind": "rl",
        "model": {"base": "/models/tiny"},
        "rollout": {"max_turns": 30, "env_config": {"length": 30}, "episodes_per_batch": 4, "batches_per_step": 1},
        "training": {"group_size": 2, "batch_size": 4, "iterations": 6},
        "data": {"seeds": "0-9"},
        "evaluation": {"seeds": "100-102", "every_n_iters": 2, **evaluation},
    }
    spec = specs.resolved(specs.build(tables))
    with db.writing() as session:
        row = Job(id=new_id("job"), kind="rl", name=name, state=state, spec=spec, spec_sha256="0" * 64, created_at=1.0)
        session.add(row)
        session.flush()
        session.expunge(row)
    return row


def played(of: Job, iteration: int, seeds: range, *achievements: str, member: int = 0, split: str = "evaluation") -> None:
    """Rows of episodes of an rl job."""
    with db.writing() as session:
        for seed in seeds:
            session.add(
                Episode(
                    id=new_id("ep"),
                    job_id=of.id,
                    step_id="step_1",
                    iteration=iteration,
                    seed=seed,
                    member=member,
                    split=split,
                    env="crafter",
                    env_version="1",
                    policy="model:/models/tiny",
                    policy_version=f"{of.id}-v{iteration + 1}",
                    state="done",
                    ended="length",
                    turns=30,
                    length=30,
                    returns={"native": float(len(achievements))},
                    achievements=dict.fromkeys(achievements, 5),
                    unlocked=len(achievements),
                    outcomes={"ok": 30},
                    created_at=2.0,
                )
            )


def test_an_rl_job_is_its_last_whole_evaluation_and_by_name_any_other(api: TestClient) -> None:
    trained = rl_job()
    for iteration in (0, 2, 4):
        played(trained, iteration, range(3), "wake_up", "collect_wood", "place_table")
        played(trained, iteration, range(100, 103), *ACHIEVEMENTS[: 1 + iteration])
    played(trained, 6, range(100, 102), *ACHIEVEMENTS[:9])
    found = compared(api, "trained@0", "trained")
    assert [(arm["label"], arm["iteration"], arm["asked"], arm["versions"]) for arm in found["arms"]] == [
        ("trained@0", 0, 3, [f"{trained.id}-v1"]),
        ("trained@4", 4, 3, [f"{trained.id}-v5"]),
    ]
    assert [result["achievements"]["mean"] for result in found["results"].values()] == [1.0, 5.0]
    assert found["differences"][0]["achievements"]["mean"] == 4.0


def test_play_with_black_pictures_is_no_part_of_an_evaluation(api: TestClient) -> None:
    trained = rl_job(blank_frames_every_n_iters=2)
    played(trained, 4, range(100, 103), *ACHIEVEMENTS[:5])
    played(trained, 4, range(100, 103), *ACHIEVEMENTS[:1], member=1, split="evaluation-blank")
    played(trained, 6, range(100, 102), *ACHIEVEMENTS[:5])
    played(trained, 6, range(100, 102), *ACHIEVEMENTS[:1], member=1, split="evaluation-blank")
    (arm, _) = compared(api, "trained", "trained@6")["arms"]
    assert (arm["iteration"], arm["asked"]) == (4, 3), "what was played blind makes no evaluation whole"
    found = compared(api, "trained@4", "trained@6")
    assert [result["achievements"]["mean"] for result in found["results"].values()] == [5.0, 5.0]


def test_an_evaluation_that_was_not_made_is_refused_with_those_that_were(api: TestClient) -> None:
    trained = rl_job()
    assert "has evaluated nothing yet" in compared(api, "trained", "trained@0", status=422)["detail"]
    played(trained, 0, range(100, 103))
    said = compared(api, "trained@0", "trained@3", status=422)["detail"]
    assert said.endswith("was not evaluated at iteration 3 (it was at: 0)")


def test_an_rl_job_meets_the_conditions_of_its_evaluation(api: TestClient) -> None:
    trained = rl_job(temperature=0.5)
    played(trained, 6, range(100, 103), "wake_up")
    submit_eval("100-102", name="base", policies=["random"], **SMALL)
    work_through()
    assert job(trained.id).state == "succeeded"
    found = compared(api, "base", "trained")
    assert [arm["label"] for arm in found["arms"]] == ["base", "trained@6"]
    assert found["conditions"]["temperature"] == 0.5
    assert {each["key"] for each in found["different"]} == {"split"}
