"""Which groups of an iteration begin in the middle of an episode: by spec, iteration and what was looked up, and nothing else."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from core.kit import small_rl

from app.plots.curriculum import Group, enough, groups_of
from app.plots.rl import play_of
from app.specs import RlSpec

POOL = [[f"ep_{seed}_{k}", seed, 40] for seed in range(300, 320) for k in range(2)]


def spec_of(share: float = 0.5, **tables: Any) -> RlSpec:
    """Eight groups of two, tried on seeds 0 and 1."""
    curriculum = {"job": "teacher", "share": share} | tables.pop("curriculum", {})
    more = {"rollout": {"episodes_per_batch": 16}, "training": {"iterations": 10}, "curriculum": curriculum}
    return small_rl(more, tables)


def started(groups: list[Group]) -> list[Group]:
    return [group for group in groups if group.start is not None]


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.125, 1), (0.5, 4), (0.7, 6), (1.0, 8)])
def test_the_share_is_that_of_every_iterations_groups(share: float, count: int) -> None:
    for iteration in range(10):
        groups = groups_of(spec_of(share), iteration, POOL)
        assert (len(groups), len(started(groups))) == (8, count)
        assert len({group.seed for group in groups}) == 8, "an episode is known by iteration, seed and member"


def test_who_asks_again_is_told_the_same_and_each_iteration_begins_elsewhere() -> None:
    asked = [groups_of(spec_of(), iteration, POOL) for iteration in range(10)]
    assert asked == [groups_of(spec_of(), iteration, list(POOL)) for iteration in range(10)]
    assert len({group.start for groups in asked for group in started(groups)}) > 30
    other = groups_of(spec_of(rollout={"sampling_seed": 1}), 0, POOL)
    assert other != asked[0], "keyed by the sampling seed"


def test_a_group_has_the_seed_of_the_episode_that_it_begins_in() -> None:
    seeds = {episode: seed for episode, seed, _ in POOL}
    groups = [group for iteration in range(10) for group in started(groups_of(spec_of(), iteration, POOL))]
    assert all(group.start and seeds[group.start[0]] == group.seed for group in groups)


def test_a_group_begins_in_an_episode_of_its_own_seed_where_there_is_one() -> None:
    spec = spec_of(data={"seeds": "300-311"})
    for iteration in range(10):
        groups = groups_of(spec, iteration, POOL)
        assert [group.seed for group in groups] == spec.seeds_of(iteration)
        assert len(started(groups)) == 4


@pytest.mark.parametrize(
    ("where", "low", "high"),
    [({"turns": [5, 9]}, 5, 9), ({"before_end": [3, 6]}, 34, 37), ({}, 1, 39), ({"turns": [30, 900]}, 30, 39)],
)
def test_turns_are_counted_from_the_beginning_or_back_from_the_end(where: dict[str, Any], low: int, high: int) -> None:
    spec = spec_of(1.0, curriculum=where)
    turns = Counter(group.start[1] for i in range(40) for group in started(groups_of(spec, i, POOL)) if group.start)
    assert (min(turns), max(turns)) == (low, high)


def test_starts_move_back_to_the_worlds_beginning_and_stay_there() -> None:
    spec = spec_of(1.0, curriculum={"turns": [30, 30], "back_over": 6})
    moved = [{group.start[1] for group in started(groups_of(spec, i, POOL)) if group.start} for i in range(10)]
    assert moved == [{30}, {25}, {20}, {15}, {10}, {5}, set(), set(), set(), set()]
    assert groups_of(spec, 6, POOL) == [Group(seed) for seed in spec.seeds_of(6)]


def test_without_a_curriculum_nothing_is_other_than_before() -> None:
    spec = small_rl()
    assert play_of(spec, 1) == play_of(spec, 1, POOL) == [(1, seed, m) for seed in spec.seeds_of(1) for m in range(2)]


@pytest.mark.parametrize(
    ("training", "seeds", "fits"),
    [
        ("1000-1015", range(4), True),
        ("1000-1015", range(3), False),
        ("1000-1007", range(1000, 1008), True),  # each has its own
        ("1000-1015", range(1000, 1008), True),  # as many as there are groups
        ("1000-1015", range(1000, 1006), False),  # other groups of the iteration may have them
        ("1000-1015", [*range(1000, 1006), 0, 1], True),
    ],
)
def test_it_is_known_before_whether_there_are_enough_for_every_iteration(training: str, seeds: Any, fits: bool) -> None:
    spec = spec_of(data={"seeds": training})
    assert enough(spec, set(seeds)) == fits
    pool = [[f"ep_{seed}", seed, 40] for seed in seeds]
    counts = {len(started(groups_of(spec, iteration, pool))) for iteration in range(400)}
    assert counts == {4} if fits else min(counts) < 4
