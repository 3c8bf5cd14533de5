"""Points in time, as people write them in a spec."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated, Any

from pydantic import BeforeValidator

from app.specs.draft import shown

LATEST = 4_102_444_800.0
"""The year 2100, in seconds: a number above it was meant as milliseconds."""
FORM = "a time such as 2026-01-31T12:00:00Z, or seconds since 1970"


def _seconds(value: Any) -> Any:
    """Seconds since 1970 for an ISO 8601 text, a date of TOML, or a number; a time without a zone is in UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError(f"must be {FORM}, not {value[:80]!r}") from None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be {FORM}, not {shown(value)}")
    if not 0 <= value <= LATEST:
        raise ValueError(f"must be {FORM} and before 2100, not {shown(value)}")
    return float(value)


def moment(seconds: float) -> str:
    """A point in time for people: ``2026-01-31T12:00:00Z``."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


Moment = Annotated[float, BeforeValidator(_seconds, json_schema_input_type=str | float)]
"""A point in time, kept as seconds since 1970."""
