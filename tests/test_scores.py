"""Scores: known values, intervals that cover, seeds as the unit of chance."""

from __future__ import annotations

import json
import math
import random
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import UnknownName
from app.scores import EpisodeScore, crafter_score, paired_difference, summarise, wilson

NAMES = tuple(f"a{i}" for i in range(22))


def episode(seed: int, unlocked: int = 0, *, member: int = 0, return_: float = 0.0, length: int = 100) -> EpisodeScore:
    return EpisodeScore(seed=seed, member=member, achievements=NAMES[:unlocked], return_=return_, length=length)


@pytest.mark.parametrize(
    ("rates", "percent"),
    [
        ([1.0] * 22, 100.0),
        ([0.0] * 22, 0.0),
        ([1.0] * 21 + [0.0], 101 ** (21 / 22) - 1),
        ([0.5, 0.0], math.sqrt(51) - 1),
        ([0.01], 1.0),
    ],
)
def test_the_crafter_score_of_known_rates(rates, percent):
    assert crafter_score(rates) == pytest.approx(percent)


def test_one_zero_among_22_costs_a_fifth_of_the_score():
    assert crafter_score([1.0] * 21 + [0.0]) == pytest.approx(80.887, abs=1e-3)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe (1998), table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_of_published_cases(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_a_summary_of_a_few_episodes_by_hand():
    played = [episode(0, 4, return_=3.5, length=100), episode(1, 2, return_=1.5, length=300)]
    told = summarise(played, NAMES)
    assert (told["episodes"], told["seeds"], told["confidence"]) == (2, 2, 0.95)
    means = {name: told[name]["mean"] for name in ("achievements", "progress", "return", "length")}
    assert means == {"achievements": 3.0, "progress": 3 / 22, "return": 2.5, "length": 200.0}
    rates = {name: rate["mean"] for name, rate in told["achievement_rates"].items()}
    assert rates == {name: (1.0, 1.0, 0.5, 0.5, *[0.0] * 18)[at] for at, name in enumerate(NAMES)}
    assert told["crafter_score"]["mean"] == pytest.approx(crafter_score(rates.values()))
    assert told["achievement_rates"]["a2"]["count"] == 1
    # Two seeds: a resample has both, or one of them twice.
    assert (told["achievements"]["low"], told["achievements"]["high"]) == (2.0, 4.0)
    assert (told["return"]["low"], told["return"]["high"]) == (1.5, 3.5)


def test_a_summary_is_json_and_always_the_same():
    played = [episode(seed, seed % 7, return_=-0.9 + seed / 3, length=10 * seed) for seed in range(30)]
    assert json.dumps(summarise(played, NAMES)) == json.dumps(summarise(list(reversed(played)), NAMES))


def test_no_episodes_no_numbers():
    told = summarise([], NAMES)
    assert (told["episodes"], told["seeds"]) == (0, 0)
    for name in ("achievements", "progress", "return", "length", "crafter_score"):
        assert told[name] == {"mean": None, "low": None, "high": None}
    assert told["achievement_rates"]["a0"] == {"mean": None, "low": None, "high": None, "count": 0}


def test_one_seed_has_means_but_no_interval_however_many_episodes():
    told = summarise([episode(5, 3, member=member) for member in range(8)], NAMES)
    assert told["achievements"] == {"mean": 3.0, "low": None, "high": None}
    assert told["achievement_rates"]["a0"]["low"] == pytest.approx(wilson(1, 1)[0])


def test_an_achievement_that_is_not_of_the_environment_is_refused():
    with pytest.raises(UnknownName):
        summarise([EpisodeScore(seed=0, achievements=("b1",))], NAMES)


def test_episodes_that_repeat_their_seed_exactly_add_no_certainty():
    once = [episode(seed, seed % 5, return_=float(seed)) for seed in range(20)]
    thrice = [episode(seed, seed % 5, member=member, return_=float(seed)) for seed, member in product(range(20), range(3))]
    a, b = summarise(once, NAMES), summarise(thrice, NAMES)
    for name in ("achievements", "return", "crafter_score"):
        assert b[name] == pytest.approx(a[name])
    for name in NAMES:
        width_a, width_b = (told["achievement_rates"][name]["high"] - told["achievement_rates"][name]["low"] for told in (a, b))
        assert width_b == pytest.approx(width_a, rel=0.06)


def test_members_that_differ_within_a_seed_do_add_certainty():
    rng = random.Random(4)
    few = [episode(seed, rng.randrange(2)) for seed in range(40)]
    many = [episode(seed, rng.randrange(2), member=member) for seed in range(40) for member in range(8)]
    widths = [
        told["achievement_rates"]["a0"]["high"] - told["achievement_rates"]["a0"]["low"]
        for told in (summarise(few, NAMES), summarise(many, NAMES))
    ]
    assert widths[1] < 0.55 * widths[0]


@settings(max_examples=30, deadline=None)  # the bootstrap takes its time
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 22), st.floats(-0.9, 22)), min_size=1, max_size=20))
def test_bounds_are_in_order_and_in_range(rows):
    told = summarise([episode(seed, count, return_=value) for seed, count, value in rows], NAMES)
    tops = {"achievements": 22, "progress": 1, "crafter_score": 100 + 1e-9}
    for name, top in tops.items():
        low, mean, high = (told[name][key] for key in ("low", "mean", "high"))
        assert 0 <= mean <= top
        assert low is None or 0 <= low <= high <= top
    for rate in told["achievement_rates"].values():
        assert 0 <= rate["low"] <= rate["mean"] + 1e-12
        assert rate["mean"] <= rate["high"] + 1e-12 <= 1 + 1e-9


def test_the_interval_of_the_mean_covers_the_truth_about_as_often_as_it_says():
    rng, covered, rounds = random.Random(11), 0, 60
    for _ in range(rounds):
        # Each seed has a difficulty of its own, shared by its three members: the truth is 0.
        luck = {seed: rng.gauss(0, 1) for seed in range(25)}
        played = [episode(seed, member=m, return_=luck[seed] + rng.gauss(0, 0.5)) for seed in luck for m in range(3)]
        interval = summarise(played, NAMES[:1])["return"]
        covered += interval["low"] <= 0 <= interval["high"]
    assert covered / rounds >= 0.85


def test_a_difference_is_paired_by_seed():
    a = [episode(seed, seed % 10) for seed in range(40)]
    b = [episode(seed, seed % 10 + 1, length=90) for seed in range(40)]
    told = paired_difference(a, b)
    assert told["seeds"] == 40
    assert told["unpaired"] == []
    # The worlds differ by far more than one achievement, and the pairing takes that out altogether.
    assert told["achievements"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert told["length"] == {"mean": -10.0, "low": -10.0, "high": -10.0}
    assert told["return"] == {"mean": 0.0, "low": 0.0, "high": 0.0}


def test_seeds_of_one_side_only_count_for_nothing_and_are_named():
    told = paired_difference([episode(1, 2), episode(2, 2)], [episode(2, 5), episode(3, 22)])
    assert told["unpaired"] == [1, 3]
    assert told["achievements"] == {"mean": 3.0, "low": None, "high": None}
    assert paired_difference([episode(1)], [episode(2)])["achievements"]["mean"] is None


def test_a_seeds_members_are_averaged_before_the_difference():
    a = [episode(1, 2), episode(1, 4, member=1), episode(2, 1)]
    b = [episode(1, 6), episode(2, 1), episode(2, 3, member=1)]
    assert paired_difference(a, b)["achievements"]["mean"] == pytest.approx((3 + 1) / 2)


def test_a_difference_that_is_not_there_is_mostly_not_found():
    rng, found, rounds = random.Random(5), 0, 40
    for _ in range(rounds):
        sides = [[episode(seed, rng.randrange(8)) for seed in range(30)] for _ in range(2)]
        interval = paired_difference(*sides, metrics=["achievements"])["achievements"]
        found += not interval["low"] <= 0 <= interval["high"]
    assert found / rounds <= 0.15
