"""Comparisons: which seeds count, what the figures are, and how far they may be trusted. Pure: arms in, numbers out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from compare.arms_kit import CONDITIONS, NAMES, arm, plays

from app.compare import Play, bootstrap, compare
from app.compare.arms import sums
from app.compare.figures import crafter_score, figures
from app.errors import InvalidInput, NotComparable
from app.scores import EpisodeScore, paired_difference
from app.scores import crafter_score as official

SEEDS = range(40)


def both(a: float = 0.3, b: float = 0.6, **more: Any) -> dict[str, Any]:
    return compare([arm("a", plays(SEEDS, a, key=1)), arm("b", plays(SEEDS, b, key=2))], NAMES, **more)


# -- figures -----------------------------------------------------------------------------------------------------------------


def test_the_crafter_score_is_the_one_of_reports() -> None:
    rates = np.random.default_rng(0).random((5, 22))
    assert crafter_score(rates) == pytest.approx([official(row) for row in rates], rel=1e-12)


def test_figures_are_means_over_episodes() -> None:
    played = [
        Play(seed=3, achievements=frozenset({"wake_up"}), return_=1.0, length=10, turns=5),
        Play(seed=3, achievements=frozenset({"wake_up", "collect_wood"}), return_=2.0, length=20, turns=7),
        Play(seed=9, achievements=frozenset(), return_=-0.5, length=3, turns=3),
        Play(seed=4, achievements=frozenset(NAMES), return_=99.0, length=99, turns=99),
    ]
    table = sums(played, [3, 9], NAMES)
    assert table.episodes.tolist() == [2, 1]
    assert table.rates.tolist() == [[0.5, 0, 1, 0], [0, 0, 0, 0]]
    found = {name: float(value[0]) for name, value in figures(table.rows(np.ones((1, 2)))).items()}
    rates = [1 / 3, 0, 2 / 3, 0]
    told = {"achievements": 1.0, "progress": 0.25, "return": 2.5 / 3, "turns": 5.0, "length": 11.0}
    assert found == pytest.approx({"crafter_score": official(rates), **told})


def test_an_environment_without_achievements_has_the_other_figures() -> None:
    sides = [
        arm(name, [Play(seed=s, achievements=frozenset(), return_=r + s, length=2, turns=2) for s in range(12)])
        for name, r in (("a", 0.0), ("b", 1.0))
    ]
    found = compare(sides, [])
    assert found["differences"][0]["return"] == pytest.approx({"mean": 1.0, "low": 1.0, "high": 1.0})
    assert "crafter_score" not in found["results"]["a"]
    assert found["results"]["a"]["achievement_rates"] == {}


def test_a_difference_is_the_later_arm_less_the_earlier() -> None:
    found = both()
    (difference,) = found["differences"]
    assert (difference["a"], difference["b"]) == ("a", "b")
    for name in ("crafter_score", "achievements", "progress", "return", "turns"):
        told = found["results"]["b"][name]["mean"] - found["results"]["a"][name]["mean"]
        assert difference[name]["mean"] == pytest.approx(told)
        assert difference[name]["low"] <= difference[name]["mean"] <= difference[name]["high"]
    for name in NAMES:
        rates = [found["results"][label]["achievement_rates"][name]["mean"] for label in "ab"]
        assert difference["achievement_rates"][name]["mean"] == pytest.approx(rates[1] - rates[0])
    assert sum(difference["seeds"].values()) == len(SEEDS)


def test_every_arm_is_set_against_the_first_and_the_one_before_it() -> None:
    sides = [arm(label, plays(SEEDS, 0.5, key=i)) for i, label in enumerate("abcd")]
    found = compare(sides, NAMES)
    assert [(each["a"], each["b"]) for each in found["differences"]] == [
        ("a", "b"),
        ("a", "c"),
        ("a", "d"),
        ("b", "c"),
        ("c", "d"),
    ]


# -- intervals ---------------------------------------------------------------------------------------------------------------


def test_the_same_episodes_differ_by_nothing_at_all() -> None:
    played = plays(SEEDS, 0.4)
    (difference,) = compare([arm("a", played), arm("b", played)], NAMES)["differences"]
    nothing = {"mean": 0.0, "low": 0.0, "high": 0.0}
    told = {key: value for key, value in difference.items() if key not in ("a", "b", "seeds", "achievement_rates", "gain_shares")}
    assert told == dict.fromkeys(told, nothing)
    assert difference["achievement_rates"] == dict.fromkeys(NAMES, nothing)
    assert difference["gain_shares"] is None
    assert difference["seeds"] == {"more": 0, "same": len(SEEDS), "fewer": 0}


def test_the_same_arms_have_the_same_intervals_every_time_and_mirrored_the_other_way_round() -> None:
    there, back = both(), compare([arm("b", plays(SEEDS, 0.6, key=2)), arm("a", plays(SEEDS, 0.3, key=1))], NAMES)
    assert there == both()
    one, other = there["differences"][0]["crafter_score"], back["differences"][0]["crafter_score"]
    assert (one["low"], one["high"]) == pytest.approx((-other["high"], -other["low"]))


def test_intervals_agree_with_those_of_reports() -> None:
    a, b = plays(range(200), 0.3, key=1), plays(range(200), 0.6, key=2)
    mine = compare([arm("a", a), arm("b", b)], NAMES)["differences"][0]["achievements"]
    scores = [[EpisodeScore(seed=p.seed, achievements=tuple(p.achievements)) for p in side] for side in (a, b)]
    theirs = paired_difference(*scores)["achievements"]
    assert mine["mean"] == pytest.approx(theirs["mean"])
    assert [mine["low"], mine["high"]] == pytest.approx([theirs["low"], theirs["high"]], abs=0.03)


def test_seeds_in_common_make_the_interval_of_a_difference_shorter() -> None:
    worlds = [Play(seed=s, achievements=frozenset(), return_=float(s), length=1, turns=1) for s in SEEDS]
    better = [replace(play, return_=play.return_ + 1 + play.seed % 2) for play in worlds]
    found = compare([arm("a", worlds), arm("b", better)], NAMES)
    (difference,) = found["differences"]
    alone = found["results"]["a"]["return"]
    assert difference["return"]["high"] - difference["return"]["low"] < 0.1 * (alone["high"] - alone["low"])
    assert difference["return"]["low"] > 1.0


@pytest.mark.parametrize(("freedom", "point"), [(4, 2.7764), (9, 2.2622), (19, 2.0930), (49, 2.0096), (199, 1.9720)])
def test_students_t(freedom: int, point: float) -> None:
    assert bootstrap.student(freedom) == pytest.approx(point, abs=0.01)


@pytest.mark.parametrize("seeds", [1, 7, 3000])
def test_every_resample_has_as_many_seeds_as_there_are(seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "CELLS_AT_ONCE", 70_000)
    drawn = np.concatenate(list(bootstrap.draws(seeds, 500)))
    assert drawn.shape == (500, seeds)
    assert (drawn.sum(axis=1) == seeds).all()
    if seeds > 1:
        assert drawn.mean() == pytest.approx(1.0)
        assert len({row.tobytes() for row in drawn}) > 300


def test_about_95_percent_of_the_intervals_contain_the_truth() -> None:
    random, seeds, pairs = np.random.default_rng(7), 15, 600
    again, hits = np.concatenate(list(bootstrap.draws(seeds))), 0
    for _ in range(pairs):
        chances = 1 / (1 + np.exp(1.5 - random.normal(size=seeds)))  # of a seed's world
        counts = [random.binomial(22, chances) for _ in range(2)]
        low, high = bootstrap.interval(again @ (counts[1] - counts[0]) / seeds, seeds)
        hits += bool(low <= 0 <= high)
    assert 0.93 <= hits / pairs <= 0.97


# -- which seeds -------------------------------------------------------------------------------------------------------------


def test_only_seeds_count_that_all_have_played_whole() -> None:
    a = arm("a", plays(range(20), 0.3, per_seed=2), per_seed=2, failed=0)
    played = plays(range(5, 30), 0.6, per_seed=2)
    lacking = [play for place, play in enumerate(played) if not (play.seed == 7 and place % 2)]
    b = arm("b", lacking, seeds=range(5, 30), per_seed=2, failed=1, state="failed")
    found = compare([a, b], NAMES)
    assert found["seeds"] == {"compared": 14, "not_asked_of_all": 15, "not_whole": 1}
    assert found["results"]["a"]["episodes"] == found["results"]["b"]["episodes"] == 28
    assert found["notes"] == [
        "15 seeds left out that not all arms were asked to play",
        "1 seed left out of which an arm lacks episodes; what is left may be the easier part",
        "b: 49 of 50 episodes are done, 1 failed; its job job_b is failed",
    ]


def test_turns_and_endings_are_those_of_the_seeds_that_count() -> None:
    a, b = arm("a", plays(range(10), 0.3, key=1)), arm("b", plays(range(5, 15), 0.3, key=2))
    found = compare([a, b], NAMES)
    assert found["results"]["a"]["ended"] == {"died": 5}
    assert found["results"]["a"]["outcomes"] == {"ok": sum(play.turns for play in a.plays if play.seed >= 5)}


def test_one_seed_gives_no_interval_and_few_are_told_of() -> None:
    def of(count: int) -> dict[str, Any]:
        return compare([arm(label, plays(range(count), 0.5, key=i)) for i, label in enumerate("ab")], NAMES)

    one = of(1)
    assert (one["differences"][0]["return"]["low"], one["results"]["a"]["return"]["high"]) == (None, None)
    assert one["notes"] == ["one seed gives no interval"]
    assert of(3)["notes"] == ["3 seeds are few: intervals of fewer than 10 are not to be trusted"]
    assert of(10)["notes"] == []


def test_several_versions_of_an_arm_are_told() -> None:
    found = compare([arm("a", plays(SEEDS, 0.5, key=1)), arm("b", plays(SEEDS, 0.5, key=2), versions=("v1", "v2"))], NAMES)
    assert found["notes"] == ["b was played by 2 versions: v1 and v2"]


def test_arms_without_a_seed_in_common_are_refused() -> None:
    with pytest.raises(InvalidInput, match="a and b have no seed in common: they were asked to play others"):
        compare([arm("a", plays(range(5), 0.5)), arm("b", plays(range(5, 9), 0.5))], NAMES)
    with pytest.raises(InvalidInput, match="a and b have no seed in common: none of them is played whole by all yet"):
        compare([arm("a", plays(range(5), 0.5)), arm("b", (), seeds=range(5), state="queued")], NAMES)


def test_one_arm_is_no_comparison() -> None:
    with pytest.raises(InvalidInput, match="takes two arms or more, and a is one"):
        compare([arm("a", plays(SEEDS, 0.5))], NAMES)


# -- whether they were played alike ------------------------------------------------------------------------------------------


def unlike(**more: Any) -> list[Any]:
    a = arm("a", plays(SEEDS, 0.5, key=1), conditions={**CONDITIONS, "temperature": 1.0, "sampling_seed": 0})
    b = arm("b", plays(SEEDS, 0.5, key=2), conditions={**CONDITIONS, "temperature": 1.0, "sampling_seed": 0, **more})
    c = arm("c", plays(SEEDS, 0.5, key=3), conditions={**CONDITIONS, "sampling_seed": 0})
    return [a, b, c]


def test_arms_that_were_not_played_alike_are_refused_with_what_differs() -> None:
    with pytest.raises(NotComparable) as caught:
        compare(unlike(temperature=0.7, max_turns=50), NAMES)
    assert str(caught.value).splitlines()[1:] == ["  max_turns: 100 (a, c), 50 (b)", "  temperature: 1.0 (a), 0.7 (b)"]


def test_they_are_compared_anyway_when_asked_and_it_is_told() -> None:
    found = compare(unlike(temperature=0.7), NAMES, anyway=True)
    assert [(each["key"], each["values"], each["fair"]) for each in found["different"]] == [
        ("temperature", {"a": 1.0, "b": 0.7}, False)
    ]
    assert found["conditions"] == {**CONDITIONS, "sampling_seed": 0}


def test_what_gives_nobody_an_advantage_may_differ_and_is_told() -> None:
    found = compare(unlike(sampling_seed=1), NAMES)
    assert [(each["key"], each["fair"]) for each in found["different"]] == [("sampling_seed", True)]
    assert found["different"][0]["sentence"] == "sampling_seed: 0 (a, c), 1 (b)"
