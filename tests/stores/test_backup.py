"""A backup is the store as of one moment, in one checked file, and comes back into either database."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import threading
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from core.kit import job, steps, submit_noop, use_settings, write
from data.flow import bytes_of
from stores.store_kit import CONTENT, Home, brought, counts, sums

from app import db, heartbeat, migrate
from app.backup import __main__ as verbs
from app.backup.bring_back import restore
from app.backup.save import save
from app.claims import claim, release_expired
from app.errors import BadFlag, BadSource, Conflict, SourceNotFound, StoreUnavailable
from app.models import Queue
from app.settings import get_settings
from app.store import events
from app.transfer.source import opened


def ready(own_home: Path, kind: str, databases: Callable[[str | None], str], template: str, place: str) -> dict[str, str]:
    """Settings of a store of a kind that does not exist yet, in a home of its own."""
    home = own_home / place
    url = databases(None) if kind == "postgres" else ""
    return {"SYNTHQ_HOME": str(home), "SYNTHQ_DATABASE_URL": url}


@pytest.mark.parametrize("to", ["sqlite", "postgres"])
def test_everything_comes_back_into_either_database(
    store: str, to: str, own_home: Path, other: Home, postgres_databases: Callable[[str | None], str], postgres_template: str
) -> None:
    brought(other.db)
    waiting = submit_noop(2)
    before = sums()
    saved = own_home / "saved.backup"
    manifest = save(saved, with_artifacts=True, overwrite=False)
    assert manifest["missing"] == []
    with use_settings(**ready(own_home, to, postgres_databases, postgres_template, "new")):
        done = restore(saved, replace=False)
        assert sums() == before
        assert (done["jobs"], done["unfinished_jobs"], done["kept"]) == (3, 1, None)
        assert bytes_of(job(other.filter_id), "dataset"), "the artifact's bytes, checked against its row"
        assert migrate.current() == migrate.head()
        another = submit_noop()  # ids that the database gives by itself go on behind those that came
        assert {step.job_id for step in steps(another.id)} == {another.id}
    assert job(waiting.id).state == "queued"


def test_a_backup_is_one_sqlite_database_that_others_can_read(store: str, own_home: Path, other: Home, tmp_path: Path) -> None:
    brought(other.db)
    saved = own_home / "saved.backup"
    save(saved, with_artifacts=False, overwrite=False)
    with zipfile.ZipFile(saved) as file:
        assert sorted(file.namelist()) == ["manifest.json", "store.db"]
        file.extract("store.db", tmp_path)
    with opened(str(tmp_path / "store.db")) as source:
        assert source.form == "synthq"


def test_a_backup_taken_while_others_write_is_of_one_moment(store: str, own_home: Path) -> None:
    job_id, stop, wrote = submit_noop().id, threading.Event(), threading.Event()

    def write_on() -> None:
        while not stop.is_set():
            with db.writing() as session:  # two tables in each transaction: torn apart, they would not agree
                events.append(session, job_id, "test.tick", "tick " * 200)
            wrote.set()

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        assert wrote.wait(10)
        for number in range(3):
            save(own_home / f"{number}.backup", with_artifacts=False, overwrite=False)
    finally:
        stop.set()
        writer.join()
    seen = []
    for number in range(3):
        with zipfile.ZipFile(own_home / f"{number}.backup") as file:
            file.extract("store.db", own_home / str(number))
        with closing(sqlite3.connect(own_home / str(number) / "store.db")) as copy:
            (told,) = copy.execute("SELECT event_seq FROM job").fetchone()
            (there, last) = copy.execute("SELECT count(*), max(seq) FROM job_event").fetchone()
            assert told == there == last
            seen.append(told)
    assert seen == sorted(set(seen)), f"the writer wrote between the backups: {seen}"


def test_steps_that_ran_can_be_claimed_again(store: str, own_home: Path) -> None:
    submitted = submit_noop()
    assert claim(Queue.ROLLOUT, owner="worker-of-then") or claim(Queue.DATA, owner="worker-of-then")
    write("UPDATE step SET lease_until = lease_until - 1000, progress_at = progress_at - 1000")
    saved = own_home / "saved.backup"
    save(saved, with_artifacts=False, overwrite=False)
    done = restore(saved, replace=True)
    assert (done["unfinished_jobs"], done["running_steps"]) == (1, 1)
    assert job(submitted.id).state == "running"
    assert release_expired() == 1
    assert [step.state for step in steps(submitted.id)] == ["queued"]


def test_processes_of_the_time_of_the_backup_do_not_come_back(store: str, own_home: Path) -> None:
    submit_noop()
    heartbeat.register("worker-of-then", role="rollout", queues=["rollout"], slots=1)
    heartbeat.lead("scheduler", "scheduler-of-then", 0.0)
    saved = own_home / "saved.backup"
    save(saved, with_artifacts=False, overwrite=False)
    heartbeat.stopped("worker-of-then")
    restore(saved, replace=True)
    assert (counts()["worker"], counts()["leader"]) == (0, 0)


# -- what keeps it from being done -------------------------------------------------------------------------------------------


def test_a_store_with_jobs_stays_unless_it_is_to_be_replaced(store: str, own_home: Path) -> None:
    first = submit_noop()
    saved = own_home / "saved.backup"
    save(saved, with_artifacts=False, overwrite=False)
    second = submit_noop()
    with pytest.raises(Conflict, match="has 2 jobs; --replace puts the backup in its place"):
        restore(saved, replace=False)
    assert job(second.id).state == "queued"
    restore(saved, replace=True)
    assert counts()["job"] == 1
    assert job(first.id).state == "queued"


def test_the_sqlite_file_that_was_there_is_kept_whole(sqlite_store: str, own_home: Path) -> None:
    submit_noop()
    saved = own_home / "saved.backup"
    save(saved, with_artifacts=False, overwrite=False)
    second = submit_noop()
    kept = restore(saved, replace=True)["kept"]
    with closing(sqlite3.connect(kept)) as there:
        assert there.execute("SELECT count(*) FROM job WHERE id = ?", (second.id,)).fetchone() == (1,)
    left = {path.name for path in own_home.iterdir() if path.name.startswith(("synthq.db", ".synthq"))}
    assert left - {"synthq.db-wal", "synthq.db-shm"} == {"synthq.db", Path(kept).name}


@pytest.mark.parametrize("who", ["worker", "scheduler"])
def test_nothing_is_restored_under_processes_that_are_alive(store: str, own_home: Path, who: str) -> None:
    submit_noop()
    saved = own_home / "saved.backup"
    save(saved, with_artifacts=False, overwrite=False)
    if who == "worker":
        heartbeat.register("busy-bee", role="rollout", queues=["rollout"], slots=1)
    else:
        assert heartbeat.lead("scheduler", "busy-bee", 60.0)
    with pytest.raises(Conflict, match=rf"{who} busy-bee is alive; end synthq first"):
        restore(saved, replace=True)
    assert counts()["job"] == 1


def test_a_sqlite_file_that_another_program_holds_is_not_swapped(sqlite_store: str, own_home: Path) -> None:
    submit_noop()
    saved = own_home / "saved.backup"
    save(saved, with_artifacts=False, overwrite=False)
    with closing(sqlite3.connect(own_home / "synthq.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM job").fetchone()
        with pytest.raises(Conflict, match=r"another program has .* open"):
            restore(saved, replace=True)
    assert counts()["job"] == 1


def spoil_byte(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        at = file.getinfo("store.db").header_offset + 200
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def spoil_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def spoil_text(path: Path) -> None:
    path.write_text("no backup at all")


def rewrite(path: Path, change: Callable[[dict], None], database: bytes | None = None) -> None:  # type: ignore[type-arg]
    with zipfile.ZipFile(path) as file:
        manifest, data = json.loads(file.read("manifest.json")), file.read("store.db")
    change(manifest)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("store.db", database or data)
        file.writestr("manifest.json", json.dumps(manifest))


def spoil_part(path: Path) -> None:
    rewrite(path, lambda manifest: None, database=b"another database")


def spoil_form(path: Path) -> None:
    rewrite(path, lambda manifest: manifest.update(form=99))


def spoil_manifest(path: Path) -> None:
    rewrite(path, lambda manifest: manifest.clear())


def spoil_name(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("spoil", "error", "sentence"),
    [
        (spoil_name, SourceNotFound, "there is no file"),
        (spoil_text, BadSource, "is no backup, or it is cut short"),
        (spoil_cut, BadSource, "is no backup, or it is cut short"),
        (spoil_byte, BadSource, "is damaged: its part store.db"),
        (spoil_part, BadSource, "its part store.db has 16 bytes with sha256"),
        (spoil_form, BadSource, "is a backup of the form 99, and this synthq reads 1; use a newer synthq"),
        (spoil_manifest, BadSource, "has no manifest that can be read"),
    ],
)
def test_a_damaged_backup_is_refused_before_anything_is_touched(store, own_home, spoil, error, sentence) -> None:  # type: ignore[no-untyped-def]
    submit_noop()
    saved = own_home / "saved.backup"
    save(saved, with_artifacts=False, overwrite=False)
    before = sums()
    spoil(saved)
    with pytest.raises(error, match=sentence):
        restore(saved, replace=True)
    assert sums() == before


def test_a_backup_of_a_newer_synthq_is_refused(sqlite_store: str, own_home: Path) -> None:
    submit_noop()
    saved = own_home / "saved.backup"
    save(saved, with_artifacts=False, overwrite=False)
    with zipfile.ZipFile(saved) as file:
        file.extract("store.db", own_home / "newer")
    copy = own_home / "newer" / "store.db"
    with closing(sqlite3.connect(copy)) as changed:
        changed.execute("UPDATE alembic_version SET version_num = '9999'")
        changed.commit()
    part = {"name": "store.db", "bytes": copy.stat().st_size, "sha256": hashlib.sha256(copy.read_bytes()).hexdigest()}
    rewrite(saved, lambda manifest: manifest.update(parts=[part]), database=copy.read_bytes())
    with pytest.raises(BadSource, match="is of revision 9999, which this synthq does not know"):
        restore(saved, replace=True)
    assert counts()["job"] == 1


def test_a_file_that_is_there_is_not_overwritten_unasked(store: str, own_home: Path) -> None:
    saved = own_home / "saved.backup"
    saved.write_text("precious")
    with pytest.raises(Conflict, match="is there already; --overwrite takes its place"):
        save(saved, with_artifacts=False, overwrite=False)
    assert saved.read_text() == "precious"
    save(saved, with_artifacts=False, overwrite=True)
    assert zipfile.is_zipfile(saved)
    assert not [path for path in own_home.iterdir() if path.name.startswith(".")], "no draft is left"


def test_saving_a_store_that_is_not_there_creates_nothing(own_home: Path) -> None:
    with pytest.raises(StoreUnavailable, match="there is no store at"):
        save(own_home / "saved.backup", with_artifacts=False, overwrite=False)
    assert list(own_home.iterdir()) == []


def test_an_artifact_whose_bytes_are_gone_is_told(store: str, own_home: Path, other: Home) -> None:
    brought(other.db)
    shutil.rmtree(get_settings().artifacts)
    manifest = save(own_home / "saved.backup", with_artifacts=True, overwrite=False)
    assert len(manifest["missing"]) == counts()["artifact"] > 0


def stored_file(home: Home) -> Path:
    """The file of an artifact of the present store, which the home's jobs came into."""
    with home.sql() as there:
        (path,) = there.execute("SELECT path FROM artifact ORDER BY id LIMIT 1").fetchone()
    return Path(get_settings().artifacts) / path


def test_damaged_bytes_of_an_artifact_do_not_go_into_a_backup(store: str, own_home: Path, other: Home) -> None:
    brought(other.db)
    stored_file(other).write_bytes(b"spoiled")
    saved = own_home / "saved.backup"
    assert len(save(saved, with_artifacts=True, overwrite=False)["missing"]) == 1
    with zipfile.ZipFile(saved) as file:
        names = file.namelist()
    assert not [name for name in names if name.endswith(stored_file(other).name)]
    assert len([name for name in names if name.startswith("artifacts/")]) == counts()["artifact"] - 1 > 0


def add_part(path: Path, name: str, data: bytes, *, times: int = 1) -> None:
    """Put one more part into a backup, listed with its right hash; a part of that name is replaced."""
    with zipfile.ZipFile(path) as file:
        held = {each: file.read(each) for each in file.namelist() if each != name}
    manifest = json.loads(held.pop("manifest.json"))
    part = {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest["parts"] = [each for each in manifest["parts"] if each["name"] != name] + [part] * times
    with zipfile.ZipFile(path, "w") as file:
        for each, content in {**held, name: data}.items():
            file.writestr(each, content)
        file.writestr("manifest.json", json.dumps(manifest))


def test_an_intact_file_is_not_overwritten_with_damaged_bytes_of_a_backup(
    store: str, own_home: Path, other: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    brought(other.db)
    saved = own_home / "saved.backup"
    save(saved, with_artifacts=True, overwrite=False)
    here = stored_file(other)
    intact, path = here.read_bytes(), f"{here.parent.name}/{here.name}"
    add_part(saved, f"artifacts/{path}", b"spoiled")
    assert verbs.main(["restore", "--replace", str(saved)]) == 0
    assert here.read_bytes() == intact
    assert f"the backup's bytes of {path} are not those that its row tells of" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "artifacts/../../../../x",
        "artifacts/../x",
        "artifacts/job_1/../../x",
        "artifacts//etc/x",
        "artifacts//x",
        "artifacts/job_1",
        "artifacts/job_1/a/b",
        "artifacts/job_1\\..\\..\\x",
        "artifacts/C:/x",
        "artifacts/job_1/.hidden",
        "/etc/x",
        "../x",
        "C:\\x",
        "x",
    ],
)
def test_a_part_whose_name_leads_elsewhere_is_refused_before_anything_is_touched(
    sqlite_store: str, own_home: Path, name: str
) -> None:
    submit_noop()
    saved = own_home / "saved.backup"
    save(saved, with_artifacts=True, overwrite=False)
    add_part(saved, name, b"planted")
    before, around = sums(), sorted(own_home.rglob("*"))
    with pytest.raises(BadSource, match=r"it has a part named .*, and a part is store.db or artifacts/FOLDER/FILE"):
        restore(saved, replace=True)
    assert sums() == before
    assert sorted(own_home.rglob("*")) == around
    planted = Path(get_settings().artifacts) / name.removeprefix("artifacts/")
    assert not planted.exists() or planted.stat().st_mtime < saved.stat().st_mtime, "it was there before"


def test_a_part_that_is_listed_or_stored_twice_is_refused(sqlite_store: str, own_home: Path) -> None:
    submit_noop()
    saved = own_home / "saved.backup"
    save(saved, with_artifacts=False, overwrite=False)
    listed = shutil.copy(saved, own_home / "listed.backup")
    add_part(listed, "artifacts/job_1/x", b"x", times=2)
    with pytest.raises(BadSource, match="its manifest has the part 'artifacts/job_1/x' more than once"):
        restore(listed, replace=True)
    with zipfile.ZipFile(saved, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("store.db", b"another database")
    with pytest.raises(BadSource, match=r"the zip file has the part 'store.db' more than once"):
        restore(saved, replace=True)


def test_a_backup_where_none_can_be_is_refused_by_the_name_that_was_given(sqlite_store: str, own_home: Path) -> None:
    with pytest.raises(BadFlag, match=rf"there is no folder {own_home}/nodir for the backup"):
        save(own_home / "nodir" / "x", with_artifacts=False, overwrite=False)
    with pytest.raises(BadFlag, match=rf"{own_home} is a folder; name a file in it"):
        save(own_home, with_artifacts=False, overwrite=True)


def test_the_verbs_tell_what_they_did(store: str, own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submit_noop()
    saved = str(own_home / "saved.backup")
    assert verbs.main(["backup", "--json", "--", saved]) == 0
    assert json.loads(capsys.readouterr().out)["rows"]["job"] == 1
    assert verbs.main(["restore", saved]) == 5
    assert "--replace puts the backup in its place" in capsys.readouterr().err
    assert verbs.main(["restore", "--replace", saved]) == 0
    told = capsys.readouterr().out
    assert "restored 1 job, 0 episodes, 0 frames into" in told
    assert "1 job had not ended and will go on" in told
    assert set(CONTENT) <= set(counts())
