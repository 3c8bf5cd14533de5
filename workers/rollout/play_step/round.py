"""The seats of a step, played: so many at once, until all are over or something ends the step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from sqlalchemy.exc import DBAPIError

from app import db
from app.errors import LostStep, StepBlocked, StepCancelled
from app.models import Episode
from app.settings import get_settings
from app.store import episodes, events
from workers.rollout.play_step.away import Away
from workers.rollout.play_step.sitting import Sitting
from workers.rollout.play_step.table import Seat, Table
from workers.runner import Drain, StepContext, failure

LOOK_S: Final = 0.1
"""How often a step whose episodes wait for models or task apps looks whether it should stop."""


class Round:
    """One time around the table."""

    def __init__(self, table: Table, seats: Sequence[Seat]) -> None:
        self._table, self._context = table, table.context
        self._waiting = iter(seats)
        self._under_way: list[Seat] = []
        self._failed = self._sat_down = 0
        self._late = False

    async def play(self) -> int:
        """Play every seat; gives how many failed.

        What ends the step passes once every episode that is under way has been brought to where it can go on.
        """
        hands = [asyncio.create_task(self._hand()) for _ in range(self._table.at_once)]
        try:
            await self._watch(set(hands))
        except BaseException as why:
            await self._clear(hands, why)
            raise
        if self._late:
            raise Drain("its time is used up")
        return self._failed

    async def _hand(self) -> None:
        """Play one seat after the other, as long as there are any."""
        while (found := self._next()) is not None:
            seat, present = found
            self._under_way.append(seat)
            failed = await self._seated(seat, present)
            self._failed += failed  # not in one: others count while this one is waited for
            self._under_way.remove(seat)

    def _next(self) -> tuple[Seat, Episode | None] | None:
        """The next seat whose episode is not over, with its row; None when none is left, or no time."""
        for seat in self._waiting:
            present = _present(self._context, seat)
            if present is not None and _over(present, self._context):
                self._failed += present.state == "failed"
                continue
            # At least one is played in every hold, or a step could be handed back for ever.
            if self._sat_down and time.monotonic() - self._context.started > get_settings().step_budget_s:
                self._late = True
            if self._late:
                return None
            if not self._sat_down and seat.label not in self._table.blocked:
                self._table.expect(seat.label)
            self._sat_down += 1
            return seat, present
        return None

    async def _watch(self, hands: set[asyncio.Task[None]]) -> None:
        """Wait for the hands. Raises what ends the step; and says meanwhile that it is alive, for a model may take minutes."""
        alive_at = time.monotonic()
        while hands:
            done, hands = await asyncio.wait(hands, timeout=LOOK_S, return_when=asyncio.FIRST_EXCEPTION)
            for hand in done:
                hand.result()
            if hands:
                self._context.check()
            if hands and time.monotonic() - alive_at > get_settings().segment_s:
                with self._context.write():
                    alive_at = time.monotonic()

    async def _clear(self, hands: Sequence[asyncio.Task[None]], why: BaseException) -> None:
        """Have every episode that is under way store its turns, and end those that will not be taken up again by themselves.

        A world does not move before its turn's reply is there, so a turn that is given up here is played again from where it
        stands.
        """
        self._table.writable = not isinstance(why, LostStep | DBAPIError)
        for hand in hands:
            hand.cancel()
        await asyncio.gather(*hands, return_exceptions=True)
        for seat in self._under_way:
            if isinstance(why, StepCancelled):
                self._table.cut_short(seat, str(why))
            elif isinstance(why, StepBlocked) and seat.label in self._table.blocked:
                self._table.cut_short(seat, self._table.blocked[seat.label])

    async def _seated(self, seat: Seat, present: Episode | None) -> bool:
        """Play one episode; True when it failed. What blocks its policy fails the step that finds out first, and no other."""
        blocked = self._table.blocked
        if seat.label in blocked:
            self._table.cut_short(seat, blocked[seat.label])
            return True
        try:
            return await self._one(seat, present)
        except StepBlocked as why:
            if self._table.block(seat.label, why):
                raise
            self._table.cut_short(seat, self._table.blocked[seat.label])
            return True

    async def _one(self, seat: Seat, present: Episode | None) -> bool:
        """Play one episode; True when it failed, which is a row with its error and no reason to stop the others."""
        table, context = self._table, self._context
        away = table.how.task_app_url is not None
        sitting = Away(table, seat) if away else Sitting(table, seat, present)
        error = await failure(sitting.play())
        if error is None:
            return False
        with context.write() as session:
            values = {**table.names(seat, sitting.world), "state": "failed", "error": error, "snapshot": None}
            episodes.save_segment(session, values, [])
            message = f"seed {seat.key.seed} ({seat.label}) failed: {error}"
            events.append(session, context.job_id, "episode.failed", message, level="error", step_id=context.step_id)
        return True


def _present(context: StepContext, seat: Seat) -> Episode | None:
    with db.reading() as session:
        return episodes.find(session, context.job_id, seat.key)


def _over(present: Episode, context: StepContext) -> bool:
    """Done, or failed in this very step before it was handed back; what failed elsewhere has another try here."""
    return present.state == "done" or (present.state == "failed" and present.step_id == context.step_id)
