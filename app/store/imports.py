"""Which stores were brought into this one, and which jobs came with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import select
from sqlmodel import Session, col

from app import db
from app.errors import ImportNotFound
from app.models import Imported, Job, new_id


def jobs_of(session: Session, name: str) -> list[str]:
    """Ids of the jobs that came under a name and are still here, oldest import first. Raises ImportNotFound."""
    query = select(col(Imported.jobs)).where(col(Imported.name) == name).order_by(col(Imported.at), col(Imported.id))
    found = session.connection().execute(query).scalars().all()
    if not found:
        raise ImportNotFound(name, names(session))
    ids = list(dict.fromkeys(job_id for jobs in found for job_id in jobs))
    present = set(session.connection().execute(select(col(Job.id)).where(col(Job.id).in_(ids))).scalars())
    return [job_id for job_id in ids if job_id in present]


def names(session: Session) -> list[str]:
    """The names under which stores were brought in."""
    return list(session.connection().execute(select(col(Imported.name)).distinct().order_by(col(Imported.name))).scalars())


def stands_for_others(session: Session, name: str, jobs: Iterable[str]) -> bool:
    """Whether the name was given before to a source that has none of these jobs."""
    noted = session.connection().execute(select(col(Imported.jobs)).where(col(Imported.name) == name)).scalars().all()
    return bool(noted) and set(jobs).isdisjoint(job_id for ids in noted for job_id in ids)


def record(session: Session, *, name: str, form: str, sha256: str | None, jobs: Sequence[str], counts: dict[str, int]) -> bool:
    """Note an import; False when the name stands for these jobs already and nothing came with them."""
    query = select(col(Imported.jobs)).where(col(Imported.name) == name, col(Imported.form) == form)
    noted = {job_id for ids in session.connection().execute(query).scalars() for job_id in ids}
    if not any(counts.values()) and noted >= set(jobs):
        return False
    row = Imported(id=new_id("imp"), name=name, form=form, sha256=sha256, jobs=list(jobs), counts=counts, at=db.clock(session))
    session.add(row)
    return True
