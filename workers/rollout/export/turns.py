"""Which turns of the chosen episodes become lines, and what each of them led to. Reads no prompt and no picture."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sqlmodel import Session, col, select

from app import db
from app.errors import StepFailed
from app.models import TurnRow
from app.specs import FilterTable
from app.specs.filter import TurnsTable
from workers.rollout.export.columns import Floats, Ints, floats, ints
from workers.rollout.play import NOOP
from workers.rollout.selection import Candidate

TURNS_A_FETCH = 1000
KEYS = OK_ONLY, EMPTY, NOOPS, BEFORE, TOP = (
    "outcomes_ok_only",
    "turns.drop_empty",
    "turns.drop_noops",
    "turns.before_unlock",
    "turns.top_share",
)
"""The keys that remove turns, in the order in which they are tried: a turn counts for the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the rules look at of a turn."""

    index: int
    outcome: str
    actions: Sequence[str]
    reward: float
    unlocked: Sequence[str]
    empty: bool
    """The reply holds neither words nor a call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The turns that become lines, in the one order that an export has: a row each, by columns."""

    episode: Ints
    """Number of its episode among the chosen ones."""
    turn: Ints
    reward: Floats
    value: Floats
    """The discounted sum of the episode's rewards from the turn on."""
    first: Ints
    last: Ints
    """It led to ``unlocks[first:last]``."""
    unlocks: Ints
    """What was unlocked, in the order of episodes and turns: numbers of ``names``."""
    unlock_turn: Ints
    """The turn of each."""
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.turn)

    def led(self) -> tuple[Ints, Ints]:
        """Every pair of a row and an unlock that it led to, as two columns."""
        counts = self.last - self.first
        row = np.repeat(np.arange(len(self)), counts)
        within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        return row, self.first[row] + within

    def only(self, rows: Ints) -> Kept:
        """These rows."""
        by_row = {name: getattr(self, name)[rows] for name in ("episode", "turn", "reward", "value", "first", "last")}
        return Kept(**by_row, unlocks=self.unlocks, unlock_turn=self.unlock_turn, names=self.names)


@dataclass(slots=True)
class Count:
    """Turns that were read, and how many each key removed."""

    read: int = 0
    removed: Counter[str] = field(default_factory=Counter)


def verdicts(turns: Sequence[Seen], table: FilterTable) -> list[str | None]:
    """For each turn of a whole episode the key that removes it, or None."""
    near = _near_unlock(turns, table.turns.before_unlock)
    return [_verdict(turn, table, close) for turn, close in zip(turns, near, strict=True)]


def _verdict(turn: Seen, table: FilterTable, near: bool) -> str | None:
    if table.outcomes_ok_only and turn.outcome != "ok":
        return OK_ONLY
    if table.turns.drop_empty and turn.empty:
        return EMPTY
    if table.turns.drop_noops and turn.actions and set(turn.actions) == {NOOP}:
        return NOOPS
    return None if near else BEFORE


def _near_unlock(turns: Sequence[Seen], window: int | None) -> list[bool]:
    """Does something get unlocked in this turn or in one of the ``window - 1`` after it?"""
    if window is None:
        return [True] * len(turns)
    near, unlock = [False] * len(turns), math.inf
    for i in range(len(turns) - 1, -1, -1):
        unlock = i if turns[i].unlocked else unlock
        near[i] = unlock - i < window
    return near


def returns_to_go(rewards: Sequence[float], discount: float) -> list[float]:
    """For each turn its reward, and the later ones, each less by ``discount`` for every turn that it lies ahead."""
    values, ahead = [0.0] * len(rewards), 0.0
    for i in range(len(rewards) - 1, -1, -1):
        values[i] = ahead = rewards[i] + discount * ahead
    return values


def led_to(turns: Sequence[Seen], window: int | None) -> list[tuple[int, int]]:
    """For each turn the unlocks of its episode that it led to, as a range of their numbers.

    Those of the first turn, from this one on, that unlocks anything; with a window, those of all turns in the window.
    """
    before = [0]  # how many unlocks came before each turn
    for turn in turns:
        before.append(before[-1] + len(turn.unlocked))
    reach, unlock = [0] * len(turns), len(turns)
    for i in range(len(turns) - 1, -1, -1):
        unlock = i if turns[i].unlocked else unlock
        reach[i] = min(len(turns), i + window if window is not None else unlock + 1)
    return [(before[i], before[reach[i]]) for i in range(len(turns))]


def read(chosen: Sequence[Candidate], table: FilterTable, pulse: Callable[[], None]) -> tuple[Kept, Count]:
    """The turns of the chosen episodes that pass every rule. ``pulse`` is called for each of them."""
    columns, count = _Columns(), Count()
    for number, episode in enumerate(chosen):
        with db.reading() as session:
            turns = list(_turns(session, episode.id, pulse, with_reply=table.turns.drop_empty))
        if len(turns) != episode.turns:
            raise StepFailed(f"episode {episode.id} has {episode.turns} turns and {len(turns)} of them are stored")
        columns.add(number, turns, table, count)
    return _best(columns.kept(), table.turns, count), count


def _turns(session: Session, episode_id: str, pulse: Callable[[], None], *, with_reply: bool) -> Iterator[Seen]:
    names = ["index", "outcome", "actions", "reward", "unlocked", *(["reply"] if with_reply else [])]
    query: Any = select(*(getattr(TurnRow, name) for name in names)).where(TurnRow.episode_id == episode_id)
    query = query.order_by(col(TurnRow.index)).execution_options(yield_per=TURNS_A_FETCH)
    for row in session.connection().execute(query).mappings():
        pulse()
        values = dict(row)
        reply = values.pop("reply", None)
        yield Seen(**values, empty=reply is not None and not reply["text"].strip() and not reply["tool_calls"])


class _Columns:
    """Grows by episodes."""

    def __init__(self) -> None:
        self._whole = {name: array("i") for name in ("episode", "turn", "first", "last", "unlocks", "unlock_turn")}
        self._real = {name: array("d") for name in ("reward", "value")}
        self._names: dict[str, int] = {}

    def add(self, number: int, turns: Sequence[Seen], table: FilterTable, count: Count) -> None:
        whole, real = self._whole, self._real
        values = returns_to_go([turn.reward for turn in turns], table.turns.discount)
        ranges = led_to(turns, table.turns.before_unlock)
        before = len(whole["unlocks"])
        for turn in turns:
            for name in turn.unlocked:
                whole["unlocks"].append(self._names.setdefault(name, len(self._names)))
                whole["unlock_turn"].append(turn.index)
        for turn, verdict, value, (first, last) in zip(turns, verdicts(turns, table), values, ranges, strict=True):
            count.read += 1
            if verdict is not None:
                count.removed[verdict] += 1
                continue
            for name, number_ in (("episode", number), ("turn", turn.index), ("first", before + first), ("last", before + last)):
                whole[name].append(number_)
            real["reward"].append(turn.reward)
            real["value"].append(value)

    def kept(self) -> Kept:
        columns = {name: ints(column) for name, column in self._whole.items()}
        return Kept(**columns, reward=floats(self._real["reward"]), value=floats(self._real["value"]), names=list(self._names))


def _best(kept: Kept, table: TurnsTable, count: Count) -> Kept:
    """The best share of the turns by what they led to, and of equal ones the first; in their order."""
    if table.top_share is None or not len(kept):
        return kept
    number = max(1, math.floor(table.top_share * len(kept) + 1e-9))
    best = np.sort(np.argsort(-kept.value, kind="stable")[:number])
    count.removed[TOP] += len(kept) - number
    return kept.only(best)
