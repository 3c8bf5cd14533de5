"""The report of an eval: the figures of the episodes that are in the store, and the truth about those that are not."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from flow import bytes_of, eval_tables, files_of, finish, job_of, run_spec, submit
from sqlmodel import Session, col, select

from app import claims, db, lifecycle
from app.models import Episode, Job, Queue
from app.scores import EpisodeScore, paired_difference, summarise
from workers.rollout import envs
from workers.rollout.envs.crafter import Crafter


def episodes(job: Job) -> list[Episode]:
    with db.reading() as session:
        return list(
            session.exec(select(Episode).where(Episode.job_id == job.id).order_by(col(Episode.seed), col(Episode.member)))
        )


def scores(rows: list[Episode], policy: str) -> list[EpisodeScore]:
    return [
        EpisodeScore(
            seed=e.seed,
            member=e.member,
            policy=policy,
            achievements=tuple(e.achievements),
            return_=e.returns["native"],
            length=e.length,
        )
        for e in rows
        if e.policy == policy
    ]


def summary_of(job: Job) -> dict[str, Any]:
    assert job.summary is not None
    return job.summary


def test_each_policy_is_scored_over_its_own_episodes(played: Job) -> None:
    rows, told = episodes(played), summary_of(played)
    names = envs.make("crafter").achievements
    assert list(told["policies"]) == ["scripted", "random"]
    for policy, figures in told["policies"].items():
        assert figures.items() >= summarise(scores(rows, policy), names).items()
        mine = [e for e in rows if e.policy == policy]
        assert figures["turns"] == sum(e.turns for e in mine) == 120
        assert figures["outcomes"] == {"ok": 120}
        assert figures["ended"] == Counter(e.ended for e in mine)


def test_policies_are_compared_seed_by_seed(played: Job) -> None:
    rows = episodes(played)
    (difference,) = summary_of(played)["differences"]
    assert (difference["a"], difference["b"]) == ("scripted", "random")
    assert difference.items() >= paired_difference(scores(rows, "scripted"), scores(rows, "random")).items()
    assert difference["seeds"] == 3
    of = summary_of(played)["policies"]
    mean = of["random"]["achievements"]["mean"] - of["scripted"]["achievements"]["mean"]
    assert difference["achievements"]["mean"] == pytest.approx(mean)


def test_totals_are_those_of_the_episodes(played: Job) -> None:
    rows, told = episodes(played), summary_of(played)
    assert told["episodes"] == {"asked": 6, "done": 6, "failed": 0, "missing": 0}
    assert (told["errors"], told["missing"], told["cut_short"]) == ([], [], {"episodes": 0, "turns": 0})
    assert told["game_steps"] == sum(e.length for e in rows)
    assert told["turns"] == sum(e.turns for e in rows) == 240
    assert told["outcomes"] == {"ok": 240}
    assert set(told["timings"]) == {"frame", "prompt", "policy", "env"}
    assert told["timings"]["env"] == pytest.approx(sum(e.timings["env"] for e in rows), abs=0.01)
    assert told["seconds"] > 0
    assert told["turns_per_s"] == pytest.approx(240 / told["seconds"], rel=0.01)


def test_the_report_is_a_file_with_every_episode(played: Job) -> None:
    report = json.loads(bytes_of(played, "report"))
    told = summary_of(played)
    assert files_of(played)["report"].name == "report.json"
    assert told["report"] == files_of(played)["report"].id
    assert {key: report[key] for key in ("policies", "differences", "episodes")} == {
        key: told[key] for key in ("policies", "differences", "episodes")
    }
    rows = episodes(played)
    assert [(r["episode"], r["achievements"], r["sha256"]) for r in report["results"]] == [
        (e.id, e.achievements, e.sha256) for e in rows
    ]


def test_a_seed_that_fails_is_told_with_its_reason_and_a_retry_makes_it_good(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reset = Crafter.reset

    def broken(self: Crafter, seed: int) -> None:
        if seed == 1:
            raise OSError("no world today")
        reset(self, seed)

    monkeypatch.setattr(Crafter, "reset", broken)
    job = run_spec(eval_tables(seeds="0-2", policies="random", max_turns=3))
    told = summary_of(job)
    assert job.state == "failed"
    assert job.reason == "1 of 3 episodes failed: seed 1: OSError: no world today"
    assert told["episodes"] == {"asked": 3, "done": 2, "failed": 1, "missing": 0}
    (error,) = told["errors"]
    assert (error["seed"], error["member"], error["policy"], error["error"]) == (1, 0, "random", "OSError: no world today")
    assert told["policies"]["random"]["episodes"] == 2, "a failed episode is no score of zero"

    monkeypatch.setattr(Crafter, "reset", reset)
    done = {e.seed: e.id for e in episodes(job) if e.state == "done"}
    with db.writing() as session:
        lifecycle.retry(session, _locked(session, job))
    job = finish(job.id)
    assert job.state == "succeeded"
    assert summary_of(job)["episodes"] == {"asked": 3, "done": 3, "failed": 0, "missing": 0}
    assert done.items() <= {e.seed: e.id for e in episodes(job)}.items(), "what was done is not played again"


def test_an_episode_that_nobody_played_is_missing_and_no_zero(store: Any) -> None:
    job = submit(eval_tables(seeds="4-5", policies="random", max_turns=3))
    claim = claims.claim(Queue.ROLLOUT, owner="worker-of-the-test")
    assert claim is not None
    with db.writing() as session:
        lifecycle.fail_step(session, claim.step_id, claim.fence, "the worker was lost", retryable=False)
    job = finish(job.id)
    told = summary_of(job)
    assert job.state == "failed"
    assert job.reason == "1 of 2 episodes failed: the worker was lost"
    assert told["episodes"] == {"asked": 2, "done": 1, "failed": 0, "missing": 1}
    assert told["missing"] == [{"seed": claim.payload["episodes"][0][1], "member": 0, "policy": "random"}]
    assert told["policies"]["random"]["episodes"] == 1


def test_without_any_episode_there_are_no_figures(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Crafter, seed: int) -> None:
        raise OSError("no world today")

    monkeypatch.setattr(Crafter, "reset", broken)
    job = run_spec(eval_tables(seeds="0-24", policies="random", max_turns=3))
    told = summary_of(job)
    assert told["policies"]["random"]["achievements"] == {"mean": None, "low": None, "high": None}
    assert len(told["errors"]) == 20, "the summary stays short"
    assert len(json.loads(bytes_of(job, "report"))["errors"]) == 25
    assert job_of(job.id).reason == "25 of 25 episodes failed: seed 0: OSError: no world today"


def _locked(session: Session, job: Job) -> Job:
    return lifecycle.lock_job(session, job.id)
