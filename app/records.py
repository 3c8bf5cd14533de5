"""What crosses a process line: messages, replies, turns, episodes. Frozen, standard library only.

A message is a list of parts from the first commit on, so text and images travel the same way everywhere. An image part names
a frame by the sha256 of its PNG bytes; the bytes travel beside it, once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


class Outcome(StrEnum):
    """What became of one reply."""

    OK = "ok"
    """Parsed; its actions were carried out."""
    NO_TOOL_CALL = "no_tool_call"
    """The reply format is tool_call and the reply called no tool."""
    PARSE_ERROR = "parse_error"
    """A reply that is not in the reply format, or names an action that does not exist."""
    TRUNCATED = "truncated"
    """The reply hit its token limit before it was complete."""
    ENGINE_ERROR = "engine_error"
    """The engine gave no usable reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPart:
    """A piece of text in a message."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePart:
    """A frame in a message, by the sha256 of its stored PNG bytes."""

    sha256: str


Part = TextPart | ImagePart


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of a tool, exactly as the policy emitted it."""

    name: str
    arguments: str
    """The JSON text of the arguments, unparsed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One chat message."""

    role: Role
    parts: tuple[Part, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A picture as it is stored: PNG bytes under their sha256."""

    sha256: str
    png: bytes
    width: int
    height: int

    @classmethod
    def of(cls, png: bytes, *, width: int, height: int) -> Frame:
        """Name PNG bytes by their sha256."""
        return cls(sha256=hashlib.sha256(png).hexdigest(), png=png, width=width, height=height)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a policy answered to one prompt, before anybody reads meaning into it."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish: Literal["stop", "length", "error"] = "stop"
    policy_version: str = ""
    """Which weights or rules answered, such as ``scripted-1`` or an adapter's version."""
    prompt_ids: tuple[int, ...] | None = None
    output_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    """One natural-log probability for each of ``output_ids``."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What else the policy tells about its choice, such as the scripted player's goal; never shown to a student unasked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """The meaning of a reply: an outcome, and the actions when the outcome is ok."""

    outcome: Outcome
    actions: tuple[str, ...] = ()
    detail: str = ""
    """Why the outcome is not ok, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeKey:
    """What tells one episode of a job from another, and keys every random draw of its policy."""

    iteration: int
    seed: int
    member: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One prompt and one reply inside an episode, with what the world made of it."""

    index: int
    frame: str | None
    """sha256 of the frame that the policy saw; None when the prompt has no picture and none is kept."""
    messages: tuple[Message, ...]
    reply: Reply
    outcome: Outcome
    detail: str
    actions: tuple[str, ...]
    """The actions that were carried out, in order: those of the reply, cut where the episode ended."""
    dropped: tuple[str, ...]
    """Actions of the reply that were not carried out, because the episode ended or play stopped before them."""
    rewards: Mapping[str, float]
    """Reward of this turn under every reward function, side by side."""
    reward: float
    """The one of ``rewards`` that the spec names."""
    unlocked: tuple[str, ...]
    """Achievements unlocked for the first time in this turn."""
    terminated: bool
    truncated: bool
    state_sha256: str | None
    """Hash of the environment's state before the turn; None where the environment has none."""
    timings: Mapping[str, float]
    """Milliseconds by part: ``frame``, ``prompt``, ``policy``, ``env``; and those parts of a policy's time that it tells apart,
    which are then not in ``policy``: ``http``, ``queue``, ``processor``, ``prefill``, ``decode`` of an engine."""
