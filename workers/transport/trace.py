"""A whole trace as one JSON object, and back: what a task app sends and what asks it reads.

    {"format": "synthq-trace", "version": 1,
     "episode": {...}    the key, who played what, and the figures over all turns: the fields of ``Episode`` below
     "turns": [{...}]    rows as the store keeps them; columns that hold JSON there hold the same JSON text here
     "frames": {sha256: base64 of the PNG}
     "texts": {sha256: text}}

Texts of JSON travel unparsed because the episode's hash is over their very characters. ``unpack`` believes nothing: names are
compared with what they name, pictures are decoded, and every figure that the turns decide is worked out again.
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from app.errors import BadFrame, BadTrace, cut
from app.pngs import measure
from app.records import Frame, Outcome
from app.store import turns as turn_rows

FORMAT: Final = "synthq-trace"
VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """An episode that has ended, with everything that the store keeps of it."""

    episode: Mapping[str, Any]
    """Columns of the store's ``episode``: ``iteration, seed, member, env, env_version, policy`` and what ``Game.figures`` gives,
    and ``last_frame``."""
    rows: tuple[turn_rows.Row, ...]
    """The turns, in order, as ``turns.row`` makes them."""
    frames: tuple[Frame, ...] = ()
    """Every picture that the turns and ``last_frame`` name, once; none at all when none were kept."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Every text that the turns name as ``system``, by its sha256."""


def pack(trace: Trace) -> dict[str, Any]:
    """A trace as a JSON object."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "episode": dict(trace.episode),
        "turns": list(trace.rows),
        "frames": {frame.sha256: base64.b64encode(frame.png).decode("ascii") for frame in trace.frames},
        "texts": dict(trace.texts),
    }


def unpack(value: object) -> Trace:
    """The trace in a JSON object: the rows, pictures and texts that went in, equal to the last byte.

    Raises BadTrace for what is no trace of this version, and for one in which anything disagrees with anything else.
    """
    whole = _read(value)
    rows = [_row(index, turn) for index, turn in enumerate(whole.turns)]
    read = [_opened(row) for row in rows]
    frames = tuple(_frame(sha256, text) for sha256, text in whole.frames.items())
    episode = whole.episode.model_dump()
    _check_texts(rows, whole)
    _check_pictures(episode, rows, read, whole)
    _check_figures(episode, rows, read)
    return Trace(episode=episode, rows=tuple(rows), frames=frames, texts=whole.texts)


# -- what the object holds -------------------------------------------------------------------------------------------------


def _storable(text: str) -> str:
    """Text that any database takes."""
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("holds a character that cannot be stored")
    return text


Word = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_storable)]
Text = Annotated[str, AfterValidator(_storable)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Turn(_Strict):
    index: Count
    frame: Sha256 | None
    system: Sha256 | None
    messages: Text
    reply: Text
    outcome: Outcome = Field(strict=False)
    detail: Text
    actions: Text
    dropped: Text
    reward: float
    rewards: Text
    unlocked: Text
    terminated: bool
    truncated: bool
    policy_version: Word
    state_sha256: Sha256 | None
    timings: Text
    prompt_ids: Text | None
    output_ids: Text | None
    logprobs: Text | None


class _Episode(_Strict):
    iteration: Count
    seed: Count
    member: Count
    env: Word
    env_version: Word
    policy: Word
    policy_version: Word
    model: Word | None
    ended: Word
    turns: Count
    length: Count
    returns: dict[Word, float]
    achievements: dict[Word, Count]
    unlocked: Count
    outcomes: dict[Word, Count]
    terminated: bool
    truncated: bool
    sha256: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")]
    timings: dict[Word, float]
    last_frame: Sha256 | None


class _Whole(_Strict):
    format: Literal["synthq-trace"]
    version: Literal[1]
    episode: _Episode
    turns: list[_Turn]
    frames: dict[Sha256, str]
    texts: dict[Sha256, Text]


class _Call(_Strict):
    name: Text
    arguments: Text


class _Part(_Strict):
    type: Literal["text", "image"]
    text: Text | None = None
    sha256: Sha256 | None = None

    @model_validator(mode="after")
    def _whole(self) -> _Part:
        if (self.text is None) == (self.type == "text") or (self.sha256 is None) == (self.type == "image"):
            raise ValueError("a part is a text or an image's sha256")
        return self


class _Message(_Strict):
    role: Literal["user", "assistant", "tool"]
    parts: list[_Part]
    tool_calls: list[_Call] = []


class _Reply(_Strict):
    text: Text
    tool_calls: list[_Call]
    finish: Literal["stop", "length", "error"]
    notes: dict[str, JsonValue]


_Names = TypeAdapter(list[Word], config=ConfigDict(strict=True))
_Numbers = TypeAdapter(dict[Word, float], config=ConfigDict(strict=True, allow_inf_nan=False))
_Ids = TypeAdapter(list[int], config=ConfigDict(strict=True))
_IN_TEXT: Final[Mapping[str, TypeAdapter[Any]]] = {
    "messages": TypeAdapter(list[_Message]),
    "reply": TypeAdapter(_Reply),
    "actions": _Names,
    "dropped": _Names,
    "rewards": _Numbers,
    "unlocked": _Names,
    "timings": _Numbers,
    "prompt_ids": _Ids,
    "output_ids": _Ids,
    "logprobs": TypeAdapter(list[float], config=ConfigDict(strict=True, allow_inf_nan=False)),
}
"""What the columns of JSON text hold."""


def _read(value: object) -> _Whole:
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise BadTrace(f'this is no trace; one is an object with "format": "{FORMAT}"')
    if value.get("version") != VERSION:
        raise BadTrace(f"the trace has version {cut(str(value.get('version')))}; this synthq reads {VERSION}")
    try:
        return _Whole.model_validate(value)
    except ValidationError as error:
        raise BadTrace(f"the trace's {_first(error)}") from None


def _first(error: ValidationError) -> str:
    """Where and why, of the first thing that is wrong."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part)[:80] for part in first["loc"] if part != "[key]")
    said = first["msg"].removeprefix("Value error, ")
    return f"{where + ': ' if where else ''}{said[:1].lower()}{said[1:]}"


# -- whether it agrees with itself -----------------------------------------------------------------------------------------


def _row(index: int, turn: _Turn) -> turn_rows.Row:
    """A turn as a row."""
    if turn.index != index:
        raise BadTrace(f"the trace's turn {index} says that it is turn {turn.index}; they come in order, from 0")
    return {**turn.model_dump(), "outcome": str(turn.outcome)}


def _opened(row: turn_rows.Row) -> dict[str, Any]:
    """What a row's texts of JSON hold, by column."""
    held: dict[str, Any] = {}
    for column, adapter in _IN_TEXT.items():
        try:
            held[column] = None if row[column] is None else adapter.validate_json(row[column])
        except ValidationError as error:
            raise BadTrace(f"the trace's turns.{row['index']}.{column} holds JSON that is not its own: {_first(error)}") from None
    return held


def _frame(sha256: str, text: str) -> Frame:
    """A picture whose bytes are those of its name, and all there."""
    try:
        png = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise BadTrace(f"the trace's frame {sha256} is not base64") from None
    try:
        width, height = measure(png)
    except BadFrame as error:
        raise BadTrace(f"the trace's frame {sha256} is no frame: {error}") from None
    frame = Frame.of(png, width=width, height=height)
    if frame.sha256 != sha256:
        raise BadTrace(f"the trace's frame {sha256} holds other bytes, whose sha256 is {frame.sha256}")
    return frame


def _check_figures(episode: Mapping[str, Any], rows: Sequence[turn_rows.Row], read: Sequence[Mapping[str, Any]]) -> None:
    """Raise when a figure is not what the turns give."""
    chain = ""
    returns: Counter[str] = Counter()
    for row, held in zip(rows, read, strict=True):
        chain = turn_rows.chained(chain, row)
        returns.update(held["rewards"])
    unlocked = [name for held in read for name in held["unlocked"]]
    found = {
        "turns": len(rows),
        "returns": dict(returns),
        "outcomes": dict(Counter(row["outcome"] for row in rows)),
        "unlocked": len(unlocked),
        "terminated": bool(rows) and rows[-1]["terminated"],
        "truncated": bool(rows) and rows[-1]["truncated"],
        "sha256": chain,
    }
    for name, worked_out in found.items():
        if episode[name] != worked_out:
            raise BadTrace(f"the trace's episode.{name} is {cut(str(episode[name]))}, and its turns give {cut(str(worked_out))}")
    if sorted(unlocked) != sorted(episode["achievements"]):
        raise BadTrace("the trace's episode.achievements are not those that its turns unlock")


def _check_texts(rows: Sequence[turn_rows.Row], whole: _Whole) -> None:
    """Raise when a text is not the one that its name says, is missing, or is nobody's."""
    for sha256, text in whole.texts.items():
        if turn_rows.text_sha256(text) != sha256:
            raise BadTrace(f"the trace's text {sha256} is another text, whose sha256 is {turn_rows.text_sha256(text)}")
    _same("text", {row["system"] for row in rows if row["system"]}, set(whole.texts))


def _check_pictures(
    episode: Mapping[str, Any], rows: Sequence[turn_rows.Row], read: Sequence[Mapping[str, Any]], whole: _Whole
) -> None:
    """Raise when a picture is missing or nobody's, or a prompt shows another one than its turn's."""
    for row, held in zip(rows, read, strict=True):
        shown = {part.sha256 for message in held["messages"] for part in message.parts if part.sha256}
        if shown - {row["frame"]}:
            raise BadTrace(f"the trace's turns.{row['index']}.messages show a picture that is not the turn's frame")
    if whole.frames or episode["last_frame"]:  # without either, no pictures were kept
        _same("frame", {s for s in (*(row["frame"] for row in rows), episode["last_frame"]) if s}, set(whole.frames))


def _same(what: str, named: set[str], there: set[str]) -> None:
    for sha256 in sorted(named - there):
        raise BadTrace(f"the trace names the {what} {sha256}, which it does not hold")
    for sha256 in sorted(there - named):
        raise BadTrace(f"the trace holds the {what} {sha256}, which nothing in it names")
