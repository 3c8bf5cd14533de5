"""An iteration's episodes as the store has them. Reads only what an update needs of a turn; changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select
from sqlmodel import Session, col

from app.errors import StepFailed
from app.models import Episode, FrameRow, TurnRow

AT_ONCE: Final = 500
"""Rows that a query names."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn's row, as far as it is learnt from. Ids and log-probabilities are as they were sampled."""

    episode_id: str
    index: int
    frame: str | None
    state: str | None
    messages: list[Any]
    outcome: str
    reward: float
    unlocked: list[str]
    """Achievements that its episode had not before."""
    version: str
    """Which weights answered."""
    prompt_ids: list[int] | None
    output_ids: list[int] | None
    logprobs: list[float] | None

    @property
    def name(self) -> str:
        """For messages."""
        return f"turn {self.index} of episode {self.episode_id}"

    @property
    def pictures(self) -> list[str]:
        """The frames that its prompt shows, by sha256, in order."""
        return [part["sha256"] for message in self.messages for part in message["parts"] if part["type"] == "image"]


_OF_TURNS: Final = (
    col(TurnRow.episode_id),
    col(TurnRow.index),
    col(TurnRow.frame),
    col(TurnRow.state_sha256),
    col(TurnRow.messages),
    col(TurnRow.outcome),
    col(TurnRow.reward),
    col(TurnRow.unlocked),
    col(TurnRow.policy_version),
    col(TurnRow.prompt_ids),
    col(TurnRow.output_ids),
    col(TurnRow.logprobs),
)
_OF_EPISODES: Final = (
    col(Episode.id),
    col(Episode.seed),
    col(Episode.member),
    col(Episode.length),
    col(Episode.unlocked),
    col(Episode.returns),
    col(Episode.state),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """An episode that came to its end."""

    id: str
    seed: int
    member: int
    length: int
    """Game steps."""
    unlocked: int
    """How many achievements."""
    returns: Mapping[str, float]
    """Sum of each reward."""
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """What was played for one update."""

    episodes: tuple[Played, ...]
    """By seed and member."""
    missing: int
    """Episodes that did not come to their end, or have no turn."""


def read(session: Session, job_id: str, iteration: int, split: str) -> Iteration:
    """The episodes of an iteration that are learnt from."""
    which = (col(Episode.job_id) == job_id, col(Episode.iteration) == iteration, col(Episode.split) == split)
    rows = session.execute(select(*_OF_EPISODES).where(*which).order_by(col(Episode.seed), col(Episode.member))).all()
    turns = _turns(session, [row.id for row in rows if row.state == "done"])
    found = tuple(
        Played(
            id=row.id,
            seed=row.seed,
            member=row.member,
            length=row.length,
            unlocked=row.unlocked,
            returns=row.returns,
            turns=tuple(turns[row.id]),
        )
        for row in rows
        if turns.get(row.id)
    )
    return Iteration(episodes=found, missing=len(rows) - len(found))


def _turns(session: Session, ids: list[str]) -> dict[str, list[Turn]]:
    found: dict[str, list[Turn]] = {}
    for start in range(0, len(ids), AT_ONCE):
        query = select(*_OF_TURNS).where(col(TurnRow.episode_id).in_(ids[start : start + AT_ONCE]))
        for row in session.execute(query.order_by(col(TurnRow.episode_id), col(TurnRow.index))):
            found.setdefault(row.episode_id, []).append(Turn(*row))
    return found


def frames(session: Session, wanted: Iterable[str]) -> dict[str, bytes]:
    """The PNG bytes of frames by sha256; those that are not stored are not in it.

    Raises StepFailed for bytes that are not what their name says.
    """
    names, found = sorted(wanted), dict[str, bytes]()
    for start in range(0, len(names), AT_ONCE):
        query = select(col(FrameRow.sha256), col(FrameRow.png)).where(col(FrameRow.sha256).in_(names[start : start + AT_ONCE]))
        found.update((sha256, png) for sha256, png in session.execute(query))
    for sha256, png in found.items():
        if (is_now := hashlib.sha256(png).hexdigest()) != sha256:
            raise StepFailed(f"the stored bytes of frame {sha256} have sha256 {is_now}: they were changed")
    return found
