"""Episodes that are under way at once: each comes out as if it were alone, and what ends the step finds all of them in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from core.kit import job_events, played, submit_eval, use_settings
from play_kit import episodes, finish, play_steps, retry, turn_rows, work
from play_policies import Dawdler, asked, make_trouble

from workers.rollout import envs, play_step
from workers.rollout.play_step import table as table_module
from workers.runner import drain_file

pytestmark = pytest.mark.usefixtures("sqlite_store", "played_package", "quick")

TURNS = 30
SEEDS = 8


@pytest.fixture
def quick(own_home: Path) -> Iterator[None]:
    """No pause before another try, and a keeper that looks often."""
    with use_settings(SYNTHQ_BACKOFF_S="0", SYNTHQ_WATCH_S="0.01"):
        yield


@pytest.fixture(params=[1, 3, 16])
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """So many episodes under way at once, though their policy is no model's."""
    return force(monkeypatch, request.param)


def force(monkeypatch: pytest.MonkeyPatch, count: int) -> int:
    monkeypatch.setattr(play_step, "_at_once", lambda spec, seats: count)
    monkeypatch.setattr(Dawdler, "most", 0)
    return count


def submit(policy: str = "dawdler", **table: Any) -> str:
    """Submit one step of eight episodes."""
    given = {"seeds": f"0-{SEEDS - 1}", "policies": [policy], "max_turns": TURNS, "episodes_per_step": SEEDS} | table
    return submit_eval(**given).id


@cache
def alone() -> dict[tuple[int, int], str | None]:
    """(seed, member) -> the trace's hash, of ``fragile``, which draws as ``dawdler`` does and plays one after the other."""
    job_id = submit("fragile")
    work()
    return played(job_id)


def whole(job_id: str) -> None:
    """The job ends well, its episodes are those of play alone, and each turn is there once."""
    ended = finish(job_id)
    assert (ended.state, ended.reason) == ("succeeded", None)
    mine = played(job_id)
    for row in episodes(job_id).values():
        assert [turn.index for turn in turn_rows(row.id)] == list(range(row.turns))
        assert row.outcomes == Counter(turn.outcome for turn in turn_rows(row.id))
        assert (row.state, row.snapshot, row.error) == ("done", None, None)
    assert mine == alone()


def test_episodes_come_out_alike_however_many_play_beside_them(at_once: int) -> None:
    job_id = submit()
    whole(job_id)
    assert Dawdler.most == min(at_once, SEEDS)


def test_one_world_serves_each_seat(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    make = envs.make
    monkeypatch.setattr(table_module.envs, "make", lambda name, config: made.append(name) or make(name, config))
    job_id = submit(seeds="0-19", max_turns=5, episodes_per_step=20)
    work(1)
    assert len(played(job_id)) == 20
    assert len(made) == at_once


def test_a_failed_seed_is_a_row_and_the_others_go_on(at_once: int) -> None:
    make_trouble("break", seed=2, turn=5, once=False)
    job_id = submit()
    ended = finish(job_id)
    assert ended.reason == "1 of 8 episodes failed: seed 2: RuntimeError: the dice fell off the table"
    assert len(played(job_id)) == SEEDS - 1
    assert [event.type for event in job_events(job_id)].count("episode.failed") == 1
    assert play_steps(job_id)[0].result == {"played": SEEDS - 1, "failed": 1}


def test_a_drain_finds_every_episode_at_a_turn(at_once: int) -> None:
    make_trouble("drain", seed=2, turn=5)
    job_id = submit()
    assert work() == 1
    rows = episodes(job_id)
    running = [row for row in rows.values() if row.state == "running"]
    assert len(running) == min(at_once, SEEDS)
    assert all(row.snapshot is not None and len(turn_rows(row.id)) == row.turns > 0 for row in running)
    assert (play_steps(job_id)[0].state, play_steps(job_id)[0].attempt) == ("queued", 0)
    drain_file().unlink()
    before = Counter(asked())
    assert finish(job_id).state == "succeeded"
    again = Counter(asked()) - before
    for row in running:
        assert min(turn for seed, turn in again if seed == row.seed) == row.turns, "no stored turn is asked for again"
    whole(job_id)


def test_a_cancel_keeps_every_turn_and_a_retry_goes_on(at_once: int) -> None:
    make_trouble("cancel", seed=2, turn=5)
    job_id = submit()
    assert finish(job_id).state == "cancelled"
    cut = [row for row in episodes(job_id).values() if row.state == "failed"]
    assert len(cut) == min(at_once, SEEDS)
    assert {row.error for row in cut} == {f"job {job_id} was cancelled"}
    assert all(len(turn_rows(row.id)) == row.turns > 0 for row in cut)
    stood = {row.seed: row.turns for row in cut}
    before = Counter(asked())
    assert retry(job_id).state == "succeeded"
    again = Counter(asked()) - before
    assert {seed: min(turn for s, turn in again if s == seed) for seed in stood} == stood, "no stored turn is asked for again"
    whole(job_id)


def test_a_step_that_was_lost_writes_nothing_more(at_once: int) -> None:
    make_trouble("lose", seed=2, turn=5)
    job_id = submit()
    work(1)
    assert {row.state for row in episodes(job_id).values()} <= {"done"}
    whole(job_id)


def test_a_database_that_goes_away_costs_no_stored_turn(at_once: int) -> None:
    make_trouble("database", seed=2, turn=5)
    with use_settings(SYNTHQ_SEGMENT_S="0.000001"):
        job_id = submit()
        work(1)
        running = [row for row in episodes(job_id).values() if row.state == "running"]
        assert len(running) == min(at_once, SEEDS)
        assert play_steps(job_id)[0].attempt == 1
        whole(job_id)


def test_when_the_time_is_used_up_those_under_way_play_to_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, 3)
    make_trouble("slow", seed=2, turn=0)
    with use_settings(SYNTHQ_STEP_BUDGET_S="0.3"):
        job_id = submit()
        assert work(1) == 1
    assert set(played(job_id)) == {(0, 0), (1, 0), (2, 0)}
    (step,) = play_steps(job_id)
    assert (step.state, step.attempt, step.reason) == ("queued", 0, "its time is used up")
    whole(job_id)
