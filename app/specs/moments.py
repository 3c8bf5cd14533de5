"""Points in time, as people write them in a spec."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

LATEST = 4_102_444_800.0
"""The year 2100, in seconds: a number above it was meant as milliseconds."""


def _seconds(value: Any) -> Any:
    """Seconds since 1970 for an ISO 8601 text, a date of TOML, or a number; a time without a zone is in UTC."""
    if isinstance(value, bool):
        raise ValueError(f"must be a time such as 2026-01-31T12:00:00Z, or seconds since 1970, not {str(value).lower()}")
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError(f"must be a time such as 2026-01-31T12:00:00Z, or seconds since 1970, not {value[:80]!r}") from None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp()
    return float(value) if isinstance(value, int) else value


Moment = Annotated[
    float,
    Field(ge=0, le=LATEST),
    BeforeValidator(_seconds, json_schema_input_type=str | float),
]
"""A point in time, kept as seconds since 1970."""
