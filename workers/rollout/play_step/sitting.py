"""An episode that is played here, from its beginning or from where it was left, with what of it is not stored yet."""

from __future__ import annotations

import asyncio
import time

from app.errors import EngineFailed, StepBlocked, StepCancelled
from app.models import Episode
from app.records import Frame, Turn
from app.settings import get_settings
from app.specs.policies import MODEL, OPENAI, policy_name
from app.store import episodes
from app.store.spending import JobMeter
from app.store.starts import Start
from workers.rollout import policies
from workers.rollout.envs.base import Environment
from workers.rollout.play import Game
from workers.rollout.play_step.table import Seat, Table
from workers.rollout.policies.base import Policy
from workers.runner import Drain


class Sitting:
    """One policy playing one episode."""

    def __init__(self, table: Table, seat: Seat, present: Episode | None) -> None:
        self._table, self._seat = table, seat
        self._stood = present if present is not None and present.snapshot is not None else None
        self._frames: list[Frame] = []
        self._saved_at = time.monotonic()
        self.world: Environment | None = None

    async def play(self) -> None:
        """Play to the end, storing a segment whenever one is full. What stops the play before that passes once its turns are."""
        policy = self._policy()
        try:
            start = self._table.start_of(self._seat, self._stood)
            self.world = self._world(start)
            await self._turns(self._game(policy, self.world, start))
            if start is None:
                self._table.give_back(self.world)
        finally:
            await policy.close()

    def _policy(self) -> Policy:
        context, how, label = self._table.context, self._table.how, self._seat.label
        options = how.options_of(label)
        name, _ = policy_name(label)
        if name == OPENAI:
            options["meter"] = JobMeter(context.job_id, how.budget)
        elif name == MODEL:
            options["engines"] = self._table.engines
        return policies.make(label, options)

    def _world(self, start: Start | None) -> Environment:
        """A world of its own for what begins elsewhere: its length is counted from there."""
        if start is None:
            return self._table.take_world()
        return self._table.starts.world(start) if self._stood is None else self._table.starts.unplayed(start)

    def _game(self, policy: Policy, world: Environment, start: Start | None) -> Game:
        options = self._table.options
        if self._stood is None or self._stood.snapshot is None:
            return Game.begin(options, policy, self._seat.key, world, start)
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

    async def _turns(self, game: Game) -> None:
        while not game.ended:
            try:
                self._table.context.check()
                turn, frame = await self._turn(game)
            except (asyncio.CancelledError, Drain, EngineFailed, StepBlocked, StepCancelled):
                if game.totals.turns and self._table.writable:
                    self._save(game, "running")
                raise
            self._table.keep_text(turn)
            if frame is not None and self._table.options.keep_frames:
                self._frames.append(frame)
            if time.monotonic() - self._saved_at > get_settings().segment_s:
                self._save(game, "running")
        self._save(game, "done")

    async def _turn(self, game: Game) -> tuple[Turn, Frame | None]:
        if game.policy.model is None:
            if self._table.at_once > 1:
                await asyncio.sleep(0)  # it answers at once, and others are under way that should not wait for its end
            return await game.turn()
        async with self._table.asking(self._seat.label):
            return await game.turn()

    def _save(self, game: Game, state: str) -> None:
        last = game.frame() if state == "done" and self._table.options.keep_frames else None
        episodes.save_frames([*self._frames, *([last] if last else [])])
        values = {
            **self._table.names(self._seat, self.world),
            **game.figures(),
            "state": state,
            "error": None,
            "last_frame": last.sha256 if last else None,
            "snapshot": game.snapshot() if state == "running" else None,
        }
        with self._table.context.write() as session:
            episodes.save_segment(session, values, game.take_rows())
        self._frames, self._saved_at = [], time.monotonic()
