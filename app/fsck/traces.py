"""Episodes against their turns: as many as they say, without gaps, chained to their hash; and turns against what they name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from sqlalchemy import column, update
from sqlmodel import col

from app import db
from app.command_line import Tick
from app.fsck.figures import Asked, Figures, unasked, wrong, wrong_rewards
from app.fsck.findings import Check, pages
from app.fsck.values import opened
from app.models import Episode
from app.retention.unnamed import FRAMES_GONE, IMAGE
from app.store.turns import chained
from app.transfer.tables import Reader, Row, batches, columns_of

EPISODE: Final = tuple(name for name in columns_of("episode") if name != "snapshot")


@dataclass(slots=True, kw_only=True)
class _Read:
    """An episode's turns, read to their end."""

    count: int = 0
    gap: int | None = None
    """Index of the first turn that is missing."""
    chain: str = ""
    figures: Figures = field(default_factory=Figures)
    frames: dict[str, int] = field(default_factory=dict)
    """Picture that is named -> first turn that names it."""
    texts: dict[str, int] = field(default_factory=dict)


def episodes(check: Check, tick: Tick) -> None:
    """Every episode with all of its turns."""
    for reader, rows in pages(check, "episode", "id", EPISODE):
        specs = _specs(reader, {row["job_id"] for row in rows})
        unkept = _without_frames(reader, specs)
        for row in rows:
            name = f"episode {row['id']} of job {row['job_id']}"
            with check.reading(f"the turns of episode {row['id']}"):
                found = _turns(check, reader, row, name)
                held = opened(check, "episode", row, subject=row["id"], name=name)
                _compare(check, held, found, Asked.by(specs.get(row["job_id"])), name)
                _named(check, reader, held, found, frames_kept=row["job_id"] not in unkept, name=name)
            tick(1)


def _turns(check: Check, reader: Reader, row: Row, name: str) -> _Read:
    episode_id, start, found = row["id"], str(row.get("start") or ""), _Read()
    for turn in reader.rows("turn", column("episode_id") == episode_id, columns=columns_of("turn"), order=("index",)):
        index = turn["index"]
        if index != found.count and found.gap is None:
            found.gap = found.count
        found.count += 1
        held = opened(check, "turn", turn, subject=episode_id, name=f"turn {index} of {name}")
        found.chain = chained(found.chain or start, {**turn, "reply": str(turn["reply"])})
        if len(held) == len(turn):
            found.figures.add(held)
        else:
            found.figures.known = False
        for sha256 in (held.get("frame"), *IMAGE.findall(str(turn["messages"]))):
            if sha256:
                found.frames.setdefault(sha256, index)
        if held.get("system"):
            found.texts.setdefault(held["system"], index)
    return found


def _compare(check: Check, row: Row, found: _Read, asked: Asked | None, name: str) -> None:
    id, turns, sha256 = row["id"], row.get("turns", found.count), row.get("sha256", found.chain) or ""
    whole = found.gap is None and found.chain == sha256
    if found.gap is not None:
        check.problem(id, f"{name} lacks its turn {found.gap}: {found.count} of {turns} turns are stored")
    elif found.count != turns:
        mend = partial(_set_turns, id, turns, found.count) if whole else None
        check.problem(id, f"{name} is to have {turns} turns, and {found.count} are stored", mend)
    if not whole and found.gap is None:
        there = found.chain or "none"
        check.problem(id, f"{name} has the hash {row.get('sha256')}, and its turns give {there}: one of them was changed")
    said = list(wrong(row, found.figures)) if whole and found.figures.known else []
    if asked is not None:
        said += [*unasked(row, asked), *(wrong_rewards(found.figures, asked) if whole else ())]
    for what in said:
        check.problem(id, f"{name} {what}")


def _set_turns(episode_id: str, was: int, count: int) -> bool:
    with db.writing() as session:
        wrong = update(Episode).where(col(Episode.id) == episode_id, col(Episode.turns) == was)
        return session.connection().execute(wrong.values(turns=count)).rowcount == 1


def _named(check: Check, reader: Reader, row: Row, found: _Read, *, frames_kept: bool, name: str) -> None:
    if (start := row.get("start")) and _lacking(reader, "text", [start]):
        begun = f"begins at {row.get('start_of')}, and the text {start} that tells how to come there is not stored"
        check.problem(row["id"], f"{name} {begun}")
    for sha256 in sorted(_lacking(reader, "text", found.texts)):
        check.problem(row["id"], f"turn {found.texts[sha256]} of {name} has the system text {sha256}, which is not stored")
    if not frames_kept:
        return
    shown: dict[str, Any] = {**found.frames, **({row["last_frame"]: None} if row.get("last_frame") else {})}
    for sha256 in sorted(_lacking(reader, "frame", shown)):
        where = name if shown[sha256] is None else f"turn {shown[sha256]} of {name}"
        check.problem(row["id"], f"{where} shows frame {sha256}, which is not stored")


def _lacking(reader: Reader, table: str, names: Collection[str]) -> set[str]:
    lacking = set(names)
    for some in batches(names):
        lacking -= {row["sha256"] for row in reader.rows(table, column("sha256").in_(some), columns=("sha256",))}
    return lacking


def _specs(reader: Reader, job_ids: Collection[str]) -> dict[str, Any]:
    """The specs of the jobs as far as they can be read; the check of jobs tells of the others."""
    rows = reader.rows("job", column("id").in_(list(job_ids)), columns=("id", "spec"))
    untold = Check(name="jobs")
    return {row["id"]: opened(untold, "job", row, subject=row["id"], name="job").get("spec") for row in rows}


def _without_frames(reader: Reader, specs: Mapping[str, Any]) -> set[str]:
    """Those of the jobs whose frames were not kept or were dropped for their age, or of which nobody can say it."""
    unkept = {id for id, spec in specs.items() if spec is None or _keeps_none(spec)}
    mine = column("job_id").in_(list(specs))
    dropped = reader.rows("job_event", mine, column("type") == FRAMES_GONE, columns=("job_id",))
    return unkept | {row["job_id"] for row in dropped}


def _keeps_none(spec: Mapping[str, Any]) -> bool:
    table = spec.get("eval")
    return isinstance(table, dict) and table.get("save_frames") == "none"
