"""Which turns become lines: every rule on turns that were really played, each counted under its own key."""

from __future__ import annotations

import math
from typing import Any

import pytest
from flow import filter_tables, run_spec
from sqlmodel import update
from test_export import episodes, lines_of, turns, why

from app import db
from app.models import Job, TurnRow
from app.specs import FilterTable
from workers.rollout.export.turns import Seen, led_to, returns_to_go, verdicts

Key = tuple[str, int]


def ran(**table: Any) -> tuple[list[Key], dict[str, int], dict[str, Any]]:
    """The turns that became lines, what was removed of turns, and the summary."""
    job = run_spec(filter_tables(jobs=["mixed"], **table))
    lines = [(line["metadata"]["episode"], line["metadata"]["turn"]) for line in lines_of(job)]
    assert job.summary is not None
    return lines, job.summary["removed"]["turns"], job.summary


def rows() -> list[TurnRow]:
    """Every turn, in the order of an export."""
    return [turn for episode in episodes() for turn in turns(episode.id)]


def keys(kept: list[TurnRow]) -> list[Key]:
    return [(turn.episode_id, turn.index) for turn in kept]


@pytest.mark.usefixtures("mixed")
def test_unreadable_replies_are_left_out() -> None:
    every = rows()
    bad = [turn for turn in every if turn.outcome != "ok"]
    assert {turn.outcome for turn in bad} == {"no_tool_call", "parse_error"}
    lines, removed, _ = ran()
    assert removed == {"outcomes_ok_only": len(bad)}
    assert lines == keys([turn for turn in every if turn.outcome == "ok"])


@pytest.mark.usefixtures("mixed")
def test_unreadable_replies_stay_when_they_are_asked_for_but_for_the_empty_ones() -> None:
    every = rows()
    empty = [turn for turn in every if not turn.reply["text"] and not turn.reply["tool_calls"]]
    lines, removed, _ = ran(outcomes_ok_only=False, turns={"drop_empty": True})
    assert removed == {"turns.drop_empty": len(empty)}
    assert 0 < len(empty) < len([turn for turn in every if turn.outcome != "ok"])
    assert lines == keys([turn for turn in every if turn not in empty])


@pytest.mark.usefixtures("mixed")
def test_turns_that_only_wait_are_left_out() -> None:
    readable = [turn for turn in rows() if turn.outcome == "ok"]
    lines, removed, _ = ran(turns={"drop_noops": True})
    waits = [turn for turn in readable if turn.actions == ["noop"]]
    assert removed["turns.drop_noops"] == len(waits) > 20
    assert lines == keys([turn for turn in readable if turn not in waits])


@pytest.mark.parametrize("window", [1, 4, 1000])
@pytest.mark.usefixtures("mixed")
def test_before_an_unlock_means_the_unlock_and_the_turns_before_it(window: int) -> None:
    unlocks = {(turn.episode_id, turn.index) for turn in rows() if turn.unlocked}
    wanted = [(id, i) for id, i in keys(rows()) if any((id, i + ahead) in unlocks for ahead in range(window))]
    lines, removed, summary = ran(outcomes_ok_only=False, turns={"before_unlock": window})
    assert lines == wanted
    assert removed == {"turns.before_unlock": summary["turns"]["read"] - len(wanted)}
    assert window > 1 or set(lines) == unlocks


@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
@pytest.mark.usefixtures("mixed")
def test_the_top_share_of_turns_is_what_led_to_most(discount: float) -> None:
    def led(turn: TurnRow) -> float:
        later = [t for t in by_episode[turn.episode_id] if t.index >= turn.index]
        return math.fsum(t.reward * discount ** (t.index - turn.index) for t in later)

    by_episode = {episode.id: turns(episode.id) for episode in episodes()}
    every = rows()
    lines, removed, _ = ran(outcomes_ok_only=False, turns={"top_share": 0.1, "discount": discount})
    values = dict(zip(keys(every), map(led, every), strict=True))
    assert len(lines) == len(every) // 10
    assert removed == {"turns.top_share": len(every) - len(lines)}
    assert min(values[key] for key in lines) >= max(value for key, value in values.items() if key not in set(lines)) - 1e-9
    assert lines == sorted(lines, key=keys(every).index), "in the order of play"


@pytest.mark.usefixtures("mixed")
def test_a_turn_counts_for_the_first_key_that_it_fails() -> None:
    together = {"drop_empty": True, "drop_noops": True, "before_unlock": 10, "top_share": 0.5}
    lines, removed, summary = ran(turns=together)
    assert list(removed) == ["outcomes_ok_only", "turns.drop_noops", "turns.before_unlock", "turns.top_share"]
    assert len(lines) == summary["turns"]["kept"] == summary["turns"]["read"] - sum(removed.values()) > 0


def test_when_turns_are_all_gone_every_key_says_how_many_it_took(mixed: Job) -> None:
    with db.writing() as session:
        session.exec(update(TurnRow).values(actions=["noop"]))
    read = len(rows())
    bad = len([turn for turn in rows() if turn.outcome != "ok"])
    assert why(jobs=[mixed.id], turns={"drop_noops": True}) == (
        f"no line is left: outcomes_ok_only=true removed {bad} of {read} turns, and "
        f"turns.drop_noops=true removed {read - bad} of {read} turns"
    )


def seen(*unlocks: str, **more: Any) -> list[Seen]:
    """Turns in which these were unlocked; an empty text for none."""
    return [
        Seen(index=i, **{"outcome": "ok", "actions": ["do"], "reward": 1.0, "empty": False, **more}, unlocked=name.split())
        for i, name in enumerate(unlocks)
    ]


def test_the_discount_counts_turns_that_lie_ahead() -> None:
    assert returns_to_go([0.0, 1.0, 0.0, 4.0], 0.5) == [1.0, 2.0, 2.0, 4.0]
    assert returns_to_go([], 0.5) == []


def test_a_turn_led_to_the_next_unlock_after_the_one_before() -> None:
    played = seen("", "wood", "", "table sapling", "", "")
    assert led_to(played, None) == [(0, 1), (0, 1), (1, 3), (1, 3), (3, 3), (3, 3)]


def test_with_a_window_a_turn_led_to_every_unlock_in_it() -> None:
    played = seen("", "wood", "", "table sapling", "", "")
    assert led_to(played, 3) == [(0, 1), (0, 3), (1, 3), (1, 3), (3, 3), (3, 3)]


def test_what_was_done_counts_and_not_what_was_said_when_the_reply_could_not_be_read() -> None:
    table = FilterTable.model_validate({"outcomes_ok_only": False, "turns": {"drop_noops": True}})
    assert verdicts(seen("", outcome="parse_error", actions=["noop"]), table) == ["turns.drop_noops"]
    assert verdicts(seen("", outcome="parse_error", actions=[]), table) == [None]
    assert verdicts(seen("", actions=["noop", "do"]), table) == [None]
