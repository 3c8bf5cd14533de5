"""What a training leaves as an artifact plays under the artifact's id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from core import kit
from core.kit import System, until

pytest.importorskip("torch", reason="a learner needs the extra 'model'")

from sqlmodel import select

from app import artifacts, db, endpoints, lifecycle, model_refs, specs
from app.model_folder import adapter_sha256
from app.models import Job, ModelUse
from workers.trainer.learner import Learner, Lora, Settings
from workers.trainer.samples import Sample

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.vision]


def trained(base: Path, mode: str, folder: Path) -> Path:
    """The folder that comes out of a step of training."""
    learner = Learner(Settings(base=str(base), mode=mode, lora=Lora(r=4, alpha=8.0), learning_rate=1e-2))  # type: ignore[arg-type]
    learner.accumulate([Sample(key="one", ids=tuple(range(40, 60)), targets=(19,))], lambda out: (-out.logprobs.sum(), {}))
    learner.step()
    learner.export(folder)
    return folder


def stored(folder: Path, kind: str) -> str:
    job = kit.submit_noop()
    row = artifacts.store_folder(folder, job_id=job.id, step_id="stp_1", kind=kind, name="tried")
    with db.writing() as session:
        return artifacts.record(session, row).id


def submit(ref: str) -> Job:
    """An eval of what the ref names, as the api submits it."""
    config: dict[str, Any] = {"rules": "none", "max_actions": 1, "max_tokens": 4, "image_only_mode": True}
    table = {"policies": [f"model:{ref}"], "seeds": "0", "max_turns": 2, "reply_format": "text", "policy_config": config}
    spec = specs.build({"kind": "eval", "eval": table | {"env_config": {"image_size": 63}}})
    uses = model_refs.uses(spec)
    with db.writing() as session:
        return lifecycle.submit(session, kind="eval", spec=specs.resolved(spec), spec_sha256="0" * 64, uses=uses)


@pytest.mark.parametrize(("mode", "kind"), [("lora", "adapter"), ("full", "model")])
def test_an_artifact_that_was_trained_plays(system: System, tiny_model: Path, tmp_path: Path, mode: str, kind: str) -> None:
    made = trained(tiny_model, mode, tmp_path / "made")
    id = stored(made, kind)
    job = submit(id)
    env = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "SYNTHQ_ENDPOINT_HEARTBEAT_S": "5"}
    system.scheduler(**env)
    system._start("inference", "-m", "workers.main", "inference", SYNTHQ_WORKER_ID="inference-1", **env)
    system.worker(**env)

    done = until(lambda: kit.ended(job.id), 240, "the job ends")

    assert done.state == "succeeded", (done.reason, system.said())
    with db.reading() as session:
        use = session.exec(select(ModelUse).where(ModelUse.job_id == job.id)).one()
        folder = Path(use.adapter_path or use.base)
        served = [each.adapters for each in endpoints.rows.live(session)]
    assert use.artifact == id
    assert folder.is_relative_to(system.home / "artifacts"), "what plays is what is stored, not what it was made from"
    if kind == "adapter":
        assert use.sha256 == adapter_sha256(made)
        assert served == [{use.adapter: {"path": str(folder), "sha256": use.sha256}}]
