"""From a reply to actions and back: the one parser, and how a policy that is no model says its actions.

The two reply formats, exactly:

``tool_call``
    One call of the tool ``interact_many``. Its arguments are a JSON object with the single key ``actions``: a list of
    1 to ``max_actions`` action names. Text beside the call is allowed and means nothing here. A second call is an
    error.

``text``
    The whole reply is 1 to ``max_actions`` action names and their separators::

        reply     = [space] name *( separator name ) [space]
        separator = [space] "," [space] / space
        space     = 1*( blank / tab / line feed / carriage return )

Names are compared as they are: no aliases, no other case, no repair. A reply that is anything else gets the outcome
that says so, with a sentence for people, and no actions at all: a list with one unknown name is not carried out in
part.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from app import strict_json
from app.errors import InvalidInput, did_you_mean
from app.records import Outcome, Parsed, Reply, ToolCall

ReplyFormat = Literal["tool_call", "text"]
REPLY_FORMATS: tuple[ReplyFormat, ...] = ("tool_call", "text")

TOOL = "interact_many"
"""Name of the one tool."""
ARGUMENT = "actions"
"""Name of the tool's one argument."""
UNREADABLE = "unreadable"
"""The note in which a policy says why its reply must not be read, such as a token in it that stands for a picture."""
MAX_ACTIONS = 8
"""The most actions that any spec may allow in one reply."""

_SPACE = " \t\r\n"
_SEPARATOR = re.compile(r"[ \t\r\n]*,[ \t\r\n]*|[ \t\r\n]+")
_SAYABLE = re.compile(r"[^ \t\r\n,]+")
_SHOWN_CHARS = 60
_ENCODE = json.JSONEncoder(ensure_ascii=False).encode


def format_reply(actions: Sequence[str], reply_format: ReplyFormat) -> Reply:
    """The reply that says these actions, byte for byte as a model is taught to say them.

    Raises InvalidInput for an empty list, and for a name that the text format could not tell from two.
    """
    if not actions:
        raise InvalidInput("a reply must hold at least one action, not an empty list")
    for name in actions:
        if not _SAYABLE.fullmatch(name):
            raise InvalidInput(f"an action name is text without blanks and commas, not {name!r}")
    if reply_format == "text":
        return Reply(text=" ".join(actions))
    arguments = _ENCODE({ARGUMENT: list(actions)})
    return Reply(tool_calls=(ToolCall(name=TOOL, arguments=arguments),))


def parse(reply: Reply, *, reply_format: ReplyFormat, actions: Sequence[str], max_actions: int) -> Parsed:
    """What a reply means. Never raises on what a reply says, and never makes up, drops or changes an action.

    ``actions`` are the names that the environment has. The outcome is ``ok`` with all the actions of the reply, or
    another outcome with none and a sentence why: ``engine_error`` when the engine failed, ``truncated`` when the
    reply hit its token limit and cannot be read, ``no_tool_call``, or ``parse_error``.
    """
    if reply.finish == "error":
        return Parsed(outcome=Outcome.ENGINE_ERROR, detail=_engine_sentence(reply))
    if UNREADABLE in reply.notes:
        return Parsed(outcome=Outcome.PARSE_ERROR, detail=str(reply.notes[UNREADABLE]))
    read = _read_text if reply_format == "text" else _read_tool_call
    try:
        said = read(reply)
        return Parsed(outcome=Outcome.OK, actions=_checked(said, actions, max_actions))
    except _Unreadable as problem:
        if reply.finish == "length":
            return Parsed(outcome=Outcome.TRUNCATED, detail=f"the reply hit its token limit: {problem}")
        return Parsed(outcome=problem.outcome, detail=str(problem))


class _Unreadable(Exception):
    """The reply is not in its format; the text says how. Stays inside this file."""

    def __init__(self, detail: str, outcome: Outcome = Outcome.PARSE_ERROR) -> None:
        super().__init__(detail)
        self.outcome = outcome


def _engine_sentence(reply: Reply) -> str:
    reason = reply.notes.get("error")
    return f"the engine gave no usable reply: {_shown(str(reason))}" if reason else "the engine gave no usable reply"


def _read_text(reply: Reply) -> list[str]:
    if reply.tool_calls:
        raise _Unreadable("the reply calls a tool, but the reply format is text")
    said = reply.text.strip(_SPACE)
    if not said:
        raise _Unreadable("the reply is empty; it must name at least one action")
    return _SEPARATOR.split(said)


def _read_tool_call(reply: Reply) -> list[str]:
    if not reply.tool_calls:
        said = f"only says {_shown(reply.text)}" if reply.text.strip() else "is empty"
        raise _Unreadable(f"the reply calls no tool and {said}; it must call {TOOL} once", Outcome.NO_TOOL_CALL)
    if len(reply.tool_calls) > 1:
        raise _Unreadable(f"the reply calls {len(reply.tool_calls)} tools; it must call {TOOL} once")
    call = reply.tool_calls[0]
    if call.name != TOOL:
        raise _Unreadable(f"the reply calls the tool {_shown(call.name)}; the only tool is {TOOL}")
    return _read_arguments(call.arguments)


def _read_arguments(arguments: str) -> list[str]:
    value = _strict_json(arguments)
    if not isinstance(value, dict):
        raise _Unreadable(f"the arguments are {_kind(value)}, not an object with the key {ARGUMENT!r}")
    extra = sorted(set(value) - {ARGUMENT})
    if extra:
        raise _Unreadable(f"the arguments have the key {_shown(extra[0])}; the only key is {ARGUMENT!r}")
    if ARGUMENT not in value:
        raise _Unreadable(f"the arguments lack the key {ARGUMENT!r}")
    listed = value[ARGUMENT]
    if not isinstance(listed, list):
        raise _Unreadable(f"{ARGUMENT!r} is {_kind(listed)}, not a list of action names")
    for item in listed:
        if not isinstance(item, str):
            raise _Unreadable(f"{ARGUMENT!r} holds {_kind(item)}; every item must be an action name")
    return listed


def _strict_json(text: str) -> Any:
    """The value of a JSON text. Keys that come twice and the words NaN and Infinity are no JSON here."""
    try:
        return strict_json.read(text)
    except strict_json.NotStrict as error:
        raise _Unreadable(f"the JSON of the arguments {error}") from None
    except ValueError as error:  # JSONDecodeError, or a number with too many digits
        raise _Unreadable(f"the arguments are not JSON ({error}): {_shown(text)}") from None


def _checked(said: Sequence[str], known: Sequence[str], max_actions: int) -> tuple[str, ...]:
    if not said:
        raise _Unreadable("the list of actions is empty; it must name at least one")
    if len(said) > max_actions:
        raise _Unreadable(f"the reply names {len(said)} actions; the most is {max_actions}")
    for name in said:
        if name not in known:
            near = did_you_mean(name, known) if len(name) <= _SHOWN_CHARS else ""
            raise _Unreadable(f"no action named {_shown(name)}{near}")
    return tuple(said)


def _kind(value: Any) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return "null" if value is None else names[type(value)]


def _shown(text: str) -> str:
    """A text as a sentence can carry it: quoted, escaped, and cut when long."""
    return repr(text) if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]!r}..."
