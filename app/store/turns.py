"""A turn as its row keeps it. Encoded once: the same texts are hashed into the episode's identity and written to the table.

Turns are the store's most frequent rows by far, so they go in without SQLAlchemy's handling of each value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from sqlalchemy import column, insert, table
from sqlmodel import Session

from app.models import TurnRow
from app.records import ImagePart, Message, Reply, TextPart, ToolCall, Turn

_COLUMNS = tuple(TurnRow.__table__.columns.keys())  # type: ignore[attr-defined]
_PLAIN = table("turn", *(column(name) for name in _COLUMNS))
"""The table without types: values go to the driver as they are."""
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

Row = dict[str, Any]
"""A row of the table ``turn`` without its episode; JSON columns hold JSON text."""

_IDENTITY = (
    "frame",
    "system",
    "messages",
    "reply",
    "outcome",
    "actions",
    "dropped",
    "rewards",
    "unlocked",
    "terminated",
    "truncated",
    "prompt_ids",
    "output_ids",
)
"""What makes two turns equal. Not how long they took, nor which version of the weights is on record, nor what a policy notes
beside its reply, such as the id of a request; nor log-probabilities, whose last digits depend on what else was in the engine's
batch."""
_REPLY = 1 + _IDENTITY.index("reply")


def call_json(call: ToolCall) -> dict[str, str]:
    """A tool call."""
    return {"name": call.name, "arguments": call.arguments}


def message_json(message: Message) -> dict[str, Any]:
    """A message, its images by sha256."""
    parts = [
        {"type": "image", "sha256": part.sha256} if isinstance(part, ImagePart) else {"type": "text", "text": part.text}
        for part in message.parts
    ]
    made: dict[str, Any] = {"role": message.role, "parts": parts}
    if message.tool_calls:
        made["tool_calls"] = [call_json(call) for call in message.tool_calls]
    return made


def reply_json(reply: Reply) -> dict[str, Any]:
    """A reply, exactly as the policy gave it."""
    return {
        "text": reply.text,
        "tool_calls": [call_json(call) for call in reply.tool_calls],
        "finish": reply.finish,
        "notes": dict(reply.notes),
    }


@lru_cache(maxsize=4096)
def _names(names: tuple[str, ...]) -> str:
    """JSON of a list of names; a few lists come again and again."""
    return _encode(names)


@lru_cache(maxsize=4096)
def _named(values: tuple[tuple[str, float], ...]) -> str:
    """JSON of a few numbers by name."""
    return _encode(dict(values))


@lru_cache(maxsize=256)
def text_sha256(text: str) -> str:
    """Under which name a text is stored."""
    return hashlib.sha256(text.encode()).hexdigest()


def system_text(turn: Turn) -> str | None:
    """The text of a turn's system message."""
    return next((p.text for m in turn.messages if m.role == "system" for p in m.parts if isinstance(p, TextPart)), None)


def row(turn: Turn) -> Row:
    """A turn as a row."""
    reply, system = turn.reply, system_text(turn)
    return {
        "index": turn.index,
        "frame": turn.frame,
        "system": None if system is None else text_sha256(system),
        "messages": _encode([message_json(message) for message in turn.messages if message.role != "system"]),
        "reply": _encode(reply_json(reply)),
        "outcome": str(turn.outcome),
        "detail": turn.detail,
        "actions": _names(turn.actions),
        "dropped": _names(turn.dropped),
        "reward": turn.reward,
        "rewards": _named(tuple(turn.rewards.items())),
        "unlocked": _names(turn.unlocked),
        "terminated": turn.terminated,
        "truncated": turn.truncated,
        "policy_version": reply.policy_version,
        "state_sha256": turn.state_sha256,
        "timings": _encode({name: round(ms, 3) for name, ms in turn.timings.items()}),
        "prompt_ids": None if reply.prompt_ids is None else _encode(reply.prompt_ids),
        "output_ids": None if reply.output_ids is None else _encode(reply.output_ids),
        "logprobs": None if reply.logprobs is None else _encode(reply.logprobs),
    }


def said(reply: str) -> str:
    """The JSON text of a reply without its notes, which come last in it. Quotes inside JSON texts are escaped, so the first such
    key is the reply's own."""
    return reply.partition(',"notes":')[0]


def chained(chain: str, turn_row: Row) -> str:
    """The identity of an episode up to and with a turn: sha256 over the identity before it and what makes the turn."""
    # The last place was that of log-probabilities. It stays, empty, so that hashes of older episodes hold.
    texts = [chain, *(str(turn_row[name]) for name in _IDENTITY), str(None)]
    texts[_REPLY] = said(turn_row["reply"])
    return hashlib.sha256("\x00".join(texts).encode()).hexdigest()


def add(session: Session, episode_id: str, rows: Iterable[Row]) -> None:
    """Insert the turns of an episode."""
    whole = [{"episode_id": episode_id, **turn_row} for turn_row in rows]
    if whole:
        session.connection().execute(insert(_PLAIN), whole)
