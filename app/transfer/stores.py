"""The jobs of another synthq store, brought into this one with their ids: all of a job in one transaction, or nothing of it.

Frames and the bytes of artifacts go in before, under the hash of their content, where a second copy changes nothing. So an import
that was broken off goes on where it was, and one that is done changes nothing when it is done again.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Final

from sqlalchemy import ColumnElement, column
from sqlalchemy.exc import IntegrityError

from app import artifacts, db
from app.command_line import Tick, no_tick
from app.errors import ArtifactDamaged, ArtifactNotFound, cut
from app.models import ENDED
from app.retention.unnamed import FRAMES_GONE, IMAGE
from app.store import episodes
from app.transfer import tables
from app.transfer.files import as_artifact, is_its_own, put_new
from app.transfer.report import Report
from app.transfer.tables import Reader, Row
from app.transfer.whole import fault

OF_A_JOB: Final = ("job", "step", "job_event", "episode", "turn", "spend", "metric", "model_use", "adapter_version")
"""Tables that hold a job, in the order in which they are written. Its artifacts are looked at one by one."""
JOB_COLUMN: Final = {"job": "id", "adapter_version": "line"}
"""Column with the job's id, where it has another name than ``job_id``."""
CHANGEABLE: Final = {
    "job": ("labels", "priority", "claimed_at", "event_seq"),
    "episode": ("scores",),
    "adapter_version": ("state", "draining_at", "retired_at"),
}
"""Columns that may change after the end of a job, by users, judges and what tidies up: they make no other job of it."""
EPISODES_A_FETCH: Final = 50
FRAMES_A_FETCH: Final = 200


class _Damaged(Exception):
    """A row of the source is not what its name says; the text is the sentence. Stays inside this file."""


class _Conflict(Exception):
    """This store has a row of the same id and other content. Stays inside this file."""


class StoreImport:
    """Brings the ended jobs of one source over. ``here`` is False when this store does not exist yet: a dry run only looks."""

    def __init__(self, source: Reader, report: Report, *, here: bool = True, artifact_root: str | None = None) -> None:
        self._source, self._report, self._here, self._root = source, report, here, artifact_root
        self._looked: defaultdict[str, set[str]] = defaultdict(set)
        """Frames and texts by table that a dry run has counted; a run that stores them finds them here."""

    def ended(self) -> list[str]:
        """The ended jobs of the source, oldest first; the others are counted as left out."""
        found = list(self._source.rows("job", columns=("id", "state"), order=("created_at", "id")))
        self._left("job that has not ended", sum(row["state"] not in ENDED for row in found))
        return [row["id"] for row in found if row["state"] in ENDED]

    def run(self, job_ids: Iterable[str], tick: Tick = no_tick) -> None:
        """Bring these jobs over, each wholly or not at all; what goes wrong with one is told in the report."""
        for job_id in job_ids:
            try:
                self._job(job_id)
                self._report.jobs.append(job_id)
            except _Conflict as clash:
                self._report.conflict(str(clash))
            except _Damaged as damage:
                self._report.damage(str(damage))
            tick(1)

    def _job(self, job_id: str) -> None:
        damaged = self._damaged(job_id)
        present = self._here and self._is_here("job", column("id") == job_id)
        if present:
            self._compare(job_id, damaged)
            self._report.same["job"] += 1
        texts = [] if present else self._content(job_id, damaged)
        rows = [row for row in self._source.rows("artifact", column("job_id") == job_id) if self._wanted(row)]
        stored = [row for row in rows if self._copy_bytes(row)]
        if self._report.dry_run:
            if not present:
                self._count(job_id, damaged)
            self._report.new.update({"artifact": len(stored)} if stored else {})
            return
        try:
            self._write(job_id, stored, texts, damaged, whole=not present)
        except IntegrityError as error:
            raise _Conflict(
                f"job {job_id}: an id of its rows is taken by another job here ({error.orig}); it was not imported"
            ) from error

    def _left(self, what: str, count: int = 1) -> None:
        if count:
            self._report.left[what] += count

    def _damaged(self, job_id: str) -> frozenset[str]:
        """The episodes of a job that are not what they say they are; they are told of, and stay behind."""
        damaged = set()
        played = (column("job_id") == job_id, column("state") == "done")
        for batch in tables.batches(self._source.rows("episode", *played, order=("id",)), EPISODES_A_FETCH):
            of_these = column("episode_id").in_([row["id"] for row in batch])
            turns = self._source.rows("turn", of_these, order=("episode_id", "index"))
            rows = {row["id"]: row for row in batch}
            found = {id: fault(rows[id], group) for id, group in groupby(turns, key=lambda turn: str(turn["episode_id"]))}
            for id, row in rows.items():
                why = found[id] if id in found else fault(row, ())
                if why is not None:
                    damaged.add(id)
                    self._report.damage(f"{why}; the episode was left out")
        return frozenset(damaged)

    # -- what is here already ----------------------------------------------------------------------------------------------

    def _is_here(self, table: str, where: ColumnElement[bool]) -> bool:
        with db.reading() as session:
            return Reader(session.connection()).count(table, where) > 0

    def _compare(self, job_id: str, damaged: Collection[str]) -> None:
        with tables.snapshot() as connection:
            here = Reader(connection)
            for table in OF_A_JOB:
                skip = CHANGEABLE.get(table, ())
                there = tables.sum_of(_told(self._source, table, job_id, damaged), skip)
                if tables.sum_of(_told(here, table, job_id, damaged), skip) != there:
                    raise _Conflict(
                        f"job {job_id} is here with other content (its rows in the table {table!r} differ); it was left as it is"
                    )

    def _wanted(self, row: Row) -> bool:
        """Whether an artifact is to come over: not here yet, and its bytes can be reached."""
        if self._here:
            with db.reading() as session:
                found = list(Reader(session.connection()).rows("artifact", column("id") == row["id"]))
            if found and found[0] != row:
                raise _Conflict(f"artifact {row['id']} of job {row['job_id']} is here with other content; it was left as it is")
            if found:
                return False
        if self._root is None:
            self._left("artifact whose bytes are elsewhere (--artifacts names the root)")
        return self._root is not None

    # -- before the transaction: what is named by its content --------------------------------------------------------------

    def _content(self, job_id: str, damaged: Collection[str]) -> list[Row]:
        """Store the frames that the job names and that are not here yet; give the rows of such texts."""
        frames, texts = self._named(job_id, damaged)
        if self._here and not self._report.dry_run:
            episodes.keep_frames(frames)
        for batch in tables.batches(self._lacking("frame", frames), FRAMES_A_FETCH):
            rows = self._read("frame", "png", batch)
            if not self._report.dry_run:
                with db.writing() as session:
                    at = db.clock(session)
                    tables.insert(session.connection(), "frame", ({**row, "stored_at": at} for row in rows), new_only=True)
        return [row for batch in tables.batches(self._lacking("text", texts)) for row in self._read("text", "text", batch)]

    def _named(self, job_id: str, damaged: Collection[str]) -> tuple[set[str], set[str]]:
        frames: set[str] = set()
        texts: set[str] = set()
        for row in _rows_of(self._source, "episode", job_id, damaged):
            frames.add(row["last_frame"])
            texts.add(row["start"])
        for row in _turns(self._source, job_id, ("frame", "system", "messages"), damaged):
            frames |= {row["frame"], *IMAGE.findall(row["messages"])}
            texts.add(row["system"])
        return {each for each in frames if each}, {each for each in texts if each}

    def _lacking(self, table: str, names: set[str]) -> Iterator[str]:
        for batch in tables.batches(sorted(names)):
            present = self._looked[table].intersection(batch)
            if self._here:
                with db.reading() as session:
                    rows = Reader(session.connection()).rows(table, column("sha256").in_(batch), columns=("sha256",))
                    present |= {row["sha256"] for row in rows}
            yield from (name for name in batch if name not in present)

    def _read(self, table: str, content: str, names: list[str]) -> list[Row]:
        """These rows of the source, each checked against its name."""
        rows = list(self._source.rows(table, column("sha256").in_(names)))
        for row in rows:
            value = row[content]
            found = hashlib.sha256(value if isinstance(value, bytes) else value.encode()).hexdigest()
            if found != row["sha256"]:
                raise _Damaged(
                    f"{table} {row['sha256']} of {self._report.source} has bytes with sha256 {found}; its job was not imported"
                )
        self._left(f"{table} that the source does not hold", len(names) - len(rows))
        if self._report.dry_run:
            self._looked[table].update(row["sha256"] for row in rows)
        self._report.new[table] += len(rows)
        return rows

    def _copy_bytes(self, row: Row) -> bool:
        """Copy an artifact's bytes below this store's root, a dry run only to look at them; False when they are gone."""
        name = f"artifact {row['id']} of job {row['job_id']}"
        if not is_its_own(row):
            raise _Damaged(f"{name} names the file {cut(row['path'])}, which is not its own; its job was not imported")
        with tempfile.TemporaryDirectory(prefix="synthq-artifact-") as folder:
            local = Path(folder) / "bytes"
            try:
                with artifacts.open_artifact(as_artifact(row), root_url=self._root) as source, local.open("wb") as target:
                    shutil.copyfileobj(source, target, artifacts.CHUNK_BYTES)
            except ArtifactNotFound:
                self._left("artifact whose bytes are not below its root")
                return False
            found = artifacts.digest(local)
            if found != (row["sha256"], row["bytes"]):
                raise _Damaged(str(ArtifactDamaged(row["id"], wanted=row["sha256"], found=found[0])))
            if not self._report.dry_run and not put_new(local, row):
                raise _Conflict(f"{name} has its file {row['path']} here with other bytes; they were left as they are")
        return True

    # -- the transaction ---------------------------------------------------------------------------------------------------

    def _write(self, job_id: str, stored: list[Row], texts: list[Row], damaged: Collection[str], *, whole: bool) -> None:
        counts: dict[str, int] = {}
        with db.writing() as session:
            tables.insert(session.connection(), "text", texts, new_only=True)
            for table in OF_A_JOB if whole else ():
                counts[table] = tables.insert(session.connection(), table, _rows_of(self._source, table, job_id, damaged))
            counts["artifact"] = tables.insert(session.connection(), "artifact", stored)
        self._report.new.update({table: count for table, count in counts.items() if count})

    def _count(self, job_id: str, damaged: Collection[str]) -> None:
        for table in OF_A_JOB:
            count = sum(1 for _ in _rows_of(self._source, table, job_id, damaged))
            self._report.new.update({table: count} if count else {})


def _rows_of(store: Reader, table: str, job_id: str, damaged: Collection[str]) -> Iterator[Row]:
    """A job's rows of one table, without those of damaged episodes."""
    if table == "turn":
        return _turns(store, job_id, tables.columns_of("turn"), damaged)
    rows = store.rows(table, column(JOB_COLUMN.get(table, "job_id")) == job_id)
    return (row for row in rows if row["id"] not in damaged) if table == "episode" else rows


def _told(store: Reader, table: str, job_id: str, damaged: Collection[str]) -> Iterator[Row]:
    """A job's rows of one table, as far as they were the same ever since the job ended."""
    return (row for row in _rows_of(store, table, job_id, damaged) if table != "job_event" or row["type"] != FRAMES_GONE)


def _turns(store: Reader, job_id: str, columns: tuple[str, ...], damaged: Collection[str]) -> Iterator[Row]:
    found = store.rows("episode", column("job_id") == job_id, columns=("id",))
    episodes = [row["id"] for row in found if row["id"] not in damaged]
    for batch in tables.batches(episodes, EPISODES_A_FETCH):
        yield from store.rows("turn", column("episode_id").in_(batch), columns=columns)
