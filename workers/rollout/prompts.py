"""The one prompt builder: what a policy is told each turn, and how messages look on OpenAI's wire and back.

Play, export, sft and rl all build their messages here, so that a model meets in training what it meets in play. The
same input gives the same bytes. Text that comes from outside is neutralised before it enters a message.
"""

from __future__ import annotations

import base64
import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast

from app.errors import InvalidInput, MissingFrame, UnknownName
from app.records import ImagePart, Message, Outcome, Part, Reply, TextPart, ToolCall, Turn
from workers.rollout.actions import ARGUMENT, MAX_ACTIONS, REPLY_FORMATS, TOOL, ReplyFormat

RulesLevel = Literal["none", "short", "full", "bare"]
RULES_LEVELS: tuple[RulesLevel, ...] = ("none", "short", "full", "bare")
UNTOLD: frozenset[str] = frozenset({"bare", "none"})
"""Levels that tell nothing of the environment's rules."""

PNG_URL = "data:image/png;base64,"
"""What a frame's URL begins with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOptions:
    """Everything that a spec may say about prompts and replies."""

    use_vision: bool = True
    """The frame is part of the prompt."""
    image_only_mode: bool = False
    """The user message is the frame alone: no description, no history. Needs ``use_vision``."""
    rules: RulesLevel = "short"
    """How much of the environment's rules the system message tells: at ``none`` only how to reply, at ``bare`` there is none."""
    history: int = 3
    """How many of the last turns are told as text. Not told in ``image_only_mode``."""
    reply_format: ReplyFormat = "tool_call"
    max_actions: int = MAX_ACTIONS
    """The most actions in one reply, 1 to 8."""

    def __post_init__(self) -> None:
        for name in ("use_vision", "image_only_mode"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidInput(f"{name} must be true or false, not {getattr(self, name)!r}")
        if self.image_only_mode and not self.use_vision:
            raise InvalidInput("image_only_mode = true needs use_vision = true: without the picture nothing is left to show")
        if self.rules not in RULES_LEVELS:
            raise InvalidInput(f"rules must be one of {', '.join(RULES_LEVELS)}, not {self.rules!r}")
        if self.reply_format not in REPLY_FORMATS:
            raise InvalidInput(f"reply_format must be one of {', '.join(REPLY_FORMATS)}, not {self.reply_format!r}")
        if not _whole(self.history) or self.history < 0:
            raise InvalidInput(f"history must be a number of turns, 0 or more, not {self.history!r}")
        if not _whole(self.max_actions) or not 1 <= self.max_actions <= MAX_ACTIONS:
            raise InvalidInput(f"max_actions must be 1 to {MAX_ACTIONS}, not {self.max_actions!r}")

    @classmethod
    def from_spec(cls, values: Mapping[str, Any] | None = None, /, **more: Any) -> PromptOptions:
        """Options from plain values, by mapping or by keyword. Raises UnknownName or InvalidInput."""
        given = {**(values or {}), **more}
        known = [field.name for field in dataclasses.fields(cls)]
        for name in given:
            if name not in known:
                raise UnknownName("prompt option", name, known)
        return cls(**given)

    @property
    def needs_frame(self) -> bool:
        """A prompt under these options cannot be built without a frame."""
        return self.use_vision


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def build(
    env_rules: str | None,
    description: str | None,
    frame_sha256: str | None,
    history: Sequence[Turn],
    options: PromptOptions,
    actions: tuple[str, ...],
) -> tuple[Message, ...]:
    """The messages of one turn: one system message (not at ``bare``), one user message.

    ``env_rules`` is the environment's text at ``options.rules`` (ignored where that tells none), ``description`` its words for
    the present state, ``history`` the turns so far, oldest first. Raises MissingFrame when the prompt needs a picture
    and has none, and InvalidInput when there is nothing at all to show.
    """
    user = Message(role="user", parts=_user_parts(description, frame_sha256, history, options))
    return (user,) if options.rules == "bare" else (_system_message(env_rules, options, actions), user)


@lru_cache(maxsize=64)
def _system_message(env_rules: str | None, options: PromptOptions, actions: tuple[str, ...]) -> Message:
    """The same for every turn of a job, so it is built once."""
    return Message(role="system", parts=(TextPart(text=_system_text(env_rules, options, actions)),))


def _system_text(env_rules: str | None, options: PromptOptions, actions: tuple[str, ...]) -> str:
    if options.rules == "none":
        return reply_instruction(options, actions)
    if not env_rules:
        raise InvalidInput(f"rules = {options.rules!r} needs the environment's rules, and it gave none")
    rules = neutralise(env_rules.strip())
    return f"{rules}\n\n{reply_instruction(options, actions, told=rules)}"


def reply_instruction(options: PromptOptions, actions: Sequence[str], told: str = "") -> str:
    """The sentence that says how to reply. Lists the action names unless ``told`` or the tool's schema has them all."""
    most = options.max_actions
    count = "1 action" if most == 1 else f"1 to {most} actions"
    if options.reply_format == "tool_call":
        return f"Reply with one call of {TOOL} with {count}."
    apart = "" if most == 1 else ", separated by blanks"
    sentence = f"Reply with {count}{apart}, and nothing else"
    words = set(re.findall(r"\w+", told))
    return f"{sentence}." if words.issuperset(actions) else f"{sentence}: {' '.join(actions)}"


def _user_parts(
    description: str | None, frame_sha256: str | None, history: Sequence[Turn], options: PromptOptions
) -> tuple[Part, ...]:
    if options.use_vision and not frame_sha256:
        raise MissingFrame("the prompt needs a picture (use_vision = true) and there is no frame")
    image = (ImagePart(sha256=cast(str, frame_sha256)),) if options.use_vision else ()
    if options.image_only_mode:
        return image
    paragraphs = [part for part in (_history_text(history, options.history), description) if part]
    text = (TextPart(text=neutralise("\n\n".join(paragraphs))),) if paragraphs else ()
    if not text and not image:
        raise InvalidInput("a prompt without a picture (use_vision = false) needs a description of the state")
    return (*text, *image)


def _history_text(history: Sequence[Turn], count: int) -> str:
    told = history[-count:] if count else ()
    return "\n".join(["Your last turns:", *map(turn_line, told)]) if told else ""


def turn_line(turn: Turn) -> str:
    """One past turn in one line: what was done, what became of it, what it unlocked."""
    line = f"{turn.index + 1}. {', '.join(turn.actions) or 'nothing done'}"
    if turn.outcome is not Outcome.OK:
        line += f" (your reply was not valid: {turn.outcome.value})"
    if turn.dropped:
        line += f" (not carried out: {', '.join(turn.dropped)})"
    if turn.unlocked:
        line += f" (unlocked: {', '.join(turn.unlocked)})"
    return line


def tools(actions: Sequence[str], max_actions: int) -> list[dict[str, Any]]:
    """The tool's schema in OpenAI's format: ``interact_many({"actions": [...]})``."""
    listed = {
        "type": "array",
        "items": {"type": "string", "enum": list(actions)},
        "minItems": 1,
        "maxItems": max_actions,
    }
    parameters = {
        "type": "object",
        "properties": {ARGUMENT: listed},
        "required": [ARGUMENT],
        "additionalProperties": False,
    }
    about = "Carry out the actions, in order."
    return [{"type": "function", "function": {"name": TOOL, "description": about, "parameters": parameters}}]


_OPENER = re.compile(r"[<\uff1c\ufe64](?![\s\d=])")
_BRACKET = re.compile(r"\[(?=/?[A-Z_]+\]|/?[A-Z_]*\Z)")


def neutralise(text: str) -> str:
    """Text in which no tokenizer finds a control token.

    Every ``<`` that could open one (``<|im_start|>``, ``<|image_pad|>``, ``<image>``, ``</s>``) becomes ``‹``, and so
    does the ``[`` of ``[INST]`` and its like become ``⁅``. A ``<`` before a blank, a digit or ``=`` stays, so "health
    < 3" reads as before. At the end of a text it is replaced as well, for what follows is not known. The marks that
    are put in have no compatibility form, so no normaliser turns them back. Not reversible, and doing it twice
    changes nothing more.
    """
    return _BRACKET.sub("⁅", _OPENER.sub("‹", text))


def has_control_tokens(text: str) -> bool:
    """True when ``neutralise`` would change the text. A policy's own words are never changed, so exports ask this."""
    return neutralise(text) != text


def assistant(reply: Reply) -> Message:
    """A reply as the message that it was, word for word."""
    parts = (TextPart(text=reply.text),) if reply.text else ()
    return Message(role="assistant", parts=parts, tool_calls=reply.tool_calls)


def to_openai(
    messages: Iterable[Message],
    frames: Callable[[str], bytes] | None = None,
    *,
    image_url: Callable[[str], str] | None = None,
) -> list[dict[str, Any]]:
    """Messages in OpenAI's chat format.

    ``frames`` gives a frame's PNG bytes by sha256; they go inline as ``data:`` URLs. ``image_url`` gives another URL
    in their place, for a reader that fetches frames itself. A message of one text has a string as its content, any
    other a list of parts. A tool call keeps its argument text untouched and is named ``call_0``, ``call_1`` and so on
    through the list. Raises MissingFrame when a frame's bytes cannot be had.
    """
    calls = 0
    wire: list[dict[str, Any]] = []
    for message in messages:
        out: dict[str, Any] = {"role": message.role, "content": _content(message.parts, frames, image_url)}
        if message.tool_calls:
            out["tool_calls"] = [_wire_call(call, calls + i) for i, call in enumerate(message.tool_calls)]
            calls += len(message.tool_calls)
        wire.append(out)
    return wire


def _content(
    parts: tuple[Part, ...], frames: Callable[[str], bytes] | None, image_url: Callable[[str], str] | None
) -> str | list[dict[str, Any]]:
    if not parts:
        return ""
    if len(parts) == 1 and isinstance(parts[0], TextPart):
        return parts[0].text
    return [
        {"type": "text", "text": part.text}
        if isinstance(part, TextPart)
        else {"type": "image_url", "image_url": {"url": _url(part.sha256, frames, image_url)}}
        for part in parts
    ]


def _url(sha256: str, frames: Callable[[str], bytes] | None, image_url: Callable[[str], str] | None) -> str:
    if image_url is not None:
        return image_url(sha256)
    png = frames(sha256) if frames is not None else b""
    if not png:
        raise MissingFrame(f"a message names the frame {sha256!r} and its bytes are not here")
    return PNG_URL + base64.b64encode(png).decode("ascii")


def _wire_call(call: ToolCall, number: int) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{number}", "type": "function", "function": function}


def reply_from_openai(message: Mapping[str, Any]) -> Reply:
    """The reply that an assistant message in OpenAI's format was made from. Raises InvalidInput on another shape."""
    if message.get("role") != "assistant":
        raise InvalidInput(f"a reply is a message of the role 'assistant', not {message.get('role')!r}")
    return Reply(text=_plain_text(message.get("content")), tool_calls=tuple(_read_calls(message.get("tool_calls"))))


def _plain_text(content: object) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
        return "".join(part["text"] for part in content)
    raise InvalidInput(f"an assistant's content is text, not {type(content).__name__}")


def _read_calls(calls: object) -> Iterable[ToolCall]:
    if calls is not None and not isinstance(calls, list):
        raise InvalidInput(f"tool_calls is a list, not {type(calls).__name__}")
    for call in calls or ():
        function = call.get("function") if isinstance(call, dict) else None
        name, arguments = (function.get("name"), function.get("arguments")) if isinstance(function, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(arguments, str):
            raise InvalidInput("a tool call is {'function': {'name': text, 'arguments': text}}")
        yield ToolCall(name=name, arguments=arguments)
