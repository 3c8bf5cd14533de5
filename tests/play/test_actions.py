"""The parser: every reply gets an outcome, and no action is ever made up, dropped or changed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import InvalidInput
from app.records import Outcome, Reply, ToolCall
from workers.rollout.actions import MAX_ACTIONS, REPLY_FORMATS, TOOL, format_reply, parse

ACTIONS = ("noop", "move_left", "move_right", "do", "sleep", "place_table")
lists = st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=MAX_ACTIONS)
formats = st.sampled_from(REPLY_FORMATS)


def called(arguments: object, *, name: str = TOOL, finish: str = "stop") -> Reply:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return Reply(tool_calls=(ToolCall(name=name, arguments=text),), finish=finish)  # type: ignore[arg-type]


def read(reply: Reply, reply_format: str = "tool_call", max_actions: int = 4):
    return parse(reply, reply_format=reply_format, actions=ACTIONS, max_actions=max_actions)  # type: ignore[arg-type]


@settings(deadline=None)
@given(lists, formats)
def test_what_is_formatted_is_what_is_parsed(said, reply_format):
    parsed = read(format_reply(said, reply_format), reply_format, MAX_ACTIONS)
    assert parsed.outcome is Outcome.OK
    assert parsed.actions == tuple(said)
    assert parsed.detail == ""


def test_a_tool_call_is_emitted_as_models_write_it():
    (call,) = format_reply(["move_left", "do"], "tool_call").tool_calls
    assert (call.name, call.arguments) == ("interact_many", '{"actions": ["move_left", "do"]}')
    assert format_reply(["move_left", "do"], "text").text == "move_left do"


@pytest.mark.parametrize("said", [[], ["move left"], ["do,do"], [""], ["do\n"]])
def test_a_reply_cannot_be_formatted_that_could_not_be_read_back(said):
    with pytest.raises(InvalidInput):
        format_reply(said, "text")


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (called({"actions": []}), "empty"),
        (called({"actions": ["do"] * 5}), "5 actions; the most is 4"),
        (called({"actions": ["jump"]}), "no action named 'jump'"),
        (called({"actions": ["do", "mve_left"]}), "did you mean 'move_left'"),
        (called({"actions": ["Do"]}), "no action named 'Do'"),
        (called({"actions": [" do"]}), "no action named ' do'"),
        (called({"actions": ["up"]}), "no action named 'up'"),
        (called({"actions": ["do"]}, name="interact"), "the only tool is interact_many"),
        (called({"actions": ["do"], "why": "wood"}), "'why'"),
        (called({}), "lack the key 'actions'"),
        (called({"actions": "do"}), "is a text"),
        (called({"actions": {"0": "do"}}), "is an object"),
        (called({"actions": [1]}), "holds a number"),
        (called({"actions": ["do", None]}), "holds null"),
        (called({"actions": [True]}), "holds a boolean"),
        (called(["do"]), "a list, not an object"),
        (called('{"actions": ["do"]'), "not JSON"),
        (called(""), "not JSON"),
        (called('{"actions": ["do"], "actions": ["noop"]}'), "gives the key 'actions' twice"),
        (called('{"actions": NaN}'), "NaN"),
        (called('{"actions": ["do"]} and more'), "not JSON"),
        (called("[" * 100_000), "nested too deep"),
        (called('{"actions": ' + "9" * 5_000 + "}"), "not JSON"),
    ],
)
def test_a_call_that_is_not_in_the_format_is_a_parse_error_with_a_sentence(reply, words):
    parsed = read(reply)
    assert parsed.outcome is Outcome.PARSE_ERROR
    assert parsed.actions == ()
    assert words in parsed.detail
    assert len(parsed.detail) < 300


def test_two_calls_are_an_error_even_when_each_is_right():
    call = format_reply(["do"], "tool_call").tool_calls[0]
    parsed = read(Reply(tool_calls=(call, call)))
    assert (parsed.outcome, parsed.actions) == (Outcome.PARSE_ERROR, ())
    assert "2 tools" in parsed.detail


@pytest.mark.parametrize("text", ["", "   ", "move_left", "I will do."])
def test_a_reply_without_a_call_is_no_tool_call_even_if_it_names_an_action(text):
    parsed = read(Reply(text=text))
    assert (parsed.outcome, parsed.actions) == (Outcome.NO_TOOL_CALL, ())


def test_words_beside_a_call_mean_nothing():
    reply = Reply(text="The tree is on my left. move_right", tool_calls=called({"actions": ["move_left"]}).tool_calls)
    assert read(reply).actions == ("move_left",)


@pytest.mark.parametrize(
    "text",
    ["do", " do\n", "do do", "do, do", "do,do", "do ,\tdo", "move_left\nmove_right\ndo", "do  do"],
)
def test_the_text_format_takes_blanks_and_commas(text):
    parsed = read(Reply(text=text), "text")
    assert parsed.outcome is Outcome.OK
    assert list(parsed.actions) == text.replace(",", " ").split()


@pytest.mark.parametrize(
    "text",
    [
        "", "  ", ",", "do,", ",do", "do,,do", "do;do", "do.", "Do", "DO", "move left", "1. do", "- do", "[do]",
        '"do"', "do and do", "action: do", "do do do do do", "do\u00a0do", "do\u2003do", "<action>do</action>", "d\u043e",
    ],
)  # fmt: skip
def test_anything_else_in_the_text_format_is_a_parse_error(text):
    parsed = read(Reply(text=text), "text")
    assert (parsed.outcome, parsed.actions) == (Outcome.PARSE_ERROR, ())
    assert parsed.detail


def test_a_tool_call_is_no_answer_in_the_text_format():
    assert read(called({"actions": ["do"]}), "text").outcome is Outcome.PARSE_ERROR


def test_a_reply_cut_at_its_token_limit_is_truncated_only_when_it_cannot_be_read():
    assert read(called('{"actions": ["do", "mo', finish="length")).outcome is Outcome.TRUNCATED
    assert read(Reply(text="Let me think", finish="length")).outcome is Outcome.TRUNCATED
    assert read(Reply(text="do mov", finish="length"), "text").outcome is Outcome.TRUNCATED
    assert read(Reply(text="do do", finish="length"), "text").actions == ("do", "do")
    assert read(called({"actions": ["do"]}, finish="length")).actions == ("do",)


def test_an_engine_that_failed_is_an_engine_error_whatever_came_before():
    reply = Reply(text="do", finish="error", notes={"error": "connection refused"})
    parsed = read(reply, "text")
    assert (parsed.outcome, parsed.actions) == (Outcome.ENGINE_ERROR, ())
    assert "connection refused" in parsed.detail


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(ACTIONS),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from(["actions", "x"]) | st.text(), inner, max_size=3),
    max_leaves=12,
)
arguments = st.text() | json_values.map(json.dumps) | st.builds(lambda v: json.dumps({"actions": v}), json_values)
calls = st.builds(ToolCall, name=st.sampled_from([TOOL, "do"]) | st.text(), arguments=arguments)
replies = st.builds(
    Reply,
    text=st.text() | st.lists(st.sampled_from([*ACTIONS, ",", " ", "\n", "x"])).map("".join),
    tool_calls=st.lists(calls, max_size=2).map(tuple),
    finish=st.sampled_from(["stop", "length", "error"]),
)


@settings(deadline=None)
@given(replies, formats, st.integers(1, MAX_ACTIONS))
def test_any_reply_gets_an_outcome_and_only_ok_has_actions(reply, reply_format, max_actions):
    parsed = read(reply, reply_format, max_actions)
    assert (parsed.outcome is Outcome.OK) == bool(parsed.actions) == (not parsed.detail)
    assert len(parsed.actions) <= max_actions
    assert set(parsed.actions) <= set(ACTIONS)
    said = reply.text if reply_format == "text" else "".join(call.arguments for call in reply.tool_calls)
    assert all(json.dumps(name)[1:-1] in said for name in parsed.actions)
