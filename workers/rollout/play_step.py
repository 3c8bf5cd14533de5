"""The ``play`` step: a few episodes, one after the other, each stored whole or in segments, each under the step's fence.

What a block or a cancel cuts short ends as ``failed`` with its turns, so that it can be read, and keeps its snapshot: a retry of
the job goes on from there, and pays for no turn twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from sqlmodel import Session, col, select

from app import db, lifecycle
from app.errors import BudgetSpent, EngineFailed, StepBlocked, StepCancelled
from app.models import Episode, JobEvent
from app.plots.eval import policy_of
from app.records import EpisodeKey, Frame, Turn
from app.settings import get_settings
from app.specs.eval import EvalSpec
from app.specs.policies import OPENAI, policy_name
from app.store import episodes, events
from app.store.spending import JobMeter
from app.store.turns import system_text, text_sha256
from workers.rollout import envs, policies
from workers.rollout.envs.base import Environment
from workers.rollout.play import Game, PlayOptions
from workers.rollout.policies.base import Policy
from workers.rollout.remote import TaskApp, rollout_body, trace_of
from workers.runner import Drain, StepContext, failure

LOOK_S: Final = 0.1
"""How often what waits for a model or a task app looks whether the work should stop."""
BLOCKED: Final = "play.blocked"
"""Type of the event that says why nobody can play under a policy's label in this attempt of the job."""

T = TypeVar("T")


def run(context: StepContext) -> dict[str, Any]:
    """Play the step's episodes, each once; those that are over already are left as they are."""
    spec: EvalSpec = context.spec
    with db.reading() as session:
        blocked = _blocked(session, context)
    table = Table(context=context, options=PlayOptions.of(spec), blocked=blocked)
    failed = sat_down = 0
    wanted = [EpisodeKey(iteration=i, seed=s, member=m) for i, s, m in context.payload["episodes"]]
    for key in wanted:
        present = _present(context, key)
        if present is not None and _over(present, context):
            failed += present.state == "failed"
        else:
            # At least one is played in every hold, or a step could be handed back for ever.
            if sat_down and time.monotonic() - context.started > get_settings().step_budget_s:
                raise Drain("its time is used up")
            sat_down += 1
            failed += _seated(table, Seat(key, policy_of(context.claim.spec, key.member)), present)
    return {"played": len(wanted) - failed, "failed": failed}


def _present(context: StepContext, key: EpisodeKey) -> Episode | None:
    with db.reading() as session:
        return episodes.find(session, context.job_id, key)


def _over(present: Episode, context: StepContext) -> bool:
    """Done, or failed in this very step before it was handed back; what failed elsewhere has another try here."""
    return present.state == "done" or (present.state == "failed" and present.step_id == context.step_id)


@dataclass(frozen=True, slots=True)
class Seat:
    """Which episode, and who plays it."""

    key: EpisodeKey
    label: str
    """As the spec names the policy."""


@dataclass(slots=True, kw_only=True)
class Table:
    """What the episodes of one step share: options, a world to be reused, and the texts that are stored already."""

    context: StepContext
    options: PlayOptions
    blocked: dict[str, str]
    """Policies that another step of this attempt found blocked, by label, and why: nobody asks again."""
    env: Environment | None = None
    texts: set[str] = field(default_factory=set)

    def world(self) -> Environment:
        """A world for the next episode; every episode begins with a reset, so one serves all."""
        if self.env is None:
            self.env = envs.make(self.options.env, dict(self.options.env_config))
        return self.env

    def block(self, label: str, why: StepBlocked) -> bool:
        """Tell the steps that follow that a policy is blocked; True for the first step of the attempt to find out."""
        context = self.context
        with context.write() as session:
            lifecycle.lock_job(session, context.job_id)  # of two that find out at once, one tells
            self.blocked = _blocked(session, context)
            first = label not in self.blocked
            if first:
                self.blocked[label] = str(why)
                what = {"policy": label, "attempt": context.job_attempt, "capped": isinstance(why, BudgetSpent)}
                events.append(session, context.job_id, BLOCKED, str(why), step_id=context.step_id, data=what)
        return first

    def keep_text(self, turn: Turn) -> None:
        """Store the system text of a turn if it is new."""
        text = system_text(turn)
        if text is not None and text not in self.texts:
            episodes.save_texts({text_sha256(text): text})
            self.texts.add(text)


def _seated(table: Table, seat: Seat, present: Episode | None) -> bool:
    """Play one episode; True when it failed. What blocks its policy fails the step that finds out first, and no other."""
    if seat.label in table.blocked:
        _cut_short(table, seat, table.blocked[seat.label])
        return True
    try:
        return _one(table, seat, present)
    except StepCancelled as why:
        _cut_short(table, seat, str(why))
        raise
    except StepBlocked as why:
        first = table.block(seat.label, why)
        _cut_short(table, seat, table.blocked[seat.label])
        if first:
            raise
        return True


def _cut_short(table: Table, seat: Seat, why: str) -> None:
    """End an episode that stands at a snapshot, if it does: what was played can be read, and a retry goes on."""
    context = table.context
    with context.write() as session:
        row = episodes.find(session, context.job_id, seat.key)
        if row is not None and row.snapshot is not None:
            row.state, row.error, row.step_id, row.finished_at = "failed", why, context.step_id, db.clock(session)


def _blocked(session: Session, context: StepContext) -> dict[str, str]:
    """Blocked policies of this attempt, by label, and why."""
    return {event.data["policy"]: event.message for event in blocks(session, context.job_id, context.job_attempt)}


def blocks(session: Session, job_id: str, attempt: int) -> list[JobEvent]:
    """What blocked policies in an attempt of a job, the oldest first."""
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.type == BLOCKED).order_by(col(JobEvent.seq))
    return [event for event in session.exec(query) if event.data["attempt"] == attempt]


def _one(table: Table, seat: Seat, present: Episode | None) -> bool:
    """Play one episode; True when it failed, which is a row with its error and no reason to stop the others."""
    away = table.context.spec.eval.task_app_url is not None
    error = failure(lambda: asyncio.run(_ask(table, seat) if away else _Sitting(table, seat, present).play()))
    if error is None:
        return False
    names = _names(table, seat)
    table.env = None  # whatever broke may have left the world half way
    with table.context.write() as session:
        episodes.save_segment(session, {**names, "state": "failed", "error": error, "snapshot": None}, [])
        message = f"seed {seat.key.seed} ({seat.label}) failed: {error}"
        events.append(session, table.context.job_id, "episode.failed", message, level="error", step_id=table.context.step_id)
    return True


def _names(table: Table, seat: Seat) -> dict[str, Any]:
    world, spec = table.env, table.context.spec.eval
    return {
        "job_id": table.context.job_id,
        "step_id": table.context.step_id,
        "iteration": seat.key.iteration,
        "seed": seat.key.seed,
        "member": seat.key.member,
        "env": table.options.env,
        "env_version": world.version if world else "",
        "split": spec.split,
        "task_id": spec.task_id,
        "policy": seat.label,
    }


async def _watched(context: StepContext, work: Coroutine[Any, Any, T]) -> T:
    """Await what may take minutes, such as a reply of a model: given up at once when the step should stop, and else kept alive.

    A world does not move before its turn's reply is there, so a turn that was given up is played again from where it stands.
    """
    task = asyncio.ensure_future(work)
    alive_at = time.monotonic()
    try:
        while not (await asyncio.wait({task}, timeout=LOOK_S))[0]:
            context.check()
            if time.monotonic() - alive_at > get_settings().segment_s:
                with context.write():
                    alive_at = time.monotonic()
        return task.result()
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _ask(table: Table, seat: Seat) -> None:
    """Have the spec's task app play the episode, and store what it gives."""
    context, spec = table.context, table.context.spec
    app = TaskApp(spec.eval.task_app_url)
    run_id = f"{context.job_id}-{seat.key.iteration}-{seat.key.seed}-{seat.key.member}"
    body = rollout_body(spec, seat.label, seat.key, run_id=run_id)
    try:
        answer = await _watched(context, app.rollout(body, limit_s=body["safety"]["max_time_s"]))
    finally:
        await app.close()
    trace = trace_of(answer, spec, seat.label, seat.key)
    episodes.save_frames(trace.frames if table.options.keep_frames else ())
    episodes.save_texts(dict(trace.texts))
    values = {**_names(table, seat), **trace.episode, "state": "done", "error": None, "snapshot": None}
    with context.write() as session:
        episodes.save_segment(session, values, list(trace.rows))


class _Sitting:
    """One policy playing one episode, with what is not stored yet."""

    def __init__(self, table: Table, seat: Seat, present: Episode | None) -> None:
        self._table, self._seat = table, seat
        self._stood = present if present is not None and present.snapshot is not None else None
        self._frames: list[Frame] = []
        self._saved_at = time.monotonic()

    def _game(self, policy: Policy) -> Game:
        options, world = self._table.options, self._table.world()
        if self._stood is None or self._stood.snapshot is None:
            return Game.begin(options, policy, self._seat.key, world)
        if self._stood.state == "failed":
            self._reopen()
        return Game.resume(options, policy, self._seat.key, self._stood.snapshot, world)

    def _reopen(self) -> None:
        """Have an episode that was cut short run again; a row that is failed would be replaced with all its turns."""
        context = self._table.context
        with context.write() as session:
            row = episodes.find(session, context.job_id, self._seat.key)
            if row is not None:
                row.state, row.error, row.finished_at = "running", None, None

    async def play(self) -> None:
        """Play to the end, storing a segment whenever one is full. What stops the play before that passes once its turns are."""
        policy = self._policy()
        try:
            await self._turns(self._game(policy))
        finally:
            await policy.close()

    def _policy(self) -> Policy:
        context, label = self._table.context, self._seat.label
        table = context.spec.eval
        options = table.options_of(label)
        if policy_name(label)[0] == OPENAI:
            options["meter"] = JobMeter(context.job_id, table.budget)
        return policies.make(label, options)

    async def _turns(self, game: Game) -> None:
        while not game.ended:
            try:
                self._table.context.check()
                turn, frame = await (game.turn() if game.policy.model is None else _watched(self._table.context, game.turn()))
            except (Drain, EngineFailed, StepBlocked, StepCancelled):
                if game.totals.turns:
                    self._save(game, "running")
                raise
            self._table.keep_text(turn)
            if frame is not None and self._table.options.keep_frames:
                self._frames.append(frame)
            if time.monotonic() - self._saved_at > get_settings().segment_s:
                self._save(game, "running")
        self._save(game, "done")

    def _save(self, game: Game, state: str) -> None:
        last = game.frame() if state == "done" and self._table.options.keep_frames else None
        episodes.save_frames([*self._frames, *([last] if last else [])])
        values = {
            **_names(self._table, self._seat),
            **game.figures(),
            "state": state,
            "error": None,
            "last_frame": last.sha256 if last else None,
            "snapshot": game.snapshot() if state == "running" else None,
        }
        with self._table.context.write() as session:
            episodes.save_segment(session, values, game.take_rows())
        self._frames, self._saved_at = [], time.monotonic()
