"""A remote task app as the target of an eval: what it plays is stored as it came, and what it gets wrong is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from core.kit import job, submit_eval, use_settings, work_through
from foreign import Foreign, foreign_app, rollout
from sqlmodel import col, select
from task_app_kit import Running

from app import db, lifecycle
from app.models import Episode, FrameRow, TurnRow
from app.store import jobs
from workers.rollout.remote import client
from workers.transport.pixels import decode_png

pytestmark = pytest.mark.usefixtures("sqlite_store", "quick")


@pytest.fixture
def quick(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(client, "LOOK_S", 0.01)
    monkeypatch.setenv(client.WARMUP_VARIABLE, "5")
    monkeypatch.delenv(client.KEY_VARIABLE, raising=False)
    with use_settings(SYNTHQ_BACKOFF_S="0"):
        yield


@pytest.fixture
def app() -> Iterator[Foreign]:
    with foreign_app() as running:
        yield running


def asked(app: Foreign, **table: Any) -> str:
    """Have the app play an eval; the job's id."""
    given = {"seeds": "3", "max_turns": 4, "task_app_url": app.url, **table}
    job_id = submit_eval(**given).id
    work_through()
    return job_id


def only_episode(job_id: str) -> Episode:
    with db.reading() as session:
        return session.exec(select(Episode).where(Episode.job_id == job_id)).one()


def turns(episode: Episode) -> list[TurnRow]:
    with db.reading() as session:
        query = select(TurnRow).where(TurnRow.episode_id == episode.id).order_by(col(TurnRow.index))
        return list(session.exec(query))


def test_what_another_app_played_is_stored_as_it_came(app: Foreign) -> None:
    job_id = asked(app)
    assert job(job_id).state == "succeeded"
    episode = only_episode(job_id)
    rows = turns(episode)
    assert (episode.seed, episode.turns, episode.length, episode.ended) == (3, 4, 6, "turns")
    assert [row.actions for row in rows] == [["move_left", "do"], ["do", "do"], ["move_right", "do"], []]
    assert [row.outcome for row in rows] == ["ok", "ok", "ok", "no_tool_call"]
    assert episode.outcomes == {"ok": 3, "no_tool_call": 1}
    assert "reported" not in rows[0].rewards, "a reward that was not told is not there"
    assert rows[1].rewards["reported"] == rows[1].rewards["unlocked"]
    assert episode.truncated
    assert not episode.terminated


def test_the_pictures_of_its_prompts_become_frames(app: Foreign) -> None:
    rows = turns(only_episode(asked(app)))
    with db.reading() as session:
        frames = {frame.sha256: frame for frame in session.exec(select(FrameRow))}
    assert {row.frame for row in rows} == set(frames)
    assert all(decode_png(frame.png).shape == (64, 64, 3) for frame in frames.values())
    assert [part["type"] for message in rows[0].messages for part in message["parts"]] == ["image"]


def test_it_is_asked_by_the_contract(app: Foreign) -> None:
    asked(app, policies=["scripted:reactive"], max_time_s=9.0)
    [body] = app.bodies
    assert body["env"]["env_name"] == "crafter"
    assert body["env"]["seed"] == 3
    assert body["policy"]["policy_name"] == "scripted:reactive"
    assert body["policy"]["config"]["use_vision"] is True
    assert body["ops"] == ["agent", "env"] * 4
    assert body["safety"] == {"max_ops": 8, "max_time_s": 9.0}
    assert (body["mode"], body["on_done"]) == ("eval", "terminate")


def test_text_prompts_have_no_frames(app: Foreign) -> None:
    app.instead = [lambda body: rollout(body, with_pictures=False)]
    rows = turns(only_episode(asked(app)))
    assert {row.frame for row in rows} == {None}
    assert rows[0].messages[0]["parts"][0]["text"]


def test_it_is_waited_for_while_it_wakes_up(app: Foreign) -> None:
    app.health = [503, 502, 503]
    assert job(asked(app)).state == "succeeded"
    assert app.looks == 4


def test_it_is_asked_again_when_it_falls_asleep_under_a_rollout(app: Foreign) -> None:
    app.instead = [lambda body: (503, {"detail": "restarting"})]
    assert job(asked(app)).state == "succeeded"
    assert len(app.bodies) == 2
    assert app.bodies[0] == app.bodies[1]


def test_its_key_comes_from_the_environment_and_goes_nowhere_else(monkeypatch: pytest.MonkeyPatch, own_home: Path) -> None:
    monkeypatch.setenv(client.KEY_VARIABLE, "k-very-secret-k")
    with foreign_app(key="k-very-secret-k") as app:
        assert job(asked(app)).state == "succeeded"
    assert not [p for p in own_home.rglob("*") if p.is_file() and b"very-secret" in p.read_bytes()]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ((500, {"detail": {"error": {"code": "x", "message": "no steps"}}}), "answered /rollout with 500: no steps"),
        ((422, {"detail": "env_name is missing"}), "answered /rollout with 422: env_name is missing"),
        ((200, b"<html>"), "with what is no JSON"),
        ((200, []), "with list, not an object"),
        ((200, {"run_id": "x"}), "has no trajectories[0].steps (it has run_id)"),
        ((200, {"trajectories": [{"steps": [3]}]}), "has no trajectories[0].steps"),
        ((200, {"error": "the world broke", "trajectories": []}), "the task app did not play to the end: the world broke"),
        ((200, {"trace": {"format": "synthq-trace", "version": 9}}), "the trace has version '9'"),
    ],
)
def test_an_answer_that_cannot_be_used_fails_the_episode_with_a_sentence(app: Foreign, said: Any, sentence: str) -> None:
    app.instead = [lambda body: said] * 3
    ended = job(asked(app))
    assert ended.state == "failed"
    assert sentence in str(ended.reason)


def test_a_key_that_does_not_fit_ends_the_job_at_once() -> None:
    with foreign_app(key="right") as app:
        ended = job(asked(app, seeds="0-9"))
        assert app.bodies == []
    assert ended.state == "failed"
    assert "answered 401: it was sent no key; set ENVIRONMENT_API_KEY" in str(ended.reason)


def test_one_that_never_wakes_ends_the_job_with_what_it_said(app: Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(client.WARMUP_VARIABLE, "0.1")
    app.health = [503] * 1000
    ended = job(asked(app))
    assert f"the task app at {app.url} did not wake up within 0.1 s (status 503)" in str(ended.reason)


def test_a_warm_up_time_that_is_no_time_is_refused(app: Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(client.WARMUP_VARIABLE, "soon")
    assert "TASK_APP_WARMUP_TIMEOUT=soon must be a number of seconds" in str(job(asked(app)).reason)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """synthq's own task app, as a process."""
    running = Running(tmp_path_factory.mktemp("own"))
    yield running
    running.end()


@pytest.mark.integration
@pytest.mark.parametrize(
    "table",
    [
        {"policies": ["random", "scripted", "scripted:reactive"], "seeds": "5-6", "episodes_per_seed": 2, "max_turns": 12},
        {"policies": ["random"], "reply_format": "text", "reward": "native", "sampling_seed": 7, "save_frames": "none"},
        {"policy_config": {"image_only_mode": True}, "env_config": {"image_size": 144, "upscale_to": 288, "length": 9}},
        {"policies": ["random"], "policy_options": {"random": {"actions_per_turn": 3}}, "policy_config": {"use_vision": False}},
    ],
    ids=["members", "text", "pictures", "options"],
)
def test_an_episode_that_synthqs_own_task_app_plays_is_the_one_that_a_worker_plays(own: Running, table: dict[str, Any]) -> None:
    here, there = (
        submit_eval(**{"max_turns": 20, **table}).id,
        submit_eval(**{"max_turns": 20, **table, "task_app_url": own.url}).id,
    )
    work_through()
    assert (job(here).state, job(there).state) == ("succeeded", "succeeded")
    assert stored(there) == stored(here)


def stored(job_id: str) -> dict[tuple[int, int], Any]:
    """What the store keeps of a job's episodes, but for names and times."""
    with db.reading() as session:
        rows = session.exec(select(Episode).where(Episode.job_id == job_id)).all()
        apart = {"id", "job_id", "step_id", "created_at", "finished_at", "timings"}
        return {(row.seed, row.member): row.model_dump(exclude=apart) for row in rows}


def test_a_rollout_under_way_is_given_up_when_the_job_is_cancelled(app: Foreign) -> None:
    job_id = ""

    def cancelled_meanwhile(body: dict[str, Any]) -> Any:
        with db.writing() as session:
            lifecycle.cancel(session, jobs.find(session, job_id))
        gone.wait(20)
        answered.append(body)
        return rollout(body)

    gone, answered = threading.Event(), list[Any]()
    app.instead = [cancelled_meanwhile]
    job_id = submit_eval(seeds="3", max_turns=4, task_app_url=app.url).id
    with use_settings(SYNTHQ_WATCH_S="0.01"):
        work_through()
    assert answered == [], "nobody waited for the answer"
    gone.set()
    assert job(job_id).state == "cancelled"


def test_what_is_no_task_app_is_told_at_once(app: Foreign) -> None:
    app.health = [422]
    assert f"what answers at {app.url} is no task app: it answered /health with 422" in str(job(asked(app)).reason)


def test_an_app_is_asked_once_a_step_whether_it_is_awake(app: Foreign) -> None:
    app.health = [200] * 100
    job_id = asked(app, seeds="0-7", episodes_per_step=8)
    assert len(app.health) == 99
    with db.reading() as session:
        assert {row.state for row in session.exec(select(Episode).where(Episode.job_id == job_id))} == {"done"}
