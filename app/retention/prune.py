"""Drops what is past its time and what nothing names, in small transactions, and counts what went.

A job is decided about once, and what is decided is done. In one transaction it is seen to be past its time still (its age, the
label ``keep``, what unfinished jobs need), all of its episodes become ``failed``, and an event says that the job goes. No job can
begin to need it in between: SQLite has one writer at a time, and on Postgres the table ``job`` takes no change until the end of
that transaction. From then on nobody takes the job for whole: a filter that comes now finds no episode of it that is done, rather
than some of them. Its turns and episodes go in small transactions after that, the job itself last. Neither a label nor a filter
that comes now keeps it, for nothing is left that could be used; what a process left half done is ended by the next application of
a policy. Only a retry takes a failed or cancelled job back: it plays every episode that is not done, which here is all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import delete, func, select, update
from sqlmodel import Session, col

from app import artifacts, db, runs
from app.errors import Conflict, JobNotFound
from app.lifecycle import lock_job, remove
from app.models import Episode, JobEvent, TurnRow
from app.retention import policy, unnamed
from app.retention.policy import Policy
from app.store import events
from app.transfer.tables import batches

EPISODES_A_TRANSACTION: Final = 20
FRAMES_A_TRANSACTION: Final = 200


@dataclass(slots=True, kw_only=True)
class Pruned:
    """What went, or would go."""

    dry_run: bool = False
    jobs: int = 0
    episodes: int = 0
    turns: int = 0
    jobs_without_frames: int = 0
    """Jobs that stay and whose frames were too old to be kept."""
    frames: int = 0
    frame_bytes: int = 0
    texts: int = 0
    files: int = 0
    file_bytes: int = 0
    young_frames: int = 0
    """Frames that nothing names and that are too young to go."""
    unknown_files: int = 0
    """Files of jobs that this store does not know; they stay unless they are asked for."""
    unknown_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """The counts as one object."""
        return asdict(self)


class Stopped(Exception):
    """The process ends; what is left is done another time. Stays inside this package."""


class Pruner:
    """One application of a policy."""

    def __init__(
        self, wanted: Policy, *, dry_run: bool = False, unknown_files: bool = False, stop: threading.Event | None = None
    ) -> None:
        self._policy, self._unknown, self._stop = wanted, unknown_files, stop or threading.Event()
        self.done = Pruned(dry_run=dry_run)

    def run(self) -> Pruned:
        """Drop what is to go; gives the counts. Ends early, between two transactions, when it is stopped."""
        try:
            with db.reading() as session:
                old = list(dict.fromkeys([*unnamed.going(session), *policy.past(session, self._policy.jobs_days)]))
                stale = self._stale(session, old)
            if not self.done.dry_run:
                self._drop_jobs(old)
                self._mark(stale)
            else:
                self._count_jobs(old)
            self.done.jobs_without_frames = len(stale)
            self._drop_frames([*old, *stale])
            self._drop_texts()
            self._drop_files()
            self._drop_runs()
        except Stopped:
            pass
        return self.done

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise Stopped

    # -- jobs --------------------------------------------------------------------------------------------------------------

    def _drop_jobs(self, ids: Iterable[str]) -> None:
        for job_id in ids:
            self._go_on()
            try:
                self._condemn(job_id)
                while self._drop_episodes(job_id):
                    self._go_on()
                with db.writing() as session:
                    self._still_going(session, job_id)
                    remove(session, lock_job(session, job_id))
            except (JobNotFound, Conflict):
                continue  # removed, retried, marked to be kept or needed since
            artifacts.delete_job(job_id)
            runs.delete(job_id)
            self.done.jobs += 1

    def _condemn(self, job_id: str) -> None:
        """Decide that the job goes, unless that was decided before. Raises JobNotFound, and Conflict where it is to stay."""
        with db.writing() as session:
            lock_job(session, job_id)
            if unnamed.is_going(session, job_id):
                return
            policy.still_past(session, job_id, self._policy.jobs_days)
            why = f"it ended more than {self._policy.jobs_days:g} days ago"
            usable = update(Episode).where(col(Episode.job_id) == job_id, col(Episode.state) != "failed")
            session.connection().execute(usable.values(state="failed", error=f"its job is dropped: {why}", snapshot=None))
            events.append(session, job_id, unnamed.GOING, f"it is dropped with all that is its own: {why}", level="warning")

    def _drop_episodes(self, job_id: str) -> int:
        """A few episodes with all their turns in one transaction: what is left of the job is whole at any time."""
        with db.writing() as session:
            self._still_going(session, job_id)
            few = select(col(Episode.id)).where(col(Episode.job_id) == job_id).limit(EPISODES_A_TRANSACTION)
            ids = list(session.connection().execute(few).scalars())
            turns = session.connection().execute(delete(TurnRow).where(col(TurnRow.episode_id).in_(ids))).rowcount
            session.connection().execute(delete(Episode).where(col(Episode.id).in_(ids)))
        self.done.episodes += len(ids)
        self.done.turns += turns
        return len(ids)

    @staticmethod
    def _still_going(session: Session, job_id: str) -> None:
        lock_job(session, job_id)
        if not unnamed.is_going(session, job_id):
            raise Conflict(f"job {job_id} was retried")

    def _count_jobs(self, ids: list[str]) -> None:
        with db.reading() as session:
            for some in batches(ids):
                mine = col(Episode.job_id).in_(some)
                of_turns = select(func.count()).select_from(TurnRow).join(Episode, col(Episode.id) == TurnRow.episode_id)
                self.done.turns += session.connection().execute(of_turns.where(mine)).scalar_one()
                self.done.episodes += session.connection().execute(select(func.count(col(Episode.id))).where(mine)).scalar_one()
        self.done.jobs = len(ids)

    # -- frames ------------------------------------------------------------------------------------------------------------

    def _stale(self, session: Session, old: list[str]) -> list[str]:
        """Jobs that stay while their frames go, as far as they are not marked yet."""
        found = [id for id in policy.past(session, self._policy.frames_days) if id not in set(old)]
        marked = set(session.connection().execute(unnamed.released()).scalars())
        kept = select(col(Episode.job_id)).join(TurnRow, col(TurnRow.episode_id) == Episode.id)
        kept = kept.where(col(TurnRow.frame).is_not(None)).distinct()
        with_frames: set[str] = set()
        for some in batches([id for id in found if id not in marked]):
            with_frames |= set(session.connection().execute(kept.where(col(Episode.job_id).in_(some))).scalars())
        return [id for id in found if id in with_frames]

    def _mark(self, ids: Iterable[str]) -> None:
        for job_id in ids:
            self._go_on()
            try:
                with db.writing() as session:
                    policy.still_past(session, job_id, self._policy.frames_days)
                    message = f"its frames were dropped: it ended more than {self._policy.frames_days:g} days ago"
                    events.append(session, job_id, unnamed.FRAMES_GONE, message, level="warning")
            except (JobNotFound, Conflict):
                continue

    def _drop_frames(self, going: list[str]) -> None:
        self._go_on()
        with db.reading() as session:
            gone, self.done.young_frames = unnamed.frames(session, without=going if self.done.dry_run else ())
        for names in batches(gone, FRAMES_A_TRANSACTION):
            self._go_on()
            went = names if self.done.dry_run else unnamed.drop_frames(names)
            self.done.frames += len(went)
            self.done.frame_bytes += sum(gone[name] for name in went)

    # -- the rest ----------------------------------------------------------------------------------------------------------

    def _drop_texts(self) -> None:
        self._go_on()
        with db.reading() as session:
            found = unnamed.texts(session)
        self.done.texts = len(found) if self.done.dry_run else unnamed.drop_texts(found)

    def _drop_files(self) -> None:
        with db.reading() as session:
            found = list(unnamed.files(session))
        for stored, known in found:
            self._go_on()
            if not known and not self._unknown:
                self.done.unknown_files += 1
                self.done.unknown_bytes += stored.bytes
                continue
            if not self.done.dry_run:
                artifacts.delete_file(stored)
            self.done.files += 1
            self.done.file_bytes += stored.bytes

    def _drop_runs(self) -> None:
        """What jobs that are gone have left on this machine to go on with: the API may have removed them from another one."""
        with db.reading() as session:
            found = list(unnamed.runs(session))
        for path, size in found:
            self._go_on()
            if not self._unknown:
                self.done.unknown_files += 1
                self.done.unknown_bytes += size
                continue
            if not self.done.dry_run:
                runs.delete(path.name)
            self.done.files += 1
            self.done.file_bytes += size


def frames_dropped(session: Session, job_id: str) -> bool:
    """Whether frames of a job were dropped for their age, at any time."""
    mine = (col(JobEvent.job_id) == job_id, col(JobEvent.type) == unnamed.FRAMES_GONE)
    return session.connection().execute(select(col(JobEvent.seq)).where(*mine).limit(1)).first() is not None
