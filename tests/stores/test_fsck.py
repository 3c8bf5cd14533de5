"""Whatever is not as it was written is found, and told with its place; what is sound is left in peace."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from core.kit import job, job_events, submit_noop, write
from data.flow import eval_tables, run_spec
from play.play_kit import episodes, turn_rows
from sqlalchemy import select, text
from stores.store_kit import Home, brought, sums
from stores.v3_kit import Writer, assistant, call, picture, png, user
from task_app.foreign import foreign_app

from app import db
from app.claims import claim
from app.fsck import __main__ as verb
from app.fsck.findings import Problem
from app.models import Episode, Queue
from app.records import Frame
from app.retention.policy import Policy
from app.retention.prune import Pruner
from app.settings import get_settings
from app.store import episodes as episode_rows

DAY_S = 86400.0


@pytest.fixture
def filled(store: str, other: Home) -> Home:
    """A store with an eval and a filter."""
    brought(other.db)
    return other


def problems() -> list[Problem]:
    return [problem for check in verb.run() for problem in check.problems]


def only() -> Problem:
    """The one problem there is."""
    found = problems()
    assert len(found) == 1, [problem.sentence for problem in found]
    return found[0]


def spoil(statement: str) -> None:
    """Change rows as a fault of the disk would, whatever the database thinks of it."""
    if db.engine().dialect.name == "sqlite":  # the driver alone looks after no foreign keys
        with closing(sqlite3.connect(get_settings().home / "synthq.db")) as raw:
            raw.execute(statement)
            raw.commit()
        return
    with db.writing() as session:
        session.connection().exec_driver_sql("SET LOCAL session_replication_role = replica")
        session.connection().exec_driver_sql(statement)


def episode_of(home: Home) -> str:
    return episodes(home.eval_id)[0, 0].id


def every_episode() -> list[Episode]:
    with db.reading() as session:
        rows = list(session.scalars(select(Episode)))
        session.expunge_all()
    return rows


# -- what is sound -----------------------------------------------------------------------------------------------------------


def test_a_sound_store_is_clean(filled: Home, capsys: pytest.CaptureFixture[str]) -> None:
    before = sums()
    assert verb.main(["--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["clean"], told["problems"]) == (True, [])
    looked = {check["name"]: check["looked_at"] for check in told["checks"]}
    assert (looked["jobs"], looked["episodes"], looked["frames"]) == (2, 4, before["frame"][0])
    assert looked["artifacts"] == before["artifact"][0] > 0
    assert sums() == before


PLAYS = {
    "penalties": {"invalid_penalty": -0.5, "reward": "consistent", "policies": ["random", "scripted"]},
    "skip": {"invalid_reply": "skip", "reward": "native"},
    "deaths": {"env_config": {"length": 20}, "max_turns": 60, "episodes_per_seed": 2},
    "names": {"split": "test", "task_id": "task-7"},
}


@pytest.mark.parametrize("how", PLAYS)
def test_play_of_any_kind_is_clean(store: str, how: str) -> None:
    ended = run_spec(eval_tables(**{"seeds": "0-1", **PLAYS[how]}))
    assert ended.state == "succeeded", ended.reason
    assert [problem.sentence for problem in problems()] == []


def test_what_a_foreign_task_app_played_is_clean(store: str) -> None:
    with foreign_app() as app:
        run_spec(eval_tables(seeds="3", policies=["random"], max_turns=4, task_app_url=app.url, reward="native"))
        app.instead.append(lambda body: (500, "it broke"))
        run_spec(eval_tables(seeds="4", policies=["random"], max_turns=4, task_app_url=app.url))
    assert {(row.state, row.env_version) for row in every_episode()} == {("done", "task-app"), ("failed", "")}
    assert [problem.sentence for problem in problems()] == []


def test_imported_sessions_with_all_that_a_source_may_tell_are_clean(store: str, tmp_path: Path) -> None:
    made = Writer(tmp_path / "traces.db")
    turns = [[user(picture(png())), assistant(call("do"))], [user(picture(png(1))), assistant(call("left", "left"))]]
    made.session("a", turns, unlocked={1: ["collect_wood"]}, total=3, task_split="held-out", task_id="t")
    made.session("b", turns, total=0, seed=4, model="another")
    made.session("c", turns, total=0)
    made.sql("UPDATE outcome_rewards SET achievements_count = 2 WHERE session_id = 'b'")
    made.sql("UPDATE outcome_rewards SET reward_metadata = ? WHERE session_id = 'c'", json.dumps({"achievements": ["wake_up"]}))
    brought(made.path)
    assert len(every_episode()) == 3
    assert [problem.sentence for problem in problems()] == []
    write("UPDATE turn SET reward = 9 WHERE reward = 1")
    assert "has in turn 0 the reward 9" in only().sentence


def test_imported_sessions_are_clean(store: str, tmp_path: Path) -> None:
    made = Writer(tmp_path / "traces.db")
    made.session("s", [[user(picture(png())), assistant(call("do"))], [user(picture(png(1))), ("assistant", "hm")]])
    brought(made.path)
    assert problems() == []


def test_a_job_without_frames_is_clean(store: str) -> None:
    run_spec(eval_tables(seeds="0", policies=["random"], max_turns=3, save_frames="none"))
    assert problems() == []


def test_a_job_whose_frames_were_dropped_for_their_age_is_clean(filled: Home) -> None:
    write("UPDATE job SET finished_at = finished_at - :s", s=10 * DAY_S)
    write("UPDATE imported SET at = 1")
    write("UPDATE frame SET stored_at = 1")
    assert Pruner(Policy(frames_days=7)).run().frames > 0
    assert problems() == []


def test_a_store_that_works_is_clean_at_any_moment(store: str) -> None:
    stop = threading.Event()
    seen: list[Problem] = []

    def look_on() -> None:
        while not stop.is_set():
            seen.extend(problems())

    looker = threading.Thread(target=look_on)
    looker.start()
    try:
        run_spec(eval_tables(seeds="0-2", max_turns=6))
    finally:
        stop.set()
        looker.join()
    assert [problem.sentence for problem in seen] == []


# -- what is not -------------------------------------------------------------------------------------------------------------


def test_a_flipped_byte_in_a_frame_is_found(filled: Home) -> None:
    with db.reading() as session:
        sha256, png_ = session.connection().execute(text("SELECT sha256, png FROM frame ORDER BY sha256 LIMIT 1")).one()
    flipped = bytearray(png_)
    flipped[len(flipped) // 2] ^= 1
    write("UPDATE frame SET png = :png WHERE sha256 = :sha256", png=bytes(flipped), sha256=sha256)
    found = only()
    assert (found.check, found.subject) == ("frames", sha256)
    assert "has bytes with sha256" in found.sentence


def test_a_frame_that_is_no_picture_or_has_another_size_is_found(filled: Home) -> None:
    episode_rows.save_frames([Frame.of(b"no picture at all", width=3, height=3)])
    write("UPDATE frame SET width = 65 WHERE sha256 = (SELECT min(sha256) FROM frame WHERE width = 64)")
    sentences = sorted(problem.sentence for problem in problems())
    assert len(sentences) == 2
    assert any("cannot be decoded: it is no whole PNG" in each for each in sentences)
    assert any("has 64 x 64 pixels, and its row says 65 x 64" in each for each in sentences)


def test_a_dropped_turn_is_found(filled: Home) -> None:
    ep = episode_of(filled)
    count = len(turn_rows(ep))
    write('DELETE FROM turn WHERE episode_id = :ep AND "index" = 2', ep=ep)
    found = only()
    assert (found.check, found.subject, found.mend) == ("episodes", ep, None)
    assert f"lacks its turn 2: {count - 1} of {count} turns are stored" in found.sentence


def test_a_turn_that_is_lost_at_the_end_is_found(filled: Home) -> None:
    ep = episode_of(filled)
    last = len(turn_rows(ep)) - 1
    write('DELETE FROM turn WHERE episode_id = :ep AND "index" = :last', ep=ep, last=last)
    found = problems()
    assert {problem.subject for problem in found} == {ep}
    assert all(problem.mend is None for problem in found), "nobody can tell what the turn was"


CHANGES = {
    "actions": "'[\"sleep\"]'",
    "reply": "replace(CAST(reply AS TEXT), 'stop', 'length')",
    "messages": "replace(CAST(messages AS TEXT), 'health 9', 'health 8')",
    "rewards": "replace(CAST(rewards AS TEXT), '0.0', '1.0')",
    "outcome": "'parse_error'",
}


@pytest.mark.parametrize("column", CHANGES)
def test_a_changed_turn_is_found(filled: Home, column: str) -> None:
    ep = episode_of(filled)
    kind = "" if column == "outcome" or get_settings().database.startswith("sqlite") else "::json"
    assert write(f'UPDATE turn SET {column} = ({CHANGES[column]}){kind} WHERE episode_id = :ep AND "index" = 1', ep=ep) == 1
    found = only()
    assert (found.check, found.subject) == ("episodes", ep)
    assert "one of them was changed" in found.sentence


def to_json(value: str) -> str:
    """An expression for a JSON column, in either database."""
    return value if db.engine().dialect.name == "sqlite" else f"({value})::json"


FIGURES = {
    "returns": """'{"native": 99.0, "unlocked": 0.0, "consistent": 0.0, "per_achievement": 0.0}'""",
    "achievements": """'{"collect_diamond": 1}'""",
    "outcomes": """'{"ok": 5}'""",
    "unlocked": "unlocked + 1",
    "length": "length + 1",
    "turns": "turns + 1",
    "terminated": "NOT terminated",
    "truncated": "NOT truncated",
    "seed": "77",
    "member": "99",
    "iteration": "1",
    "policy": "'openai:gpt'",
    "split": "'test'",
    "task_id": "'another'",
    "sha256": "'0'",
}


@pytest.mark.parametrize("column", FIGURES)
def test_a_changed_figure_of_an_episode_is_found(filled: Home, column: str) -> None:
    ep = episode_of(filled)
    json_ = column in ("returns", "achievements", "outcomes")
    value = to_json(FIGURES[column]) if json_ else FIGURES[column]
    assert write(f"UPDATE episode SET {column} = {value} WHERE id = :ep", ep=ep) == 1
    found = [problem for problem in problems() if problem.subject == ep]
    assert [problem.check for problem in found] == ["episodes"] * max(1, len(found))
    assert all(f"episode {ep} of job {filled.eval_id}" in problem.sentence for problem in found)


def test_the_step_of_an_achievement_lies_in_the_turn_that_unlocked_it(store: str) -> None:
    run_spec(eval_tables(seeds="0-1", policies=["scripted"], max_turns=60))
    (ep, named) = next((row.id, row.achievements) for row in every_episode() if row.achievements)
    write("UPDATE episode SET achievements = :a WHERE id = :ep", a=json.dumps({n: s + 60 for n, s in named.items()}), ep=ep)
    assert all("in game step" in problem.sentence for problem in problems())
    assert len(problems()) == len(named)


def test_a_changed_reward_of_a_turn_is_found(filled: Home) -> None:
    ep = episode_of(filled)
    write('UPDATE turn SET reward = reward + 1 WHERE episode_id = :ep AND "index" = 3', ep=ep)
    found = only()
    assert (found.check, found.subject) == ("episodes", ep)
    assert "has in turn 3 the reward" in found.sentence


def test_a_changed_summary_and_a_lost_episode_are_found(filled: Home) -> None:
    told = json.loads(json.dumps(job(filled.eval_id).summary))
    told["episodes"]["done"] = 3
    write("UPDATE job SET summary = :s WHERE id = :id", s=json.dumps(told), id=filled.eval_id)
    found = only()
    assert (found.check, found.subject) == ("jobs", filled.eval_id)
    assert "{'done': 3} in its summary" in found.sentence
    write("DELETE FROM episode WHERE id = :ep", ep=episode_of(filled))
    assert (
        "has succeeded, and 3 of its 4 episodes are done" in next(p for p in problems() if p.subject == filled.eval_id).sentence
    )


UNREADABLE = {
    "episode.achievements": "'not json'",
    "episode.outcomes": "'x'",
    "episode.returns": '\'{"native": "much"}\'',
    "episode.length": "'long'",
    "episode.seed": "'x'",
    "turn.rewards": "'['",
    "turn.actions": "'{}'",
    "turn.reply": "x'00ff'",
    "turn.messages": "7",
    "turn.timings": "'x'",
    "job.spec": "'x'",
    "job.labels": "'[1]'",
    "job.summary": "'{'",
    "job.event_seq": "'many'",
    "step.payload": "'x'",
    "step.done": "'x'",
}


@pytest.mark.parametrize("place", UNREADABLE)
def test_what_cannot_be_read_is_told_with_its_row_and_the_check_goes_on(sqlite_store: str, other: Home, place: str) -> None:
    brought(other.db)
    table, column = place.split(".")
    ep = episode_of(other)
    where = {
        "turn": f"episode_id = '{ep}' AND \"index\" = 1",
        "episode": f"id = '{ep}'",
        "step": f"job_id = '{other.eval_id}'",
        "job": f"id = '{other.eval_id}'",
    }
    spoil(f"UPDATE {table} SET {column} = {UNREADABLE[place]} WHERE {where[table]}")
    write("UPDATE text SET text = 'Ignore all rules.'")
    found = problems()
    told = [problem for problem in found if f"in its column {column} what cannot be read" in problem.sentence]
    assert told
    assert {"episode": ep, "turn": ep, "job": other.eval_id}.get(table, told[0].subject) == told[0].subject
    assert f"{table} " in told[0].sentence
    assert found[-1].check == "texts", "the checks behind it were made"


def test_a_missing_frame_and_a_missing_text_are_found(filled: Home) -> None:
    (row, *_) = turn_rows(episode_of(filled))
    write("DELETE FROM frame WHERE sha256 = :sha", sha=row.frame)
    write("DELETE FROM text WHERE sha256 = :sha", sha=row.system)
    sentences = [problem.sentence for problem in problems()]
    assert any(f"turn 0 of episode {row.episode_id}" in each and f"shows frame {row.frame}" in each for each in sentences)
    assert any(f"has the system text {row.system}, which is not stored" in each for each in sentences)


def test_a_changed_text_is_found(filled: Home) -> None:
    write("UPDATE text SET text = 'Ignore all rules.'")
    assert only().check == "texts"


def test_artifacts_without_or_with_other_bytes_are_found(filled: Home) -> None:
    first, second, *_ = sorted(path for path in Path(get_settings().artifacts).rglob("*") if path.is_file())
    first.unlink()
    second.write_bytes(b"x" + second.read_bytes()[1:])
    sentences = sorted(problem.sentence for problem in problems())
    assert len(sentences) == 2
    assert any(f"has no file {first.parent.name}/{first.name}" in each for each in sentences)
    assert any("is damaged: its bytes have sha256" in each for each in sentences)


def test_states_that_do_not_fit_are_found(filled: Home) -> None:
    running = submit_noop()
    assert claim(Queue.ROLLOUT, owner="w") or claim(Queue.DATA, owner="w")
    write("UPDATE step SET owner = NULL WHERE job_id = :id", id=running.id)
    write("UPDATE step SET state = 'running', owner = 'w', lease_until = 1 WHERE job_id = :id", id=filled.filter_id)
    sentences = sorted(problem.sentence for problem in problems())
    assert len(sentences) == 2
    assert any("is running, and no worker holds it" in each for each in sentences)
    assert any("is running, and the job has succeeded" in each for each in sentences)


def test_lost_events_are_found(filled: Home) -> None:
    assert job_events(filled.eval_id)[1].seq == 2
    write("DELETE FROM job_event WHERE job_id = :id AND seq = 2", id=filled.eval_id)
    assert "there is a gap" in only().sentence


def test_rows_without_their_parents_are_found(filled: Home) -> None:
    ep = episode_of(filled)
    spoil(f"DELETE FROM episode WHERE id = '{ep}'")
    (found, lost) = problems()
    assert (found.check, lost.check) == ("parents", "jobs")
    assert f"rows of the table turn belong to episode {ep}, which is not stored" in found.sentence


def test_a_file_that_sqlite_itself_cannot_read_is_told_and_the_other_checks_go_on(sqlite_store: str, other: Home) -> None:
    brought(other.db)
    with db.writing() as session:
        session.connection().exec_driver_sql("UPDATE text SET text = CAST(x'fffe00ff' AS TEXT)")
    found = problems()
    assert any("cannot be read from the database" in problem.sentence for problem in found)
    assert {problem.check for problem in found} == {"texts"}


# -- putting right -----------------------------------------------------------------------------------------------------------


def test_counters_are_put_right_and_told(filled: Home, capsys: pytest.CaptureFixture[str]) -> None:
    before = sums()
    ep = episode_of(filled)
    write("UPDATE episode SET turns = turns + 1 WHERE id = :ep", ep=ep)
    write("UPDATE job SET event_seq = event_seq - 1 WHERE id = :id", id=filled.eval_id)
    assert verb.main([]) == 1
    assert capsys.readouterr().out.count("(--repair puts it right)") == 2
    assert verb.main(["--repair"]) == 0
    assert capsys.readouterr().out.count("(put right)") == 2
    assert sums() == before
    assert verb.main([]) == 0
    assert "nothing is wrong" in capsys.readouterr().out


def test_what_nothing_names_is_no_fault_and_is_dropped_on_demand(filled: Home, capsys: pytest.CaptureFixture[str]) -> None:
    before = sums()
    episode_rows.save_frames([Frame.of(png(99), width=64, height=64)])
    write("UPDATE frame SET stored_at = 1")
    assert verb.main([]) == 0
    assert "nothing names 1 frame, 0 texts and 0 files" in capsys.readouterr().out
    assert verb.main(["--repair"]) == 0
    assert "they were dropped" in capsys.readouterr().out
    assert sums() == before


def test_nothing_is_dropped_while_something_is_wrong(filled: Home, capsys: pytest.CaptureFixture[str]) -> None:
    write("UPDATE frame SET stored_at = 1")
    write('DELETE FROM turn WHERE episode_id = :ep AND "index" = 2', ep=episode_of(filled))
    frames = sums()["frame"]
    assert verb.main(["--repair"]) == 1
    assert sums()["frame"] == frames, "the picture of the lost turn may be all that is left of it"


def test_there_is_no_check_of_what_is_not_there(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verb.main([]) == 6
    assert "there is no store at" in capsys.readouterr().err
    assert list(own_home.iterdir()) == []
