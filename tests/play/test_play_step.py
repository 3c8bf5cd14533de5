"""The play step over a real store: what fails alone, what goes on elsewhere, and that no turn is ever there twice."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from core.kit import job, job_events, played, python, submit_eval, use_settings
from core.kit import submit as submit_job
from play_kit import HERE, begin, episode, episodes, finish, frame_rows, play, play_steps, retry, told, turn_rows, work
from play_policies import asked, end_trouble, make_trouble
from sqlmodel import select

from app import claims, db, lifecycle, specs
from app.models import FrameRow
from app.plots.eval import episodes_of, policy_of
from app.store import jobs
from workers.rollout.play import PlayOptions
from workers.runner import drain_file, worker_id
from workers.transport.pixels import decode_png

pytestmark = pytest.mark.usefixtures("sqlite_store", "played_package", "quick")

LONG = 60
"""Turns of an episode that is disturbed; seed 1 under ``fragile`` plays them all."""
EACH_TURN = {"SYNTHQ_SEGMENT_S": "0.000001"}
NO_TIME = {"SYNTHQ_STEP_BUDGET_S": "0.000001"}


@pytest.fixture
def quick(own_home: Path) -> Iterator[None]:
    """No pause before another try, and a keeper that looks often."""
    with use_settings(SYNTHQ_BACKOFF_S="0", SYNTHQ_WATCH_S="0.01"):
        yield


def submit(**table: Any) -> str:
    """Submit an eval of ``fragile``, by default of seed 1 alone."""
    given = {"seeds": "1", "policies": ["fragile"], "max_turns": LONG} | table
    return submit_eval(**given).id


@lru_cache
def reference(seed: int) -> str:
    """The trace's hash of a seed's play by the loop alone, without steps and without a store; ``fragile`` draws as ``random``."""
    game = begin("random", PlayOptions.of(specs.build({"kind": "eval", "eval": {"seeds": "0", "max_turns": LONG}})), seed=seed)
    play(game)
    return game.totals.chain


def whole(job_id: str) -> None:
    """The job ends well, its episodes are those of undisturbed play, and each turn is there once."""
    assert finish(job_id).state == "succeeded"
    mine = played(job_id)
    assert mine == {(seed, 0): reference(seed) for seed, _ in mine}
    for row in episodes(job_id).values():
        turns = turn_rows(row.id)
        assert [turn.index for turn in turns] == list(range(row.turns))
        assert row.outcomes == Counter(turn.outcome for turn in turns)
        assert row.length == sum(len(turn.actions) for turn in turns)
        for name, total in row.returns.items():
            assert total == pytest.approx(sum(turn.rewards[name] for turn in turns))
        assert (row.state, row.snapshot, row.error) == ("done", None, None)


# One episode.


def test_an_episodes_row_tells_what_its_turns_sum_to() -> None:
    job_id = submit(seeds="0-2", policies=["babbler", "scripted"], max_turns=30, invalid_penalty=-0.25)
    assert finish(job_id).state == "succeeded"
    for (_, member), row in episodes(job_id).items():
        turns = turn_rows(row.id)
        assert (row.policy, row.policy_version) == [("babbler", "babbler-1"), ("scripted", turns[0].policy_version)][member]
        assert (row.turns, row.ended, row.terminated, row.truncated) == (30, "turns", False, False)
        assert row.length == sum(len(turn.actions) for turn in turns)
        assert row.outcomes == Counter(turn.outcome for turn in turns)
        for name, total in row.returns.items():
            assert total == pytest.approx(sum(turn.rewards[name] for turn in turns))
        assert all(turn.reward == turn.rewards["unlocked"] for turn in turns)
        assert list(row.achievements) == [name for turn in turns for name in turn.unlocked]
        assert row.unlocked == len(row.achievements)
        assert (row.env, row.env_version, row.step_id != "") == ("crafter", "1", True)


def test_an_unreadable_reply_is_stored_with_its_text_and_its_reason() -> None:
    job_id = submit(policies=["babbler"], max_turns=9, invalid_reply="skip")
    finish(job_id)
    turns = turn_rows(episode(job_id).id)
    spoken = ["ok", "ok", "no_tool_call"]
    assert [turn.outcome for turn in turns] == [*spoken, *spoken, "engine_error", *spoken[1:]]
    assert turns[2].reply == {
        "text": "let us go <|im_start|>left, then [do]", "tool_calls": [], "finish": "stop", "notes": {},
    }  # fmt: skip
    assert turns[6].reply["notes"] == {"error": "the line is dead"}
    assert all(turn.actions == [] and turn.detail for turn in turns if turn.outcome != "ok")
    assert all(len(turn.actions) == 2 and not turn.detail for turn in turns if turn.outcome == "ok")


def test_every_frame_of_the_play_is_stored_and_the_last_one_too() -> None:
    job_id = submit(seeds="0-1", max_turns=15)
    finish(job_id)
    rows = episodes(job_id).values()
    frames = frame_rows()
    wanted = {turn.frame for row in rows for turn in turn_rows(row.id)} | {row.last_frame for row in rows}
    assert set(frames) == wanted
    for sha256, png in frames.items():
        assert hashlib.sha256(png).hexdigest() == sha256
        assert decode_png(png).shape == (64, 64, 3)


def test_a_model_reads_its_pictures_though_none_is_stored() -> None:
    job_id = submit(policies=["seer"], max_turns=8, save_frames="none")
    assert finish(job_id).state == "succeeded"
    row = episode(job_id)
    turns = turn_rows(row.id)
    assert all(turn.reply["notes"]["seen"] == [turn.frame] for turn in turns)
    assert len({turn.frame for turn in turns}) > 1
    with db.reading() as session:
        assert session.exec(select(FrameRow)).all() == []
    assert row.last_frame is None


def test_without_frames_a_policy_that_reads_no_prompt_plays_the_same() -> None:
    first, second = submit(max_turns=30), submit(max_turns=30, save_frames="none")
    work()
    kept, bare = (told(episode(job_id).id) for job_id in (first, second))
    assert frame_rows()
    assert [turn["actions"] for turn in kept] == [turn["actions"] for turn in bare]
    assert [turn["rewards"] for turn in kept] == [turn["rewards"] for turn in bare]
    assert all((turn["frame"], turn["messages"], turn["system"]) == (None, [], None) for turn in bare)


# A bad seed.


def test_a_failed_seed_is_a_row_and_an_event_and_the_others_go_on() -> None:
    make_trouble("break", seed=2, turn=5, once=False)
    job_id = submit(seeds="0-3", episodes_per_step=4)
    ended = finish(job_id)
    why = "RuntimeError: the dice fell off the table"
    assert (ended.state, ended.reason) == ("failed", f"1 of 4 episodes failed: seed 2: {why}")
    assert ended.summary is not None
    assert ended.summary["episodes"] == {"asked": 4, "done": 3, "failed": 1, "missing": 0}
    assert ended.summary["policies"]["fragile"]["episodes"] == 3
    rows = episodes(job_id)
    assert {seed: row.state for (seed, _), row in rows.items()} == {0: "done", 1: "done", 2: "failed", 3: "done"}
    bad = rows[2, 0]
    assert (bad.error, bad.env_version, bad.policy, bad.snapshot) == (why, "1", "fragile", None)
    told_of = [event for event in job_events(job_id) if event.type == "episode.failed"]
    assert [(event.level, event.message) for event in told_of] == [("error", f"seed 2 (fragile) failed: {why}")]
    (step,) = play_steps(job_id)
    assert (step.state, step.attempt, step.result) == ("succeeded", 1, {"played": 3, "failed": 1})
    assert played(job_id) == {(seed, 0): reference(seed) for seed in (0, 1, 3)}


def test_a_retry_plays_what_is_missing_and_nothing_else() -> None:
    make_trouble("refuse", seed=2, turn=5, once=False)
    job_id = submit(seeds="0-3")
    assert finish(job_id).reason == "1 of 4 episodes failed: seed 2: the dice are not for sale"
    before = {key: row.id for key, row in episodes(job_id).items() if row.state == "done"}
    end_trouble()
    seen = len(asked())
    ended = retry(job_id)
    assert (ended.state, ended.reason, ended.attempt) == ("succeeded", None, 2)
    after = {key: row.id for key, row in episodes(job_id).items()}
    assert {key: after[key] for key in before} == before
    assert [step.payload["episodes"] for step in play_steps(job_id) if step.job_attempt == 2] == [[[0, 2, 0]]]
    assert asked()[seen:] == [(2, turn) for turn in range(LONG)]
    whole(job_id)
    assert ended.summary is not None
    assert (ended.summary["episodes"]["done"], ended.summary["errors"]) == (4, [])


def test_a_policy_that_nobody_has_fails_its_own_episodes_only() -> None:
    job_id = submit(seeds="0-1", policies=["random", "nobodys"], max_turns=5)
    ended = finish(job_id)
    assert ended.state == "failed"
    assert ended.reason is not None
    assert ended.reason.startswith("2 of 4 episodes failed: seed 0: no policy named 'nobodys'")
    assert {row.policy for row in episodes(job_id).values() if row.state == "done"} == {"random"}


def test_an_episode_that_fails_after_it_was_stored_in_part_is_played_anew() -> None:
    make_trouble("break", seed=1, turn=20)
    with use_settings(**EACH_TURN):
        job_id = submit()
        assert finish(job_id).state == "failed"
        assert retry(job_id).state == "succeeded"
    assert asked() == [(1, turn) for turn in [*range(21), *range(LONG)]]
    whole(job_id)


def test_a_snapshot_that_cannot_be_read_fails_the_episode_and_a_retry_plays_it_anew() -> None:
    make_trouble("database", seed=1, turn=20)
    with use_settings(**EACH_TURN):
        job_id = submit()
        work(1)
        with db.writing() as session:
            row = session.merge(episode(job_id))
            row.snapshot = (row.snapshot or b"")[:-9]
        ended = finish(job_id)
        assert ended.reason is not None
        assert "no snapshot of a running episode" in ended.reason
        assert retry(job_id).state == "succeeded"
    whole(job_id)


# Segments.


def test_an_episode_is_stored_in_segments_and_goes_on_after_a_failure() -> None:
    make_trouble("database", seed=1, turn=20)
    with use_settings(**EACH_TURN):
        job_id = submit()
        assert work(1) == 1
        row = episode(job_id)
        assert (row.state, row.turns, row.ended, row.finished_at) == ("running", 20, None, None)
        assert row.snapshot is not None
        assert len(turn_rows(row.id)) == 20
        assert set(frame_rows()) >= {turn.frame for turn in turn_rows(row.id)}
        (step,) = play_steps(job_id)
        assert (step.state, step.attempt) == ("queued", 1)
        assert "the server went away" in step.reason
        whole(job_id)
    assert asked() == [(1, turn) for turn in [*range(21), *range(20, LONG)]]
    assert episode(job_id).id == row.id
    assert play_steps(job_id)[0].attempt == 2


@pytest.mark.parametrize("turn", [0, 1, LONG - 1])
def test_it_does_not_matter_where_play_was_cut(turn: int) -> None:
    make_trouble("database", seed=1, turn=turn)
    with use_settings(**EACH_TURN):
        whole(submit())


def test_play_without_a_stored_segment_begins_again() -> None:
    make_trouble("database", seed=1, turn=20)
    job_id = submit()
    whole(job_id)
    assert asked() == [(1, turn) for turn in [*range(21), *range(LONG)]]


def test_play_goes_on_after_its_process_was_killed(played_package: Path, own_home: Path) -> None:
    make_trouble("die", seed=1, turn=30)
    job_id = submit(seeds="0-1", episodes_per_step=2)
    words = "from play_kit import work; work(1)"
    path = ":".join([str(played_package), str(HERE)])
    with use_settings(**EACH_TURN):
        process = python("-c", words, log=own_home / "killed.log", PYTHONPATH=path, PYTHONHASHSEED="77")
        assert process.wait(60) == -9, process.said()
    rows = {seed: (row.state, row.turns) for (seed, _), row in episodes(job_id).items()}
    assert rows == {0: ("done", LONG), 1: ("running", 30)}
    assert work() == 0, "the step is still held by the worker that was killed"
    assert claims.release_owner(worker_id(), "killed by the test") == 1
    whole(job_id)
    assert Counter(asked())[1, 29] == Counter(asked())[1, 31]


def test_a_worker_whose_hold_was_taken_back_writes_nothing_more() -> None:
    make_trouble("lose", seed=1, turn=20)
    with use_settings(**EACH_TURN):
        job_id = submit()
        work(1)
        row = episode(job_id)
        assert (row.state, row.turns, len(turn_rows(row.id))) == ("running", 20, 20)
        whole(job_id)
    assert [event.type for event in job_events(job_id)].count("episode.failed") == 0


# Time, drains and cancels.


def test_a_step_whose_time_is_used_up_is_handed_back_and_finished_by_others() -> None:
    with use_settings(**NO_TIME):
        job_id = submit(seeds="0-3", episodes_per_step=4)
        for done in range(1, 4):
            assert work(1) == 1
            assert len(played(job_id)) == done
        whole(job_id)
    (step,) = play_steps(job_id)
    assert (step.attempt, step.fence, step.done, step.total) == (1, 4, 4, 4)


def test_a_failed_seed_is_not_tried_again_when_its_step_is_handed_back() -> None:
    make_trouble("break", seed=0, turn=2, once=False)
    with use_settings(**NO_TIME):
        job_id = submit(seeds="0-3", episodes_per_step=4, max_turns=5)
        assert work(20) < 20
    assert asked() == [(0, 0), (0, 1), (0, 2), *((seed, turn) for seed in (1, 2, 3) for turn in range(5))]
    assert [event.type for event in job_events(job_id)].count("episode.failed") == 1
    assert play_steps(job_id)[0].result == {"played": 3, "failed": 1}
    assert job(job_id).state == "failed"


def test_a_drain_hands_the_step_back_with_a_snapshot() -> None:
    make_trouble("drain", seed=1, turn=10)
    job_id = submit()
    assert work() == 1, "a worker that is asked to stop claims nothing more"
    row = episode(job_id)
    assert row.state == "running"
    assert row.snapshot is not None
    assert 10 <= row.turns < LONG
    assert len(turn_rows(row.id)) == row.turns
    (step,) = play_steps(job_id)
    assert (step.state, step.attempt, step.reason) == ("queued", 0, "the worker is asked to stop")
    drain_file().unlink()
    whole(job_id)
    assert play_steps(job_id)[0].attempt == 1
    assert Counter(asked())[1, row.turns - 1] == 1


def test_a_drain_gives_up_the_turn_that_is_under_way_and_it_is_played_again() -> None:
    make_trouble("drain in a long turn", seed=1, turn=10)
    job_id = submit()
    assert work() == 1
    row = episode(job_id)
    assert (row.state, row.turns) == ("running", 10)
    assert asked()[-1] == (1, 10)
    drain_file().unlink()
    end_trouble()
    whole(job_id)
    assert Counter(asked()) == {(1, turn): 1 + (turn == 10) for turn in range(LONG)}


def test_a_cancelled_eval_keeps_what_was_played_and_a_retry_goes_on_from_there() -> None:
    make_trouble("cancel", seed=1, turn=10)
    job_id = submit()
    assert finish(job_id).state == "cancelled"
    row = episode(job_id)
    assert (row.state, row.error, row.ended) == ("failed", f"job {job_id} was cancelled", None)
    assert row.finished_at is not None
    assert 10 <= row.turns < LONG
    assert len(turn_rows(row.id)) == row.turns
    assert retry(job_id).state == "succeeded"
    whole(job_id)
    assert episode(job_id).id == row.id
    assert Counter(asked())[1, row.turns - 1] == 1


def test_a_cancellation_does_not_wait_for_the_turn_that_is_under_way() -> None:
    make_trouble("cancel in a long turn", seed=1, turn=10)
    job_id = submit()
    assert finish(job_id).state == "cancelled"
    row = episode(job_id)
    assert row.turns == len(turn_rows(row.id)) == 10
    assert asked()[-1] == (1, 10)


def test_an_episode_that_a_cancellation_cut_short_is_not_counted_as_failed() -> None:
    def counts() -> tuple[int, int, int]:
        with db.reading() as session:
            found = jobs.progress(session, jobs.find(session, job_id))
        return found.done, found.failed, found.cut_short

    make_trouble("cancel", seed=1, turn=10)
    job_id = submit()
    assert finish(job_id).state == "cancelled"
    assert counts() == (0, 0, 1)
    assert retry(job_id).state == "succeeded"
    assert counts() == (1, 0, 0)


def test_an_episode_that_nobody_took_up_again_ends_with_its_cancelled_job_and_a_retry_goes_on() -> None:
    make_trouble("drain", seed=1, turn=10)
    job_id = submit()
    assert work() == 1
    drain_file().unlink()
    with db.writing() as session:
        assert lifecycle.cancel(session, jobs.find(session, job_id)).state == "cancelled"
    row = episode(job_id)
    assert (row.state, row.error) == ("failed", "the job ended as cancelled before the episode did")
    assert row.finished_at is not None
    assert len(turn_rows(row.id)) == row.turns > 10
    assert retry(job_id).state == "succeeded"
    whole(job_id)
    assert (episode(job_id).id, Counter(asked())[1, row.turns - 1]) == (row.id, 1)


def test_an_episode_that_ends_its_step_again_and_again_ends_alone() -> None:
    make_trouble("database", seed=1, turn=5, once=False)
    with use_settings(SYNTHQ_MAX_ATTEMPTS="2", **EACH_TURN):
        job_id = submit(seeds="0-3", episodes_per_step=4)
        ended = finish(job_id)
        assert ended.state == "failed"
        assert ended.reason is not None
        assert ended.reason.startswith("1 of 4 episodes failed: ")
        assert "the server went away" in ended.reason
        assert ended.summary is not None
        assert ended.summary["missing"] == [{"seed": 1, "member": 0, "policy": "fragile"}]
        assert set(played(job_id)) == {(0, 0), (2, 0), (3, 0)}
        first, *alone = play_steps(job_id)
        assert [(step.state, step.attempt) for step in (first, *alone)] == [
            ("failed", 2), ("succeeded", 1), ("failed", 2), ("succeeded", 1), ("succeeded", 1),
        ]  # fmt: skip
        assert [step.payload["episodes"] for step in alone] == [[[0, seed, 0]] for seed in range(4)]
        end_trouble()
        assert retry(job_id).state == "succeeded"
    whole(job_id)
    assert Counter(asked())[1, 4] == 1, "what was stored before the trouble was not asked for again"


# Another package's world.


def corridor(**table: Any) -> str:
    given = {"env": "corridor", "env_config": {"cells": 7}, "seeds": "0-5", "policies": ["random"], "reply_format": "text"}
    return submit(**(given | table))


def test_an_environment_of_another_package_is_played_and_scored() -> None:
    job_id = corridor(invalid_reply="skip", policies=["random", "babbler"], max_turns=50)
    ended = finish(job_id)
    assert (ended.state, ended.reason) == ("succeeded", None)
    rows = episodes(job_id)
    assert len(rows) == 12
    assert {row.env for row in rows.values()} == {"corridor"}
    assert {row.ended for row in rows.values()} >= {"fell", "out"}
    assert all(row.terminated == (row.ended in ("fell", "out")) for row in rows.values())
    assert ended.summary is not None
    assert {name for row in rows.values() for name in row.achievements} == {"pass_pit", "reach_door"}
    assert all(decode_png(png).shape == (56, 56, 3) for png in frame_rows().values())


def test_lines_of_another_packages_world_are_made_by_the_same_filter() -> None:
    job_id = corridor(invalid_reply="skip", max_turns=50)
    assert finish(job_id).state == "succeeded"
    wanted = specs.resolved(specs.build({"kind": "filter", "filter": {"jobs": [job_id], "achievements": ["reach_door"]}}))
    ended = finish(submit_job("filter", wanted).id)
    assert (ended.state, ended.reason) == ("succeeded", None)
    out = [row for row in episodes(job_id).values() if row.ended == "out"]
    assert out
    assert ended.summary is not None
    assert (ended.summary["episodes"]["kept"], ended.summary["lines"]) == (len(out), sum(row.turns for row in out))


def test_a_world_without_noop_says_so_in_the_reason() -> None:
    ended = finish(corridor())
    assert ended.state == "failed"
    assert ended.reason is not None
    assert "invalid_reply = 'noop' needs an action of that name, and corridor has none; write 'skip'" in ended.reason


# The plot.


@pytest.mark.parametrize("size", [1, 3, None, 1000])
def test_an_evals_steps_hold_every_episode_once(size: int | None) -> None:
    job_id = submit(seeds="0-4", policies=["fragile", "random"], episodes_per_seed=2, episodes_per_step=size, max_turns=1)
    asked_for = [tuple(each) for step in play_steps(job_id) for each in step.payload["episodes"]]
    assert asked_for == episodes_of(job(job_id).spec)
    assert len(asked_for) == len(set(asked_for)) == 20
    assert {policy_of(job(job_id).spec, member) for _, _, member in asked_for if member < 2} == {"fragile"}
    assert all(len(step.payload["episodes"]) <= (size or 2) for step in play_steps(job_id))
