"""What a filter read, removed and kept, counted: the table that people look at before they train. Pure, over columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from workers.rollout.export.columns import Floats, Ints
from workers.rollout.export.spool import Spool
from workers.rollout.export.turns import Kept
from workers.rollout.selection import Candidate

BINS = 20
"""Of a histogram."""


def of_lines(order: Ints, kept: Kept, spool: Spool, chosen: Sequence[Candidate]) -> dict[str, Any]:
    """What is in the lines that are written. ``order`` has a row for each."""
    written = kept.only(order)
    numbers, counts = np.unique(written.episode, return_counts=True)
    lines_of = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    tokens, images = spool.tokens(order), spool.images(order)
    return {
        "tokens": {"most": int(tokens.sum()), "mean": round(float(tokens.mean()), 1), "longest": int(tokens.max())},
        "images": int(images.sum()),
        "achievements": _achievements(written),
        "policies": _summed((chosen[number].policy, count) for number, count in lines_of.items()),
        "models": _summed((chosen[number].model or "none", count) for number, count in lines_of.items()),
        "jobs": _summed((chosen[number].job_id, count) for number, count in lines_of.items()),
        "seeds": {str(seed): count for seed, count in _summed((chosen[n].seed, c) for n, c in lines_of.items()).items()},
        "reward": histogram(written.reward),
        "return_to_go": histogram(written.value),
    }


def _achievements(written: Kept) -> dict[str, dict[str, int]]:
    """For each achievement the lines whose turn led to it, and those whose turn unlocked it."""
    line, unlock = written.led()
    goal, own = written.unlocks[unlock], written.unlock_turn[unlock] == written.turn[line]
    led = np.bincount(goal, minlength=len(written.names)).tolist()
    did = np.bincount(goal[own], minlength=len(written.names)).tolist()
    found = {name: {"led_to": led[i], "unlocked": did[i]} for i, name in enumerate(written.names) if led[i]}
    return dict(sorted(found.items()))


def _summed(pairs: Iterable[tuple[Any, int]]) -> Mapping[Any, int]:
    counts: Counter[Any] = Counter()
    for key, count in pairs:
        counts[key] += count
    return dict(sorted(counts.items()))


def histogram(values: Floats) -> dict[str, Any]:
    """Least, mean and greatest, and how many values lie between each edge and the next."""
    low, high = float(values.min()), float(values.max())
    counts, edges = np.histogram(values, bins=BINS, range=(low, high)) if low < high else (np.array([len(values)]), [low, high])
    return {
        "least": low,
        "mean": round(float(values.mean()), 6),
        "greatest": high,
        "edges": [round(float(edge), 6) for edge in edges],
        "lines": [int(count) for count in counts],
    }
