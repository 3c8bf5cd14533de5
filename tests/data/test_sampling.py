"""Which lines are written, how often and in which order: drawn by the spec's own seeds, and by nothing else."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from flow import eval_tables, filter_tables, run_spec
from test_export import keep, lines_of

from app.errors import StepFailed
from app.specs import FilterTable
from workers.rollout.export import order
from workers.rollout.export.columns import Draw, uniform
from workers.rollout.export.turns import Kept

N = 20_000


def table(**keys: Any) -> FilterTable:
    return FilterTable.model_validate(keys)


def kept(*, values: list[float], ranges: list[tuple[int, int]] | None = None, unlocks: list[int] | None = None) -> Kept:
    """Lines of these values, that led to these of the unlocks."""
    count, led = len(values), ranges or [(0, 0)] * len(values)
    whole = {name: np.zeros(count, np.int64) for name in ("episode",)}
    first, last = (np.array(column, np.int64) for column in zip(*led, strict=True))
    numbers = np.array(unlocks or [], np.int64)
    return Kept(
        **whole,
        turn=np.arange(count),
        reward=np.zeros(count),
        value=np.array(values, float),
        first=first,
        last=last,
        unlocks=numbers,
        unlock_turn=np.zeros(len(numbers), np.int64),
        names=["wood", "table", "coal"],
    )


def drawn(lines: Kept, **sample: Any) -> Counter[int]:
    count = order.Count()
    rows = order.order(np.arange(len(lines)), lines, table(sample={"lines": N, **sample}), count)
    assert list(rows) == sorted(rows), "they stay in the order of play"
    assert len(rows) == len(lines) - count.removed["sample"] + count.repeated == N
    return Counter(rows.tolist())


def test_random_numbers_are_these_ones_for_ever() -> None:
    assert uniform(0, Draw.SAMPLE, 3).tolist() == [0.6771968569751019, 0.2429867485428212, 0.6117637963218119]
    assert uniform(0, Draw.SHUFFLE, 1).tolist() != uniform(0, Draw.SAMPLE, 1).tolist()
    many = uniform(5, Draw.SPLIT, 100_000)
    assert 0 <= many.min() < many.max() < 1
    assert many.mean() == pytest.approx(0.5, abs=0.005)


def test_by_reward_a_line_s_chance_is_its_distance_above_the_worst_and_a_hundredth_of_the_best_s() -> None:
    assert order.weights(np.array([-1.0, 0.0, 1.0, 3.0])).tolist() == pytest.approx([0.04, 1.04, 2.04, 4.04])
    assert order.weights(np.array([2.0, 2.0])).tolist() == [1.0, 1.0]
    counts = drawn(kept(values=[-1.0, 0.0, 1.0, 3.0]), by="reward")
    for row, weight in enumerate([0.04, 1.04, 2.04, 4.04]):
        assert counts[row] / N == pytest.approx(weight / 7.16, abs=0.012)
    assert counts == {0: 115, 1: 2928, 2: 5800, 3: 11157}, "and these ones exactly"


def test_by_achievement_every_achievement_is_as_likely_and_then_every_line_that_led_to_it() -> None:
    lines = kept(values=[0.0] * 10, ranges=[*[(0, 1)] * 7, (1, 2), (1, 3), (3, 3)], unlocks=[0, 1, 2])
    counts = drawn(lines, by="achievement", seed=3)
    for row, share in enumerate([*[1 / 21] * 7, 1 / 6, 1 / 6 + 1 / 3, 0.0]):
        assert counts[row] / N == pytest.approx(share, abs=0.012)


def test_an_achievement_that_was_unlocked_often_is_no_more_likely() -> None:
    counts = drawn(kept(values=[0.0] * 4, ranges=[(0, 1), (1, 2), (2, 3), (3, 4)], unlocks=[0, 0, 0, 1]), by="achievement")
    assert counts[3] / N == pytest.approx(1 / 2, abs=0.012)


@pytest.mark.usefixtures("mixed")
def test_a_rare_achievement_has_as_many_lines_as_a_common_one() -> None:
    plain, drawn_lines = keep(), keep(sample={"by": "achievement", "lines": 6000})
    before, after = led_to_one(plain), led_to_one(drawn_lines)
    assert len(before) >= 5
    assert max(before.values()) > 4 * min(before.values()), "some are rare"
    assert max(after.values()) < 1.5 * min(after.values())
    names = {name for line in plain for name in line["metadata"]["unlocked"].split()}
    for count in after.values():
        assert count == pytest.approx(6000 / len(names), rel=0.25)


def led_to_one(lines: list[dict[str, Any]]) -> Counter[str]:
    """How many lines led to each achievement, of those that were never unlocked with another in one turn."""
    last: dict[str, list[str]] = {}
    counts, together = Counter[str](), set[str]()
    for about in (line["metadata"] for line in reversed(lines)):
        last[about["episode"]] = about["unlocked"].split() or last.get(about["episode"], [])
        counts.update(last[about["episode"]])
        together |= set(about["unlocked"].split()) if len(about["unlocked"].split()) > 1 else set()
    return Counter({name: count for name, count in counts.items() if name not in together})


@pytest.mark.usefixtures("mixed")
def test_the_same_seed_draws_the_same_lines_and_another_seed_others() -> None:
    first = keep(sample={"by": "reward", "lines": 50})
    assert first == keep(sample={"by": "reward", "lines": 50})
    assert first != keep(sample={"by": "reward", "lines": 50, "seed": 1})
    assert len(first) == 50


def test_sampling_by_achievement_needs_one() -> None:
    with pytest.raises(StepFailed, match=r'sample.by = "achievement" needs turns that led to one, and nothing was unlocked'):
        order.order(np.arange(2), kept(values=[0.0, 1.0]), table(sample={"by": "achievement"}), order.Count())


@pytest.mark.usefixtures("mixed")
def test_a_shuffle_has_every_line_once_and_offset_and_limit_cut_it() -> None:
    plain, shuffled = keep(), keep(shuffle=True, shuffle_seed=5)
    assert plain != shuffled
    assert sorted(map(str, plain)) == sorted(map(str, shuffled))
    assert shuffled == keep(shuffle=True, shuffle_seed=5) != keep(shuffle=True, shuffle_seed=6)
    job = run_spec(filter_tables(shuffle=True, shuffle_seed=5, offset=20, limit=30))
    assert lines_of(job) == shuffled[20:50]
    assert job.summary is not None
    assert job.summary["removed"]["lines"] == {"offset": 20, "limit": len(plain) - 50}


def test_the_same_turns_played_twice_are_one_line_when_that_is_asked_for(store: Any) -> None:
    for _ in range(2):
        run_spec(eval_tables(policies=["scripted", "random"], seeds="0-1"))
    every = keep()
    job = run_spec(filter_tables(deduplicate=True))
    lines = lines_of(job)
    assert len(lines) * 2 <= len(every)
    texts = [str((line["messages"], line["tools"])) for line in lines]
    assert len(set(texts)) == len(texts)
    assert set(texts) == {str((line["messages"], line["tools"])) for line in every}
    assert job.summary is not None
    assert job.summary["removed"]["lines"] == {"deduplicate": len(every) - len(lines)}


@pytest.mark.usefixtures("mixed")
def test_of_other_replies_to_one_prompt_the_one_that_led_to_most_stays() -> None:
    def prompt(line: dict[str, Any]) -> str:
        return str(line["messages"][:-1])

    every = keep(outcomes_ok_only=False)
    asked: dict[str, list[dict[str, Any]]] = {}
    for line in every:
        asked.setdefault(prompt(line), []).append(line)
    torn = {p: found for p, found in asked.items() if len({str(line["messages"][-1]) for line in found}) > 1}
    assert len(torn) >= 5, "the first turn of each seed, at the least"
    lines = keep(outcomes_ok_only=False, conflicts="best")
    left: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        left.setdefault(prompt(line), []).append(line)
    assert set(left) == set(asked)
    for p, found in torn.items():
        best = max(line["metadata"]["return_to_go"] for line in found)
        assert len({str(line["messages"][-1]) for line in left[p]}) == 1
        assert best in [line["metadata"]["return_to_go"] for line in left[p]]
    assert [line for p in asked if p not in torn for line in left[p]] == [
        line for p in asked if p not in torn for line in asked[p]
    ]


@pytest.mark.usefixtures("mixed")
def test_what_is_written_is_what_was_read_less_what_was_removed() -> None:
    draw = np.random.default_rng(0)
    for _ in range(12):
        keys: dict[str, Any] = {
            "outcomes_ok_only": bool(draw.integers(2)),
            "deduplicate": bool(draw.integers(2)),
            "conflicts": ["keep", "best"][draw.integers(2)],
            "shuffle": bool(draw.integers(2)),
            "offset": int(draw.integers(30)),
            "turns": {"drop_noops": bool(draw.integers(2)), "top_share": float(draw.uniform(0.3, 1.0))},
            "sample": {"by": ["none", "reward", "achievement"][draw.integers(3)], "seed": int(draw.integers(9))},
            **({"limit": int(draw.integers(1, 300))} if draw.integers(2) else {}),
            **({"top_share": 0.5} if draw.integers(2) else {}),
            **({"max_sequence_length": int(draw.integers(2000, 2600))} if draw.integers(2) else {}),
        }
        job = run_spec(filter_tables(**keys))
        if job.state == "failed":
            assert (job.reason or "").startswith("no line is left")
            continue
        found = job.summary
        assert found is not None
        removed = [sum(found["removed"][unit].values()) for unit in ("turns", "lines")]
        assert len(lines_of(job)) == found["lines"] == found["turns"]["read"] - sum(removed) + found["repeated"], keys
