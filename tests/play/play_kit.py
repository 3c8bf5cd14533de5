"""What tests of play share: games played to their end, an eval worked through as a worker would, and rows read back."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.kit import job, steps
from sqlmodel import col, select

from app import db, lifecycle
from app.models import Episode, FrameRow, Job, Queue, TurnRow
from app.records import EpisodeKey, Frame, Turn
from workers.rollout import policies
from workers.rollout.envs.base import Environment
from workers.rollout.play import Game, PlayOptions
from workers.rollout.policies import Policy
from workers.rollout.prompts import PromptOptions
from workers.runner import run_hint
from workers.tasks import STEPS

HERE = Path(__file__).resolve().parent
DIST_INFO = """\
[synthq.policies]
babbler = play_policies:Babbler
seer = play_policies:Seer
fragile = play_policies:Fragile
dawdler = play_policies:Dawdler

[synthq.environments]
corridor = envs.corridor:Corridor
"""


def dist_info(site: Path) -> None:
    """What pip would write of a package that registers the test policies and a second environment."""
    info = site / "played_package-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: played-package\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(DIST_INFO)


# -- games -----------------------------------------------------------------------------------------------------------------


def options(*, env: str = "crafter", length: int = 10_000, prompt: PromptOptions | None = None, **more: Any) -> PlayOptions:
    """Options of a game of Crafter; ``length`` in game steps."""
    config = {"length": length} if env == "crafter" else {}
    return PlayOptions(env=env, env_config=config, prompt=prompt or PromptOptions(), **more)


def key(seed: int = 1, *, member: int = 0) -> EpisodeKey:
    return EpisodeKey(iteration=0, seed=seed, member=member)


def begin(policy: Policy | str, chosen: PlayOptions | None = None, *, seed: int = 1, env: Environment | None = None) -> Game:
    """A game at its beginning; the policy is an object or a name."""
    made = policies.make(policy) if isinstance(policy, str) else policy
    return Game.begin(chosen or options(), made, key(seed), env)


def turn(game: Game) -> tuple[Turn, Frame | None]:
    """Play one turn."""
    return asyncio.run(game.turn())


def play(game: Game, most: int = 100_000) -> list[Turn]:
    """Play at most so many turns, or to the end."""

    async def all_turns() -> list[Turn]:
        turns: list[Turn] = []
        while not game.ended and len(turns) < most:
            turns.append((await game.turn())[0])
        return turns

    return asyncio.run(all_turns())


def traced(turns: Sequence[Turn]) -> list[str]:
    """One hash a turn, over all that it holds (prompt, reply, actions, rewards, frame) but how long it took."""
    return [hashlib.sha256(repr(replace(turn, timings={})).encode()).hexdigest() for turn in turns]


# -- jobs ------------------------------------------------------------------------------------------------------------------


def work(most: int = 100) -> int:
    """Run what waits, as a worker would, until nothing does or ``most`` steps were claimed; gives how many."""
    claimed = 0
    while claimed < most and any(run_hint(queue, STEPS, hint=None) for queue in (Queue.ROLLOUT, Queue.DATA)):
        claimed += 1
    return claimed


def finish(job_id: str) -> Job:
    """Work through what waits; gives the job as it is then."""
    work()
    return job(job_id)


def retry(job_id: str) -> Job:
    """Retry a job and work it through."""
    with db.writing() as session:
        found = session.get(Job, job_id)
        assert found is not None
        lifecycle.retry(session, found)
    return finish(job_id)


def play_steps(job_id: str) -> list[Any]:
    return [step for step in steps(job_id) if step.kind == "play"]


def episodes(job_id: str) -> dict[tuple[int, int], Episode]:
    """(seed, member) -> the episode's row."""
    query = select(Episode).where(Episode.job_id == job_id).order_by(col(Episode.seed), col(Episode.member))
    with db.reading() as session:
        rows = session.exec(query).all()
        session.expunge_all()
    return {(row.seed, row.member): row for row in rows}


def episode(job_id: str) -> Episode:
    """The job's one episode."""
    (found,) = episodes(job_id).values()
    return found


def turn_rows(episode_id: str) -> list[TurnRow]:
    """An episode's turns, in order."""
    query = select(TurnRow).where(TurnRow.episode_id == episode_id).order_by(col(TurnRow.index))
    with db.reading() as session:
        rows = session.exec(query).all()
        session.expunge_all()
    return list(rows)


def told(episode_id: str) -> list[dict[str, Any]]:
    """An episode's turns as plain values, without its id and how long they took."""
    return [row.model_dump(exclude={"episode_id", "timings"}) for row in turn_rows(episode_id)]


def frame_rows() -> dict[str, bytes]:
    """Every stored frame's PNG bytes, by sha256."""
    with db.reading() as session:
        return {row.sha256: row.png for row in session.exec(select(FrameRow))}
