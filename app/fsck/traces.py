"""Episodes against their turns: as many as they say, without gaps, chained to their hash; and turns against what they name."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from sqlalchemy import column, update
from sqlmodel import col

from app import db
from app.command_line import Tick
from app.fsck.findings import Check, pages
from app.models import Episode
from app.retention.unnamed import FRAMES_GONE, IMAGE
from app.store.turns import chained
from app.transfer.tables import Reader, Row, batches, columns_of

EPISODE: Final = ("id", "job_id", "turns", "outcomes", "last_frame", "sha256", "unlocked", "achievements")


@dataclass(slots=True, kw_only=True)
class _Read:
    """An episode's turns, read to their end."""

    count: int = 0
    gap: int | None = None
    """Index of the first turn that is missing."""
    chain: str = ""
    outcomes: Counter[str] = field(default_factory=Counter)
    frames: dict[str, int] = field(default_factory=dict)
    """Picture that is named -> first turn that names it."""
    texts: dict[str, int] = field(default_factory=dict)


def episodes(check: Check, tick: Tick) -> None:
    """Every episode with all of its turns."""
    for reader, rows in pages(check, "episode", "id", EPISODE):
        unkept = _without_frames(reader, {row["job_id"] for row in rows})
        for row in rows:
            with check.reading(f"the turns of episode {row['id']}"):
                found = _turns(reader, row["id"])
                _compare(check, row, found)
                _named(check, reader, row, found, frames_kept=row["job_id"] not in unkept)
            tick(1)


def _turns(reader: Reader, episode_id: str) -> _Read:
    found = _Read()
    for turn in reader.rows("turn", column("episode_id") == episode_id, columns=columns_of("turn"), order=("index",)):
        index = turn["index"]
        if index != found.count and found.gap is None:
            found.gap = found.count
        found.count += 1
        found.chain = chained(found.chain, turn)
        found.outcomes[turn["outcome"]] += 1
        for sha256 in (turn["frame"], *IMAGE.findall(turn["messages"])):
            if sha256:
                found.frames.setdefault(sha256, index)
        if turn["system"]:
            found.texts.setdefault(turn["system"], index)
    return found


def _compare(check: Check, row: Row, found: _Read) -> None:
    name = f"episode {row['id']} of job {row['job_id']}"
    whole = found.gap is None and found.chain == (row["sha256"] or "")
    if found.gap is not None:
        check.problem(row["id"], f"{name} lacks its turn {found.gap}: {found.count} of {row['turns']} turns are stored")
    elif found.count != row["turns"]:
        mend = partial(_set_turns, row["id"], row["turns"], found.count) if whole else None
        check.problem(row["id"], f"{name} is to have {row['turns']} turns, and {found.count} are stored", mend)
    if not whole and found.gap is None:
        check.problem(
            row["id"], f"{name} has the hash {row['sha256']}, and its turns give {found.chain or 'none'}: one of them was changed"
        )
    if whole and found.count == row["turns"] and json.loads(row["outcomes"]) != dict(found.outcomes):
        check.problem(row["id"], f"{name} counts the outcomes {row['outcomes']}, and its turns have {json.dumps(found.outcomes)}")
    if row["unlocked"] < len(json.loads(row["achievements"])):
        check.problem(row["id"], f"{name} counts {row['unlocked']} achievements, and names {row['achievements']}")


def _set_turns(episode_id: str, was: int, count: int) -> bool:
    with db.writing() as session:
        wrong = update(Episode).where(col(Episode.id) == episode_id, col(Episode.turns) == was)
        return session.connection().execute(wrong.values(turns=count)).rowcount == 1


def _named(check: Check, reader: Reader, row: Row, found: _Read, *, frames_kept: bool) -> None:
    name = f"episode {row['id']} of job {row['job_id']}"
    for sha256 in sorted(_lacking(reader, "text", found.texts)):
        check.problem(row["id"], f"turn {found.texts[sha256]} of {name} has the system text {sha256}, which is not stored")
    if not frames_kept:
        return
    shown: dict[str, Any] = {**found.frames, **({row["last_frame"]: None} if row["last_frame"] else {})}
    for sha256 in sorted(_lacking(reader, "frame", shown)):
        where = name if shown[sha256] is None else f"turn {shown[sha256]} of {name}"
        check.problem(row["id"], f"{where} shows frame {sha256}, which is not stored")


def _lacking(reader: Reader, table: str, names: Collection[str]) -> set[str]:
    lacking = set(names)
    for some in batches(names):
        lacking -= {row["sha256"] for row in reader.rows(table, column("sha256").in_(some), columns=("sha256",))}
    return lacking


def _without_frames(reader: Reader, job_ids: Collection[str]) -> set[str]:
    """Those of the jobs whose frames were not kept, or were dropped for their age."""
    some = list(job_ids)
    specs = reader.rows("job", column("id").in_(some), columns=("id", "spec"))
    unkept = {row["id"] for row in specs if (json.loads(row["spec"]).get("eval") or {}).get("save_frames") == "none"}
    dropped = reader.rows("job_event", column("job_id").in_(some), column("type") == FRAMES_GONE, columns=("job_id",))
    return unkept | {row["job_id"] for row in dropped}
