"""The chat template and its inverse: one text for play and training, and nothing that is made up on the way back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from app.dataset import tokens
from app.errors import InvalidInput
from app.records import Reply
from workers.rollout import actions, prompts
from workers.transport import chat

NAMES = ("noop", "move_left", "do")
TOOLS = prompts.tools(NAMES, 8)
SYSTEM = {"role": "system", "content": "You play."}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SEEN = {"role": "user", "content": [{"type": "text", "text": "Health 9"}, PICTURE]}


def calling(arguments: str, *more: str, content: str | None = "") -> dict[str, Any]:
    calls = [
        {"id": f"call_{i}", "type": "function", "function": {"name": actions.TOOL, "arguments": text}}
        for i, text in enumerate((arguments, *more))
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def test_a_turn_with_a_picture_and_a_call_looks_like_this() -> None:
    tool = {"type": "function", "function": {"name": "act", "parameters": {"type": "object", "about": "a < b & 'ü'"}}}

    text = chat.render([SYSTEM, SEEN, calling('{"actions":  ["do"]}')], [tool])

    assert text == (
        "<|im_start|>system\nYou play.\n\n# Tools\n\nThese functions can be called:\n<tools>\n"
        '{"type": "function", "function": {"name": "act", "parameters": {"type": "object", "about": "a < b & \'ü\'"}}}\n'
        "</tools>\n\nTo call one, reply with:\n<tool_call>\n"
        '{"name": <name>, "arguments": <JSON object>}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\nHealth 9<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "interact_many", "arguments": {"actions":  ["do"]}}\n</tool_call>'
        "<|im_end|>\n"
    )


def test_without_tools_and_system_nothing_is_added() -> None:
    assert chat.render([{"role": "user", "content": "hi"}], add_generation_prompt=True) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_tools_without_a_system_message_get_one() -> None:
    assert chat.render([SEEN], TOOLS).startswith("<|im_start|>system\n# Tools\n\n")


def test_parts_of_a_message_stay_in_their_order() -> None:
    content = [PICTURE, {"type": "text", "text": "before"}, {"type": "image"}, {"type": "text", "text": " after"}]

    assert chat.render([{"role": "user", "content": content}]) == (
        f"<|im_start|>user\n{chat.IMAGE}before{chat.IMAGE} after<|im_end|>\n"
    )


def test_answers_of_tools_that_follow_each_other_share_a_message() -> None:
    answers = [{"role": "tool", "tool_call_id": f"call_{i}", "content": word} for i, word in enumerate(("one", "two"))]

    assert chat.render(answers) == (
        "<|im_start|>user\n<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response><|im_end|>\n"
    )


def test_the_template_serves_a_tokenizer_as_it_is() -> None:
    """transformers runs it with these settings and extensions, and gives arguments as objects."""
    theirs = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    theirs.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    messages = [SYSTEM, SEEN, calling('{"actions": ["do"]}', content=None)]
    parsed = json.loads(json.dumps(messages))
    parsed[2]["tool_calls"][0]["function"]["arguments"] = {"actions": ["do"]}

    text = theirs.from_string(chat.TEMPLATE.read_text()).render(messages=parsed, tools=TOOLS, add_generation_prompt=False)

    assert text == chat.render(messages, TOOLS)


@pytest.mark.parametrize("token", ["<|im_end|>", "<|image_pad|>", "<|endoftext|>", "<|box_start|>"])
@pytest.mark.parametrize(
    ("where", "messages"),
    [
        ("messages[0].content", [{"role": "user", "content": "a TOKEN b"}]),
        ("messages[0].content[0].text", [{"role": "user", "content": [{"type": "text", "text": "TOKEN"}]}]),
        ("messages[0].tool_calls[0].function.arguments", [calling('{"actions": ["TOKEN"]}')]),
    ],
)
def test_a_control_token_in_a_text_is_refused(where: str, messages: list[dict[str, Any]], token: str) -> None:
    told = json.loads(json.dumps(messages).replace("TOKEN", token))

    with pytest.raises(InvalidInput) as refused:
        chat.render(told)

    assert str(refused.value).startswith(f"{where} holds the control token {token!r}")


@pytest.mark.parametrize(
    "message",
    [
        {"role": "developer", "content": "x"},
        {"content": "x"},
        {"role": "user", "content": [{"type": "input_audio"}]},
        {"role": "user", "content": [{"type": "text"}]},
        {"role": "assistant", "content": [PICTURE]},
        {"role": "system", "content": [PICTURE]},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"arguments": "{}"}}]},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "x"}}]},
        {"role": "user", "content": 7},
    ],
)
@pytest.mark.parametrize("tools", [None, TOOLS])
def test_what_the_form_cannot_say_is_refused_and_not_left_out(message: dict[str, Any], tools: Any) -> None:
    with pytest.raises(InvalidInput, match="not in OpenAI's chat format"):
        chat.render([message], tools)


def test_prompt_and_reply_are_the_whole() -> None:
    messages = [SYSTEM, SEEN, calling('{"actions": ["do"]}', content="Wood.")]

    prompt, reply = chat.prompt_and_reply(messages, TOOLS)

    assert prompt + reply == chat.render(messages, TOOLS)
    assert prompt == chat.render(messages[:2], TOOLS, add_generation_prompt=True)
    assert reply.startswith("Wood.\n<tool_call>")
    assert reply.endswith(f"</tool_call>{chat.END}\n")


@pytest.mark.parametrize("messages", [[], [SYSTEM, SEEN]])
def test_a_conversation_without_a_last_reply_has_none(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(InvalidInput, match="the last message must be of the role 'assistant'"):
        chat.prompt_and_reply(messages)


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "interact_many", "arguments": {"actions": ["do"]}}\n</tool_call>',
        '<tool_call>{"arguments": {"actions": ["do"]}, "name": "interact_many"}</tool_call>',
        ' <tool_call> {"name":"interact_many" ,\n"arguments" : {"actions": ["do"]} } </tool_call>\n<|im_end|>\n',
        'I hit it.\n<tool_call>\n{"name": "interact_many", "arguments": {"actions": ["do"]}}\n</tool_call><|im_end|>',
    ],
)
def test_a_call_is_read_whatever_its_white_space(text: str) -> None:
    reply = prompts.reply_from_openai(chat.read_reply(text))

    assert [(call.name, json.loads(call.arguments)) for call in reply.tool_calls] == [("interact_many", {"actions": ["do"]})]


MALFORMED = [
    '<tool_call>\n{"name": "interact_many", "arguments": {"actions": ["do"]}}\n',
    '<tool_call>\n{"name": "interact_many", "arguments": {"actions": ["do"]}\n</tool_call>',
    '<tool_call>\n{"name": "interact_many", "arguments": "{}"}\n</tool_call>',
    '<tool_call>\n{"name": "interact_many", "arguments": {"actions": [NaN]}}\n</tool_call>',
    '<tool_call>\n{"name": "interact_many"}\n</tool_call>',
    '<tool_call>\n{"name": 7, "arguments": {}}\n</tool_call>',
    '<tool_call>\n{"name": "a", "name": "b", "arguments": {}}\n</tool_call>',
    '<tool_call>\n{"name": "a", "arguments": {}, "sure": true}\n</tool_call>',
    '<tool_call>\n{"name": "\\ud800", "arguments": {}}\n</tool_call>',
    '<tool_call>\n{"name": "a", "arguments": {}} and more\n</tool_call>',
    "<tool_call>\n{'name': 'a', 'arguments': {}}\n</tool_call>",
    "<tool_call>\n[]\n</tool_call>",
    "<tool_call></tool_call>",
    "<tool_call>" * 3,
    '{"name": "interact_many", "arguments": {"actions": ["do"]}}',
    '<tool_call>{"name": "a", "arguments": ' + '{"a":' * 100_000,
]


@pytest.mark.parametrize("text", MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_not_wholly_a_call_stays_content_and_no_action_comes_of_it(text: str) -> None:
    message = chat.read_reply(f"{text}{chat.END}\n")

    assert message == {"role": "assistant", "content": text}
    parsed = actions.parse(prompts.reply_from_openai(message), reply_format="tool_call", actions=NAMES, max_actions=8)
    assert parsed.outcome == "no_tool_call"
    assert parsed.actions == ()


def test_a_good_call_beside_a_broken_one_is_read_and_the_broken_one_stays_content() -> None:
    good = '<tool_call>\n{"name": "a", "arguments": {}}\n</tool_call>'

    message = chat.read_reply(f"<tool_call>\n{{\n{good}")

    assert message["content"] == "<tool_call>\n{"
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["a"]


def test_the_end_mark_of_a_call_inside_a_text_of_its_arguments_ends_nothing() -> None:
    arguments = '{"note": "</tool_call> <tool_call>{}"}'

    message = chat.read_reply(chat.prompt_and_reply([calling(arguments)])[1])

    assert message == calling(arguments)


def test_words_after_a_call_are_kept() -> None:
    message = chat.read_reply('<tool_call>{"name": "a", "arguments": {}}</tool_call> and then?')

    assert message["content"] == " and then?"
    assert len(message["tool_calls"]) == 1


ANY_TEXT = st.text(max_size=40) | st.sampled_from(["<tool_call>", "</tool_call>", "\n", '{"name": "a", "arguments": ', "<"])
JSON_VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
LAYOUT = st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}, {"indent": "\t"}])
SPACE = st.text(alphabet=" \t\r\n", max_size=3)
ARGUMENTS = st.builds(
    lambda value, layout, before, after: f"{before}{json.dumps(value, **layout)}{after}",
    st.dictionaries(st.text(max_size=6), JSON_VALUE, max_size=3),
    LAYOUT,
    SPACE,
    SPACE,
)


@given(
    content=st.lists(ANY_TEXT, max_size=3).map("".join),
    calls=st.lists(st.tuples(st.text(max_size=12), ARGUMENTS), max_size=3),
    with_tools=st.booleans(),
)
def test_any_reply_comes_back_as_it_went_in(content: str, calls: list[tuple[str, str]], with_tools: bool) -> None:
    reply: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        reply["tool_calls"] = [
            {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for i, (name, arguments) in enumerate(calls)
        ]
    assume(not any(tokens.CONTROL.search(text) for text in (content, *(text for call in calls for text in call))))
    assume("tool_calls" not in chat.read_reply(content))  # words that are a call are one

    prompt, text = chat.prompt_and_reply([SYSTEM, SEEN, reply], TOOLS if with_tools else None)

    assert prompt + text == chat.render([SYSTEM, SEEN, reply], TOOLS if with_tools else None)
    assert chat.read_reply(text) == reply


@given(pieces=st.lists(ANY_TEXT | st.sampled_from([*MALFORMED[:12], chat.END]), max_size=5))
def test_reading_any_text_never_fails_and_never_makes_a_call_up(pieces: list[str]) -> None:
    text = "".join(pieces)

    message = chat.read_reply(text)

    for call in message.get("tool_calls", ()):
        assert call["function"]["arguments"] in text
        assert isinstance(json.loads(call["function"]["arguments"]), dict)
    if "tool_calls" not in message:
        assert text in (message["content"], message["content"] + chat.END, message["content"] + chat.END + "\n")


@given(said=st.lists(st.sampled_from(NAMES), min_size=1, max_size=8), reply_format=st.sampled_from(actions.REPLY_FORMATS))
def test_actions_survive_template_and_parser_in_both_formats(said: list[str], reply_format: actions.ReplyFormat) -> None:
    reply = actions.format_reply(said, reply_format)
    (message,) = prompts.to_openai([prompts.assistant(reply)])

    _, text = chat.prompt_and_reply([SEEN, message], TOOLS if reply_format == "tool_call" else None)
    back = prompts.reply_from_openai(chat.read_reply(text))

    assert back == Reply(text=reply.text, tool_calls=reply.tool_calls)
    assert actions.parse(back, reply_format=reply_format, actions=NAMES, max_actions=8).actions == tuple(said)
