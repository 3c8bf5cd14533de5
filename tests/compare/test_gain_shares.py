"""What a difference in achievements is made of: shares that add up, and none where there may be no difference."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from compare.arms_kit import NAMES, arm, plays

from app.compare import Play, compare
from cli.compare import shared, shares

SEEDS = range(40)


def episodes(got: Iterable[set[str]]) -> list[Play]:
    """An episode of each seed that unlocks these."""
    sides = enumerate(got)
    return [Play(seed=seed, achievements=frozenset(names), return_=0.0, length=10, turns=10) for seed, names in sides]


def shares_of(one: list[Play], other: list[Play]) -> Any:
    (difference,) = compare([arm("a", one), arm("b", other)], NAMES)["differences"]
    return difference["gain_shares"]


def test_the_shares_are_parts_of_one_with_an_interval_around_each() -> None:
    found = shares_of(list(plays(SEEDS, 0.2)), list(plays(SEEDS, 0.7, key=1)))
    assert sum(share["mean"] for share in found.values()) == pytest.approx(1.0)
    for share in found.values():
        assert share["low"] < share["mean"] < share["high"]


def test_what_is_gained_always_by_the_same_is_known_for_certain_and_a_loss_counts_below_nothing() -> None:
    before, after = [{"collect_iron"}] * 40, [{"collect_wood", "place_table", "wake_up"}] * 40
    found = shares_of(episodes(before), episodes(after))
    assert {name: share["mean"] for name, share in found.items()} == {
        "collect_wood": 0.5,
        "place_table": 0.5,
        "wake_up": 0.5,
        "collect_iron": -0.5,
    }
    assert all(share["low"] == share["mean"] == share["high"] for share in found.values())


def test_of_a_loss_the_shares_are_shares_of_that() -> None:
    found = shares_of(episodes([{"collect_wood", "wake_up"}] * 40), episodes([set()] * 40))
    assert {name: share["mean"] for name, share in found.items() if share["mean"]} == {"collect_wood": 0.5, "wake_up": 0.5}


@pytest.mark.parametrize("seeds", [SEEDS, range(1)])
def test_where_there_may_be_no_difference_nothing_is_shared_out(seeds: range) -> None:
    assert shares_of(list(plays(seeds, 0.5)), list(plays(seeds, 0.5, key=7))) is None


def test_told_are_the_steps_from_arm_to_arm_the_largest_share_first() -> None:
    sides = [
        episodes([set()] * 40),
        episodes([{"wake_up"}] * 40),
        episodes([{"wake_up", "collect_wood"}] * 20 + [{"wake_up"}] * 20),
    ]
    found = compare([arm(label, played) for label, played in zip("abc", sides, strict=True)], NAMES)
    assert [(each["a"], each["b"]) for each in shared(found)] == [("a", "b"), ("b", "c")]
    assert [[name for name, _ in shares(each)] for each in shared(found)] == [["wake_up"], ["collect_wood"]]
