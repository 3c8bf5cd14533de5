"""Another synthq store is brought in as it is, once, wholly or not at all, and is not changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from core.kit import job, use_settings, write
from data.flow import at_home, bytes_of, eval_tables, filter_tables, run_spec
from sqlmodel import select
from stores.store_kit import Home, brought, counts, sums

from app import artifacts, db, migrate
from app.errors import BadFlag, BadSource, ImportNotFound, SourceNotFound
from app.models import Artifact, Imported
from app.settings import get_settings
from app.store import imports


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
        source.execute("UPDATE turn SET actions = '[\"sleep\"]' WHERE rowid = (SELECT min(rowid) FROM turn)")
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
        there = sums()
        with db.engine().begin() as connection:
            made = migrate.config()
            made.attributes["connection"] = connection
            command.downgrade(made, "0002")
    assert brought(url, artifact_root=str(other.folder / "artifacts")).exit_code == 0
    assert sums() == there


def test_a_store_of_the_first_release_comes_over(store: str, other: Home) -> None:
    with other.sql() as source:
        for column in ("scores", "task_id", "split"):
            source.execute(f"ALTER TABLE episode DROP COLUMN {column}")
        if "stored_at" in [row[1] for row in source.execute("PRAGMA table_info(frame)")]:
            source.execute("ALTER TABLE frame DROP COLUMN stored_at")
        source.execute("DROP TABLE spend")
        source.execute("DROP TABLE imported")
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


# -- by what name ------------------------------------------------------------------------------------------------------------


def test_a_name_stands_for_the_jobs_that_came_under_it(store: str, other: Home) -> None:
    brought(other.db, name="teacher.db")
    with db.reading() as session:
        assert set(imports.jobs_of(session, "teacher.db")) == {other.eval_id, other.filter_id}
        with pytest.raises(ImportNotFound, match=r"teachr.*did you mean 'teacher.db'.*synthq traces import"):
            imports.jobs_of(session, "teachr.db")


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
