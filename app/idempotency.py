"""The Idempotency-Key: a request that is sent twice makes one job.

The key's row is written in the transaction that makes the job. Two requests at once meet at the row's primary key: the one
that comes second is rolled back, job and all, and answers with the job of the first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col

from app import db
from app.errors import Conflict, KeyReused
from app.models import Idempotency, Job

KEPT_S: Final = 24 * 3600.0
"""How long a key is remembered."""
TRIES: Final = 3


def fingerprint(request: Any) -> str:
    """sha256 of a request's meaning: the order of its fields and its spaces do not count."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def once(*, scope: str, key: str, request: Any, make: Callable[[Session], Job]) -> tuple[Job, bool]:
    """The job that the first request with this key made, and whether that was an earlier one.

    ``scope`` is whose key it is; ``make`` submits the job inside the transaction that it is given. Raises KeyReused when the
    key came with another request before, Conflict when the job of that request was removed.
    """
    digest = fingerprint(request)
    for left in reversed(range(TRIES)):
        try:
            with db.writing() as session:
                earlier = _recall(session, scope, key, digest)
                if earlier is not None:
                    return earlier, True
                job = make(session)
                session.add(Idempotency(scope=scope, key=key, request_sha256=digest, job_id=job.id, created_at=db.clock(session)))
                session.flush()
                return job, False
        except IntegrityError:
            if not left:
                raise
    raise AssertionError("unreachable: the last try returns or raises")


def _recall(session: Session, scope: str, key: str, digest: str) -> Job | None:
    expired = col(Idempotency.created_at) < db.clock(session) - KEPT_S
    session.connection().execute(delete(Idempotency).where(expired))
    row = session.get(Idempotency, (scope, key))
    if row is None:
        return None
    if row.request_sha256 != digest:
        raise KeyReused(key)
    job = session.get(Job, row.job_id)
    if job is None:
        raise Conflict(f"the job that idempotency key {key!r} made, {row.job_id}, was removed; take a new key")
    return job
