"""Why no line is left: what every key removed, in the order in which they were tried."""

from __future__ import annotations

from typing import Any

from app.specs import FilterTable
from app.specs.filter import SampleTable
from workers.rollout.export import order, turns
from workers.rollout.export.spool import Spool
from workers.rollout.selection import Tally


def no_turn(table: FilterTable, tally: Tally, seen: turns.Count, episodes: int) -> str:
    """No turn became a line; ``episodes`` had passed."""
    told = [tally.sentence(), *_turn_keys(table, seen, episodes)]
    if not seen.read:
        told.append(f"the {episodes} episodes that passed have no turns")
    return _sentence(told)


def no_line(table: FilterTable, tally: Tally, seen: turns.Count, episodes: int, count: order.Count, spool: Spool) -> str:
    """Turns became lines, and the rules about lines removed them all."""
    told = [tally.sentence(), *_turn_keys(table, seen, episodes)]
    left = seen.read - seen.removed.total()
    for key, number in count.removed.items():
        left += count.repeated if key == "offset" else 0
        many = f"all {number}" if number == left else f"{number} of {left}"
        near = f"; the shortest has {spool.tokens(spool.rows).min()} tokens" if key == "max_sequence_length" else ""
        told.append(f"{key}={_value(table, key)} removed {many} lines{near}")
        left -= number
    return _sentence(told)


def _turn_keys(table: FilterTable, seen: turns.Count, episodes: int) -> list[str]:
    told = []
    for key in turns.KEYS:
        if number := seen.removed[key]:
            of = f"all {number} turns of {episodes} episodes" if number == seen.read else f"{number} of {seen.read} turns"
            told.append(f"{key}={_value(table, key)} removed {of}")
    return told


def _sentence(told: list[str]) -> str:
    return f"no line is left: {', and '.join(filter(None, told))}"


def _value(table: FilterTable, key: str) -> str:
    """A key's value, as a spec says it."""
    value: Any = table
    for name in key.split("."):
        value = getattr(value, name)
    if isinstance(value, SampleTable):
        return value.by
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
