"""Another synthq store is brought in as it is, once, wholly or not at all, and is not changed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from core.kit import job, use_settings, write
from data.flow import at_home, bytes_of, eval_tables, filter_tables, run_spec
from sqlalchemy import make_url
from sqlmodel import select
from stores.store_kit import Home, brought, counts, sums
from stores.v3_kit import Writer, assistant, call, picture, png, user

from app import artifacts, db, migrate
from app.errors import BadFlag, BadSource, ImportNotFound, SourceNotFound
from app.models import Artifact, Imported
from app.settings import get_settings
from app.specs import FilterTable
from app.store import imports
from app.transfer.scratch import scratch_engine
from app.transfer.source import server_name


def test_every_row_comes_over_as_it_was(store: str, other: Home) -> None:
    report = brought(other.db)
    mine = sums()
    with at_home(other.folder):
        assert sums() == mine
    assert (report.new["job"], report.new["episode"], report.exit_code) == (2, 4, 0)
    assert report.new["artifact"] == mine["artifact"][0] > 0


def test_artifacts_come_with_their_bytes(store: str, other: Home) -> None:
    brought(other.db)
    with db.reading() as session:
        found = session.get(Artifact, job(other.filter_id).summary["artifact"])  # type: ignore[index]
        assert found is not None
        copied = artifacts.read_artifact(found)
    with at_home(other.folder):
        assert copied == bytes_of(job(other.filter_id), "dataset")


def test_the_same_filter_gives_the_same_lines_from_the_imported_store(store: str, other: Home) -> None:
    brought(other.db)
    again = run_spec(filter_tables(jobs=[other.eval_id]))
    assert again.state == "succeeded", again.reason
    mine = bytes_of(again, "dataset")
    with at_home(other.folder):
        assert mine == bytes_of(job(other.filter_id), "dataset")


def test_a_second_import_adds_nothing(store: str, other: Home) -> None:
    brought(other.db)
    before = counts()
    report = brought(other.db)
    assert counts() == before
    assert (dict(report.new), report.same["job"]) == ({}, 2)


def test_a_dry_run_tells_the_same_and_changes_nothing(store: str, other: Home) -> None:
    before = counts()
    looked = brought(other.db, dry_run=True)
    assert counts() == before
    assert dict(looked.new) == dict(brought(other.db).new)


def test_a_dry_run_makes_no_database(own_home: Path, other: Home) -> None:
    assert brought(other.db, dry_run=True).new["job"] == 2
    assert not (own_home / "synthq.db").exists()


def test_scores_and_labels_given_later_make_no_conflict(store: str, other: Home) -> None:
    brought(other.db)
    write("UPDATE episode SET scores = '{\"judge\": 0.5}'")
    write('UPDATE job SET labels = \'{"keep": "true"}\'')
    assert brought(other.db).exit_code == 0


def test_other_content_under_the_same_id_is_refused_and_nothing_of_it_is_written(store: str, other: Home) -> None:
    brought(other.db)
    with other.sql() as source:
        source.execute("UPDATE turn SET detail = 'told otherwise' WHERE rowid = (SELECT min(rowid) FROM turn)")
    before = sums()
    report = brought(other.db)
    assert sums() == before
    assert (report.conflicts, report.exit_code, report.same["job"]) == (1, 5, 1)
    assert f"job {other.eval_id} is here with other content" in report.problems[0]
    assert "'turn'" in report.problems[0]


def test_an_id_that_another_job_has_is_a_conflict(store: str, other: Home) -> None:
    run_spec(eval_tables(seeds="5", policies=["random"], max_turns=2))
    with other.sql() as source, db.reading() as session:
        mine = session.connection().exec_driver_sql("SELECT id FROM episode").scalar_one()
        theirs = source.execute("SELECT id FROM episode ORDER BY id LIMIT 1").fetchone()[0]
        source.execute("PRAGMA foreign_keys = OFF")
        source.execute("UPDATE episode SET id = ? WHERE id = ?", (mine, theirs))
        source.execute("UPDATE turn SET episode_id = ? WHERE episode_id = ?", (mine, theirs))
    report = brought(other.db)
    assert (report.conflicts, report.new["job"]) == (1, 1)
    assert counts()["job"] == 2, "the other job of the source came all the same"


def test_jobs_that_have_not_ended_stay_behind(store: str, other: Home) -> None:
    with other.sql() as source:
        source.execute("UPDATE job SET state = 'running' WHERE id = ?", (other.filter_id,))
    report = brought(other.db)
    assert report.left["job that has not ended"] == 1
    assert counts()["job"] == 1


def test_a_damaged_frame_keeps_its_job_out(store: str, other: Home) -> None:
    with other.sql() as source:
        source.execute("UPDATE frame SET png = CAST(png || x'00' AS BLOB) WHERE sha256 = (SELECT min(sha256) FROM frame)")
    report = brought(other.db)
    assert (report.damaged, report.exit_code, counts()["episode"]) == (1, 1, 0)
    assert "sha256" in report.problems[0]


DAMAGES = {
    "a turn in the middle is missing": ('DELETE FROM turn WHERE episode_id = :id AND "index" = 1', "lacks its turn 1"),
    "the last turn is missing": (
        'DELETE FROM turn WHERE episode_id = :id AND "index" = (SELECT max("index") FROM turn WHERE episode_id = :id)',
        "is to have 8 turns, and its store holds 7",
    ),
    "every turn is missing": ("DELETE FROM turn WHERE episode_id = :id", "is to have 8 turns, and its store holds 0"),
    "a turn was changed": (
        'UPDATE turn SET actions = \'["sleep"]\' WHERE episode_id = :id AND "index" = 2',
        "and its turns give .*: one of them was changed",
    ),
    "a turn cannot be read": (
        "UPDATE turn SET rewards = '{' WHERE episode_id = :id AND \"index\" = 2",
        "has in its column rewards what cannot be read",
    ),
    "the hash is gone": ("UPDATE episode SET sha256 = NULL WHERE id = :id", "has the hash None, and its turns give"),
    "returns": ("UPDATE episode SET returns = '{\"unlocked\":99.0}' WHERE id = :id", "has returns .*99"),
    "outcomes": ("UPDATE episode SET outcomes = '{\"ok\":1}' WHERE id = :id", "has outcomes {ok: 1}, and its turns give {ok: 8}"),
    "achievements": (
        "UPDATE episode SET achievements = '{\"collect_diamond\":3}', unlocked = 1 WHERE id = :id",
        r"names the achievements \[collect_diamond\], and its turns unlock",
    ),
    "unlocked": ("UPDATE episode SET unlocked = 22 WHERE id = :id", "counts 22 achievements, and names"),
    "turn count": ("UPDATE episode SET turns = 9 WHERE id = :id", "is to have 9 turns, and its store holds 8"),
}


def spoil_episode(home: Home, statement: str) -> str:
    """Damage one episode of a store; gives its id."""
    with home.sql() as source:
        (id,) = source.execute("SELECT id FROM episode WHERE policy = 'scripted' ORDER BY id LIMIT 1").fetchone()
        assert source.execute(statement, {"id": id}).rowcount > 0
    return str(id)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_episode_is_left_out_and_the_others_come(sqlite_store: str, other: Home, damage: str) -> None:
    statement, why = DAMAGES[damage]
    spoiled = spoil_episode(other, statement)
    looked = brought(other.db, dry_run=True)
    report = brought(other.db)
    assert (report.damaged, report.exit_code, report.new["episode"], report.new["turn"]) == (1, 1, 3, 24)
    assert dict(looked.new) == dict(report.new)
    assert looked.problems == report.problems
    assert re.fullmatch(rf".*episode {spoiled} of job {other.eval_id} .*{why}.*; the episode was left out", report.problems[0])
    with db.reading() as session:
        ids = set(session.connection().exec_driver_sql("SELECT id FROM episode").scalars())
    assert len(ids) == 3
    assert spoiled not in ids
    again = brought(other.db)
    assert (again.damaged, again.conflicts, again.same["job"], dict(again.new)) == (1, 0, 2, {})


def test_an_episode_that_was_damaged_later_does_not_touch_the_one_that_came_whole(store: str, other: Home) -> None:
    brought(other.db)
    before = sums()
    spoil_episode(other, DAMAGES["a turn was changed"][0])
    assert (brought(other.db).damaged, brought(other.db).conflicts) == (1, 0)
    assert sums() == before


def test_frames_that_only_a_damaged_episode_shows_stay_behind(store: str, other: Home) -> None:
    spoiled = spoil_episode(other, DAMAGES["the hash is gone"][0])
    brought(other.db)
    with other.sql() as source:
        shown = "SELECT frame FROM turn WHERE episode_id {0} ? UNION SELECT last_frame FROM episode WHERE id {0} ?"
        of_others = {row[0] for row in source.execute(shown.format("<>"), (spoiled, spoiled))}
        of_it = {row[0] for row in source.execute(shown.format("="), (spoiled, spoiled))}
    with db.reading() as session:
        assert set(session.connection().exec_driver_sql("SELECT sha256 FROM frame").scalars()) == of_others
    assert of_it - of_others


def move_to(home: Home, revision: str) -> None:
    """Bring a store to an older revision, as a synthq of that time would have filled it."""
    with scratch_engine(home.db) as engine, engine.begin() as connection:
        made = migrate.config()
        made.attributes["connection"] = connection
        command.downgrade(made, revision)


@pytest.mark.parametrize("revision", ["0001", "0003"])
def test_what_a_migration_would_hash_anew_is_checked_against_the_hash_of_its_time(
    sqlite_store: str, other: Home, revision: str
) -> None:
    move_to(other, revision)
    spoiled = spoil_episode(other, "UPDATE turn SET messages = '[]' WHERE episode_id = :id AND \"index\" = 2")
    report = brought(other.db)
    assert (report.damaged, report.new["episode"]) == (1, 3)
    assert spoiled in report.problems[0]


@pytest.mark.parametrize("revision", ["0001", "0003"])
def test_whole_episodes_of_an_older_version_all_come(sqlite_store: str, other: Home, revision: str) -> None:
    move_to(other, revision)
    report = brought(other.db)
    assert (report.exit_code, report.new["episode"]) == (0, 4)


def test_a_session_of_tracing_v3_goes_on_from_store_to_store(store: str, own_home: Path, tmp_path: Path) -> None:
    """Its source told a total and achievements that no turn of it tells of."""
    v3 = Writer(tmp_path / "their_traces.db")
    shown = (user(picture(png())), assistant(call("move_left", "do")))
    v3.session("a", [shown, shown], unlocked={2: ["collect_wood"]}, total=7)
    v3.sql("UPDATE outcome_rewards SET reward_metadata = ?", json.dumps({"final_achievements": ["collect_wood", "wake_up"]}))
    with at_home(tmp_path / "between") as folder:
        brought(v3.path)
    report = brought(folder / "synthq.db")
    assert (report.exit_code, report.new["episode"], report.new["turn"]) == (0, 1, 2)


def test_a_dry_run_counts_what_jobs_share_once(store: str, other: Home, tmp_path: Path) -> None:
    with at_home(other.folder):
        run_spec(eval_tables(seeds="0-1", max_turns=8))
    looked = brought(other.db, dry_run=True)
    assert looked.new["frame"] == counts_of(other, "frame")
    report = brought(other.db)
    assert dict(looked.new) == dict(report.new)
    assert report.new["frame"] == counts()["frame"]


def counts_of(home: Home, table: str) -> int:
    """Rows of a table of a store, by the driver alone."""
    with home.sql() as source:
        return int(source.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


# -- the files of artifacts --------------------------------------------------------------------------------------------------


def planted(home: Home, path: str, data: bytes) -> None:
    """Let one artifact of a store have these bytes under this path, with their right hash."""
    file = home.folder / "artifacts" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    with home.sql() as source:
        source.execute(
            "UPDATE artifact SET path = ?, sha256 = ?, bytes = ? WHERE id = (SELECT id FROM artifact WHERE job_id = ? LIMIT 1)",
            (path, hashlib.sha256(data).hexdigest(), len(data), home.filter_id),
        )


def test_an_artifact_that_names_another_jobs_file_does_not_overwrite_it(store: str, other: Home) -> None:
    mine = run_spec(filter_tables(jobs=[run_spec(eval_tables(seeds="3", max_turns=4)).id]))
    with db.reading() as session:
        path = session.scalars(select(Artifact.path).where(Artifact.job_id == mine.id)).first()
    here = Path(get_settings().artifacts) / str(path)
    before = here.read_bytes()
    planted(other, str(path), b"planted")
    report = brought(other.db)
    assert here.read_bytes() == before
    assert (report.damaged, report.jobs) == (1, [other.eval_id])
    assert f"names the file {str(path)!r}, which is not its own; its job was not imported" in report.problems[0]


def test_a_file_that_is_here_with_other_bytes_is_not_replaced(store: str, other: Home) -> None:
    with other.sql() as source:
        (path,) = source.execute("SELECT path FROM artifact WHERE job_id = ? LIMIT 1", (other.filter_id,)).fetchone()
    here = Path(get_settings().artifacts) / path
    here.parent.mkdir(parents=True)
    here.write_bytes(b"other bytes")
    report = brought(other.db)
    assert here.read_bytes() == b"other bytes"
    assert (report.conflicts, report.jobs) == (1, [other.eval_id])
    assert f"has its file {path} here with other bytes" in report.problems[0]


def test_a_dry_run_looks_at_artifacts_too(store: str, other: Home) -> None:
    next(path for path in (other.folder / "artifacts" / other.filter_id).iterdir()).unlink()
    looked = brought(other.db, dry_run=True)
    assert not Path(get_settings().artifacts).exists()
    report = brought(other.db)
    assert (dict(looked.new), dict(looked.left)) == (dict(report.new), dict(report.left))
    assert sum(report.left.values()) == 1


def test_artifacts_whose_bytes_cannot_be_reached_are_counted_and_come_later(store: str, other: Home, tmp_path: Path) -> None:
    alone = shutil.copy(other.db, tmp_path / "alone.db")
    report = brought(alone)
    assert (report.new["artifact"], counts()["artifact"]) == (0, 0)
    assert sum(report.left.values()) > 0
    assert brought(alone, artifact_root=str(other.folder / "artifacts")).new["artifact"] == counts()["artifact"] > 0


def test_a_postgres_store_of_an_older_version_comes_over(sqlite_store: str, other: Home, postgres_databases) -> None:  # type: ignore[no-untyped-def]
    url = postgres_databases(None)
    with use_settings(SYNTHQ_DATABASE_URL=url):
        brought(other.db)
        there = sums() | dict.fromkeys(("metric", "model_use", "adapter_version"), (0, 0))  # tables that it did not have
        with db.engine().begin() as connection:
            made = migrate.config()
            made.attributes["connection"] = connection
            command.downgrade(made, "0002")
    assert brought(url, artifact_root=str(other.folder / "artifacts")).exit_code == 0
    assert sums() == there


def test_a_store_of_the_first_release_comes_over(store: str, other: Home) -> None:
    with other.sql() as source:
        for column in ("scores", "task_id", "split", "start", "start_of"):
            source.execute(f"ALTER TABLE episode DROP COLUMN {column}")
        if "stored_at" in [row[1] for row in source.execute("PRAGMA table_info(frame)")]:
            source.execute("ALTER TABLE frame DROP COLUMN stored_at")
        source.execute("ALTER TABLE step DROP COLUMN needs")
        for table in ("spend", "imported", "metric", "endpoint", "model_use", "adapter_version", "adapter_hold"):
            source.execute(f"DROP TABLE {table}")
        source.execute("UPDATE alembic_version SET version_num = '0001'")
    assert brought(other.db).exit_code == 0
    mine = sums()
    with at_home(other.folder):
        migrate.upgrade()
        assert sums() == mine


def test_the_source_is_not_changed_and_nothing_is_left_beside_it(sqlite_store: str, other: Home) -> None:
    def seen() -> dict[str, str]:
        return {
            str(path.relative_to(other.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(other.folder.rglob("*"))
            if path.is_file()
        }

    before = seen()
    brought(other.db)
    assert seen() == before


@pytest.mark.parametrize("with_index", [False, True], ids=["log alone", "log and index"])
def test_what_is_only_in_the_log_beside_the_file_is_read(
    sqlite_store: str, other: Home, tmp_path: Path, with_index: bool
) -> None:
    with closing(sqlite3.connect(other.db)) as open_one:
        open_one.execute("PRAGMA wal_autocheckpoint = 0")
        open_one.execute("UPDATE job SET name = 'only in the log' WHERE id = ?", (other.eval_id,))
        open_one.commit()
        folder = tmp_path / "copied"
        folder.mkdir()
        for suffix in ("", "-wal", *(["-shm"] if with_index else [])):
            shutil.copy(f"{other.db}{suffix}", folder)
    brought(folder / "synthq.db")
    assert job(other.eval_id).name == "only in the log"
    assert sorted(path.name for path in folder.iterdir())[:2] == [
        "synthq.db",
        *(["synthq.db-shm"] if with_index else ["synthq.db-wal"]),
    ]


def test_several_stores_become_one(store: str, other: Home, tmp_path: Path) -> None:
    with at_home(tmp_path / "second"):
        migrate.upgrade()
        second = run_spec(eval_tables(seeds="7", policies=["random"], max_turns=3))
    brought(other.db, tmp_path / "second" / "synthq.db")
    assert counts()["job"] == 3
    assert job(second.id).state == "succeeded"


def test_postgres_is_a_source_too(sqlite_store: str, other: Home, postgres_databases, postgres_template: str) -> None:  # type: ignore[no-untyped-def]
    url = postgres_databases(postgres_template)
    with use_settings(SYNTHQ_DATABASE_URL=url):
        brought(other.db)
        there = sums()
    report = brought(url, artifact_root=str(other.folder / "artifacts"))
    assert report.exit_code == 0
    assert sums() == there
    assert report.name.startswith("postgresql://")
    assert said(report.name) == report.name


def test_the_address_of_a_server_is_named_without_its_password() -> None:
    url = make_url("postgresql+psycopg://reader:secret@host:5433/traces?sslmode=require")
    assert server_name(url) == said(server_name(url)) == "postgresql://reader@host:5433/traces"


# -- by what name ------------------------------------------------------------------------------------------------------------


def said(name: str) -> str:
    """What a filter reads in a name."""
    return FilterTable.model_validate({"db": name}).db


def test_a_name_stands_for_the_jobs_that_came_under_it(store: str, other: Home) -> None:
    brought(other.db, name="teacher.db")
    with db.reading() as session:
        assert set(imports.jobs_of(session, "teacher.db")) == {other.eval_id, other.filter_id}
        with pytest.raises(ImportNotFound, match=r"teachr.*did you mean 'teacher.db'.*synthq traces import"):
            imports.jobs_of(session, "teachr.db")


@pytest.mark.parametrize("name", ["a/b", "a\\b", "store", "what?", "a#b", "sqlite:a", " a", "", "a\nb", "a" * 201])
def test_a_name_that_no_filter_could_say_is_refused(own_home: Path, other: Home, name: str) -> None:
    with pytest.raises(BadFlag, match=r"--name .* filter\.db"):
        brought(other.db, name=name)
    assert list(own_home.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("synthq.db", "synthq.db"),
        ("traces (1).db", "traces (1).db"),
        ("a#b.db", "a#b.db"),
        ("what?.db", "what_.db"),
        ("a\\b.db", "a_b.db"),
        ("store", "store.db"),
        ("file:a.db", "file_a.db"),
    ],
)
def test_the_name_of_a_file_becomes_one_that_a_filter_can_say(sqlite_store: str, other: Home, file: str, name: str) -> None:
    renamed = other.db.rename(other.folder / file)
    report = brought(renamed)
    assert (report.name, said(report.name)) == (name, name)
    assert bool(report.notes) == (file != name)
    again = run_spec(filter_tables(jobs=[other.eval_id], db=report.name))
    assert again.state == "succeeded", again.reason


def test_a_removed_job_is_no_longer_named(store: str, other: Home) -> None:
    brought(other.db)
    write("DELETE FROM job WHERE id = :id", id=other.filter_id)
    with db.reading() as session:
        assert imports.jobs_of(session, "synthq.db") == [other.eval_id]


def test_two_sources_of_one_name_are_told(store: str, other: Home, tmp_path: Path) -> None:
    with at_home(tmp_path / "second"):
        migrate.upgrade()
        run_spec(eval_tables(seeds="7", policies=["random"], max_turns=3))
    assert not brought(other.db).notes
    assert "another source came in under the name 'synthq.db'" in brought(tmp_path / "second" / "synthq.db").notes[0]


def test_the_import_is_on_record(store: str, other: Home) -> None:
    brought(other.db)
    with db.reading() as session:
        (row,) = session.scalars(select(Imported))
        assert (row.name, row.form, row.counts["job"]) == ("synthq.db", "synthq", 2)
        assert row.sha256 == hashlib.sha256(other.db.read_bytes()).hexdigest()


# -- what is no source -------------------------------------------------------------------------------------------------------


def spoil_nothing_there(home: Home) -> Path:
    return home.folder / "typo.db"


def spoil_text(home: Home) -> Path:
    home.db.write_text("traces, so many traces\n")
    return home.db


def spoil_empty_file(home: Home) -> Path:
    home.db.write_bytes(b"")
    return home.db


def spoil_folder(home: Home) -> Path:
    return home.folder


def spoil_cut(home: Home) -> Path:
    os.truncate(home.db, home.db.stat().st_size // 2)
    return home.db


def spoil_cut_in_header(home: Home) -> Path:
    os.truncate(home.db, 60)
    return home.db


def spoil_other_tables(home: Home) -> Path:
    made = home.folder / "cats.db"
    with closing(sqlite3.connect(made)) as connection:
        connection.execute("CREATE TABLE cats (name)")
    return made


def spoil_newer(home: Home) -> Path:
    with home.sql() as source:
        source.execute("UPDATE alembic_version SET version_num = '9999'")
    return home.db


def spoil_no_traces(home: Home) -> Path:
    with home.sql() as source:
        source.execute("DELETE FROM episode")
    return home.db


@pytest.mark.parametrize(
    ("spoil", "error", "sentence"),
    [
        (spoil_nothing_there, SourceNotFound, r"there is no file .*typo\.db"),
        (spoil_text, BadSource, "is no SQLite database: it begins with b'traces"),
        (spoil_empty_file, BadSource, r"is empty \(0 bytes\)"),
        (spoil_folder, BadSource, "is a folder"),
        (spoil_cut, BadSource, "is cut short: its header tells of"),
        (spoil_cut_in_header, BadSource, "is cut short: a SQLite database has a header of 100 bytes"),
        (spoil_other_tables, BadSource, r"neither synthq's tables nor those of tracing v3 \(tables: cats\)"),
        (spoil_newer, BadSource, "revision 9999, which this synthq does not know; use a newer synthq"),
        (spoil_no_traces, BadSource, "has no traces of jobs that have ended"),
    ],
)
def test_what_cannot_be_read_is_told_and_creates_nothing(own_home, other, spoil, error, sentence) -> None:  # type: ignore[no-untyped-def]
    before = sorted(own_home.rglob("*"))
    place = spoil(other)
    around = sorted(path.name for path in other.folder.iterdir())
    with pytest.raises(error, match=sentence) as raised:
        brought(place)
    assert raised.value.exit_code in (2, 3)
    assert sorted(own_home.rglob("*")) == before
    assert sorted(path.name for path in other.folder.iterdir()) == around


def test_one_bad_source_of_several_keeps_all_out(store: str, other: Home) -> None:
    with pytest.raises(SourceNotFound):
        brought(other.db, other.folder / "typo.db")
    assert counts()["job"] == 0


def test_a_store_is_not_brought_into_itself(store: str, own_home: Path) -> None:
    where = get_settings().database
    with pytest.raises(BadSource, match="is this store itself"):
        brought(where)


def test_a_locked_source_is_told(sqlite_store: str, other: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.transfer.source.LOCKED_S", 0.05)
    with closing(sqlite3.connect(other.db, isolation_level=None)) as holder:
        holder.execute("PRAGMA journal_mode = DELETE")
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BadSource, match="is locked by another program"):
            brought(other.db)


def test_a_page_that_is_damaged_is_told_as_the_sources_fault(sqlite_store: str, other: Home) -> None:
    with other.db.open("r+b") as file:
        size = other.db.stat().st_size
        for at in range(4096 * 20, size, 4096):
            file.seek(at)
            file.write(b"\xff" * 64)
    with pytest.raises(BadSource, match=r"cannot be read as a database \(.*malformed"):
        brought(other.db)


def test_one_name_for_several_sources_is_refused(store: str, other: Home) -> None:
    with pytest.raises(BadFlag, match="--name x goes with one source"):
        brought(other.db, other.db, name="x")


def test_the_report_is_one_json_object(store: str, other: Home, capsys: pytest.CaptureFixture[str]) -> None:
    brought(other.db, json=True)
    (told,) = json.loads(capsys.readouterr().out)["sources"]
    assert (told["form"], told["new"]["job"], told["problems"]) == ("synthq", 2, [])
