"""The ``play`` step: a few episodes, each stored whole or in segments, each under the step's fence.

Episodes whose policy asks a model are under way many at once, in one event loop; the others one after the other. What an episode
comes to does not depend on how many play beside it. What a block or a cancel cuts short ends as ``failed`` with its turns, so
that it can be read, and keeps its snapshot: a retry of the job goes on from there, and pays for no turn twice.
"""

from __future__ import annotations

import asyncio
from typing import Any

from app import db
from app.plots.eval import policy_of
from app.records import EpisodeKey
from app.specs import EvalTable, PlayedSpec
from app.specs.policies import MODEL, OPENAI, policy_name
from workers.rollout.play import PlayOptions
from workers.rollout.play_step.round import Round
from workers.rollout.play_step.table import Seat, Table, blocked, blocks
from workers.rollout.starts import Starts
from workers.runner import StepContext

__all__ = ["blocks", "run"]


def run(context: StepContext) -> dict[str, Any]:
    """Play the step's episodes, each once; those that are over already are left as they are."""
    return asyncio.run(_run(context))


async def _run(context: StepContext) -> dict[str, Any]:
    spec: PlayedSpec = context.spec
    purpose, label = context.payload.get("purpose", ""), context.payload.get("policy")
    keys = [EpisodeKey(iteration=i, seed=s, member=m) for i, s, m in context.payload["episodes"]]
    seats = [Seat(key, label or policy_of(context.claim.spec, key.member)) for key in keys]
    how = spec.play(purpose)
    with db.reading() as session:
        known = blocked(session, context)
    options = PlayOptions.of(spec, purpose)
    starts = Starts(options, context.payload.get("starts", {}))
    table = Table(context=context, how=how, options=options, blocked=known, at_once=_at_once(how, seats), starts=starts)
    try:
        failed = await Round(table, seats).play()
    finally:
        await table.close()
    return {"played": len(seats) - failed, "failed": failed}


def _at_once(how: EvalTable, seats: list[Seat]) -> int:
    """Rules answer at once, so that nothing is won by others that play beside them."""
    asks = any(policy_name(seat.label)[0] in (OPENAI, MODEL) for seat in seats)
    return min(len(seats), how.episodes_in_flight) if asks else 1
