"""The jobs of another synthq store, brought into this one with their ids: all of a job in one transaction, or nothing of it.

Frames and the bytes of artifacts go in before, under the hash of their content, where a second copy changes nothing. So an import
that was broken off goes on where it was, and one that is done changes nothing when it is done again.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from sqlalchemy import ColumnElement, column
from sqlalchemy.exc import IntegrityError

from app import artifacts, db
from app.command_line import Tick, no_tick
from app.errors import ArtifactDamaged, ArtifactNotFound
from app.models import ENDED, Artifact
from app.retention.unnamed import FRAMES_GONE, IMAGE
from app.store import episodes
from app.transfer import tables
from app.transfer.report import Report
from app.transfer.tables import Reader, Row

OF_A_JOB: Final = ("job", "step", "job_event", "episode", "turn", "spend")
"""Tables that hold a job, in the order in which they are written. Its artifacts are looked at one by one."""
CHANGEABLE: Final = {"job": ("labels", "priority", "claimed_at", "event_seq"), "episode": ("scores",)}
"""Columns that may change after the end of a job, by users, judges and what drops old frames: they make no other job of it."""
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
        present = self._here and self._is_here("job", column("id") == job_id)
        if present:
            self._compare(job_id)
            self._report.same["job"] += 1
        texts = [] if present else self._content(job_id)
        rows = [row for row in self._source.rows("artifact", column("job_id") == job_id) if self._wanted(row)]
        if self._report.dry_run:
            if not present:
                self._count(job_id)
            self._report.new["artifact"] += len(rows)
            return
        stored = [row for row in rows if self._copy_bytes(row)]
        try:
            self._write(job_id, stored, texts, whole=not present)
        except IntegrityError as error:
            raise _Conflict(
                f"job {job_id}: an id of its rows is taken by another job here ({error.orig}); it was not imported"
            ) from error

    def _left(self, what: str, count: int = 1) -> None:
        if count:
            self._report.left[what] += count

    # -- what is here already ----------------------------------------------------------------------------------------------

    def _is_here(self, table: str, where: ColumnElement[bool]) -> bool:
        with db.reading() as session:
            return Reader(session.connection()).count(table, where) > 0

    def _compare(self, job_id: str) -> None:
        with tables.snapshot() as connection:
            here = Reader(connection)
            for table in OF_A_JOB:
                skip = CHANGEABLE.get(table, ())
                there = tables.sum_of(_told(self._source, table, job_id), skip)
                if tables.sum_of(_told(here, table, job_id), skip) != there:
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

    def _content(self, job_id: str) -> list[Row]:
        """Store the frames that the job names and that are not here yet; give the rows of such texts."""
        frames, texts = self._named(job_id)
        if self._here and not self._report.dry_run:
            episodes.keep_frames(frames)
        for batch in tables.batches(self._lacking("frame", frames), FRAMES_A_FETCH):
            rows = self._read("frame", "png", batch)
            if not self._report.dry_run:
                with db.writing() as session:
                    at = db.clock(session)
                    tables.insert(session.connection(), "frame", ({**row, "stored_at": at} for row in rows), new_only=True)
        return [row for batch in tables.batches(self._lacking("text", texts)) for row in self._read("text", "text", batch)]

    def _named(self, job_id: str) -> tuple[set[str], set[str]]:
        frames = {r["last_frame"] for r in self._source.rows("episode", column("job_id") == job_id, columns=("last_frame",))}
        texts: set[str] = set()
        for row in _turns(self._source, job_id, ("frame", "system", "messages")):
            frames |= {row["frame"], *IMAGE.findall(row["messages"])}
            texts.add(row["system"])
        return {each for each in frames if each}, {each for each in texts if each}

    def _lacking(self, table: str, names: set[str]) -> Iterator[str]:
        for batch in tables.batches(sorted(names)):
            present: set[str] = set()
            if self._here:
                with db.reading() as session:
                    rows = Reader(session.connection()).rows(table, column("sha256").in_(batch), columns=("sha256",))
                    present = {row["sha256"] for row in rows}
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
        self._report.new[table] += len(rows)
        return rows

    def _copy_bytes(self, row: Row) -> bool:
        """Copy an artifact's bytes below this store's root; False when they are gone."""
        artifact = Artifact(**{**row, "parents": [], "data": {}})
        with tempfile.TemporaryDirectory(prefix="synthq-artifact-") as folder:
            local = Path(folder) / "bytes"
            try:
                with artifacts.open_artifact(artifact, root_url=self._root) as source, local.open("wb") as target:
                    shutil.copyfileobj(source, target, artifacts.CHUNK_BYTES)
            except ArtifactNotFound:
                self._left("artifact whose bytes are not below its root")
                return False
            found = artifacts.digest(local)
            if found != (row["sha256"], row["bytes"]):
                raise _Damaged(str(ArtifactDamaged(row["id"], wanted=row["sha256"], found=found[0])))
            artifacts.put(local, row["path"])
        return True

    # -- the transaction ---------------------------------------------------------------------------------------------------

    def _write(self, job_id: str, stored: list[Row], texts: list[Row], *, whole: bool) -> None:
        counts: dict[str, int] = {}
        with db.writing() as session:
            tables.insert(session.connection(), "text", texts, new_only=True)
            for table in OF_A_JOB if whole else ():
                counts[table] = tables.insert(session.connection(), table, _rows_of(self._source, table, job_id))
            counts["artifact"] = tables.insert(session.connection(), "artifact", stored)
        self._report.new.update({table: count for table, count in counts.items() if count})

    def _count(self, job_id: str) -> None:
        for table in OF_A_JOB:
            count = sum(1 for _ in _rows_of(self._source, table, job_id))
            self._report.new.update({table: count} if count else {})


def _rows_of(store: Reader, table: str, job_id: str) -> Iterator[Row]:
    """A job's rows of one table."""
    if table == "turn":
        return _turns(store, job_id, tables.columns_of("turn"))
    return store.rows(table, column("id" if table == "job" else "job_id") == job_id)


def _told(store: Reader, table: str, job_id: str) -> Iterator[Row]:
    """A job's rows of one table, as far as they were the same ever since the job ended."""
    return (row for row in _rows_of(store, table, job_id) if table != "job_event" or row["type"] != FRAMES_GONE)


def _turns(store: Reader, job_id: str, columns: tuple[str, ...]) -> Iterator[Row]:
    episodes = [row["id"] for row in store.rows("episode", column("job_id") == job_id, columns=("id",))]
    for batch in tables.batches(episodes, EPISODES_A_FETCH):
        yield from store.rows("turn", column("episode_id").in_(batch), columns=columns)
