"""What the episodes of one play step share: worlds, connections, texts that are stored, and which policies are blocked."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from sqlmodel import Session, col, select

from app import db, lifecycle
from app.errors import BudgetSpent, StepBlocked
from app.models import Episode, JobEvent
from app.records import EpisodeKey, Turn
from app.specs import EvalTable
from app.specs.policies import MODEL, policy_name
from app.store import episodes, events
from app.store.starts import Start
from app.store.turns import system_text, text_sha256
from workers.rollout import envs
from workers.rollout.envs.base import Environment
from workers.rollout.play import PlayOptions
from workers.rollout.policies.engine.engines import Engines
from workers.rollout.remote import TaskApp
from workers.rollout.starts import Starts
from workers.runner import StepContext

BLOCKED: Final = "play.blocked"
"""Type of the event that says why nobody can play under a policy's label in this attempt of the job."""


@dataclass(frozen=True, slots=True)
class Seat:
    """Which episode, and who plays it."""

    key: EpisodeKey
    label: str
    """As the spec names the policy."""


@dataclass(slots=True, kw_only=True)
class Table:
    """One step's table."""

    context: StepContext
    how: EvalTable
    """How the job's spec wants episodes of this step's purpose played."""
    options: PlayOptions
    blocked: dict[str, str]
    """Policies that a step of this attempt found blocked, by label, and why: nobody asks again."""
    at_once: int
    """Episodes that are under way at once."""
    starts: Starts
    """Where episodes of the step begin that do not begin where the world does."""
    writable: bool = True
    """False once what is played can no longer be stored."""
    _worlds: list[Environment] = field(default_factory=list)
    _begun: dict[Seat, Start] = field(default_factory=dict)
    _texts: set[str] = field(default_factory=set)
    _answered: set[str] = field(default_factory=set)
    _first: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    _refused: dict[str, StepBlocked] = field(default_factory=dict)
    _engines: Engines | None = None
    _app: TaskApp | None = None

    def start_of(self, seat: Seat, stored: Episode | None) -> Start | None:
        """Where an episode begins, None where its world does; ``stored``: its row, when it is under way already."""
        start = self.starts.of(seat.key, stored)
        if start is not None:
            self._begun[seat] = start
        return start

    def take_world(self) -> Environment:
        """A world for an episode; every episode begins with a reset or a restore, so any will do."""
        return self._worlds.pop() if self._worlds else envs.make(self.options.env, dict(self.options.env_config))

    def give_back(self, world: Environment) -> None:
        """Keep a world for the next episode. One in which something broke may be half way, and is not given back."""
        self._worlds.append(world)

    @property
    def engines(self) -> Engines:
        """The engines that serve the job's models."""
        if self._engines is None:
            self._engines = Engines(self.context)
        return self._engines

    def expect(self, label: str) -> None:
        """Raise Drain when a policy's model is served by nobody at present."""
        if policy_name(label)[0] == MODEL and self.how.task_app_url is None:
            self.engines.expect(label)

    @property
    def app(self) -> TaskApp:
        """The spec's task app."""
        if self._app is None:
            assert self.how.task_app_url is not None, "asked for where the spec names one"
            self._app = TaskApp(self.how.task_app_url)
        return self._app

    async def close(self) -> None:
        """Let go of the connections, and of the versions of adapters that were held."""
        if self._app is not None:
            await self._app.close()
        if self._engines is not None:
            await self._engines.close()

    @asynccontextmanager
    async def asking(self, label: str) -> AsyncIterator[None]:
        """Around a question to a policy. Of those that begin, one asks first: what refuses it would refuse all of them."""
        if label in self._answered:
            yield
            return
        async with self._first[label]:
            if label in self._refused:
                raise self._refused[label]
            alone = label not in self._answered
            if alone:
                try:
                    yield
                except StepBlocked as why:
                    self._refused[label] = why
                    raise
                self._answered.add(label)
        if not alone:
            yield

    def block(self, label: str, why: StepBlocked) -> bool:
        """Tell the steps that follow that a policy is blocked; True for the first step of the attempt to find out."""
        context = self.context
        with context.write() as session:
            lifecycle.lock_job(session, context.job_id)  # of two that find out at once, one tells
            self.blocked = blocked(session, context)
            first = label not in self.blocked
            if first:
                self.blocked[label] = str(why)
                what = {"policy": label, "attempt": context.job_attempt, "capped": isinstance(why, BudgetSpent)}
                events.append(session, context.job_id, BLOCKED, str(why), step_id=context.step_id, data=what)
        return first

    def keep_text(self, turn: Turn) -> None:
        """Store the system text of a turn if it is new."""
        text = system_text(turn)
        if text is not None and text not in self._texts:
            episodes.save_texts({text_sha256(text): text})
            self._texts.add(text)

    def cut_short(self, seat: Seat, why: str) -> None:
        """End an episode that stands at a snapshot, if it does: what was played can be read, and a retry goes on."""
        context = self.context
        with context.write() as session:
            row = episodes.find(session, context.job_id, seat.key)
            if row is not None and row.snapshot is not None:
                row.state, row.error, row.step_id, row.finished_at = "failed", why, context.step_id, db.clock(session)

    def names(self, seat: Seat, world: Environment | None) -> dict[str, Any]:
        """The columns of an episode's row that its turns do not decide."""
        start = self._begun.get(seat)
        return {
            "job_id": self.context.job_id,
            "step_id": self.context.step_id,
            "iteration": seat.key.iteration,
            "seed": seat.key.seed,
            "member": seat.key.member,
            "start": start.sha256 if start else None,
            "start_of": start.of if start else None,
            "env": self.options.env,
            "env_version": world.version if world else "",
            "split": self.how.split,
            "task_id": self.how.task_id,
            "policy": seat.label,
        }


def blocked(session: Session, context: StepContext) -> dict[str, str]:
    """Blocked policies of this attempt, by label, and why."""
    return {event.data["policy"]: event.message for event in blocks(session, context.job_id, context.job_attempt)}


def blocks(session: Session, job_id: str, attempt: int) -> list[JobEvent]:
    """What blocked policies in an attempt of a job, the oldest first."""
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.type == BLOCKED).order_by(col(JobEvent.seq))
    return [event for event in session.exec(query) if event.data["attempt"] == attempt]
