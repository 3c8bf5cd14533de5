"""Which of the lines are written, how often, and in which order. Pure, over columns."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from app.errors import StepFailed
from app.specs import FilterTable
from app.specs.filter import SampleTable
from workers.rollout.export.columns import Draw, Floats, Ints, uniform
from workers.rollout.export.spool import Spool
from workers.rollout.export.turns import Kept

LEAST_CHANCE = 0.01
"""By reward: what is added to every line's weight, as a share of the distance between the worst and the best."""


@dataclass(slots=True)
class Count:
    """How many lines each key removed, in order, and how many were written again."""

    removed: Counter[str] = field(default_factory=Counter)
    repeated: int = 0

    def take(self, key: str, before: Ints, after: Ints) -> Ints:
        """Count what is in ``before`` and no more in ``after``; gives ``after``."""
        if len(before) > len(after):
            self.removed[key] += len(before) - len(after)
        return after


def reads_lines(table: FilterTable) -> bool:
    """Does the choice need the lines themselves, and not only what is known of their turns?"""
    return table.max_sequence_length is not None or table.deduplicate or table.conflicts == "best"


def readable(spool: Spool, kept: Kept, table: FilterTable, count: Count) -> Ints:
    """The rows of the spool that the rules about lines leave: length, then the same line again, then other replies."""
    rows = spool.rows
    if table.max_sequence_length is not None:
        rows = count.take("max_sequence_length", rows, rows[spool.tokens(rows) <= table.max_sequence_length])
    if table.deduplicate:
        rows = count.take("deduplicate", rows, _first_of_each(spool, rows))
    if table.conflicts == "best":
        rows = count.take("conflicts", rows, _with_best_reply(spool, rows, kept.value[rows]))
    return rows


def _first_of_each(spool: Spool, rows: Ints) -> Ints:
    pairs = np.stack([spool.prompts(rows), spool.replies(rows)], axis=1)
    _, first = np.unique(pairs, axis=0, return_index=True)
    return rows[np.sort(first)]


def _with_best_reply(spool: Spool, rows: Ints, values: Floats) -> Ints:
    """Rows whose reply is the one, of those to the same prompt, that led to most; of equal ones the first."""
    prompts, replies = spool.prompts(rows), spool.replies(rows)
    by_value = np.lexsort((np.arange(len(rows)), -values, prompts))
    _, first = np.unique(prompts[by_value], return_index=True)
    best = np.zeros(int(prompts.max(initial=-1)) + 1, dtype=np.int64)
    best[prompts[by_value][first]] = replies[by_value][first]
    return rows[replies == best[prompts]]


def order(rows: Ints, kept: Kept, table: FilterTable, count: Count) -> Ints:
    """The rows as they are written: drawn, shuffled, and cut to what is asked for. A row that was drawn twice is there twice."""
    if len(rows) and table.sample.by != "none":
        drawn = np.sort(_sample(rows, kept, table.sample))
        different = np.unique(drawn)
        count.take("sample", rows, different)
        count.repeated += len(drawn) - len(different)
        rows = drawn
    if table.shuffle:
        rows = rows[np.argsort(uniform(table.shuffle_seed or 0, Draw.SHUFFLE, len(rows)), kind="stable")]
    rows = count.take("offset", rows, rows[table.offset :])
    return count.take("limit", rows, rows[: table.limit])


def _sample(rows: Ints, kept: Kept, table: SampleTable) -> Ints:
    number = table.lines or len(rows)
    if table.by == "reward":
        return rows[_by_weight(weights(kept.value[rows]), uniform(table.seed, Draw.SAMPLE, number))]
    return _by_achievement(rows, kept, uniform(table.seed, Draw.SAMPLE, 2 * number).reshape(2, number))


def weights(values: Floats) -> Floats:
    """Chances, up to a factor: how far above the worst, and a hundredth of the best one's for all. All equal: equal chances."""
    above = values - values.min()
    most = float(above.max())
    return above + LEAST_CHANCE * most if most > 0 else np.ones(len(values))


def _by_weight(chances: Floats, draws: Floats) -> Ints:
    ends = np.cumsum(chances)
    found = np.searchsorted(ends, draws * ends[-1], side="right")
    return np.minimum(found, len(ends) - 1).astype(np.int64)


def _by_achievement(rows: Ints, kept: Kept, draws: Floats) -> Ints:
    """First an achievement, each as likely as the others; then one of the rows that led to it."""
    line, unlock = kept.only(rows).led()
    if not len(line):
        raise StepFailed('sample.by = "achievement" needs turns that led to one, and nothing was unlocked after any that is left')
    owner, goal = rows[line], kept.unlocks[unlock]
    sorting = np.argsort(goal, kind="stable")
    _, start, size = np.unique(goal[sorting], return_index=True, return_counts=True)
    which = (draws[0] * len(start)).astype(np.int64)
    return owner[sorting][start[which] + (draws[1] * size[which]).astype(np.int64)]
