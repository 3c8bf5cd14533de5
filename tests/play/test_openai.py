"""The policy that asks a model: what it sends, what it makes of answers, how long it waits, and that its key goes nowhere."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from play_kit import begin as begin_game
from play_kit import options
from stand_in import KEY, Answer, StandIn, calls, message, status, text, unsupported

from app.errors import BadSnapshot, EngineFailed, EngineRefused, InvalidInput, SynthqError, UnknownName
from app.records import EpisodeKey, Frame, Outcome, Reply, ToolCall, Turn
from app.store.spending import Tokens
from workers.rollout import policies, prompts
from workers.rollout.actions import parse
from workers.rollout.envs.crafter import Crafter
from workers.rollout.policies import Policy, Request
from workers.rollout.policies.openai import OpenAI, body, waits
from workers.rollout.prompts import PromptOptions
from workers.transport.pixels import encode_png, upscale

VARIABLE = "TEACHER_KEY_OF_THE_TEST"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is there, and pauses are short."""
    monkeypatch.setenv(VARIABLE, KEY)
    monkeypatch.setattr(waits, "FIRST_S", 0.01)


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as running:
        yield running


def teacher(server: StandIn, **more: Any) -> OpenAI:
    made = policies.make("openai:teacher", {"endpoint": server.url, "api_key_env": VARIABLE, "deadline_s": 20.0, **more})
    assert isinstance(made, OpenAI)
    return made


def ask(policy: OpenAI, index: int = 0, *, env: Crafter | None = None, turns: int = 1, **prompt: Any) -> Reply:
    """Ask for a turn of seed 3, ``turns`` times; the last reply."""
    chosen, world = PromptOptions(**prompt), env or Crafter()
    world.reset(3)
    policy.begin(world, EpisodeKey(iteration=0, seed=3, member=0), sampling_seed=0)
    frame = Frame.of(encode_png(world.frame()), width=64, height=64)
    shown = frame.sha256 if chosen.use_vision else None
    wire = prompts.build(world.rules("short"), world.describe(world.status()), shown, (), chosen, world.actions)
    request = Request(
        index=index,
        messages=wire,
        options=chosen,
        actions=world.actions,
        env=world,
        frames={frame.sha256: frame.png}.__getitem__,
    )

    async def all_turns() -> Reply:
        try:
            for _ in range(turns):
                reply = await policy.reply(request)
            return reply
        finally:
            await policy.close()

    return asyncio.run(all_turns())


def outcome(reply: Reply, **prompt: Any) -> Outcome:
    chosen = PromptOptions(**prompt)
    return parse(reply, reply_format=chosen.reply_format, actions=Crafter.actions, max_actions=chosen.max_actions).outcome


# What is sent.


def test_it_is_a_policy_with_a_model(server: StandIn) -> None:
    policy = teacher(server)
    assert isinstance(policy, Policy)
    assert (policy.name, policy.model, policy.version) == ("openai", "teacher", "openai-1/teacher")
    with pytest.raises(UnknownName, match="did you mean 'max_tokens'"):
        teacher(server, max_token=5)
    with pytest.raises(InvalidInput, match="openai:MODEL"):
        policies.make("openai", {"endpoint": server.url})
    with pytest.raises(InvalidInput, match="needs an address"):
        policies.make("openai:teacher")


def test_a_request_says_what_the_spec_says_and_nothing_else(server: StandIn) -> None:
    ask(teacher(server, temperature=0.3, top_p=0.9, max_tokens=77, tool_choice="required", detail="low"))
    (asked,) = server.asked
    assert set(asked.body) == {
        "model", "messages", "temperature", "top_p", "max_tokens", "seed", "tools", "tool_choice", "parallel_tool_calls",
    }  # fmt: skip
    assert {key: asked.body[key] for key in ("temperature", "top_p", "max_tokens", "tool_choice", "parallel_tool_calls")} == {
        "temperature": 0.3,
        "top_p": 0.9,
        "max_tokens": 77,
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }
    assert asked.body["messages"][0]["role"] == "system"
    assert asked.user["content"][-1]["image_url"]["detail"] == "low"


def test_thinking_is_asked_for_only_where_the_spec_does(server: StandIn) -> None:
    ask(teacher(server, reasoning_effort="low", thinking_mode="no_think", thinking_budget=64))
    sent = server.asked[0].body
    assert (sent["reasoning_effort"], sent["thinking_budget"]) == ("low", 64)
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(("size", "px"), [(64, None), (63, 144), (64, 256)])
def test_the_picture_is_the_stored_frame_made_larger_by_the_one_rule(size: int, px: int | None) -> None:
    world = Crafter(image_size=size)
    world.reset(3)
    with StandIn(picture_px=px or size) as server:
        ask(teacher(server, upscale_to=px), env=world)
        world.reset(3)
        native = world.frame()
        assert np.array_equal(server.asked[0].picture, native if px is None else upscale(native, px, tiles=9))


@pytest.mark.parametrize("reply_format", ["tool_call", "text"])
@pytest.mark.parametrize(("use_vision", "image_only"), [(True, False), (True, True), (False, False)])
def test_each_kind_of_prompt_reaches_the_model_as_it_is(reply_format: str, use_vision: bool, image_only: bool) -> None:
    prompt = {"reply_format": reply_format, "use_vision": use_vision, "image_only_mode": image_only}
    with StandIn(use_vision=use_vision, image_only=image_only, tools=reply_format == "tool_call") as server:
        reply = ask(teacher(server), **prompt)
    assert outcome(reply, **prompt) is Outcome.OK
    assert ("You face" in server.asked[0].text) == (not image_only)
    assert "parallel_tool_calls" in server.asked[0].body or reply_format == "text"


def test_seeds_differ_by_turn_and_are_the_same_when_a_turn_is_played_again(server: StandIn) -> None:
    for index in (0, 1, 0):
        ask(teacher(server), index)
    first, second, again = (asked.body["seed"] for asked in server.asked)
    assert first == again != second
    assert all(0 <= seed < 2**31 for seed in (first, second))


def test_an_endpoint_without_a_key_gets_none() -> None:
    with StandIn(key=None) as server:
        assert ask(teacher(server, api_key_env=None)).tool_calls
        assert "authorization" not in server.asked[0].headers


def test_an_address_may_name_the_whole_path(server: StandIn) -> None:
    ask(teacher(server, endpoint=f"{server.url}/chat/completions"))
    ask(teacher(server, endpoint=f"{server.url}/"))
    assert len(server.asked) == 2


# What becomes of the answer.


def test_a_reply_is_kept_as_it_was_given(server: StandIn) -> None:
    odd = '{ "actions" :["do",\n"do"] }'
    server.then(calls(arguments=odd))
    reply = ask(teacher(server))
    assert (reply.text, reply.tool_calls) == ("", (ToolCall(name="interact_many", arguments=odd),))
    assert (reply.finish, reply.policy_version) == ("stop", "openai-1/teacher")
    assert {key: reply.notes[key] for key in ("model", "usage", "attempts", "request_id", "finish_reason", "usd")} == {
        "model": "teacher-2026-11-01",
        "usage": {"input_tokens": 800, "output_tokens": 20, "estimated": False},
        "attempts": 1,
        "request_id": "req-7",
        "finish_reason": "tool_calls",
        "usd": None,
    }
    assert reply.notes["latency_ms"] > 0


@pytest.mark.parametrize(
    ("answer", "said", "found"),
    [
        (calls("do", times=2), {"tool_calls": 2}, Outcome.PARSE_ERROR),
        (calls(arguments='{"actions": ["jump"]}'), {"tool_calls": 1}, Outcome.PARSE_ERROR),
        (calls(arguments='{"actions": [', finish="length"), {"tool_calls": 1, "finish": "length"}, Outcome.TRUNCATED),
        (calls("do", name="act"), {"tool_calls": 1}, Outcome.PARSE_ERROR),
        (text("I would go left."), {"text": "I would go left."}, Outcome.NO_TOOL_CALL),
        (text("I woul", finish="length"), {"text": "I woul", "finish": "length"}, Outcome.TRUNCATED),
        (message({"content": None}), {}, Outcome.NO_TOOL_CALL),
        (message({"content": [{"type": "text", "text": "No"}]}), {"text": "No"}, Outcome.NO_TOOL_CALL),
        (message({"content": None, "refusal": "I may not play."}), {"refusal": "I may not play."}, Outcome.NO_TOOL_CALL),
        (
            message({"content": None, "function_call": {"name": "interact_many", "arguments": '{"actions": ["do"]}'}}),
            {"tool_calls": 1},
            Outcome.OK,
        ),
        (message({"content": "Go"}, finish="content_filter"), {"text": "Go", "finish": "error"}, Outcome.ENGINE_ERROR),
        (message({"content": 5}), {"finish": "error"}, Outcome.ENGINE_ERROR),
        (
            message({"tool_calls": [{"function": {"name": "interact_many", "arguments": {"actions": ["do"]}}}]}),
            {"finish": "error"},
            Outcome.ENGINE_ERROR,
        ),
        (message({"content": "x", "reasoning_content": "hm"}), {"text": "x", "reasoning": "hm"}, Outcome.NO_TOOL_CALL),
        (
            status(400, "The prompt triggered the filter", code="content_filter"),
            {"finish": "error"},
            Outcome.ENGINE_ERROR,
        ),
    ],
)
def test_nothing_is_made_up_for_an_answer(server: StandIn, answer: Answer, said: dict[str, Any], found: Outcome) -> None:
    server.then(answer)
    reply = ask(teacher(server))
    assert reply.text == said.get("text", "")
    assert len(reply.tool_calls) == said.get("tool_calls", 0)
    assert reply.finish == said.get("finish", "stop")
    assert [reply.notes.get(note) for note in ("refusal", "reasoning")] == [said.get("refusal"), said.get("reasoning")]
    assert outcome(reply) is found
    assert len(server.asked) == 1


NO_CHOICE = (b"<html>", b"", b"[]", b"[" * 9000, b"[" * 700 + b"]" * 700, {"choices": []}, {"choices": [{}]}, {"choices": None})


@pytest.mark.parametrize("body", NO_CHOICE)
def test_an_answer_without_a_choice_is_asked_for_again_and_then_recorded(server: StandIn, body: Any) -> None:
    server.then(Answer(body=body), calls("do"))
    assert ask(teacher(server)).notes["attempts"] == 2
    server.then(*[Answer(body=body)] * 3)
    reply = ask(teacher(server))
    assert (reply.finish, reply.tool_calls, reply.notes["attempts"], reply.notes["model"]) == ("error", (), 3, None)
    assert reply.notes["usage"]["estimated"]
    assert outcome(reply) is Outcome.ENGINE_ERROR
    assert len(server.asked) == 5


UNSTORABLE = (
    (text("go \ud800 left"), "half a surrogate pair", {"text": "go \\ud800 left", "tool_calls": []}),
    (text("go\x00left"), "a NUL character", {"text": "go\\u0000left", "tool_calls": []}),
    (
        calls(arguments='{"actions": ["do\udfff"]}'),
        "half a surrogate pair",
        {"text": "", "tool_calls": [{"name": "interact_many", "arguments": '{"actions": ["do\\udfff"]}'}]},
    ),
    (
        calls("do", name="\x00"),
        "a NUL character",
        {"text": "", "tool_calls": [{"name": "\\u0000", "arguments": '{"actions": ["do"]}'}]},
    ),
)


@pytest.mark.parametrize(("answer", "why", "kept"), UNSTORABLE)
def test_a_reply_that_no_database_keeps_is_kept_written_out(
    server: StandIn, answer: Answer, why: str, kept: dict[str, Any]
) -> None:
    server.then(answer)
    reply = ask(teacher(server))
    assert (reply.text, reply.tool_calls, reply.finish) == ("", (), "error")
    assert reply.notes["error"] == f"the reply cannot be stored: it has {why}"
    assert reply.notes["unstorable"] == kept
    assert outcome(reply) is Outcome.ENGINE_ERROR


def test_what_is_told_beside_a_reply_never_spoils_it(server: StandIn) -> None:
    server.then(calls("do", finish="\udc00"))
    assert ask(teacher(server)).notes["finish_reason"] == "\\udc00"
    server.then(message({"content": "do \U0001f600", "refusal": "\ud800", "reasoning": "a\x00b"}))
    reply = ask(teacher(server))
    assert (reply.text, reply.finish) == ("do \U0001f600", "stop")
    assert [reply.notes[note] for note in ("refusal", "reasoning")] == ["\\ud800", "a\\u0000b"]


@pytest.mark.parametrize("told", [10**25, 2**63, -1, 800.5, "800", True])
def test_usage_that_cannot_be_right_counts_as_missing(server: StandIn, told: Any) -> None:
    server.then(calls("do", usage={"prompt_tokens": told, "completion_tokens": 20}))
    used = ask(teacher(server)).notes["usage"]
    assert 4000 < used["input_tokens"] < 12_000, "as much as was set aside"
    assert used["output_tokens"] == 20
    assert used["estimated"] is True
    assert used["disbelieved"] == {"prompt_tokens": repr(told)}


def test_usage_that_is_merely_high_is_charged(server: StandIn) -> None:
    server.then(calls("do", usage=(90_000, 20)))
    used = ask(teacher(server)).notes["usage"]
    assert used == {"input_tokens": 90_000, "output_tokens": 20, "estimated": False}


def test_an_error_under_a_status_of_success_is_an_error(server: StandIn) -> None:
    server.then(Answer(body={"error": {"code": 429, "message": "upstream is busy"}}))
    assert ask(teacher(server)).notes["attempts"] == 2
    server.then(Answer(body={"error": {"code": 403, "message": "not for you"}}))
    with pytest.raises(EngineRefused, match="HTTP 403 'not for you'"):
        ask(teacher(server))


def test_an_answer_that_never_ends_is_not_read_to_its_end(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.rollout.policies.openai.endpoint.MOST_BYTES", 1000)
    server.then(text("x" * 5000))
    assert ask(teacher(server)).notes["attempts"] == 2


# What an endpoint does not take.


NOT_TAKEN = (
    unsupported("max_tokens", "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."),
    status(400, "Unsupported value: 'temperature' does not support 0.3.", param="temperature", code="unsupported_value"),
    Answer(code=422, body={"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}),
    status(400, "property 'parallel_tool_calls' is unsupported"),
)
"""One parameter after the other, in the words of four kinds of server."""


def test_a_parameter_that_is_not_taken_is_left_out_from_then_on_and_told_once(server: StandIn) -> None:
    server.then(*NOT_TAKEN)
    policy = teacher(server, temperature=0.3, max_tokens=99)
    reply = ask(policy)
    assert reply.notes["attempts"] == 5
    told = reply.notes["learned"]
    assert [line.partition(":")[0] for line in told] == [
        "sent max_completion_tokens in place of max_tokens",
        "left out temperature = 0.3",
        f"left out seed = {server.asked[0].body['seed']}",
        "left out parallel_tool_calls = false",
    ]
    again = ask(policy)
    assert again.notes["attempts"] == 1
    assert "learned" not in again.notes
    sent = server.asked[-1].body
    assert sent["max_completion_tokens"] == 99
    assert not {"max_tokens", "temperature", "seed", "parallel_tool_calls"} & set(sent)
    assert {"top_p", "tool_choice", "tools"} <= set(sent)


@pytest.mark.parametrize(
    "answer",
    [
        status(400, "max_tokens is too large: 512. The most is 100.", param="max_tokens", code="invalid_value"),
        status(400, "'messages' is not supported", param="messages"),
    ],
)
def test_a_parameter_that_is_taken_is_never_left_out(server: StandIn, answer: Answer) -> None:
    server.then(answer)
    with pytest.raises(EngineFailed, match="refuses teacher: HTTP 400"):
        ask(teacher(server))
    assert len(server.asked) == 1


# What is tried again, and how long.


@pytest.mark.parametrize("code", [408, 409, 429, 500, 502, 503, 529])
def test_what_may_pass_is_tried_again(server: StandIn, code: int) -> None:
    server.then(status(code), status(code))
    assert ask(teacher(server)).notes["attempts"] == 3


def test_a_dropped_connection_is_tried_again(server: StandIn) -> None:
    server.then(Answer(drop=True))
    assert ask(teacher(server)).notes["attempts"] == 2


@pytest.mark.parametrize(
    ("code", "more", "kind"),
    [
        (400, {}, EngineFailed),
        (413, {}, EngineFailed),
        (401, {}, EngineRefused),
        (402, {}, EngineRefused),
        (403, {}, EngineRefused),
        (404, {"code": "model_not_found"}, EngineRefused),
        (429, {"code": "insufficient_quota"}, EngineRefused),
        (429, {"type": "insufficient_quota"}, EngineRefused),
    ],
)
def test_what_will_not_pass_is_final(server: StandIn, code: int, more: dict[str, str], kind: type[SynthqError]) -> None:
    server.then(status(code, "no such thing", **more))
    with pytest.raises(kind, match=f"127.0.0.1:.* refuses teacher: HTTP {code} 'no such thing'"):
        ask(teacher(server))
    assert len(server.asked) == 1


def test_a_redirect_is_not_followed(server: StandIn) -> None:
    with StandIn() as other:
        server.then(Answer(code=307, headers={"location": f"{other.url}/chat/completions"}))
        with pytest.raises(EngineRefused, match=r"sends the request on to http://127.0.0.1:.*\(HTTP 307\)"):
            ask(teacher(server))
        assert other.asked == []


@pytest.mark.parametrize(
    "headers",
    [
        {"retry-after-ms": "300"},
        {"retry-after": "0.3"},
        {"x-ratelimit-reset-requests": "300ms", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-tokens": "6m0s",
         "x-ratelimit-remaining-tokens": "9000"},
        {"x-ratelimit-reset-tokens": "0.3s"},
    ],
)  # fmt: skip
def test_a_wait_that_the_server_asks_for_is_kept(server: StandIn, headers: dict[str, str]) -> None:
    server.then(status(429, headers=headers))
    ask(teacher(server))
    first, second = (asked.at for asked in server.asked)
    assert 0.3 <= second - first < 2


def test_a_wait_beyond_the_deadline_ends_at_once_and_says_so(server: StandIn) -> None:
    server.then(status(429, "slow down", headers={"retry-after": "360"}))
    began = time.monotonic()
    with pytest.raises(EngineFailed, match=r"asks to wait 360.* deadline_s = 20 are left \(1 attempt, the last: HTTP 429 'slow"):
        ask(teacher(server))
    assert time.monotonic() - began < 5


def test_the_deadline_is_one_for_all_attempts_and_waits(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "FIRST_S", 0.1)
    server.always = status(503, "overloaded")
    began = time.monotonic()
    with pytest.raises(EngineFailed, match=r"no answer of 127.0.0.1:\d+ to teacher within deadline_s = 0.5 \(\d attempts, the "):
        ask(teacher(server, deadline_s=0.5))
    assert time.monotonic() - began < 1.5
    assert 2 <= len(server.asked) <= 5


def test_an_answer_that_takes_too_long_is_given_up(server: StandIn) -> None:
    server.then(calls("do", after_s=30))
    began = time.monotonic()
    with pytest.raises(EngineFailed, match=r"within deadline_s = 0\.3$"):
        ask(teacher(server, deadline_s=0.3))
    assert time.monotonic() - began < 3


def test_an_unreadable_answer_is_recorded_when_no_time_is_left(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "FIRST_S", 60.0)
    server.then(Answer(body=b"?"))
    reply = ask(teacher(server, deadline_s=5))
    assert (reply.finish, reply.notes["error"]) == ("error", "the answer is not a JSON object")


def test_nobody_there_is_told_with_the_address() -> None:
    with StandIn() as gone:
        policy = teacher(gone, deadline_s=0.3)
    with pytest.raises(EngineFailed, match=r"no answer of 127.0.0.1:\d+ to teacher .* the last: connect error"):
        ask(policy)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_that_nobody_vouches_for_is_refused_before_anything_is_said(tmp_path: Path) -> None:
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    made = subprocess.run(["openssl", *words.split(), "-keyout", "-", "-out", "-"], capture_output=True, check=True)
    certificate = tmp_path / "own.pem"
    certificate.write_bytes(made.stdout)
    with StandIn(certificate=certificate) as server:
        with pytest.raises(EngineRefused, match=r"the certificate of 127.0.0.1:\d+ cannot be trusted: .*self.signed"):
            ask(teacher(server))
        assert server.asked == server.faults == []


# The key.


def test_a_missing_key_is_told_before_any_request(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, "", "  "):
        monkeypatch.delenv(VARIABLE, raising=False) if value is None else monkeypatch.setenv(VARIABLE, value)
        with pytest.raises(EngineRefused, match=f"the variable {VARIABLE} with the key for 127.0.0.1:.* is not set"):
            teacher(server)
    monkeypatch.setenv(VARIABLE, f"{KEY}\nx")
    with pytest.raises(EngineRefused, match="holds characters that no key has") as told:
        teacher(server)
    assert KEY not in str(told.value)
    assert server.asked == []


@pytest.mark.parametrize(
    "echo",
    [
        status(401, f"Incorrect API key provided: {KEY}. See the docs."),
        status(401, f"Incorrect API key provided: {KEY[:6]}**********{KEY[-4:]}"),
        status(400, KEY, param=KEY, code=KEY),
        Answer(code=403, body=f"<p>Bearer {KEY}</p>".encode()),
        Answer(code=307, headers={"location": f"http://127.0.0.1:1/?key={KEY}"}),
        status(429, KEY, headers={"retry-after": "999"}),
    ],
)
def test_a_server_that_repeats_the_key_does_not_bring_it_into_a_sentence(server: StandIn, echo: Answer) -> None:
    server.then(echo)
    with pytest.raises(SynthqError) as told:
        ask(teacher(server))
    seen = told.value
    while seen is not None:
        assert not any(part in f"{seen!s} {seen!r}" for part in (KEY, KEY[:6], KEY[-4:]))
        seen = seen.__cause__ or seen.__context__  # type: ignore[assignment]


def test_the_key_is_in_no_reply_no_log_and_no_snapshot(server: StandIn, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    escaped = "".join(f"\\u{ord(c):04x}" for c in KEY)
    raw = json.dumps({"model": KEY, "choices": [{"message": {"content": "KEY"}, "finish_reason": KEY}]}).replace("KEY", escaped)
    server.then(Answer(body=raw.encode(), headers={"x-request-id": KEY}), status(500, KEY))
    policy = teacher(server)
    replies = [ask(policy), ask(policy)]
    assert replies[0].text == replies[0].notes["model"] == replies[0].notes["request_id"] == "***"
    assert caplog.records, "httpx says something at this level"
    held = [*map(repr, replies), caplog.text, repr(policy), policy.snapshot().decode(), repr(policy._endpoint)]
    assert not any(KEY in each for each in held)


# Memory.


def test_a_snapshot_is_enough_to_go_on(server: StandIn) -> None:
    first, other = teacher(server), teacher(server)
    ask(first)
    other.restore(first.snapshot())
    assert other.snapshot() == first.snapshot()
    assert other._number(4) == first._number(4)


@pytest.mark.parametrize("bad", [b"", b"{", b"[]", b"null", b'{"policy": "openai-1/other", "key": null}', b'{"policy": 1}'])
def test_bytes_that_are_no_snapshot_are_refused(server: StandIn, bad: bytes) -> None:
    with pytest.raises(BadSnapshot):
        teacher(server).restore(bad)


def test_a_game_is_played_by_the_model(server: StandIn) -> None:
    server.then(calls("move_right", "do"), text("hm"), calls("noop"))
    policy = teacher(server)
    game = begin_game(policy, options(), seed=3)

    async def three_turns() -> list[Turn]:
        try:
            return [(await game.turn())[0] for _ in range(3)]
        finally:
            await policy.close()

    played = asyncio.run(three_turns())
    assert [each.outcome for each in played] == [Outcome.OK, Outcome.NO_TOOL_CALL, Outcome.OK]
    assert [each.actions for each in played] == [("move_right", "do"), ("noop",), ("noop",)]
    assert "2. noop (your reply was not valid: no_tool_call)" in server.asked[2].text


# What it can take.


def test_the_bound_is_above_what_a_tokenizer_can_make_of_the_text(server: StandIn) -> None:
    policy = teacher(server, max_tokens=100, thinking_budget=50)
    ask(policy)
    sent = server.asked[0].body
    bound = body.most_tokens(sent, most_output=150, picture_px=64)
    texts = [part for each in sent["messages"] for part in ([each["content"]] if isinstance(each["content"], str) else [])]
    assert bound.output == 150
    assert bound.input >= len("".join(texts).encode()) + len(json.dumps(sent["tools"])) + body.IMAGE_TOKENS
    assert bound.input < len(json.dumps(sent["tools"])) + len(server.asked[0].text) + 8000, "and the picture's base64 is not text"


def test_the_bound_grows_with_the_picture_and_knows_a_model_that_counts_more() -> None:
    def bound(model: str, px: int, pictures: int = 1) -> int:
        content = [{"type": "image_url", "image_url": {"url": "data:"}}] * pictures
        sent = {"model": model, "messages": [{"role": "user", "content": content}]}
        return body.most_tokens(sent, most_output=1, picture_px=px).input

    # gpt-4o takes 85 + 170 x 4 for any square picture, gpt-4o-mini 2,833 + 5,667 x 4; a patch of 14 pixels is the smallest known.
    assert bound("gpt-4o", 64) - bound("gpt-4o", 64, 0) >= 765
    assert bound("gpt-4o-mini", 64) - bound("gpt-4o-mini", 64, 0) >= 25_501
    assert bound("x", 2048) - bound("x", 2048, 0) >= (2048 // 14) ** 2


def test_tokens_of_thinking_that_only_the_total_holds_are_counted(server: StandIn) -> None:
    server.then(
        calls("do", usage={"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 40}),
        calls("do", usage={"prompt_tokens": 10}),
        calls("do", usage=None),
        calls("do", usage={"prompt_tokens": "many", "completion_tokens": -1}),
    )
    policy = teacher(server, input_usd_per_million=1.0, output_usd_per_million=2.0, max_tokens=30)
    told = [ask(policy).notes for _ in range(4)]
    assert told[0]["usage"] == {"input_tokens": 10, "output_tokens": 30, "estimated": False}
    assert told[0]["usd"] == pytest.approx(70e-6)
    assert told[1]["usage"] == {"input_tokens": 10, "output_tokens": 30, "estimated": True}
    assert all(each["usage"]["estimated"] and each["usage"]["input_tokens"] > 4000 for each in told[2:])
    assert Tokens(input=10, output=30).total == 40
