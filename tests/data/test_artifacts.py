"""Files that jobs make: whole or absent, named by content, and checked when it matters."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from app import artifacts
from app.errors import ArtifactDamaged, ArtifactNotFound
from app.models import Artifact
from app.settings import get_settings


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "made.jsonl"
    path.write_bytes(b'{"a":1}\n' * 1000)
    return path


def keep(path: Path, **more: Any) -> Artifact:
    named = {"job_id": "job_1", "step_id": "step_1", "kind": "dataset", "name": "train.jsonl"} | more
    return artifacts.store_file(path, **named)


def files(home: Path) -> list[str]:
    return sorted(str(p.relative_to(home / "artifacts")) for p in (home / "artifacts").rglob("*") if p.is_file())


def test_a_stored_file_reads_back_and_its_row_tells_hash_and_size(home: Path, local: Path) -> None:
    row = keep(local, parents=["job_0"], data={"lines": 1000})
    sha256 = hashlib.sha256(local.read_bytes()).hexdigest()
    assert (row.sha256, row.bytes, row.parents, row.data) == (sha256, 8000, ["job_0"], {"lines": 1000})
    assert artifacts.read_artifact(row) == local.read_bytes()
    assert row.path == f"job_1/{sha256[:16]}-train.jsonl", "relative, so that the root may move"


@pytest.mark.parametrize("name", ["a" * 80 + ".manifest.json", "b" * 200 + ".jsonl", "c" * 300])
def test_a_file_with_a_long_name_reads_back(home: Path, local: Path, name: str) -> None:
    stored = artifacts.store_file(local, job_id="job_1", step_id="stp_1", kind="report", name=name)
    with artifacts.open_artifact(stored) as file:
        assert file.read() == local.read_bytes()


def test_nothing_but_the_finished_file_is_left_beside_it(home: Path, local: Path) -> None:
    row = keep(local)
    assert files(home) == [row.path]


def test_a_repeat_of_the_same_bytes_is_the_same_file(home: Path, local: Path) -> None:
    first, second = keep(local), keep(local)
    assert first.path == second.path
    assert first.id != second.id
    assert files(home) == [first.path]


def test_a_copy_that_breaks_off_leaves_no_file(home: Path, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(source: Any, target: Any, length: int) -> None:
        target.write(source.read(100))
        raise OSError("disk full")

    monkeypatch.setattr("app.artifacts.shutil.copyfileobj", half)
    with pytest.raises(OSError, match="disk full"):
        keep(local)
    assert files(home) == []


def test_a_changed_byte_is_found_when_the_reader_asks_for_it(home: Path, local: Path) -> None:
    row = keep(local)
    kept = home / "artifacts" / row.path
    kept.write_bytes(kept.read_bytes().replace(b"1", b"2", 1))
    with artifacts.open_artifact(row) as stream:
        assert stream.read(8) == b'{"a":2}\n'
    with pytest.raises(ArtifactDamaged, match=row.sha256):
        artifacts.open_artifact(row, verify=True)


def test_a_file_that_is_gone_is_said_to_be_not_there(home: Path, local: Path) -> None:
    row = keep(local)
    (home / "artifacts" / row.path).unlink()
    with pytest.raises(ArtifactNotFound, match=row.id):
        artifacts.open_artifact(row)


@pytest.mark.parametrize("path", ["../etc/passwd", "/etc/passwd", "job_1/../../x", "job_1/.hidden", "x"])
def test_a_row_cannot_point_out_of_the_root(home: Path, local: Path, path: str) -> None:
    row = keep(local)
    row.path = path
    with pytest.raises(ArtifactNotFound):
        artifacts.open_artifact(row)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("train.jsonl", "train.jsonl"),
        ("../../etc/passwd", "_.._etc_passwd"),
        (".hidden", "hidden"),
        ("my data (1).jsonl", "my_data_1_.jsonl"),
        ("é", "_"),
        ("..", "file"),
        ("", "file"),
        ("x" * 300 + ".jsonl", "x" * 94 + ".jsonl"),
    ],
)
def test_names_are_made_safe_and_stay_readable(given: str, kept: str) -> None:
    assert artifacts.clean_name(given) == kept
    assert artifacts.clean_name(kept) == kept


def test_deleting_a_job_takes_all_its_files_and_no_other(home: Path, local: Path) -> None:
    mine, other = keep(local), keep(local, job_id="job_2")
    artifacts.delete_job("job_1")
    artifacts.delete_job("job_1")
    assert files(home) == [other.path]
    with pytest.raises(ArtifactNotFound):
        artifacts.open_artifact(mine)


def test_any_fsspec_store_will_do(home: Path, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHQ_ARTIFACTS_URL", f"memory://synthq-{local.parent.name}")
    get_settings.cache_clear()
    row = keep(local)
    assert artifacts.read_artifact(row) == local.read_bytes()
    assert not (home / "artifacts").exists()
    artifacts.delete_job("job_1")
    with pytest.raises(ArtifactNotFound):
        artifacts.open_artifact(row)
