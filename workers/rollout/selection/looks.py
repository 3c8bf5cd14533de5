"""How an episode looked from turn to turn: whether it stood still, went round, and how many states it saw.

A state is the picture that was shown. Two pictures in which no pixel differs by more than ``SLOW_LIGHT`` are one state, for an
environment's light may change with every step while nothing else does. A turn without a picture goes by the text of its prompt.

Turns are read in order, once, a few at a time; what is kept of them does not grow with their number.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Text, case, cast, select
from sqlmodel import Session, col

from app.errors import BadFrame
from app.models import FrameRow, TurnRow
from workers.rollout.envs.base import Pixels
from workers.transport import pixels

SLOW_LIGHT = 16
"""Levels of 255. In Crafter's frames a turn of one action that changes nothing but daylight moves no pixel by more than 3, and
one that moves or changes anything moves some pixel by 28 or more."""
PERIODS = range(2, 9)
"""Turns that a loop may have."""
ROUNDS = 3
"""How often a loop comes before it is one."""
TURNS_A_FETCH = 50
HISTORY = "Your last turns:"
"""How a prompt's text begins when it tells the turns before; that part, up to an empty line, is no part of the state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One turn, as far as it matters here."""

    state: str | None
    """Equal names, equal states; None when nothing is known of it."""
    picture: Pixels | None
    """uint8 [height, width, 3]; None where none is stored."""
    actions: tuple[str, ...]
    unlocked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What came of looking at every turn of an episode."""

    repeated: int
    """Turns of the longest useless repetition; 1 when there is none, 0 when none was looked for."""
    looped: bool
    states: int
    """Different states, counted as far as was asked."""


def looks(session: Session, episode_id: str) -> Iterator[Look]:
    """The turns of an episode, in order, each with its picture."""
    prompt = case((col(TurnRow.frame).is_(None), cast(col(TurnRow.messages), Text)))
    query = (
        select(col(TurnRow.frame), col(FrameRow.png), col(TurnRow.actions), col(TurnRow.unlocked), prompt)
        .outerjoin(FrameRow, col(FrameRow.sha256) == col(TurnRow.frame))
        .where(col(TurnRow.episode_id) == episode_id)
        .order_by(col(TurnRow.index))
    )
    rows = session.connection().execute(query, execution_options={"yield_per": TURNS_A_FETCH})
    for frame, png, actions, unlocked, messages in rows:
        state = frame if frame is not None else _text_state(messages)
        yield Look(state=state, picture=_picture(png), actions=tuple(actions), unlocked=bool(unlocked))


def _picture(png: bytes | None) -> Pixels | None:
    try:
        return None if png is None else pixels.decode_png(png)
    except BadFrame:
        return None  # the writer of the lines refuses it, by its name


def _text_state(messages: str) -> str | None:
    """A name for what a prompt's text tells of the present."""
    texts = [part["text"] for message in json.loads(messages) for part in message["parts"] if part["type"] == "text"]
    told = "\n".join(text.partition("\n\n")[2] if text.startswith(HISTORY) else text for text in texts)
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest() if told else None


def same_state(one: Look, other: Look) -> bool:
    """Do two turns show the same, but for the light?"""
    if one.state is None or other.state is None:
        return False
    return one.state == other.state or _alike(one.picture, other.picture)


def _alike(one: Pixels | None, other: Pixels | None) -> bool:
    if one is None or other is None or one.shape != other.shape:
        return False
    return int((np.maximum(one, other) - np.minimum(one, other)).max()) <= SLOW_LIGHT


def course(turns: Iterable[Look], *, most_states: int, repeats: bool, loops: bool) -> Course:
    """Look at the turns. States are counted up to ``most_states``; repetitions and loops are looked for when asked."""
    repetition, circle, states = _Repetition(), _Circle(), _States(most_states)
    for turn in turns:
        if not repeats and not loops and states.count >= most_states:
            break
        states.see(turn)
        if repeats:
            repetition.see(turn)
        if loops:
            circle.see(turn)
    return Course(repeated=repetition.end(), looped=circle.found, states=states.count)


class _Repetition:
    """The longest useless repetition: turns with one and the same actions, counted where they saw what the turn before saw.

    What unlocks an achievement was patience: searching grass for a sapling, sleeping until rested. It clears the count of its own
    row of turns, or of the row that ended just before it (one wakes up in the turn after the last `sleep`).
    """

    def __init__(self) -> None:
        self._last: Look | None = None
        self._count = self._longest = 0

    def see(self, turn: Look) -> None:
        last, self._last = self._last, turn
        if turn.unlocked or last is None:
            self._count = 1
        elif turn.actions != last.actions:
            self._longest, self._count = max(self._longest, self._count), 1
        elif same_state(last, turn):
            self._count += 1

    def end(self) -> int:
        return max(self._longest, self._count)


class _Circle:
    """Whether some turns came again and again. Turns that are all alike are a repetition, and no circle."""

    def __init__(self) -> None:
        self.found = False
        self._before: deque[Look] = deque(maxlen=PERIODS[-1])
        self._matches = dict.fromkeys((1, *PERIODS), 0)
        """How many turns in a row were like the one a period before."""

    def see(self, turn: Look) -> None:
        if self.found:
            return
        for period in self._matches:
            again = period <= len(self._before) and self._like(self._before[-period], turn)
            self._matches[period] = self._matches[period] + 1 if again else 0
        self._before.append(turn)
        self.found = any(
            self._matches[period] >= (ROUNDS - 1) * period and self._matches[1] < ROUNDS * period - 1 for period in PERIODS
        )

    def _like(self, one: Look, other: Look) -> bool:
        return one.actions == other.actions and same_state(one, other)


class _States:
    """How many different states, up to a number: no more of them are kept."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: list[Look] = []

    @property
    def count(self) -> int:
        return len(self._known)

    def see(self, turn: Look) -> None:
        if turn.state is None or len(self._known) >= self._most:
            return
        if not any(same_state(known, turn) for known in reversed(self._known)):
            self._known.append(turn)
