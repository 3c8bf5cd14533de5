"""Where an episode begins that does not begin where its world does: what was done from there on, by somebody else.

A start is a text under its own sha256, like a system prompt, and the episode's row names it. So it can be come to again, by
playing its actions from the seed, when the episode that it was taken from is gone; and a changed one is found by its hash. The
identity of an episode begins with it: the same turns from another start are other play.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import select
from sqlmodel import Session, col

from app.errors import ReplayMismatch, StepFailed
from app.models import Episode, TextRow, TurnRow
from app.store.turns import text_sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A moment of a world: so many actions after the beginning of a seed."""

    env: str
    env_version: str
    seed: int
    actions: tuple[str, ...]
    """Every action from the seed's beginning on."""
    of: str
    """Whose play it was: ``<episode>/<turn>``. It tells where the start is from and takes no part in what it is."""

    @property
    def text(self) -> str:
        """As it is stored."""
        said = {"env": self.env, "env_version": self.env_version, "seed": self.seed, "actions": self.actions}
        return json.dumps(said, ensure_ascii=False, separators=(",", ":"))

    @property
    def sha256(self) -> str:
        """Its name."""
        return text_sha256(self.text)


def named(text: str, of: str) -> Start:
    """The start that a text tells of. Raises ReplayMismatch for one that tells of none."""
    try:
        said = json.loads(text)
        whole = Start(env=said["env"], env_version=said["env_version"], seed=said["seed"], actions=tuple(said["actions"]), of=of)
    except (ValueError, TypeError, KeyError) as error:
        raise ReplayMismatch(f"the start {of} is stored as a text that tells of none: {error!r}") from None
    return whole


def of_episode(session: Session, episode: Episode) -> Start | None:
    """Where an episode begins; None where its seed does. Raises ReplayMismatch when its text is gone."""
    if episode.start is None:
        return None
    row = session.get(TextRow, episode.start)
    if row is None:
        raise ReplayMismatch(
            f"episode {episode.id} begins at {episode.start_of}, and the text {episode.start} that tells how to come there is "
            "not stored, so it cannot be played again"
        )
    return named(row.text, episode.start_of or "")


def taken(session: Session, episode_id: str, turn: int) -> tuple[Start, str | None]:
    """The moment before a turn of a stored episode, and the frame that its player saw there (None: none was kept).

    Raises StepFailed when the episode, or a turn of it, is gone.
    """
    episode = session.get(Episode, episode_id)
    if episode is None:
        raise StepFailed(
            f"it was to begin at turn {turn} of episode {episode_id}, which is not in the store any more; bring its job back, or "
            "begin a new job with another one in [curriculum]"
        )
    query = select(col(TurnRow.index), col(TurnRow.actions), col(TurnRow.frame)).where(
        col(TurnRow.episode_id) == episode_id, col(TurnRow.index) <= turn
    )
    rows = session.connection().execute(query.order_by(col(TurnRow.index))).all()
    if [row.index for row in rows] != list(range(turn + 1)):
        raise StepFailed(f"it was to begin at turn {turn} of episode {episode_id}, and only {len(rows)} of its turns are stored")
    before = of_episode(session, episode)
    actions = [*(before.actions if before else ()), *(action for row in rows[:-1] for action in row.actions)]
    start = Start(
        env=episode.env,
        env_version=episode.env_version,
        seed=episode.seed,
        actions=tuple(actions),
        of=f"{episode_id}/{turn}",
    )
    return start, rows[-1].frame
