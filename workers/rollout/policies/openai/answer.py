"""What an endpoint's answer says, and nothing beyond it: a reply, the tokens it took, or why it is of no use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from app.errors import InvalidInput
from app.records import Reply, ToolCall
from app.store.spending import Tokens
from workers.rollout import prompts
from workers.rollout.policies.wire import storable, unstorable

CUT_SHORT = "length"
FILTERED = "content_filter"
FAR: Final = 100
"""So many times the most that a request could take is no count of its tokens, but a mistake."""
SHOWN_CHARS: Final = 40
_COUNTS: Final = ("prompt_tokens", "completion_tokens", "total_tokens")


def fault(value: Any) -> str | None:
    """Why an answer holds no choice that could be read; None when it holds one."""
    if not isinstance(value, dict):
        return "the answer is not a JSON object"
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices:
        return "the answer has no choices"
    if not isinstance(choices[0], dict) or not isinstance(choices[0].get("message"), dict):
        return "the answer's first choice has no message"
    return None


def usage(value: Any, most: Tokens) -> tuple[Tokens, bool]:
    """The tokens that an answer says it took, and whether one of the two is missing and taken from ``most`` instead.

    A figure that cannot be right (see ``disbelieved``) is missing. Some servers leave the tokens of thinking out of the reply's
    and have them in the total alone.
    """
    found = _told(value)
    prompt, reply, total = (_count(found.get(name), most) for name in _COUNTS)
    if prompt is not None and reply is not None and total is not None:
        reply = max(reply, total - prompt)
    used = Tokens(input=most.input if prompt is None else prompt, output=most.output if reply is None else reply)
    return used, prompt is None or reply is None


def disbelieved(value: Any, most: Tokens) -> dict[str, str]:
    """The figures of an answer's usage that were not charged: negative, not whole, or ``FAR`` above what was set aside."""
    found = {name: told for name in _COUNTS if (told := _told(value).get(name)) is not None}
    return {name: storable(repr(told)[:SHOWN_CHARS]) for name, told in found.items() if _count(told, most) is None}


def _told(value: Any) -> dict[str, Any]:
    told = value.get("usage") if isinstance(value, dict) else None
    return told if isinstance(told, dict) else {}


def _count(value: object, most: Tokens) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= FAR * most.total else None


def read(value: Mapping[str, Any], version: str) -> tuple[Reply, dict[str, Any]]:
    """The reply of an answer without ``fault``, word for word, and what else is told of it."""
    choice = value["choices"][0]
    message, reason = choice["message"], choice.get("finish_reason")
    notes: dict[str, Any] = {"finish_reason": storable(reason) if isinstance(reason, str) else None}
    for note, names in {"refusal": ("refusal",), "reasoning": ("reasoning_content", "reasoning")}.items():
        said = next((message[name] for name in names if isinstance(message.get(name), str) and message[name]), None)
        if said is not None:
            notes[note] = storable(said)
    try:
        said = prompts.reply_from_openai({"role": "assistant", **message})
        calls = said.tool_calls or _legacy_call(message.get("function_call"))
    except InvalidInput as problem:
        return Reply(finish="error", policy_version=version), {**notes, "error": f"the answer cannot be read: {problem}"}
    if bad := unstorable(said.text, *(part for call in calls for part in (call.name, call.arguments))):
        notes["unstorable"] = {
            "text": storable(said.text),
            "tool_calls": [{"name": storable(call.name), "arguments": storable(call.arguments)} for call in calls],
        }
        return Reply(finish="error", policy_version=version), {**notes, "error": f"the reply cannot be stored: it has {bad}"}
    if reason == FILTERED:
        notes["error"] = "the endpoint's content filter stopped the reply"
    elif reason == "error":
        notes["error"] = "the endpoint says that it failed in the middle of the reply"
    finish: Literal["stop", "length", "error"] = "error" if "error" in notes else "length" if reason == CUT_SHORT else "stop"
    return Reply(text=said.text, tool_calls=calls, finish=finish, policy_version=version), notes


def _legacy_call(call: Any) -> tuple[ToolCall, ...]:
    """The call of a server that still speaks of functions."""
    if not isinstance(call, dict):
        return ()
    if not isinstance(call.get("name"), str) or not isinstance(call.get("arguments"), str):
        raise InvalidInput("a function call is {'name': text, 'arguments': text}")
    return (ToolCall(name=call["name"], arguments=call["arguments"]),)
