"""An adapter that a job made is fetched as a folder."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import httpx
import pytest
from console import Synthq
from core.kit import work_through
from test_jobs_cli import submit

from app import artifacts, db


@pytest.fixture
def adapter(served: Synthq, tmp_path: Path) -> Path:
    """A folder that is an artifact of the job `play`."""
    job_id = submit(served, "--name", "play", "--seeds", "0")
    work_through()
    folder = tmp_path / "made"
    (folder / "more").mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"r": 8}')
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 9_000)
    (folder / "more" / "README.md").write_text("of nothing")
    with db.writing() as session:
        row = artifacts.store_folder(folder, job_id=job_id, step_id="stp_1", kind="adapter", name="adapter")
        artifacts.record(session, row)
    return folder


def inside(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_is_there_whole_beside_the_files(served: Synthq, adapter: Path) -> None:
    ran = served("artifacts", "play", "--output-dir", "got")
    assert ran.code == 0, ran.err
    assert inside(Path("got/adapter")) == inside(adapter)
    assert sorted(path.name for path in Path("got").iterdir()) == ["adapter", "report.json"]

    again = served("artifacts", "play", "--output-dir", "got")
    assert "got/adapter is there already, and is left as it is" in again.err


def test_what_was_changed_on_the_way_is_not_kept(served: Synthq, adapter: Path) -> None:
    rows = json.loads(served("artifacts", "play", "--json").out)["data"]
    found = artifacts.folder_of(artifact := _row(next(row["id"] for row in rows if row["is_folder"])))
    assert found is not None
    (found / "adapter_config.json").write_text('{"r": 9}')

    ran = served("artifacts", "play", "--output-dir", "got")

    assert ran.code == 1
    assert f"artifact {artifact.id} came with sha256" in ran.err
    assert [path.name for path in Path("got").iterdir() if path.name != "report.json"] == []


def test_others_get_a_tar(served: Synthq, adapter: Path, api_url: str) -> None:
    rows = json.loads(served("artifacts", "play", "--json").out)["data"]
    row = next(row for row in rows if row["is_folder"])
    answer = httpx.get(f"{api_url}/v1/artifacts/{row['id']}/content")

    assert answer.headers["content-type"] == "application/x-tar"
    assert answer.headers["content-disposition"] == 'attachment; filename="adapter.tar"'
    assert len(answer.content) == row["bytes"]
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        assert tar.getnames() == ["adapter_config.json", "adapter_model.safetensors", "more/README.md"]


def _row(id: str) -> artifacts.Artifact:
    with db.reading() as session:
        row = session.get(artifacts.Artifact, id)
        assert row is not None
        session.expunge(row)
        return row
