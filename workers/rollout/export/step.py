"""The filter's order of work: episodes, turns, lines, order, files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from sqlmodel import Session

from app import db
from app.errors import StepFailed
from app.models import ENDED, Job
from app.sources import blind, jobs_read
from app.specs import FilterTable
from workers.rollout import lines, selection
from workers.rollout.export import files, order, split, stats, turns, why
from workers.rollout.export.columns import Ints
from workers.rollout.export.maker import Maker
from workers.rollout.export.pulse import Pulse
from workers.rollout.export.spool import Spool
from workers.rollout.export.turns import Kept
from workers.rollout.lines import Played
from workers.rollout.selection import Candidate, Tally
from workers.runner import StepContext


def run(context: StepContext) -> dict[str, Any]:
    """Select, write, publish; gives the job's summary."""
    table: FilterTable = context.spec.filter
    pulse = Pulse(context)
    chosen, tally, how = _select(context, pulse, table)
    kept, seen = turns.read(chosen, table, pulse)
    if not len(kept):
        raise StepFailed(why.no_turn(table, tally, seen, len(chosen)))
    count = order.Count()
    with Spool(context.workdir / "spool") as spool:
        maker = Maker(pulse, table, chosen, how, kept)
        rows = np.arange(len(kept))
        if order.reads_lines(table):
            maker.make(rows, spool, lambda row: f"line {row + 1} of those read")
            rows = order.readable(spool, kept, table, count)
        rows = order.order(rows, kept, table, count)
        if not len(rows):
            raise StepFailed(why.no_line(table, tally, seen, len(chosen), count, spool))
        sides = _sides(rows, kept, chosen, table)
        names = split.files(table, context.spec.stem)
        if not len(spool):
            maker.make(np.unique(rows), spool, partial(_place, sides, names))
        pulse.reach(len(chosen), len(chosen))
        written = files.write(context, pulse, spool, sides, names)
        about_lines = stats.of_lines(rows, kept, spool, chosen)
    sources = files.sources(sides, kept, chosen)
    if dark := sum(blind(episode.spec, episode.policy, episode.split) for episode, _ in sources):
        told = "1 episode was" if dark == 1 else f"{dark} episodes were"
        context.log(f"{told} played with black pictures: what is said of them teaches a model not to look", level="warning")
    removed = {
        "episodes": {key: number for key, number in tally.removed.items() if number},
        "turns": {key: seen.removed[key] for key in turns.KEYS if seen.removed[key]},
        "lines": dict(count.removed),
    }
    counts = {
        "episodes": {"seen": tally.seen, "kept": len(sources)},
        "turns": {"read": seen.read, "kept": len(kept)},
        "removed": removed,
        **({"blank_frames": dark} if dark else {}),
        "repeated": count.repeated,
        "lines": len(rows),
        "frames": about_lines["images"],
        "tokens": about_lines["tokens"]["most"],
        "bytes": sum(file.bytes for file in written),
    }
    return files.publish(context, written, counts, about_lines, [e for e, _ in sources], [row for _, row in sources])


def _select(context: StepContext, pulse: Pulse, table: FilterTable) -> tuple[list[Candidate], Tally, dict[str, Played]]:
    """The episodes to write, in order; what the rules did; and how each job's episodes were played."""
    tally = Tally(selection.rules_of(table))
    with db.reading() as session:
        named = jobs_read(session, table)
        for job in named or []:
            if job.state not in ENDED:
                context.log(f"job {job.id} is {job.state}: episodes that end later are not read", level="warning")
        how = {job.id: lines.played(job) for job in named or []}
        passed = []
        ids = None if named is None else [job.id for job in named]
        for candidate in selection.candidates(session, ids, partial(_reward, session, how)):
            pulse()
            if tally.admits(candidate):
                passed.append(candidate)
    if not tally.seen:
        where = "in the store" if ids is None else f"in {', '.join(ids) or table.db}"
        raise StepFailed(f"there is no episode {where}, so there is nothing to filter")
    if not passed:
        raise StepFailed(tally.sentence())
    if table.top_share is not None:
        best = selection.best_share(passed, table.top_share)
        tally.removed["top_share"] = len(passed) - len(best)
        passed = best
    return passed, tally, how


def _reward(session: Session, how: dict[str, Played], job_id: str) -> str:
    if job_id not in how:
        job = session.get(Job, job_id)
        assert job is not None, "an episode's job is a foreign key"
        how[job_id] = lines.played(job)
    return how[job_id].reward


def _sides(rows: Ints, kept: Kept, chosen: Sequence[Candidate], table: FilterTable) -> dict[str | None, Ints]:
    """The rows of each file."""
    if not table.split.enabled:
        return {None: rows}
    numbers = kept.episode[rows]
    apart = split.apart([chosen[number] for number in np.unique(numbers).tolist()], table.split)
    held = np.array([episode.seed in apart for episode in chosen])[numbers]
    return {"train": rows[~held], "val": rows[held]}


def _place(sides: Mapping[str | None, Ints], names: Mapping[str | None, str], row: int) -> str:
    """Which line a row becomes, the first time."""
    side = next(side for side, rows in sides.items() if row in rows)
    number = int(np.flatnonzero(sides[side] == row)[0]) + 1
    return f"line {number}" if side is None else f"line {number} of {names[side]}"
