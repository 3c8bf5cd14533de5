"""What was measured of a job in its course: a row for each point of a scope, written by the step that measured it.

A point that is measured again, because its step ran twice, takes the place of what was there. A value that is no finite number (a
loss that went to NaN) is kept as null: it is known that it was measured, and JSON has no other word for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, SupportsFloat

from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col

from app import db
from app.models import Metric


def record(session: Session, job_id: str, scope: str, index: int, values: Mapping[str, SupportsFloat | None]) -> None:
    """Write one point, in the caller's transaction: call it inside ``context.write()``.

    ``index`` is the optimizer step or the iteration; ``values`` are numbers by name, and what float() takes, such as a scalar of
    numpy or torch, is one. Null is stored for what is not finite.
    """
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    row = {
        "job_id": job_id,
        "scope": scope,
        "index": index,
        "at": db.clock(session),
        "values": {name: _finite(value) for name, value in values.items()},
    }
    new: Any = dialect.insert(Metric).values(row)
    again = {name: new.excluded[name] for name in ("at", "values")}
    session.connection().execute(new.on_conflict_do_update(index_elements=["job_id", "scope", "index"], set_=again))


def _finite(value: SupportsFloat | None) -> float | None:
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else None


def series(
    session: Session, job_id: str, scope: str | None = None, after: int | None = None, *, limit: int | None = None
) -> list[Metric]:
    """The points of a job, or of one scope of it, by index and scope.

    ``after``: those with a greater index; ``limit``: those of so many indices, each whole.
    """
    wanted = [col(Metric.job_id) == job_id]
    if scope is not None:
        wanted.append(col(Metric.scope) == scope)
    if after is not None:
        wanted.append(col(Metric.index) > after)
    query = select(Metric).where(*wanted).order_by(col(Metric.index), col(Metric.scope))
    if limit is not None:
        first = select(col(Metric.index)).where(*wanted).distinct().order_by(col(Metric.index)).limit(limit)
        query = query.where(col(Metric.index).in_(first))
    return list(session.scalars(query.execution_options(populate_existing=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """How much is known of one scope."""

    scope: str
    points: int
    last: int
    """The greatest index."""


def scopes(session: Session, job_id: str) -> list[Scope]:
    """The scopes in which a job was measured, by name."""
    query = select(col(Metric.scope), func.count(), func.max(Metric.index)).where(col(Metric.job_id) == job_id)
    rows = session.connection().execute(query.group_by(col(Metric.scope)).order_by(col(Metric.scope)))
    return [Scope(scope=scope, points=points, last=last) for scope, points, last in rows]
