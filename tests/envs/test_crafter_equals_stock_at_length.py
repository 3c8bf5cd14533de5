"""Our Crafter is stock Crafter through long and eventful episodes. A file of its own, so that another core may run it."""

from __future__ import annotations

from collections import Counter

import pytest
from pair import play_busily

from workers.rollout.envs.crafter import tables

SEEDS = (200, 213, 214, 216, 217)
"""Two long episodes and three eventful ones; together they have every achievement and both ends."""


@pytest.mark.slow
def test_busy_episodes_are_equal_and_reach_every_achievement() -> None:
    reached: Counter[str] = Counter()
    ends: Counter[str | None] = Counter()
    for seed in SEEDS:
        ours = play_busily(seed, 1500).ours
        reached.update(ours.unlocked())
        ends[ours.ended] += 1
    assert set(reached) == set(tables.ACHIEVEMENTS)
    assert set(ends) == {"died", "length"}
