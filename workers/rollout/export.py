"""The filter step: chosen episodes become lines of training data, whole or not at all.

The file is written in the step's own folder, stored under its hash, and named by a row that is committed only while the step is
held. The same store and the same spec give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from sqlmodel import Session, col, select

from app import artifacts, db
from app.errors import StepFailed
from app.models import ENDED, FrameRow, Job, TextRow, TurnRow
from app.specs import FilterTable, sha256
from app.store import jobs
from workers.rollout import lines, selection
from workers.rollout.lines import Played
from workers.rollout.selection import Candidate, Tally
from workers.runner import StepContext

TURNS_A_FETCH = 50
"""Turns, with their frames, that are in memory at once."""
PROGRESS_S = 0.5
"""Shortest time between two notes of progress: each is a write."""


def run(context: StepContext) -> dict[str, Any]:
    """Select, write, publish; gives the job's summary."""
    table: FilterTable = context.spec.filter
    chosen, tally, how = _select(context, table)
    path = context.workdir / "lines.jsonl"
    writer = Writer(context, table, how)
    with path.open("wb") as out:
        used = writer.write(chosen, out)
    if not writer.lines:
        raise StepFailed(f"no line is left: {_why_empty(tally, writer, chosen)}")
    removed = {
        **{k: n for k, n in tally.removed.items() if n},
        **({"limit": len(chosen) - len(used)} if len(used) < len(chosen) else {}),
    }
    return _publish(context, path, writer, used, tally.seen, removed)


def _select(context: StepContext, table: FilterTable) -> tuple[list[Candidate], Tally, dict[str, Played]]:
    """The episodes to write, in order; what the rules did; and how each job's episodes were played."""
    tally = Tally(selection.rules_of(table))
    with db.reading() as session:
        found = {job.id: job for job in (jobs.find(session, ref) for ref in table.jobs)}
        for job in found.values():
            if job.state not in ENDED:
                context.log(f"job {job.id} is {job.state}: episodes that end later are not read", level="warning")
        how = {id: lines.played(job) for id, job in found.items()}
        passed = []
        for candidate in selection.candidates(session, list(found) if table.jobs else None, partial(_reward, session, how)):
            context.check()
            if tally.admits(candidate):
                passed.append(candidate)
    if not tally.seen:
        where = f"in {', '.join(found)}" if found else "in the store"
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


class Writer:
    """Writes the lines of episodes, and counts what it wrote and what it left out."""

    def __init__(self, context: StepContext, table: FilterTable, how: dict[str, Played]) -> None:
        self._context, self._table, self._how = context, table, how
        self._systems: dict[str, str] = {}
        self._progress_at = time.monotonic()
        self.lines = self.frames = self.bytes = self.not_ok = 0
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of all bytes written so far."""
        return self._hash.hexdigest()

    def write(self, chosen: Sequence[Candidate], out: BinaryIO) -> list[Candidate]:
        """Write the lines of these episodes, up to the limit; gives the episodes that were reached."""
        for i, episode in enumerate(chosen):
            self._episode(episode, out)
            self._progress(i + 1, len(chosen))
            if self._full():
                return list(chosen[: i + 1])
        return list(chosen)

    def _full(self) -> bool:
        return self._table.limit is not None and self.lines >= self._table.limit

    def _progress(self, done: int, total: int) -> None:
        if done == total or time.monotonic() - self._progress_at > PROGRESS_S:
            self._context.progress(done, total)
            self._progress_at = time.monotonic()

    def _episode(self, episode: Candidate, out: BinaryIO) -> None:
        read = 0
        with db.reading() as session:
            for turn, picture_of in self._turns(session, episode):
                self._context.check()
                read += 1
                if self._table.outcomes_ok_only and turn.outcome != "ok":
                    self.not_ok += 1
                    continue
                picture = picture_of if self._table.include_images else None
                content = lines.line(
                    turn, episode, self._how[episode.job_id], system=self._system(session, turn), picture=picture
                )
                out.write(content)
                self._hash.update(content)
                self.lines += 1
                self.bytes += len(content)
                self.frames += len(lines.frames_of(turn)) if picture else 0
                if self._full():
                    return
        if read != episode.turns:
            raise StepFailed(f"episode {episode.id} has {episode.turns} turns and {read} of them are stored")

    def _turns(self, session: Session, episode: Candidate) -> Iterator[tuple[TurnRow, Callable[[str], bytes]]]:
        """The episode's turns in order, each with what gives the pictures of its prompt."""
        how, after = self._how[episode.job_id], -1
        while True:
            query = select(TurnRow).where(TurnRow.episode_id == episode.id, col(TurnRow.index) > after)
            turns = session.exec(query.order_by(col(TurnRow.index)).limit(TURNS_A_FETCH)).all()
            frames = self._frames(session, turns)
            for turn in turns:
                where = f"turn {turn.index} of episode {episode.id}"
                yield turn, partial(_picture, frames, how, where)
            if len(turns) < TURNS_A_FETCH:
                return
            after = turns[-1].index
            session.expunge_all()

    def _frames(self, session: Session, turns: Sequence[TurnRow]) -> dict[str, FrameRow]:
        if not self._table.include_images:
            return {}
        wanted = {sha256 for turn in turns for sha256 in lines.frames_of(turn)}
        return {row.sha256: row for row in session.exec(select(FrameRow).where(col(FrameRow.sha256).in_(wanted)))}

    def _system(self, session: Session, turn: TurnRow) -> str | None:
        if turn.system is None:
            return None
        if turn.system not in self._systems:
            row = session.get(TextRow, turn.system)
            if row is None:
                raise StepFailed(
                    f"turn {turn.index} of episode {turn.episode_id} has a system text {turn.system}, and it is not stored"
                )
            self._systems[turn.system] = row.text
        return self._systems[turn.system]


def _picture(frames: Mapping[str, FrameRow], how: Played, where: str, sha256: str) -> bytes:
    return lines.checked_png(frames.get(sha256), sha256, how, where)


def _why_empty(tally: Tally, writer: Writer, chosen: Sequence[Candidate]) -> str:
    told = tally.sentence()
    ok = (
        f"outcomes_ok_only=true removed all {writer.not_ok} turns of {len(chosen)} episodes"
        if writer.not_ok
        else (f"the {len(chosen)} episodes that passed have no turns")
    )
    return f"{told}, and {ok}" if told else ok


def _publish(
    context: StepContext, path: Path, writer: Writer, used: Sequence[Candidate], seen: int, removed: dict[str, int]
) -> dict[str, Any]:
    """Store the lines and their manifest, name them in rows, and sum up."""
    stem = Path(context.spec.filter.output).stem if context.spec.filter.output else context.spec.name or "dataset"
    parents = sorted({episode.job_id for episode in used})
    counts = {
        "episodes": {"seen": seen, "kept": len(used)},
        "removed": removed,
        "turns_not_ok": writer.not_ok,
        "lines": writer.lines,
        "frames": writer.frames,
        "bytes": writer.bytes,
        "sha256": writer.sha256,
    }
    store = partial(artifacts.store_file, job_id=context.job_id, step_id=context.step_id, parents=parents)
    data = store(path, kind="dataset", name=f"{stem}.jsonl", data=counts)
    if data.sha256 != writer.sha256:
        raise StepFailed(f"the file of lines has sha256 {data.sha256}, and {writer.sha256} was written: the disk may be damaged")
    manifest = context.workdir / "manifest.json"
    manifest.write_text(_manifest(context, counts, used), encoding="utf-8")
    beside = store(manifest, kind="manifest", name=f"{stem}.manifest.json", data={"lines": writer.lines, "dataset": data.sha256})
    context.check()
    with context.write() as session:
        data, beside = artifacts.record(session, data), artifacts.record(session, beside)
        ids = {"artifact": data.id, "manifest": beside.id, "name": data.name}
    return {**counts, **ids}


def _manifest(context: StepContext, counts: dict[str, Any], used: Sequence[Candidate]) -> str:
    """What the lines were made from. Holds no time and no id of this job: the same input gives the same manifest."""
    content = {
        "spec_sha256": sha256(context.spec),
        **counts,
        "made_from": [
            {"job": e.job_id, "episode": e.id, "seed": e.seed, "member": e.member, "turns": e.turns, "sha256": e.sha256}
            for e in used
        ],
    }
    return json.dumps(content, indent=1) + "\n"
