"""What is too old goes, with what nothing names any more; what somebody needs, or is about to name, stays."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from core.kit import job, job_events, submit, submit_noop, until, use_settings, write
from data.flow import bytes_of, eval_tables, files_of, filter_tables, run_spec
from data.flow import submit as submit_tables
from play.play_kit import episodes, frame_rows, retry
from stores.store_kit import Home, brought, counts

from app.claims import claim
from app.fsck import __main__ as fsck
from app.models import Queue
from app.records import Frame
from app.retention import __main__ as verb
from app.retention import keeper as keepers
from app.retention import unnamed
from app.retention.keeper import Keeper
from app.retention.policy import Policy
from app.retention.prune import Pruned, Pruner
from app.settings import get_settings
from app.store import episodes as episode_rows
from app.store import events
from app.store.starts import Start
from app.store.turns import text_sha256

DAY_S = 86400.0


def age(days: float = 10.0) -> None:
    """Let everything in the store be so much older."""
    write("UPDATE job SET finished_at = finished_at - :s, created_at = created_at - :s", s=days * DAY_S)
    write("UPDATE frame SET stored_at = stored_at - :s", s=days * DAY_S)
    write("UPDATE imported SET at = at - :s", s=days * DAY_S)
    for path in Path(get_settings().artifacts).rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - days * DAY_S,) * 2)


def prune(jobs: float = 0, frames: float = 0, **more: Any) -> Pruned:
    return Pruner(Policy(jobs_days=jobs, frames_days=frames), **more).run()


@pytest.fixture
def filled(store: str, other: Home) -> Home:
    """A store with an eval and a filter that ended ten days ago."""
    brought(other.db)
    age()
    return other


def test_nothing_goes_by_default(filled: Home) -> None:
    before = counts()
    assert Policy.of_settings().keeps_all
    assert prune() == Pruned()
    assert counts() == before


def test_jobs_past_their_time_go_with_all_that_is_theirs(filled: Home) -> None:
    before, root = counts(), Path(get_settings().artifacts)
    sizes = sum(len(png) for png in frame_rows().values())
    done = prune(jobs=7)
    assert (done.jobs, done.episodes, done.turns) == (2, before["episode"], before["turn"])
    assert (done.frames, done.frame_bytes, done.texts) == (before["frame"], sizes, before["text"])
    left = {name for name, count in counts().items() if count}
    assert left == {"imported"}
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_jobs_within_their_time_stay(filled: Home) -> None:
    before = counts()
    assert prune(jobs=11).jobs == 0
    assert counts() == before


def test_a_dry_run_counts_the_same_and_drops_nothing(filled: Home) -> None:
    before = counts()
    looked = prune(jobs=7, dry_run=True)
    assert counts() == before
    done = prune(jobs=7)
    assert looked.to_json() | {"dry_run": False, "files": 0, "file_bytes": 0, "texts": 0} == done.to_json() | {"texts": 0}


def test_the_label_keep_keeps_a_job(filled: Home) -> None:
    write('UPDATE job SET labels = \'{"keep":"true"}\' WHERE id = :id', id=filled.eval_id)
    assert prune(jobs=7, frames=7).jobs == 1
    assert job(filled.eval_id).state == "succeeded"
    assert frame_rows(), "its frames stay too"


@pytest.mark.parametrize(
    "how", ["after", "filter by id", "filter by name", "filter by start of id", "whole store", "imported name"]
)
def test_what_an_unfinished_job_needs_stays(filled: Home, how: str) -> None:
    write("UPDATE job SET name = 'teacher' WHERE id = :id", id=filled.eval_id)
    if how == "after":
        submit_noop(after=[{"job": filled.eval_id, "on": "ok"}])
    elif how == "imported name":
        submit("noop", {"steps": 1, "data": {"db": "synthq.db"}})
    elif how == "whole store":
        submit_tables(filter_tables())
    else:
        ref = {"filter by id": filled.eval_id, "filter by name": "teacher", "filter by start of id": filled.eval_id[:9]}[how]
        submit_tables(filter_tables(jobs=[ref]))
    prune(jobs=7)
    assert job(filled.eval_id).state == "succeeded"
    write("UPDATE job SET state = 'cancelled' WHERE state = 'queued'")
    prune(jobs=7)
    assert counts()["episode"] == 0


def test_what_an_unfinished_jobs_artifact_was_made_from_stays(filled: Home) -> None:
    write("UPDATE job SET state = 'running' WHERE id = :id", id=filled.filter_id)
    write('UPDATE job SET spec = \'{"filter": {"jobs": ["another"]}}\' WHERE id = :id', id=filled.filter_id)
    prune(jobs=7)
    assert job(filled.eval_id).state == "succeeded"


def test_a_job_that_was_brought_in_lately_stays_however_old_it_is(filled: Home) -> None:
    write("UPDATE imported SET at = at + :s", s=9 * DAY_S)
    assert prune(jobs=7, frames=7) == Pruned()


def test_a_large_job_goes_a_few_episodes_at_a_time(filled: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.retention.prune.EPISODES_A_TRANSACTION", 1)
    assert prune(jobs=7).episodes == 4
    assert counts()["turn"] == 0


def broken_off(job_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin to drop a job, and end after its first episode."""
    stop = threading.Event()
    drop = Pruner._drop_episodes

    def then_stop(self: Pruner, id: str) -> int:
        stop.set()
        return drop(self, id)

    with monkeypatch.context() as patch:
        patch.setattr("app.retention.prune.EPISODES_A_TRANSACTION", 1)
        patch.setattr(Pruner, "_drop_episodes", then_stop)
        prune(jobs=7, stop=stop)
    assert len(episodes(job_id)) == 3


AFTER_THE_LOOK = {
    "age": "UPDATE job SET finished_at = finished_at + 800000",
    "keep": 'UPDATE job SET labels = \'{"keep"\\:"true"}\'',
    "brought in": "UPDATE imported SET at = at + 800000",
    "needed": None,
}


@pytest.mark.parametrize("how", AFTER_THE_LOOK)
@pytest.mark.parametrize("days", [{"jobs": 7}, {"frames": 7}])
def test_a_job_that_is_to_stay_after_the_look_stays_whole(
    filled: Home, monkeypatch: pytest.MonkeyPatch, how: str, days: dict[str, int]
) -> None:
    stale = Pruner._stale

    def then_changed(self: Pruner, *args: Any) -> Any:
        found = stale(self, *args)
        changed.set()
        return found

    def write_now(*args: Any, **more: Any) -> None:
        if changed.is_set():
            changed.clear()
            statement = AFTER_THE_LOOK[how]
            write(statement) if statement else submit_tables(filter_tables(jobs=[filled.eval_id, filled.filter_id]))

    changed = threading.Event()
    monkeypatch.setattr(Pruner, "_stale", then_changed)
    monkeypatch.setattr(Pruner, "_go_on", write_now)
    before = counts()
    prune(**days)
    after = counts()
    kept = ("job", "episode", "turn", "frame", "artifact")
    assert {name: after[name] - before[name] for name in kept} == {**dict.fromkeys(kept, 0), "job": how == "needed"}
    assert {row.state for row in episodes(filled.eval_id).values()} == {"done"}


def test_no_job_begins_to_need_it_while_it_is_decided(filled: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    append = events.append
    late: list[Any] = []
    waited: list[bool] = []
    thread = threading.Thread(target=lambda: late.append(submit_tables(filter_tables(jobs=[filled.eval_id]))))

    def then_submitted(session: Any, job_id: str, type: str, message: str, **more: Any) -> int:
        if type == unnamed.GOING and not waited:
            thread.start()
            thread.join(0.5)
            waited.append(not late)
        return append(session, job_id, type, message, **more)

    monkeypatch.setattr(events, "append", then_submitted)
    prune(jobs=7)
    thread.join(30)
    assert waited == [True]
    assert (len(late), counts()["episode"]) == (1, 0)


def test_a_job_that_is_half_dropped_is_nowhere_taken_for_whole_and_goes_later(
    filled: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_off(filled.eval_id, monkeypatch)
    assert {row.state for row in episodes(filled.eval_id).values()} == {"failed"}
    assert job_events(filled.eval_id)[-1].type == "job.going"
    assert [problem.sentence for check in fsck.run() for problem in check.problems] == []
    write('UPDATE job SET labels = \'{"keep"\\:"true"}\' WHERE id = :id', id=filled.eval_id)
    late = run_spec(filter_tables(jobs=[filled.eval_id]))
    assert (late.state, files_of(late).get("dataset")) == ("failed", None), "it finds nothing, and not a part"
    assert prune().jobs == 1, "what was decided is done, whatever the policy is by now"
    assert episodes(filled.eval_id) == {}


def test_a_retry_takes_a_half_dropped_job_back_and_plays_it_whole(filled: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {key: row.sha256 for key, row in episodes(filled.eval_id).items()}
    write("UPDATE job SET state = 'failed', reason = 'its report failed' WHERE id = :id", id=filled.eval_id)
    broken_off(filled.eval_id, monkeypatch)
    assert retry(filled.eval_id).state == "succeeded"
    prune(jobs=7)
    found = episodes(filled.eval_id)
    assert {key: row.sha256 for key, row in found.items()} == before
    assert {row.state for row in found.values()} == {"done"}


def test_it_can_be_stopped_between_two_transactions(filled: Home) -> None:
    stop = threading.Event()
    stop.set()
    before = counts()
    assert prune(jobs=7, stop=stop) == Pruned()
    assert counts() == before


# -- frames ------------------------------------------------------------------------------------------------------------------


def test_frames_past_their_time_go_and_their_turns_stay(filled: Home) -> None:
    before = counts()
    done = prune(frames=7)
    assert (done.frames, done.jobs_without_frames, done.jobs) == (before["frame"], 1, 0)
    after = counts()
    assert (after["frame"], after["turn"], after["text"]) == (0, before["turn"], before["text"])
    told = job_events(filled.eval_id)[-1]
    assert told.type == "job.frames_dropped"
    assert "ended more than 7 days ago" in told.message
    assert [event.seq for event in job_events(filled.eval_id)] == list(range(1, job(filled.eval_id).event_seq + 1))


def test_frames_are_dropped_once(filled: Home) -> None:
    prune(frames=7)
    before = counts()
    assert prune(frames=7) == Pruned()
    assert counts() == before


def test_a_frame_that_a_younger_job_names_too_stays(filled: Home) -> None:
    young = run_spec(eval_tables(seeds="0", policies=["random"], max_turns=4))
    write("UPDATE frame SET stored_at = 1")
    prune(frames=7)
    again = run_spec(filter_tables(jobs=[young.id]))
    assert again.state == "succeeded", again.reason
    (episode,) = episodes(young.id).values()
    assert episode.last_frame in frame_rows()


def test_a_frame_that_only_a_prompt_shows_stays(store: str) -> None:
    run_spec(eval_tables(seeds="0", policies=["random"], max_turns=3))
    shown = Frame.of(b"a picture of the turn before", width=1, height=1)
    episode_rows.save_frames([shown])
    as_json = json.dumps([{"role": "user", "parts": [{"type": "image", "sha256": shown.sha256}]}], separators=(",", ":"))
    assert write('UPDATE turn SET messages = :m WHERE "index" = 1', m=as_json) == 1
    write("UPDATE frame SET stored_at = 1")
    assert prune().frames == 0
    assert shown.sha256 in frame_rows()


def test_a_frame_that_was_just_stored_stays_until_a_turn_can_name_it(store: str) -> None:
    frame = Frame.of(b"a picture that no turn names yet", width=1, height=1)
    episode_rows.save_frames([frame])
    assert prune() == Pruned(young_frames=1)
    write("UPDATE frame SET stored_at = stored_at - 100000")
    episode_rows.save_frames([frame])
    assert prune() == Pruned(young_frames=1), "it was stored again, so somebody is about to name it"
    write("UPDATE frame SET stored_at = stored_at - 100000")
    assert prune() == Pruned(frames=1, frame_bytes=len(frame.png))


def test_a_frame_that_is_stored_again_after_the_look_stays(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = Frame.of(b"an old picture", width=1, height=1)
    episode_rows.save_frames([frame])
    write("UPDATE frame SET stored_at = 1")
    looked = unnamed.frames

    def then_stored(*args: Any, **more: Any) -> Any:
        found = looked(*args, **more)
        episode_rows.save_frames([frame])
        return found

    monkeypatch.setattr(unnamed, "frames", then_stored)
    assert prune().frames == 0
    assert frame.sha256 in frame_rows()


def test_an_ended_job_that_was_retried_keeps_its_new_frames(filled: Home) -> None:
    prune(frames=7)
    write("UPDATE job SET finished_at = :at WHERE id = :id", at=time.time() + 60, id=filled.eval_id)
    first = next(iter(episodes(filled.eval_id).values()))
    new = Frame.of(b"played again", width=1, height=1)
    episode_rows.save_frames([new])
    write("UPDATE episode SET last_frame = :sha WHERE id = :id", sha=new.sha256, id=first.id)
    write("UPDATE frame SET stored_at = 1")
    prune(frames=7)
    assert new.sha256 in frame_rows()


# -- texts and files ---------------------------------------------------------------------------------------------------------


def test_texts_go_only_while_no_step_runs(filled: Home) -> None:
    submit_noop()
    assert claim(Queue.DATA, owner="busy") or claim(Queue.ROLLOUT, owner="busy")
    assert prune(jobs=7).texts == 0
    write("UPDATE step SET state = 'succeeded'")
    assert prune().texts == 1


def test_a_text_that_tells_where_an_episode_begins_stays_as_long_as_the_episode(filled: Home) -> None:
    start = Start(env="crafter", env_version="1", seed=0, actions=("noop",) * 3, of="ep_teacher/3")
    episode_rows.save_texts({start.sha256: start.text, text_sha256("nobody's"): "nobody's"})
    write("UPDATE episode SET start = :it", it=start.sha256)
    assert prune().texts == 1
    assert prune().texts == 0
    write("UPDATE episode SET start = NULL")
    assert prune().texts == 1


def test_files_without_a_row_go_once_they_are_old(filled: Home) -> None:
    root = Path(get_settings().artifacts)
    half = root / filled.eval_id / ".half-written.0000"
    half.write_bytes(b"12345")
    assert prune().files == 0
    os.utime(half, (1, 1))
    done = prune()
    assert (done.files, done.file_bytes) == (1, 5)
    assert not half.exists()
    assert bytes_of(job(filled.filter_id), "dataset"), "what has a row is there"


def test_files_of_jobs_that_this_store_does_not_know_stay_unless_they_are_asked_for(store: str) -> None:
    stray = Path(get_settings().artifacts) / "job_of_another_store" / "0123-data.jsonl"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"123")
    os.utime(stray, (1, 1))
    assert prune() == Pruned(unknown_files=1, unknown_bytes=3)
    assert stray.exists()
    assert prune(unknown_files=True) == Pruned(files=1, file_bytes=3)
    assert not stray.parent.exists()


# -- by the hour -------------------------------------------------------------------------------------------------------------


def test_the_leader_applies_the_settings_once_an_hour(filled: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with use_settings(SYNTHQ_KEEP_JOBS_DAYS="7"):
        first = Keeper("scheduler-1")
        first.look()
        until(lambda: counts()["job"] == 0, 20, "the old jobs are gone")
        first.stop()
        ran: list[Policy] = []
        monkeypatch.setattr(keepers, "Pruner", lambda wanted, **more: ran.append(wanted) or Pruner(wanted, **more))
        first.look()
        second = Keeper("scheduler-2")
        second.look()
        second.stop()
        assert ran == [], "neither it nor another scheduler does it again within the hour"
        write("UPDATE leader SET until = 1 WHERE name = 'retention'")
        third = Keeper("scheduler-3")
        third.look()
        third.stop()
        assert ran == [Policy(jobs_days=7)]


def test_without_a_policy_the_leader_looks_at_nothing(filled: Home) -> None:
    before = counts()
    keeper = Keeper("scheduler")
    keeper.look()
    keeper.stop()
    assert counts() == before


def test_the_verb_tells_rows_and_bytes(filled: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert verb.main(["--jobs-days", "7", "--dry-run"]) == 0
    told = capsys.readouterr()
    assert "would drop 2 jobs, 4 episodes" in told.out
    assert "nothing was changed" in told.err
    assert verb.main(["--jobs-days", "7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["jobs"] == 2


def test_the_verb_makes_no_store_where_there_is_none(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verb.main([]) == 6
    assert "there is no store at" in capsys.readouterr().err
    assert list(own_home.iterdir()) == []
