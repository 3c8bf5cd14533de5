"""The files of artifacts that come from elsewhere: where they may be, and that none takes the place of another."""

from __future__ import annotations

from pathlib import Path

from app import artifacts
from app.errors import ArtifactDamaged, ArtifactNotFound
from app.models import Artifact
from app.transfer.tables import Row


def is_its_own(row: Row) -> bool:
    """Whether an artifact's row names the place that ``artifacts.store_file`` gives to the files of its job and no other."""
    return bool(row["path"] == artifacts.place(row["job_id"], row["sha256"], row["name"]))


def as_artifact(row: Row) -> Artifact:
    """The artifact of a whole row, as far as its file goes."""
    return Artifact(**{**row, "parents": [], "data": {}})


def put_new(local: Path, row: Row) -> bool:
    """Copy a file with an artifact's bytes to the artifact's place, unless they are there; False when others are, which stay."""
    artifact = as_artifact(row)
    try:
        artifacts.open_artifact(artifact, verify=True).close()
    except ArtifactNotFound:
        artifacts.put(local, artifact.path, artifact.kind)
    except ArtifactDamaged:
        return False
    return True
