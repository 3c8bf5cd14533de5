"""Artifacts that are folders: there whole or not at all, known by their content, and at home wherever files are."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from core import kit
from core.kit import use_settings
from data.flow import at_home
from stores.store_kit import Home, brought

from app import artifacts, db, packed, runs
from app.backup.bring_back import restore
from app.backup.save import save
from app.errors import ArtifactDamaged, ArtifactNotFound, BadSource, InvalidInput, Unavailable
from app.fsck import __main__ as fsck
from app.models import Artifact
from app.retention.policy import Policy
from app.retention.prune import Pruner


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A folder with files in it and below."""
    folder = tmp_path / "adapter"
    (folder / "more").mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(os.urandom(3_000_000))
    (folder / "adapter_config.json").write_text('{"r": 8}')
    (folder / "more" / "README.md").write_bytes(b"")
    return folder


def keep(path: Path, job_id: str = "job_1", **more: Any) -> Artifact:
    named = {"step_id": "stp_1", "kind": "adapter", "name": "adapter"} | more
    return artifacts.store_folder(path, job_id=job_id, **named)


def inside(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_kept_as_it_is_and_reads_as_one_stream(own_home: Path, adapter: Path) -> None:
    row = keep(adapter, parents=["job_0"], data={"r": 8})

    found = artifacts.folder_of(row)
    assert found == own_home / "artifacts" / row.path
    assert inside(found) == inside(adapter)
    assert row.path == f"job_1/{row.sha256[:16]}-adapter"
    assert (row.parents, row.data, row.is_folder) == (["job_0"], {"r": 8}, True)
    content = artifacts.read_artifact(row)
    assert (len(content), hashlib.sha256(content).hexdigest()) == (row.bytes, row.sha256)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        assert tar.getnames() == ["adapter_config.json", "adapter_model.safetensors", "more/README.md"]


def test_the_same_files_are_the_same_artifact_whenever_they_were_written(own_home: Path, adapter: Path) -> None:
    first = keep(adapter)
    for path in adapter.rglob("*"):
        os.utime(path, (1, 1))
    (adapter / "adapter_config.json").chmod(0o600)
    second = keep(adapter)

    assert (first.sha256, first.path) == (second.sha256, second.path)
    assert [path.name for path in (own_home / "artifacts" / "job_1").iterdir()] == [first.path.partition("/")[2]]
    (adapter / "adapter_config.json").rename(adapter / "config.json")
    assert keep(adapter).sha256 != first.sha256, "names are content"


def test_a_copy_that_breaks_off_leaves_nothing(own_home: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(packed.os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        keep(adapter)

    assert [path for path in (own_home / "artifacts").rglob("*") if path.is_file()] == []
    assert list(artifacts.stored_files()) == []


def test_a_damaged_folder_is_found_and_made_whole_by_the_step_that_stores_it_again(own_home: Path, adapter: Path) -> None:
    row = keep(adapter)
    found = artifacts.folder_of(row)
    assert found is not None
    for spoil in (
        lambda: (found / "adapter_config.json").write_text('{"r": 9}'),
        lambda: (found / "adapter_config.json").unlink(),
        lambda: (found / "extra.txt").write_text("x"),
        lambda: (found / "link").symlink_to("/etc/passwd"),
    ):
        spoil()
        with pytest.raises(ArtifactDamaged, match=row.id):
            artifacts.open_artifact(row, verify=True)
        keep(adapter)
        artifacts.open_artifact(row, verify=True).close()
        assert inside(found) == inside(adapter)
    artifacts.delete_job("job_1")
    with pytest.raises(ArtifactNotFound):
        artifacts.open_artifact(row)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "link").symlink_to("/etc/passwd"), "is no plain file"),
        (lambda folder: os.mkfifo(folder / "pipe"), "is no plain file"),
        (lambda folder: (folder / ".hidden").write_text("x"), "has a name that not every system takes"),
        (lambda folder: (folder / "a b").write_text("x"), "has a name that not every system takes"),
        (lambda folder: [path.unlink() for path in folder.rglob("*") if path.is_file()], "there is no file in"),
    ],
)
def test_what_cannot_be_kept_is_refused(own_home: Path, adapter: Path, spoil: Any, said: str) -> None:
    spoil(adapter)
    with pytest.raises(InvalidInput, match=said):
        keep(adapter)

    assert not (own_home / "artifacts").exists()


def _tar(name: str, type: bytes = tarfile.REGTYPE) -> bytes:
    packed_as = io.BytesIO()
    with tarfile.open(fileobj=packed_as, mode="w") as tar:
        about = tarfile.TarInfo(name)
        about.type, about.linkname = type, "/etc/passwd"
        tar.addfile(about, io.BytesIO())
    return packed_as.getvalue()


@pytest.mark.parametrize(
    "content",
    [_tar("../x"), _tar("/x"), _tar(".x"), _tar("x", tarfile.SYMTYPE), _tar("x", tarfile.LNKTYPE), b"no tar at all" * 100],
)
def test_bytes_from_elsewhere_reach_nothing_outside_their_folder(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BadSource, match="a packed folder"):
        packed.unpack(io.BytesIO(content), tmp_path / "in")

    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


def test_where_there_is_no_disk_it_is_kept_packed(adapter: Path) -> None:
    with use_settings(SYNTHQ_ARTIFACTS_URL=f"memory://folders-{adapter.parent.name}"):
        row = keep(adapter)

        assert artifacts.folder_of(row) is None
        assert len(artifacts.read_artifact(row)) == row.bytes
        assert [stored.path for stored in artifacts.stored_files()] == [row.path]
    assert keep(adapter).sha256 == row.sha256, "and it is the same artifact"


# -- what works on the whole store -----------------------------------------------------------------------------------------


@pytest.fixture
def with_folder(other: Home, adapter: Path) -> tuple[Home, Artifact]:
    """A played home whose filter job has made an adapter, too."""
    with at_home(other.folder), db.writing() as session:
        row = keep(adapter, other.filter_id)
        artifacts.record(session, row)
        session.expunge_all()
    return other, row


def problems() -> list[str]:
    checks = [each for each in fsck.run() if each.name == "artifacts"]
    return [problem.sentence for each in checks for problem in each.problems]


def the_row(id: str) -> Artifact:
    with db.reading() as session:
        row = session.get(Artifact, id)
        assert row is not None
        session.expunge(row)
        return row


def test_a_check_of_the_store_reads_folders_too(with_folder: tuple[Home, Artifact]) -> None:
    home, row = with_folder
    with at_home(home.folder):
        assert problems() == []
        found = artifacts.folder_of(row)
        assert found is not None
        (found / "adapter_config.json").write_text("{}")
        assert [row.id in problem for problem in problems()] == [True]
        for path in sorted(found.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        found.rmdir()
        assert [f"artifact {row.id} (adapter)" in problem for problem in problems()] == [True]


def test_a_backup_brings_a_folder_back(with_folder: tuple[Home, Artifact], adapter: Path, own_home: Path, tmp_path: Path) -> None:
    home, row = with_folder
    with at_home(home.folder):
        assert save(tmp_path / "saved.backup", with_artifacts=True, overwrite=False)["missing"] == []
    with use_settings(SYNTHQ_HOME=str(own_home / "new")):
        restore(tmp_path / "saved.backup", replace=False)
        found = artifacts.folder_of(the_row(row.id))
        assert found is not None
        assert found.is_relative_to(own_home / "new")
        assert inside(found) == inside(adapter)


def test_an_import_brings_a_folder_over_once(with_folder: tuple[Home, Artifact], adapter: Path, store: str) -> None:
    home, row = with_folder
    for _ in range(2):
        report = brought(home.db)
        assert (report.conflicts, report.damaged) == (0, 0)
    found = artifacts.folder_of(the_row(row.id))
    assert found is not None
    assert inside(found) == inside(adapter)


def test_a_damaged_folder_does_not_come_over(
    with_folder: tuple[Home, Artifact], store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    home, row = with_folder
    (home.folder / "artifacts" / row.path / "adapter_config.json").write_text("{}")

    report = brought(home.db)

    assert report.damaged == 1
    assert f"artifact {row.id} is damaged" in capsys.readouterr().err
    assert not any(each.path == row.path for each in artifacts.stored_files())


def test_what_nothing_names_goes_and_what_is_named_stays(
    with_folder: tuple[Home, Artifact], adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, row = with_folder
    with at_home(home.folder):
        (adapter / "adapter_config.json").write_text('{"r": 16}')
        lost = keep(adapter, home.filter_id)
        draft = home.folder / "artifacts" / home.filter_id / f".{lost.path.rpartition('/')[2]}.0f"
        (draft / "more").mkdir(parents=True)
        (draft / "half").write_bytes(b"12345")
        present = {each.path: each.bytes for each in artifacts.stored_files()}
        assert present[row.path] == present[lost.path] - 1 == sum(map(len, inside(adapter).values())) - 1
        assert present[f"{home.filter_id}/{draft.name}"] == 5

        assert Pruner(Policy()).run().files == 0, "what is young may be about to be named"
        monkeypatch.setattr("app.retention.unnamed.grace_s", lambda: -60.0)
        done = Pruner(Policy()).run()
        assert (done.files, done.file_bytes) == (2, present[lost.path] + 5)
        assert artifacts.folder_of(lost) is None
        assert not draft.exists()
        artifacts.open_artifact(row, verify=True).close()


def test_a_job_goes_with_its_folders_and_with_what_it_kept_to_go_on(with_folder: tuple[Home, Artifact]) -> None:
    home, row = with_folder
    with at_home(home.folder):
        for id in (home.filter_id, home.eval_id, "job_of_another_store"):
            (runs.folder(id) / "iter-0").mkdir(parents=True)
            (runs.folder(id) / "iter-0" / "weights").write_bytes(b"123")
        kit.write("UPDATE job SET finished_at = 1 WHERE id = :id", id=home.filter_id)

        done = Pruner(Policy(jobs_days=1.0)).run()

        assert done.jobs == 1
        assert artifacts.folder_of(row) is None
        assert [path.name for path in runs.present()] == sorted([home.eval_id, "job_of_another_store"])
        old = 1.0
        for path in [*runs.folder("job_of_another_store").rglob("*"), runs.folder("job_of_another_store")]:
            os.utime(path, (old, old))
        assert Pruner(Policy()).run().unknown_files == 1, "it may be of another store with the same home"
        done = Pruner(Policy(), unknown_files=True).run()
        assert (done.files, done.file_bytes) == (1, 3)
        assert [path.name for path in runs.present()] == [home.eval_id]


def test_a_checkpoint_that_would_fill_the_disk_is_not_begun(own_home: Path) -> None:
    runs.check_room(1_000)
    with pytest.raises(Unavailable, match=r"a checkpoint needs 1000000000\.0 GB, and below .* GB free") as caught:
        runs.check_room(10**18)

    assert caught.value.retryable
