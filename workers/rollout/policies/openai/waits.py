"""How long to wait before the next attempt: what the server asks for, or a backoff of our own. Pure: no clock, no network."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

FIRST_S = 0.5
"""The first pause of the backoff; each further one is twice as long."""
LONGEST_S = 30.0
"""No pause of the backoff is longer."""
SPREAD_S = 1.0
"""Most that is added to a wait that the server asks for, so that those who were told the same do not come back together."""

LIMITS: Final = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("x-ratelimit-remaining", "x-ratelimit-reset"),
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
    ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
    ("anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-reset"),
)
"""Headers that say how much of a limit is left, and when it is whole again."""
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PIECE: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_EPOCH: Final = 1e9
"""A number of seconds beyond this is a time, not a wait."""


def backoff_s(attempt: int, draw: float) -> float:
    """The pause after a failed attempt, counted from 1: half of it sure, the rest by ``draw``, 0 to 1."""
    return min(LONGEST_S, FIRST_S * 2.0 ** min(attempt - 1, 30)) * (0.5 + 0.5 * draw)


def pause_s(attempt: int, draw: float, told: float | None) -> float:
    """The pause after a failed attempt whose answer asked for a wait of ``told`` seconds, or for none."""
    if told is None:
        return backoff_s(attempt, draw)
    return told + draw * min(SPREAD_S, backoff_s(attempt, 1.0))


def told_s(headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds that an answer asks to wait; None when it does not say. ``now`` is in UTC epoch seconds.

    ``retry-after-ms`` and ``retry-after`` say it plainly. Else the limits that are used up say when they are whole again.
    """
    plain = _number(headers.get("retry-after-ms", ""))
    if plain is not None:
        return plain / 1000
    after = seconds(headers.get("retry-after", ""), now=now)
    if after is not None:
        return after
    used_up = [
        seconds(headers[reset], now=now)
        for remaining, reset in LIMITS
        if reset in headers and _number(headers.get(remaining, "0")) == 0
    ]
    return max((each for each in used_up if each is not None), default=None)


def seconds(text: str, *, now: float) -> float | None:
    """The wait in a header's value: ``2``, ``0.5``, ``20ms``, ``6m0s``, a date, or a time in epoch seconds or milliseconds."""
    text = text.strip()
    number = _number(text)
    if number is not None:
        if number < _EPOCH:
            return number
        return max(0.0, (number / 1000 if number > _EPOCH * 100 else number) - now)
    pieces = _PIECE.findall(text)
    if pieces and "".join(amount + unit for amount, unit in pieces) == text:
        return sum(float(amount) * _UNITS[unit] for amount, unit in pieces)
    at = _date(text)
    return None if at is None else max(0.0, at - now)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _date(text: str) -> float | None:
    """UTC epoch seconds of an HTTP date or an RFC 3339 one."""
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            found = read(text)
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    return None
