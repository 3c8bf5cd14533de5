"""A model that synthq serves plays through the real step: what is asked, what is stored, where turns go when an engine dies."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from core.kit import job, job_events, until, use_settings, write
from engine_stand_in import BASE, END, LABEL, MOVES, SHA256, Engine, Said, answer, by_seed, refuses, submit
from play_kit import episode, episodes, finish, frame_rows, play_steps, retry, turn_rows, work
from sqlmodel import select

from app import db, endpoints, lifecycle
from app.endpoints import publish
from app.errors import InvalidInput
from app.models import AdapterHold, AdapterVersion, Job
from workers.rollout import policies
from workers.rollout.policies import wire
from workers.rollout.policies.engine import engines as engines_module
from workers.rollout.policies.engine import line as line_module
from workers.rollout.policies.engine.line import Line, Lost
from workers.runner import drain_file
from workers.transport.generate import salt
from workers.transport.pixels import decode_png, upscale

pytestmark = pytest.mark.usefixtures("sqlite_store", "no_pauses")


def played(job_id: str) -> Job:
    """The job, worked through, which must end well."""
    ended = finish(job_id)
    assert (ended.state, ended.reason) == ("succeeded", None)
    return ended


def only_turn(job_id: str) -> Any:
    (turn,) = turn_rows(episode(job_id).id)
    return turn


# What is asked, and what is stored.


@pytest.mark.parametrize("reply_format", ["tool_call", "text"])
@pytest.mark.parametrize("kind", ["transformers", "vllm"])
def test_what_was_sampled_is_what_is_stored(kind: str, reply_format: str) -> None:
    with Engine(kind=kind) as engine:
        engine.report()
        job_id = submit(max_turns=30, reply_format=reply_format)
        played(job_id)
    row = episode(job_id)
    turns = turn_rows(row.id)
    assert (row.policy, row.model, row.policy_version) == (LABEL, BASE, f"{BASE}@{SHA256[:12]}")
    assert len(turns) == len(engine.asked) == 30
    nonsense = "no_tool_call" if reply_format == "tool_call" else "parse_error"
    for turn, asked in zip(turns, engine.asked, strict=True):
        told = answer(asked.body, by_seed(asked.body))
        choice = told["choices"][0]
        assert (turn.prompt_ids, turn.output_ids) == (told["prompt_token_ids"], choice["token_ids"])
        assert turn.logprobs == [entry["logprob"] for entry in choice["logprobs"]["content"]]
        assert turn.policy_version == f"{BASE}@{SHA256[:12]}"
        assert (turn.outcome == nonsense) == (asked.body["seed"] % 11 == 0)
        assert (turn.outcome == "ok") == (asked.body["seed"] % 11 != 0)
        assert END not in turn.reply["text"]
        assert turn.outcome != "ok" or turn.actions == [word for word in re.findall(r"\w+", by_seed(asked.body)) if word in MOVES]
        assert ("tools" in asked.body, asked.body.get("tool_choice")) == (
            (True, "none") if reply_format == "tool_call" else (False, None)
        )
        assert bool(asked.together) == (kind == "transformers")
    seeds = [asked.body["seed"] for asked in engine.asked]
    assert len(set(seeds)) == len(seeds)


def test_the_body_asks_for_everything_that_training_needs(engine: Engine) -> None:
    with use_settings(SYNTHQ_ENGINE_KEY="engine-key"):
        job_id = submit(
            max_turns=1, temperature=0.5, policy_config={"top_p": 0.9, "max_tokens": 7}, env_config={"upscale_to": 144}
        )
        played(job_id)
    (asked,) = engine.asked
    wanted = {
        "model": BASE, "cache_salt": salt(BASE), "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "logprobs": True,
        "top_logprobs": 0, "return_token_ids": True, "skip_special_tokens": False, "stream": False, "tool_choice": "none",
    }  # fmt: skip
    assert {key: asked.body[key] for key in wanted} == wanted
    assert asked.key == "Bearer engine-key"
    (picture,) = wire.pictures(asked.body["messages"])
    assert set(picture["image_url"]) == {"url"}
    shown = decode_png(base64.b64decode(picture["image_url"]["url"].partition(",")[2]))
    assert np.array_equal(shown, upscale(decode_png(frame_rows()[only_turn(job_id).frame]), 144, tiles=9))


def test_an_engine_tells_where_the_time_went(engine: Engine) -> None:
    job_id = submit(max_turns=1)
    summary = played(job_id).summary
    turn = only_turn(job_id)
    inside = {"queue": 0.25, "processor": 0.5, "prefill": 1.0, "decode": 2.0}
    assert {name: turn.timings[name] for name in inside} == inside
    assert set(turn.timings) == {"frame", "prompt", "policy", "http", "env", *inside}
    notes = turn.reply["notes"]
    assert turn.timings["http"] == pytest.approx(notes["latency_ms"] - 3.75, abs=0.01)
    assert (notes["endpoint"], notes["attempts"]) == (engine.id, 1)
    assert notes["usage"] == {"input_tokens": 2, "output_tokens": len(turn.output_ids), "prefix_tokens": 1, "image_tokens": 9}
    assert summary is not None
    assert set(inside) <= set(summary["timings"])


def test_the_parts_of_the_time_that_vllm_tells_are_kept_and_the_rest_is_http() -> None:
    metrics = {"queue_time_ms": 0.05, "time_to_first_token_ms": 0.2, "generation_time_ms": 0.3, "mean_itl_ms": None}
    turn = only_turn(_with_vllm(metrics))
    assert {name: turn.timings[name] for name in ("queue", "prefill", "decode")} == {"queue": 0.05, "prefill": 0.2, "decode": 0.3}
    assert turn.timings["http"] == pytest.approx(turn.reply["notes"]["latency_ms"] - 0.55, abs=0.01)


def test_time_of_which_an_engine_tells_no_part_is_named_as_the_engines() -> None:
    turn = only_turn(_with_vllm(None))
    assert turn.timings["engine"] == pytest.approx(turn.reply["notes"]["latency_ms"], abs=0.01)
    assert "http" not in turn.timings


def test_a_base_goes_on_record_with_the_hash_that_its_endpoint_tells_where_the_engine_tells_none() -> None:
    assert episode(_with_vllm(None, sha256="d" * 64)).policy_version == f"{BASE}@{'d' * 12}"


def test_a_base_that_was_replaced_goes_on_record_with_the_hash_of_what_answered() -> None:
    with Engine(sha256="e" * 64) as engine:
        engine.report(sha256="d" * 64)  # the look at the store is older than the engine
        job_id = submit(sha256="", max_turns=1)
        played(job_id)
    assert episode(job_id).policy_version == f"{BASE}@{'e' * 12}"


def _with_vllm(metrics: dict[str, Any] | None, **told: Any) -> str:
    """An eval of one turn, played with an engine that answers as vLLM does, with these metrics; its endpoint tells the rest."""
    with Engine(kind="vllm") as engine:
        engine.report(**told)
        engine.rule = lambda body: Said(
            body={key: value for key, value in answer(body, by_seed(body)).items() if key != "synthq"} | {"metrics": metrics}
        )
        job_id = submit(sha256="", max_turns=1)
        played(job_id)
    return job_id


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|vision_start|>"])
def test_a_reply_with_a_token_of_a_picture_is_an_outcome_and_the_episode_goes_on(engine: Engine, token: str) -> None:
    first = engine.rule

    def rule(body: dict[str, Any]) -> Said:
        if len(engine.asked) == 2:
            return Said(body=answer(body, f"do{token}", tokens=["do", token]))
        return first(body)

    engine.rule = rule
    job_id = submit(reply_format="text")
    played(job_id)
    row = episode(job_id)
    turn = turn_rows(row.id)[1]
    assert (turn.outcome, turn.actions) == ("parse_error", ["noop"])
    assert turn.detail == f"the reply holds {token}, a token that stands for a picture"
    assert len(turn.output_ids) == 2
    assert row.outcomes["parse_error"] >= 1
    assert row.turns == 4


def test_the_same_token_spelled_out_in_letters_is_a_text(engine: Engine) -> None:
    engine.rule = lambda body: Said(body=answer(body, "<|image_pad|>"))
    job_id = submit(max_turns=1, reply_format="text")
    played(job_id)
    assert "no action named '<|image_pad|>'" in only_turn(job_id).detail


def test_a_reply_that_no_database_keeps_is_an_outcome_with_its_tokens(engine: Engine) -> None:
    engine.rule = lambda body: Said(body=answer(body, "do\x00", tokens=["do", "\x00"]))
    job_id = submit(max_turns=1, reply_format="text")
    played(job_id)
    turn = only_turn(job_id)
    assert (turn.outcome, turn.reply["text"]) == ("parse_error", "do\\u0000")
    assert turn.detail == "the reply holds a NUL character, which no database keeps"
    assert len(turn.output_ids) == 2


def test_a_cut_reply_says_so(engine: Engine) -> None:
    def cut(body: dict[str, Any]) -> Said:
        made = answer(body, "<tool_call>")
        made["choices"][0]["finish_reason"] = "length"
        return Said(body=made)

    engine.rule = cut
    job_id = submit(max_turns=1)
    played(job_id)
    assert only_turn(job_id).outcome == "truncated"


def test_an_adapter_is_asked_for_by_its_name_and_goes_on_record_with_its_hash() -> None:
    name, sha256 = "adapter-" + "a" * 16, "a" * 64
    with Engine(adapters={name: sha256}) as engine:
        engine.report()
        job_id = submit("model:/adapters/one", adapter=name, sha256=sha256, max_turns=2)
        played(job_id)
    assert {asked.body["model"] for asked in engine.asked} == {name}
    assert {asked.body["cache_salt"] for asked in engine.asked} == {salt(name)}
    assert episode(job_id).policy_version == f"{name}@{'a' * 12}"


def test_a_step_plays_with_one_version_of_a_line_and_lets_go_of_it(engine: Engine) -> None:
    line = submit("model:/x/other")  # any job has a line
    with db.writing() as session:
        publish.publish(session, line, BASE, "/adapters/v1", sha256="1" * 64)
        lifecycle.lock_job(session, line)
    engine.adapters[f"{line}-v1"] = "1" * 64
    engine.report()
    with db.writing() as session:
        assert publish.advance(session, line)
    job_id = submit("model:/x/line", line=line, sha256="", seeds="1-3", max_turns=2)
    write("UPDATE job SET priority = 5 WHERE id = :id", id=job_id)
    held: list[int] = []
    rule = engine.rule

    def noting(body: dict[str, Any]) -> Said:
        with db.reading() as session:
            held.append(len(session.exec(select(AdapterHold)).all()))
        return rule(body)

    engine.rule = noting
    work(3)
    assert {row.policy_version for row in episodes(job_id).values()} == {f"{line}-v1@{'1' * 12}"}
    assert set(held) == {1}
    with db.reading() as session:
        assert session.exec(select(AdapterHold)).all() == []


@pytest.mark.parametrize("how", ["drain", "lost"])
def test_an_episode_that_is_taken_up_again_finishes_on_the_version_that_it_began_on(engine: Engine, how: str) -> None:
    job_id = submit(max_turns=40, sha256="")
    write("UPDATE model_use SET line = job_id, adapter = ''")
    for version in (1, 2):
        engine.adapters[f"{job_id}-v{version}"] = str(version) * 64

    def publish_next(version: int) -> None:
        with db.writing() as session:
            assert publish.publish(session, job_id, BASE, f"/adapters/v{version}", sha256=str(version) * 64) == version
        engine.report()
        look()

    def look() -> dict[int, str]:
        with db.writing() as session:
            publish.advance(session, job_id)
            rows = session.exec(select(AdapterVersion).where(AdapterVersion.line == job_id))
            return {row.version: str(row.state) for row in rows}

    publish_next(1)
    rule = engine.rule
    slow = [True]

    def slowly(body: dict[str, Any]) -> Said:
        return Said(body=rule(body).body, after_s=60.0 if slow and len(engine.asked) > 9 else 0.0)

    engine.rule = slowly
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work, 1)
        until(lambda: len(engine.asked) > 9, 30, "the episode is under way")
        publish_next(2)
        drain_file().parent.mkdir(parents=True, exist_ok=True)
        drain_file().touch()
        working.result(30)
    drain_file().unlink()
    slow.clear()
    (step,) = play_steps(job_id)
    assert (step.state, episode(job_id).state) == ("queued", "running")
    if how == "lost":  # its worker never came to say anything of it
        write("UPDATE step SET fence = fence + 1")
    assert look() == {1: "draining", 2: "live"}, "of the step that waits an episode began on it"
    before = len(turn_rows(episode(job_id).id))
    assert 0 < before < 40
    work(1)
    turns = turn_rows(episode(job_id).id)
    assert len(turns) == 40
    assert {turn.policy_version for turn in turns} == {f"{job_id}-v1@{'1' * 12}"}
    assert look() == {1: "retired", 2: "live"}
    with db.reading() as session:
        assert session.exec(select(AdapterHold)).all() == []


# What answers wrongly.


def test_an_answer_of_another_model_ends_the_job_and_is_never_stored(engine: Engine) -> None:
    engine.rule = lambda body: Said(body=answer(body, by_seed(body), model="/models/other"))
    ended = finish(submit(seeds="0-7"))
    assert ended.state == "failed"
    assert "the engine answered with the model '/models/other', and '/models/tiny' was asked for" in str(ended.reason)
    assert episodes(ended.id) == {}
    assert len(engine.asked) == 1


def test_weights_that_were_not_to_play_end_the_job(engine: Engine) -> None:
    engine.sha256 = "c" * 64
    ended = finish(submit())
    assert f"with weights of sha256 {'c' * 64}, and {SHA256} were to play" in str(ended.reason)


@pytest.mark.parametrize("lacks", ["token_ids", "logprobs", "prompt_token_ids"])
def test_an_engine_that_tells_no_tokens_ends_the_job(engine: Engine, lacks: str) -> None:
    def rule(body: dict[str, Any]) -> Said:
        made = answer(body, "do")
        made.pop(lacks, None)
        made["choices"][0].pop(lacks, None)
        return Said(body=made)

    engine.rule = rule
    ended = finish(submit(seeds="0-3"))
    assert ended.state == "failed"
    assert "the engine's answer for /models/tiny is of no use: " in str(ended.reason)
    assert len(engine.asked) == 1


def test_a_prompt_that_has_no_room_ends_the_job_at_once_with_the_engines_numbers(engine: Engine) -> None:
    numbers = "512 and the prompt's 300 are 812 tokens, and this engine reads 700 (--max-model-len); at most 400 are left"
    engine.rule = lambda body: refuses(400, numbers, param="max_tokens")
    ended = finish(submit(seeds="0-31", episodes_in_flight=4))
    assert ended.state == "failed"
    assert str(ended.reason).startswith("32 of 32 episodes failed: ")
    assert numbers in str(ended.reason)
    assert len(engine.asked) == 1, "of all that begin, one asks first"
    assert [event.type for event in job_events(ended.id)].count("play.blocked") == 1


def test_a_number_that_vllm_does_not_know_is_not_told(engine: Engine) -> None:
    said = "This model's maximum context length is 700 tokens. However, your prompt contains at least 701 input tokens, which"
    engine.then(refuses(400, said, param="input_tokens"))
    job_id = submit(policy_config={"max_tokens": 64})
    write("UPDATE model_use SET options = :options", options='{"max_model_len": 700}')
    ended = finish(job_id)
    room = "the prompt leaves no room for policy_config.max_tokens = 64 within vllm.max_model_len = 700; raise this or lower that"
    assert room in str(ended.reason)
    assert "701" not in str(ended.reason)


@pytest.mark.parametrize(
    ("refusal", "blocks"),
    [
        (refuses(401), True),
        (refuses(403), True),
        (refuses(400, "it must be 1 or less", param="top_p"), True),
        (refuses(400, "the prompt has 900 tokens; there is room for 700 (--max-model-len)", param="messages"), True),
        (refuses(400, "This model's maximum context length is 700 tokens", param="input_tokens"), True),
        (refuses(400, "the picture is cut short"), False),
        (refuses(400, "messages[3] is empty", param="messages"), False),
        (refuses(413, "the body is too large"), False),
        (refuses(422, "no"), False),
    ],
)
def test_a_refusal_blocks_for_what_every_turn_would_meet_and_fails_its_episode_for_the_rest(
    engine: Engine, refusal: Said, blocks: bool
) -> None:
    engine.then(refusal)
    ended = finish(submit(seeds="0-3", episodes_per_step=4))
    states = Counter(row.state for row in episodes(ended.id).values())
    assert ended.state == "failed"
    assert refusal.body["error"]["message"] in str(ended.reason)
    assert states == ({} if blocks else {"done": 3, "failed": 1})
    assert [event.type for event in job_events(ended.id)].count("play.blocked") == blocks


# Engines that go.


def test_an_episode_leaves_an_engine_that_drains_though_it_still_answers() -> None:
    wanted = reference(max_turns=60)
    with Engine() as one, Engine() as two, ThreadPoolExecutor(1) as pool:
        one.report()
        two.report(in_flight=9)
        rule = one.rule
        one.rule = lambda body: Said(body=rule(body).body, after_s=0.03)
        job_id = submit(max_turns=60)
        working = pool.submit(work)
        until(lambda: len(one.asked) > 3, 30, "the first engine is in use")
        endpoints.stopped(one.id)
        working.result(60)
    assert len(one.asked) < 40, "it is left within the time that a look serves"
    assert sum(stays([one, two])) == 60, "and no turn is asked twice for it"
    assert episode(job_id).sha256 == wanted[1, 0]


def stays(engines: list[Engine]) -> list[int]:
    return [len(engine.asked) for engine in engines]


def reference(**table: Any) -> dict[tuple[int, int], str | None]:
    """(seed, member) -> hash of the trace, with one engine that nothing happens to."""
    with Engine() as engine:
        engine.report()
        job_id = submit(**table)
        played(job_id)
        endpoints.stopped(engine.id)
        return {key: row.sha256 for key, row in episodes(job_id).items()}


def test_an_episode_stays_with_its_engine_and_two_engines_share_them() -> None:
    with Engine() as one, Engine() as two:
        one.report()
        two.report()
        job_id = submit(seeds="0-7", max_turns=10, episodes_per_step=8)
        played(job_id)
    for row in episodes(job_id).values():
        assert len({turn.reply["notes"]["endpoint"] for turn in turn_rows(row.id)}) == 1
    assert stays([one, two]) == [40, 40]


def test_the_least_loaded_engine_is_taken() -> None:
    with Engine() as one, Engine() as two:
        one.report(in_flight=30)
        two.report(in_flight=2)
        played(submit(seeds="0-3", episodes_per_step=4))
    assert stays([one, two]) == [0, 16]


def test_a_job_that_names_its_engine_asks_no_other() -> None:
    with Engine() as ours, Engine(kind="vllm") as vllm:
        ours.report()
        vllm.report(in_flight=30)
        played(submit(engine="vllm"))
    assert stays([ours, vllm]) == [0, 4]


def test_when_an_engine_is_killed_its_turns_are_asked_again_elsewhere() -> None:
    table = {"seeds": "0-7", "max_turns": 40, "episodes_per_step": 8}
    wanted = reference(**table)
    with Engine() as one, Engine() as two, ThreadPoolExecutor(1) as pool:
        one.report()
        two.report()
        job_id = submit(**table)
        working = pool.submit(work)
        until(lambda: len(one.asked) > 40, 30, "the first engine is in use")
        one.kill()
        working.result(60)
    assert job(job_id).state == "succeeded"
    rows = episodes(job_id)
    assert {key: row.sha256 for key, row in rows.items()} == wanted
    for row in rows.values():
        assert [turn.index for turn in turn_rows(row.id)] == list(range(row.turns))
    assert play_steps(job_id)[0].attempt == 1
    moved = [turn for row in rows.values() for turn in turn_rows(row.id) if turn.reply["notes"]["attempts"] > 1]
    assert 1 <= len(moved) <= 8, "each episode that was there asked one turn again"
    seeds = Counter(asked.body["seed"] for engine in (one, two) for asked in engine.asked)
    assert sum(seeds.values()) - len(seeds) <= 8


@pytest.mark.parametrize("trouble", [Said(lost=True), refuses(500), refuses(502), Said(body={"choices": []}), Said(body="?")])
@pytest.mark.parametrize("kind", ["transformers", "vllm"])
def test_a_turn_that_failed_once_is_asked_again_in_the_very_same_words(trouble: Said, kind: str) -> None:
    wanted = reference()
    with Engine(kind=kind) as engine:
        engine.report()
        engine.then(trouble)
        job_id = submit()
        played(job_id)
    assert engine.asked[0].body == engine.asked[1].body
    assert episode(job_id).sha256 == wanted[1, 0]
    assert [turn.reply["notes"]["attempts"] for turn in turn_rows(episode(job_id).id)] == [2, 1, 1, 1]


def test_a_full_engine_is_given_time(engine: Engine) -> None:
    engine.then(refuses(503, "queue full"), refuses(503, "queue full"))
    job_id = submit()
    played(job_id)
    assert [turn.reply["notes"]["attempts"] for turn in turn_rows(episode(job_id).id)] == [3, 1, 1, 1]


def test_where_one_engine_is_full_another_is_asked_at_once(engine: Engine) -> None:
    with Engine() as full:
        full.report()
        engine.report(in_flight=9)
        full.rule = lambda body: refuses(503, "queue full")
        job_id = submit(seeds="0-3", episodes_per_step=4)
        played(job_id)
    assert len(engine.asked) == 16
    assert 1 <= len(full.asked) <= 8


def test_an_engine_that_stays_full_fails_the_episode_and_a_retry_plays_it(engine: Engine) -> None:
    rule = engine.rule
    engine.rule = lambda body: refuses(503, "queue full")
    job_id = submit(policy_config={"deadline_s": 0.5})
    ended = finish(job_id)
    assert "no answer of an engine for /models/tiny within deadline_s = 0.5" in str(ended.reason)
    assert "'queue full'" in str(ended.reason)
    engine.rule = rule
    assert retry(job_id).state == "succeeded"


def test_a_request_that_breaks_every_engine_fails_its_own_episode_and_no_other(engine: Engine) -> None:
    rule = engine.rule
    bad: list[int] = []

    def poisoned(body: dict[str, Any]) -> Said:
        if not bad and len(engine.asked) > 10:
            bad.append(body["seed"])
        return refuses(500, "boom") if body["seed"] in bad else rule(body)

    engine.rule = poisoned
    ended = finish(submit(seeds="0-3", episodes_per_step=4, max_turns=8))
    assert ended.state == "failed"
    assert str(ended.reason).startswith("1 of 4 episodes failed: ")
    assert "a request for /models/tiny failed 5 times while an engine had it (5 attempts, the last: " in str(ended.reason)


def test_an_adapter_that_is_gone_from_an_endpoint_is_asked_for_at_another() -> None:
    name, sha256 = "adapter-" + "a" * 16, "a" * 64
    with Engine(adapters={name: sha256}) as one, Engine(adapters={name: sha256}) as two:
        one.report()
        two.report(in_flight=9)
        del one.adapters[name]
        job_id = submit("model:/adapters/one", adapter=name, sha256=sha256)
        played(job_id)
    assert stays([one, two]) == [1, 4]


def test_an_adapter_that_no_endpoint_has_though_all_say_so_ends_the_job() -> None:
    name = "adapter-" + "a" * 16
    with Engine(adapters={name: "a" * 64}) as engine:
        engine.report()
        engine.adapters.clear()
        job_id = submit("model:/adapters/one", adapter=name, seeds="0-3", policy_config={"deadline_s": 0.5})
        ended = finish(job_id)
    assert f"no endpoint that is to serve {name} knows it" in str(ended.reason)
    assert [event.type for event in job_events(job_id)].count("play.blocked") == 1


# When nobody serves.


def test_a_step_that_nobody_serves_is_handed_back_and_costs_no_attempt(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines_module, "PAUSE_S", 100.0)
    job_id = submit()
    write("UPDATE step SET needs = NULL")  # as when the engine goes between the claim and the first question
    endpoints.report(engine.id, state="failed")
    assert work() == 1
    (step,) = play_steps(job_id)
    assert (step.state, step.attempt, step.reason) == ("queued", 0, f"no endpoint serves {BASE}")
    with db.reading() as session:
        assert step.available_at > db.clock(session) + 90
    assert engine.asked == []


def test_engines_that_go_in_the_middle_cost_no_turn() -> None:
    wanted = reference(seeds="0-3", max_turns=20, episodes_per_step=4)
    with Engine() as engine, ThreadPoolExecutor(1) as pool:
        engine.report()
        job_id = submit(seeds="0-3", max_turns=20, episodes_per_step=4, policy_config={"deadline_s": 1})
        working = pool.submit(work)
        until(lambda: len(engine.asked) > 20, 30, "play is under way")
        endpoints.report(engine.id, state="failed")
        engine.kill()
        assert working.result(30) == 1
    (step,) = play_steps(job_id)
    assert (step.state, step.attempt) == ("queued", 0)
    assert step.reason.startswith(f"no endpoint serves {BASE} any more (")
    rows = episodes(job_id)
    before = sum(row.turns for row in rows.values())
    assert {row.state for row in rows.values()} == {"running"}
    assert before > 10
    with Engine() as other:
        other.report()
        played(job_id)
    assert {key: row.sha256 for key, row in episodes(job_id).items()} == wanted
    assert len(other.asked) == 80 - before, "no turn is asked for that was stored"


def test_an_engine_that_is_gone_while_the_store_still_names_it_fails_no_episode(engine: Engine) -> None:
    job_id = submit(seeds="0-3", max_turns=20, episodes_per_step=4, policy_config={"deadline_s": 3})
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work, 1)
        until(lambda: len(engine.asked) > 20, 30, "play is under way")
        engine.kill()
        working.result(30)
    assert {row.state for row in episodes(job_id).values()} == {"running"}
    (step,) = play_steps(job_id)
    assert (step.state, step.attempt) == ("queued", 0)


def test_a_key_that_does_not_fit_says_which(engine: Engine) -> None:
    engine.rule = lambda body: refuses(401, "no key")
    assert "SYNTHQ_ENGINE_KEY must be the same where" in str(finish(submit()).reason)


def test_an_engine_that_hangs_is_left_when_its_endpoint_is_given_up() -> None:
    wanted = reference()
    with Engine() as one, Engine() as two, ThreadPoolExecutor(1) as pool:
        one.report()
        two.report(in_flight=9)
        one.then(Said(body={}, after_s=60))
        job_id = submit()
        working = pool.submit(work)
        until(lambda: one.asked, 30, "the first engine is asked")
        endpoints.stopped(one.id)
        working.result(30)
    assert job(job_id).state == "succeeded"
    assert stays([one, two]) == [1, 4]
    assert episode(job_id).sha256 == wanted[1, 0]


@pytest.mark.parametrize("how", ["drain", "cancel"])
def test_nobody_waits_for_a_slow_engine_when_the_work_should_stop(engine: Engine, how: str) -> None:
    rule = engine.rule
    slow = [True]

    def slowly(body: dict[str, Any]) -> Said:
        said = rule(body)
        return Said(body=said.body, after_s=60.0) if slow and len(engine.asked) >= 9 else said

    engine.rule = slowly
    play = {"seeds": "0-2", "episodes_per_step": 3, "max_turns": 12}  # so many that none ends before the engine hangs
    job_id = submit(**play)
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        until(lambda: len(engine.asked) >= 9, 30, "the engine hangs")
        if how == "drain":
            drain_file().parent.mkdir(parents=True, exist_ok=True)
            drain_file().touch()
        else:
            with db.writing() as session:
                lifecycle.cancel(session, session.get_one(Job, job_id))
        working.result(20)
    rows = episodes(job_id)
    assert {row.state for row in rows.values()} == {"running" if how == "drain" else "failed"}
    assert all(row.snapshot is not None for row in rows.values())
    assert {seed: len(turn_rows(row.id)) for (seed, _), row in rows.items()} == {
        seed: row.turns for (seed, _), row in rows.items()
    }
    slow.clear()
    if how == "drain":
        drain_file().unlink()
        played(job_id)
    else:
        assert job(job_id).state == "cancelled"
        assert retry(job_id).state == "succeeded"
    assert {key: row.sha256 for key, row in episodes(job_id).items()} == reference(**play)


# The line.


def test_requests_of_one_moment_go_together_and_are_answered_apart(engine: Engine) -> None:
    bodies = [{"model": BASE, "messages": [], "seed": seed} for seed in range(5)]

    async def ask() -> list[Any]:
        line = Line("")
        got = await asyncio.gather(*(line.ask(engine.url, body, together=True) for body in bodies))
        await line.close()
        return got

    got = asyncio.run(ask())
    assert [each.value["prompt_token_ids"][1] for each in got] == [0, 1, 2, 3, 4]
    assert [asked.together for asked in engine.asked] == [5] * 5


def test_of_requests_that_went_together_those_that_were_answered_keep_their_answer(engine: Engine) -> None:
    bodies = [{"model": BASE, "messages": [], "seed": seed} for seed in range(5)]
    engine.rule = lambda body: Said(lost=True) if body["seed"] == 1 else Said(body=answer(body, "do"))  # 4, 3, 2 come before it

    async def ask() -> list[Any]:
        line = Line("")
        got = await asyncio.gather(*(line.ask(engine.url, body, together=True) for body in bodies), return_exceptions=True)
        await line.close()
        return got

    got = asyncio.run(ask())
    assert [isinstance(each, Lost) for each in got] == [True, True, False, False, False]


def asked_together(count: int, answering: Callable[[httpx.Request], httpx.Response], letters: int = 1) -> list[Any]:
    """What so many requests of one moment get from a server that answers thus."""

    async def ask() -> list[Any]:
        line = Line("")
        await line._http.aclose()
        line._http = httpx.AsyncClient(transport=httpx.MockTransport(answering))
        asked = [line.ask("http://engine", {"seed": n, "messages": "x" * letters}, together=True) for n in range(count)]
        got = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 20)
        await line.close()
        return got

    return asyncio.run(ask())


def streamed(content: bytes) -> httpx.Response:
    """An answer that comes in pieces, as over a line."""

    async def pieces() -> AsyncIterator[bytes]:
        yield content[:7]
        yield content[7:]

    return httpx.Response(200, content=pieces())


def told_apart(request: httpx.Request) -> httpx.Response:
    """Every request of one that holds many, answered with its seed."""
    bodies = json.loads(request.content)["requests"]
    lines = [json.dumps({"index": n, "body": each["seed"]}) + "\n" for n, each in enumerate(bodies)]
    return streamed("".join(lines).encode())


def test_what_goes_as_one_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "MOST_TOGETHER_BYTES", 10_000)
    sizes: list[int] = []

    def answering(request: httpx.Request) -> httpx.Response:
        sizes.append(len(request.content))
        return told_apart(request)

    assert [each.value for each in asked_together(9, answering, letters=3000)] == list(range(9))
    assert len(sizes) == 3
    assert max(sizes) < 10_100
    sizes.clear()
    assert [each.value for each in asked_together(2, answering, letters=30_000)] == [0, 1], "one that is larger goes by itself"
    assert len(sizes) == 2


@pytest.mark.parametrize("status", [400, 413])
def test_when_many_are_refused_as_one_each_is_asked_by_itself(status: int) -> None:
    def answering(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        if "requests" in body:
            return httpx.Response(status, json={"error": {"message": "too large"}})
        return httpx.Response(413 if body["seed"] == 2 else 200, json=body["seed"])

    got = asked_together(4, answering)
    assert [each.status for each in got] == [200, 200, 413, 200]
    assert [each.value for each in got] == [0, 1, 2, 3]


@pytest.mark.parametrize("line", [b'{"index": 1.0, "body": {}}\n', b'{"index": 9}\n', b"[]\n", b"\xff\n"])
def test_nobody_is_left_waiting_by_an_answer_that_makes_no_sense(line: bytes) -> None:
    got = asked_together(3, lambda request: streamed(line))
    assert [type(each) for each in got] == [Lost] * 3


@pytest.mark.parametrize("together", [True, False])
def test_nobody_is_left_waiting_by_an_address_that_is_none(together: bool) -> None:
    async def ask() -> Any:
        line = Line("")
        (got,) = await asyncio.gather(line.ask("http://[", {}, together=together), return_exceptions=True)
        await line.close()
        return got

    assert isinstance(asyncio.run(ask()), Lost)


def test_a_text_with_every_kind_of_line_end_comes_through_whole(engine: Engine) -> None:
    text = "a\x85b\u2028c\u2029d\rf\x0bg"
    engine.rule = lambda body: Said(body=answer(body, text))
    job_id = submit(max_turns=1, reply_format="text")
    played(job_id)
    assert only_turn(job_id).reply["text"] == text


# The policy itself.


def test_a_model_that_synthq_serves_plays_in_steps_alone() -> None:
    with pytest.raises(InvalidInput, match="elsewhere a model plays as openai:MODEL"):
        policies.make(LABEL)
    with pytest.raises(InvalidInput, match="the policy 'model' needs a model"):
        policies.make("model")


def test_a_label_that_nobody_looked_up_ends_the_job(engine: Engine) -> None:
    job_id = submit()
    write("DELETE FROM model_use")
    write("UPDATE step SET needs = NULL")
    ended = finish(job_id)
    assert f"nothing is known of {LABEL}" in str(ended.reason)
