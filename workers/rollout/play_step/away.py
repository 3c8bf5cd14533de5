"""An episode that the spec's task app plays."""

from __future__ import annotations

from app.store import episodes
from workers.rollout.envs.base import Environment
from workers.rollout.play_step.table import Seat, Table
from workers.rollout.remote import rollout_body, trace_of


class Away:
    """One policy playing one episode somewhere else."""

    world: Environment | None = None
    """None of ours."""

    def __init__(self, table: Table, seat: Seat) -> None:
        self._table, self._seat = table, seat

    async def play(self) -> None:
        """Have it played, and store what comes back."""
        table, seat = self._table, self._seat
        context, spec = table.context, table.context.spec
        run_id = f"{context.job_id}-{seat.key.iteration}-{seat.key.seed}-{seat.key.member}"
        body = rollout_body(spec, seat.label, seat.key, run_id=run_id)
        async with table.asking(seat.label):
            answer = await table.app.rollout(body, limit_s=body["safety"]["max_time_s"])
        trace = trace_of(answer, spec, seat.label, seat.key)
        episodes.save_frames(trace.frames if table.options.keep_frames else ())
        episodes.save_texts(dict(trace.texts))
        values = {**table.names(seat, None), **trace.episode, "state": "done", "error": None, "snapshot": None}
        with context.write() as session:
            episodes.save_segment(session, values, list(trace.rows))
