"""Pages over rows in order of (created_at, id), newest first, and the cursor that says where a page ended."""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, literal, tuple_

from app.errors import BadFlag

MOST_ROWS: Final = 500
"""Longest page."""


def encode(created_at: float, id: str) -> str:
    """The cursor of a row: what ``after`` takes to go on behind it."""
    return base64.urlsafe_b64encode(json.dumps([created_at, id]).encode()).decode().rstrip("=")


def decode(cursor: str) -> tuple[float, str]:
    """(created_at, id) of a cursor. Raises BadFlag for text that no page gave."""
    try:
        created_at, id = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, TypeError):
        raise _bad(cursor) from None
    if not isinstance(created_at, float) or not math.isfinite(created_at) or not isinstance(id, str) or "\0" in id:
        raise _bad(cursor)
    return created_at, id


def _bad(cursor: str) -> BadFlag:
    return BadFlag(f"after = {cursor[:80]!r} is no cursor; take next_cursor of the page before")


def behind(cursor: str | None, created_at: Any, id: Any) -> list[ColumnElement[bool]]:
    """The condition for rows behind the cursor; none without a cursor."""
    if cursor is None:
        return []
    at, last = decode(cursor)
    return [tuple_(created_at, id) < tuple_(literal(at), literal(last))]


def newest_first(query: Select[Any], created_at: Any, id: Any) -> Select[Any]:
    """The query in the order of pages."""
    return query.order_by(created_at.desc(), id.desc())
