"""A teacher plays an eval through the real step: what is stored, what it costs, what ends it, and that its key is nowhere."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core.kit import job, job_events, submit_eval, until, use_settings
from core.kit import submit as submit_job
from play_kit import episode, episodes, finish, frame_rows, play_steps, retry, turn_rows, work
from stand_in import KEY, Answer, Asked, StandIn, calls, message, status, text

from app import artifacts, db, lifecycle, specs
from app.models import Job, Spend
from app.routes.jobs import out
from app.settings import get_settings
from app.specs.eval import Budget
from app.store import jobs
from app.store.spending import JobMeter, Tokens
from cli import show
from cli.jobs import describe
from workers.rollout.policies.openai import waits
from workers.runner import drain_file
from workers.transport.pixels import decode_png, upscale

pytestmark = pytest.mark.usefixtures("sqlite_store", "quick")

VARIABLE = "TEACHER_KEY_OF_THE_TEST"
PRICES = {"input_usd_per_million": 2.5, "output_usd_per_million": 10.0}


@pytest.fixture
def quick(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The key is there, pauses are short, and a keeper looks often."""
    monkeypatch.setenv(VARIABLE, KEY)
    monkeypatch.setattr(waits, "FIRST_S", 0.01)
    with use_settings(SYNTHQ_BACKOFF_S="0", SYNTHQ_WATCH_S="0.05"):
        yield


def submit(server: StandIn, *, config: dict[str, Any] | None = None, **table: Any) -> str:
    """Submit an eval of the model ``teacher``, by default of seed 1 for four turns."""
    asked = {"inference_url": server.url, "api_key_env": VARIABLE, "deadline_s": 20, **(config or {})}
    given = {"seeds": "1", "policies": ["openai:teacher"], "max_turns": 4, "policy_config": asked} | table
    return submit_eval(**given).id


def played(job_id: str) -> Job:
    """The job, worked through, which must end well."""
    ended = finish(job_id)
    assert (ended.state, ended.reason) == ("succeeded", None)
    return ended


def lines(job_id: str, **table: Any) -> list[dict[str, Any]]:
    """The training data that filter makes of all turns of a job."""
    asked = {"jobs": [job_id], "outcomes_ok_only": False, **table}
    made = played(submit_job("filter", specs.resolved(specs.build({"kind": "filter", "filter": asked}))).id)
    with db.reading() as session:
        (dataset,) = [each for each in jobs.artifacts(session, made) if each.kind == "dataset"]
    return [json.loads(line) for line in artifacts.read_artifact(dataset).splitlines()]


# What is stored.


def stutter(asked: Asked) -> Any:
    """Every third answer cannot be read."""
    words = ("do", "move_left", "what now?")
    said = words[asked.body["seed"] % 3]
    if "tools" not in asked.body or said == words[2]:
        return text(said)
    return calls(said)


@pytest.mark.parametrize("reply_format", ["tool_call", "text"])
@pytest.mark.parametrize(("use_vision", "image_only"), [(True, False), (True, True), (False, False)])
def test_what_a_teacher_played_is_stored_and_becomes_lines(reply_format: str, use_vision: bool, image_only: bool) -> None:
    modes = {"use_vision": use_vision, "image_only_mode": image_only}
    with StandIn(use_vision=use_vision, image_only=image_only, tools=reply_format == "tool_call", picture_px=144) as server:
        server.always = stutter
        job_id = submit(server, config=modes, reply_format=reply_format, max_turns=8, env_config={"upscale_to": 144})
        played(job_id)
    row = episode(job_id)
    turns = turn_rows(row.id)
    frames = frame_rows()
    assert (row.policy, row.model, row.policy_version) == ("openai:teacher", "teacher", "openai-1/teacher")
    assert len(turns) == len(server.asked) == 8
    assert {turn.outcome for turn in turns} == {"ok", "no_tool_call" if reply_format == "tool_call" else "parse_error"}
    for turn, asked in zip(turns, server.asked, strict=True):
        assert (turn.policy_version, turn.reply["notes"]["model"]) == ("openai-1/teacher", "teacher-2026-11-01")
        assert (turn.outcome == "ok") == (asked.body["seed"] % 3 < 2)
        if use_vision:
            assert np.array_equal(asked.picture, upscale(decode_png(frames[turn.frame]), 144, tiles=9))
    for line, turn, asked in zip(lines(job_id, include_images=use_vision), turns, server.asked, strict=True):
        *prompt, reply = line["messages"]
        assert prompt == [_without_detail(message) for message in asked.body["messages"]], (
            "a line shows what was sent, byte for byte"
        )
        assert line.get("tools") == asked.body.get("tools")
        assert line["metadata"]["model"] == "teacher"
        assert reply["content"] == turn.reply["text"]
        assert [call["function"] for call in reply.get("tool_calls", [])] == turn.reply["tool_calls"]


def _without_detail(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    if isinstance(content, list):
        content = [
            part if part["type"] == "text" else {**part, "image_url": {"url": part["image_url"]["url"]}} for part in content
        ]
    return {**message, "content": content}


def test_a_teacher_and_a_rule_are_scored_side_by_side() -> None:
    with StandIn() as server:
        ended = played(submit(server, policies=["openai:teacher", "random"], seeds="0-1"))
    assert len(server.asked) == 8
    assert ended.summary is not None
    assert set(ended.summary["policies"]) == {"openai:teacher", "random"}
    spent = ended.summary["spent"]
    assert {key: spent[key] for key in ("requests", "input_tokens", "output_tokens", "usd", "capped")} == {
        "requests": 8,
        "input_tokens": 6400,
        "output_tokens": 160,
        "usd": None,
        "capped": False,
    }
    assert "8 requests to models: 6,400 tokens in, 160 out" in show.results({"summary": ended.summary})


def test_calls_of_the_model_end_an_episode() -> None:
    with StandIn() as server:
        job_id = submit(server, max_llm_calls=3, max_turns=50)
        played(job_id)
    assert (len(server.asked), episode(job_id).turns, episode(job_id).ended) == (3, 3, "turns")


def test_an_answer_that_cannot_be_used_is_a_turn_of_its_own() -> None:
    with StandIn() as server:
        server.then(calls("do"), text("", finish="content_filter"))
        job_id = submit(server)
        played(job_id)
    first, second, *_ = turn_rows(episode(job_id).id)
    assert (first.outcome, second.outcome, second.actions) == ("ok", "engine_error", ["noop"])
    assert second.detail == 'the engine gave no usable reply: "the endpoint\'s content filter stopped the reply"'


@pytest.mark.parametrize("reply_format", ["tool_call", "text"])
def test_odd_answers_are_turns_and_never_end_an_episode(own_home: Path, store: str, reply_format: str) -> None:
    odd = [
        text("half \ud800"),
        text("nul \x00"),
        calls(arguments='{"actions": ["\udfff"]}'),
        calls(arguments='{"\\ud800": 1}'),
        calls(arguments="\x00"),
        calls("do", name="\ud800"),
        message({"content": "do", "refusal": "\x00", "reasoning": "\ud800"}, finish="\x00"),
        calls("do", usage=(10**25, -1)),
        Answer(body={"model": "\ud800", "choices": [{"message": {"content": "do"}}], "usage": {"total_tokens": float("nan")}}),
    ]
    with StandIn(tools=reply_format == "tool_call") as server:
        server.then(*odd)
        job_id = submit(server, max_turns=len(odd), reply_format=reply_format, budget={"max_usd": 100.0, **PRICES})
        played(job_id)
    turns = turn_rows(episode(job_id).id)
    assert [turn.index for turn in turns] == list(range(len(odd)))
    assert [turn.outcome == "engine_error" for turn in turns] == [True, True, True, False, True, True, False, False, False]
    assert turns[0].detail == "the engine gave no usable reply: 'the reply cannot be stored: it has half a surrogate pair'"
    assert spend(job_id).requests == len(odd)


# What ends an episode, and what ends more.


def test_a_deadline_ends_the_episode_and_a_retry_plays_it_again() -> None:
    with StandIn() as server:
        server.then(calls("do"), status(429, "slow down", headers={"retry-after": "600"}))
        job_id = submit(server, seeds="1-2", episodes_per_step=2, episodes_in_flight=1)
        ended = finish(job_id)
        assert ended.state == "failed"
        assert ended.reason is not None
        assert ended.reason.startswith("1 of 2 episodes failed: seed 1: 127.0.0.1:")
        assert "of deadline_s = 20 are left (1 attempt, the last: HTTP 429 'slow down')" in ended.reason
        assert {seed: (row.state, row.turns) for (seed, _), row in episodes(job_id).items()} == {1: ("failed", 1), 2: ("done", 4)}
        assert len(lines(job_id, filter_errors=False)) == 1 + 4, "the turn that was paid for can be read"
        assert retry(job_id).state == "succeeded"
    assert len(server.asked) == 2 + 4 + 4


def test_a_wrong_key_is_found_once_and_nobody_asks_again() -> None:
    with StandIn() as server:
        server.always = status(401, f"Incorrect API key provided: {KEY}")
        job_id = submit(server, seeds="0-7", episodes_per_step=4, policies=["openai:teacher", "random"])
        ended = finish(job_id)
        assert len(server.asked) == 1
        assert ended.state == "failed"
        assert ended.reason is not None
        assert ended.reason.startswith("8 of 16 episodes failed: ")
        assert "refuses teacher: HTTP 401 'Incorrect API key provided: ***'" in ended.reason
        assert all(row.state == "done" for (_, member), row in episodes(job_id).items() if member == 1), "the rule plays on"
        assert all(step.attempt == 1 for step in play_steps(job_id)), "no step is tried twice"
        assert [event.type for event in job_events(job_id)].count("play.blocked") == 1
        assert len([event for event in job_events(job_id) if event.type == "step.failed"]) == 1, "one cause is one line"
        server.always = calls("do")
        assert retry(job_id).state == "succeeded"
    assert len(server.asked) == 1 + 8 * 4


def test_a_block_in_the_middle_keeps_what_was_paid_for() -> None:
    with StandIn() as server:
        server.then(calls("do"), calls("do"), status(429, code="insufficient_quota"))
        job_id = submit(server)
        assert finish(job_id).state == "failed"
        row = episode(job_id)
        assert (row.state, row.turns, row.length, row.ended) == ("failed", 2, 2, None)
        assert row.error is not None
        assert "refuses teacher: HTTP 429" in row.error
        assert row.finished_at is not None
        assert len(lines(job_id, filter_errors=False)) == 2
        assert retry(job_id).state == "succeeded"
    assert len(server.asked) == 5
    after = episode(job_id)
    assert (after.id, after.state, after.error, after.snapshot) == (row.id, "done", None, None)
    assert [turn.index for turn in turn_rows(row.id)] == [0, 1, 2, 3]


def test_a_block_that_comes_again_keeps_every_turn() -> None:
    with StandIn() as server:
        server.then(calls("do"), status(401), calls("do"), calls("do"), status(401))
        job_id = submit(server)
        finish(job_id)
        assert retry(job_id).state == "failed"
        assert [turn.index for turn in turn_rows(episode(job_id).id)] == [0, 1, 2]
        assert (episode(job_id).state, episode(job_id).turns) == ("failed", 3)
        assert retry(job_id).state == "succeeded"
    assert [turn.index for turn in turn_rows(episode(job_id).id)] == [0, 1, 2, 3]


def test_an_episode_that_was_handed_back_before_a_block_can_be_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with StandIn() as server, ThreadPoolExecutor(1) as pool:
        server.then(calls("do"), calls("do", after_s=100))
        job_id = submit(server, config={"deadline_s": 100})
        working = pool.submit(work)
        until(lambda: len(server.asked) == 2, 30, "the second turn is asked for")
        drain_file().parent.mkdir(parents=True, exist_ok=True)
        drain_file().touch()
        working.result(20)
        drain_file().unlink()
        assert (episode(job_id).state, episode(job_id).turns) == ("running", 1)
        monkeypatch.delenv(VARIABLE)
        finish(job_id)
    row = episode(job_id)
    assert (row.state, row.turns) == ("failed", 1)
    assert row.error is not None
    assert f"the variable {VARIABLE}" in row.error


def test_a_missing_key_ends_the_job_before_any_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    with StandIn() as server:
        ended = finish(submit(server, seeds="0-3"))
    assert server.asked == []
    assert ended.reason is not None
    assert f"the variable {VARIABLE} with the key for 127.0.0.1" in ended.reason
    assert episodes(ended.id) == {}
    errors = [event.type for event in job_events(ended.id) if event.level == "error"]
    assert errors == ["step.failed", "job.failed"], "it is told once, and once more with how many it cost"
    assert ended.reason.startswith("4 of 4 episodes failed: ")


# Stopping.


@pytest.mark.parametrize("how", ["drain", "cancel"])
def test_nobody_waits_for_a_slow_model_when_the_work_should_stop(how: str) -> None:
    with StandIn() as server, ThreadPoolExecutor(1) as pool:
        server.then(calls("do"), calls("do"), calls("do", after_s=100))
        job_id = submit(server, config={"deadline_s": 100})
        working = pool.submit(work)
        until(lambda: len(server.asked) == 3, 30, "the third turn is asked for")
        began = time.monotonic()
        if how == "drain":
            drain_file().parent.mkdir(parents=True, exist_ok=True)
            drain_file().touch()
        else:
            with db.writing() as session:
                lifecycle.cancel(session, session.get_one(Job, job_id))
        working.result(20)
        assert time.monotonic() - began < 10
        if how == "cancel":
            assert job(job_id).state == "cancelled"
            return
        assert (episode(job_id).state, episode(job_id).turns) == ("running", 2)
        drain_file().unlink()
        played(job_id)
    assert len(server.asked) == 5, "the turn that was given up is asked for again, and no other"
    assert server.asked[2].body == server.asked[3].body, "in the very same words"


def test_a_step_that_waits_for_a_model_counts_as_alive() -> None:
    with StandIn() as server, use_settings(SYNTHQ_PROGRESS_DEADLINE_S="1", SYNTHQ_SEGMENT_S="0.2"):
        server.then(calls("do", after_s=2.5))
        job_id = submit(server, max_turns=1)
        played(job_id)
    assert play_steps(job_id)[0].attempt == 1


# What it may cost.


def spend(job_id: str) -> Spend:
    with db.reading() as session:
        found = session.get_one(Spend, job_id)
        session.expunge(found)
        return found


def test_a_spent_budget_ends_the_job_with_a_sentence_and_keeps_what_was_played() -> None:
    with StandIn(use_vision=False) as server:
        budget = {"max_usd": 0.05, **PRICES}
        job_id = submit(server, config={"use_vision": False}, seeds="0-7", max_turns=50, budget=budget, episodes_per_step=1)
        ended = finish(job_id)
        assert ended.state == "failed"
        assert ended.reason is not None
        assert "the budget is used up: $0.0" in ended.reason
        assert "of max_usd = 0.05 are spent, and the next request could cost $0.0" in ended.reason
        assert "submit the job again with a higher eval.budget.max_usd" in ended.reason
        asked = len(server.asked)
        assert 10 < asked < 22, "0.0022 each, and more than that must be left for a request"
        told = spend(job_id)
        assert (told.requests, told.held_tokens) == (asked, 0)
        assert told.usd == pytest.approx(asked * 0.0022) and told.usd <= 0.05  # noqa: PT018
        assert ended.summary is not None
        assert ended.summary["spent"]["capped"] is True
        line = f"{asked} requests to models: {asked * 800:,} tokens in, {asked * 20} out, ${asked * 0.0022:.4f} of $0.0500"
        assert f"{line}: the budget ended it" in show.results({"summary": ended.summary})
        rows = list(episodes(job_id).values())
        assert sum(len(turn_rows(row.id)) for row in rows) == sum(row.turns for row in rows) == asked
        assert {row.state for row in rows} == {"failed"}
        assert ended.summary["turns"] == ended.summary["game_steps"] == asked
        assert ended.summary["cut_short"] == {"episodes": len(rows), "turns": asked}
        assert len(lines(job_id, filter_errors=False, include_images=False)) == asked
        assert finish(retry(job_id).id).state == "failed"
        assert len(server.asked) == asked, "a retry does not spend more"


def test_a_purse_that_others_keep_closed_is_waited_for_and_not_given_up() -> None:
    with StandIn(use_vision=False) as server:
        job_id = submit(server, config={"use_vision": False}, budget={"max_tokens": 12_000})
        other = JobMeter(job_id, Budget(max_tokens=12_000))
        under_way = other.hold(Tokens(input=10_000, output=500))
        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(work)
            until(lambda: job(job_id).state == "running", 30, "the step is claimed")
            other.settle(under_way, Tokens(input=100, output=5))
            working.result(30)
        assert job(job_id).state == "succeeded"
    assert spend(job_id).requests == 5


def test_a_purse_that_a_dead_worker_keeps_closed_ends_the_job_at_the_deadline() -> None:
    with StandIn(use_vision=False) as server:
        job_id = submit(server, config={"use_vision": False, "deadline_s": 1.5}, budget={"max_tokens": 12_000})
        JobMeter(job_id, Budget(max_tokens=12_000)).hold(Tokens(input=10_000, output=500))
        ended = finish(job_id)
    assert server.asked == []
    assert ended.reason is not None
    assert "0 of max_tokens = 12,000 are spent, 10,500 are set aside for other requests" in ended.reason


def test_usage_that_is_not_told_is_charged_as_it_was_set_aside() -> None:
    with StandIn() as server:
        server.then(calls("do", usage=None))
        job_id = submit(server, max_turns=1, budget={"max_tokens": 100_000})
        played(job_id)
    (turn,) = turn_rows(episode(job_id).id)
    assert turn.reply["notes"]["usage"]["estimated"] is True
    assert spend(job_id).input_tokens == turn.reply["notes"]["usage"]["input_tokens"] > 4000
    assert spend(job_id).output_tokens == 512


def test_a_request_without_an_answer_stays_set_aside_and_one_that_was_refused_does_not() -> None:
    with StandIn() as server:
        server.then(status(500), status(429), calls("do", after_s=30))
        job_id = submit(server, config={"deadline_s": 1}, max_turns=1, budget={"max_tokens": 100_000})
        ended = finish(job_id)
    assert ended.summary is not None
    told = ended.summary["spent"]
    assert (told["requests"], told["input_tokens"]) == (0, 0)
    assert 4000 < told["held_tokens"] < 12_000, "one request's part"
    assert any(line.startswith("requests without an answer may have taken") for line in show.results({"summary": ended.summary}))


def test_what_a_job_set_aside_is_told_while_it_runs_and_when_it_was_cancelled() -> None:
    def told(job_id: str) -> tuple[str, list[str]]:
        with db.reading() as session:
            found = out(session, jobs.find(session, job_id)).model_dump(mode="json")
        return found["state"], describe(found)

    with StandIn() as server, ThreadPoolExecutor(1) as pool:
        server.then(calls("do"), calls("do", after_s=100))
        job_id = submit(server, config={"deadline_s": 100}, budget={"max_tokens": 100_000})
        assert not any("to models" in line for line in told(job_id)[1]), "nothing was asked yet"
        working = pool.submit(work)
        until(lambda: len(server.asked) == 2, 30, "the second turn is asked for")
        running = told(job_id)
        with db.writing() as session:
            lifecycle.cancel(session, session.get_one(Job, job_id))
        working.result(20)
    cancelled = told(job_id)
    assert (running[0], cancelled[0]) == ("running", "cancelled")
    for _, shown in (running, cancelled):
        assert "1 request to models: 800 tokens in, 20 out, 820 of 100,000 tokens" in shown
        assert any(line.startswith("requests without an answer may have taken up to ") for line in shown)


# The key.


def test_the_key_is_nowhere_in_the_home_and_in_no_log(own_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with StandIn() as server:
        server.then(
            text(f"my key is {KEY}"),
            status(500, KEY, headers={"x-request-id": KEY}),
            calls("do"),
            status(400, f"bad {KEY}"),
            status(401, KEY),
        )
        job_id = submit(server, seeds="1-2", episodes_per_step=2, episodes_in_flight=1)
        finish(job_id)
    assert len(server.asked) == 5
    assert [(row.state, row.turns) for row in episodes(job_id).values()] == [("failed", 2)], "a block before a turn leaves no row"
    db.dispose()
    kept = {str(path): path.read_bytes() for path in own_home.rglob("*") if path.is_file()}
    assert any(name.endswith("synthq.db") and b"openai-1/teacher" in content for name, content in kept.items())
    for secret in (KEY.encode(), base64.b64encode(KEY.encode())[:-4]):
        assert not [name for name, content in kept.items() if secret in content]
    assert KEY not in caplog.text
    assert caplog.records
    assert str(get_settings().home) == str(own_home)
