"""What each rule of a filter took away, and the best of what is left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from workers.rollout.selection.episodes import Candidate
from workers.rollout.selection.rules import Rule


class Tally:
    """How many episodes each rule took away: an episode counts for the first rule that it fails."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = rules
        self.seen = 0
        self.removed = {rule.key: 0 for rule in rules}
        self._told: dict[str, Any] = {rule.key: None for rule in rules}

    def admits(self, candidate: Candidate) -> bool:
        """Try every rule in order, and count."""
        self.seen += 1
        for rule in self.rules:
            if not rule.passes(candidate):
                self.removed[rule.key] += 1
                self._told[rule.key] = rule.remember(self._told[rule.key], candidate)
                return False
        return True

    def sentence(self) -> str:
        """Why nothing is left: every rule that removed something, how much, and how near it came."""
        parts = [
            f"{rule.key}={rule.wanted} removed {self._of_all(count)}; {rule.tell(self._told[rule.key])}"
            for rule in self.rules
            if (count := self.removed[rule.key])
        ]
        return ", and ".join(parts)

    def _of_all(self, count: int) -> str:
        if count == self.seen:
            return "the only episode" if count == 1 else f"all {count} episodes"
        return f"{count} of {self.seen} episodes"


def best_share(passed: Sequence[Candidate], share: float) -> list[Candidate]:
    """The best of them by achievements, then by return, then by the present order; in the present order.

    The number is the share rounded down, and 1 at the least.
    """
    count = max(1, math.floor(share * len(passed) + 1e-9))
    ranked = sorted(range(len(passed)), key=lambda i: (-passed[i].unlocked, -passed[i].return_, i))
    return [passed[i] for i in sorted(ranked[:count])]
