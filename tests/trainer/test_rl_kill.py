"""A whole rl system, of which the trainer is killed in the middle of an update: nothing that was learnt is lost or other."""

from __future__ import annotations

from pathlib import Path

import pytest
from core import kit
from core.kit import Process, System, descendants, until

pytest.importorskip("torch", reason="the trainer needs the extra 'model'")

import torch

from app import specs
from app.models import Step
from app.supervisor.state import identity
from benchmarks import rl_system
from benchmarks.rl_play import submitted

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.vision, pytest.mark.timeout(900)]

ENV = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "SYNTHQ_LEASE_S": "12", "SYNTHQ_RENEW_S": "2"}
"""A machine that does much else lets a process wait for seconds."""


def trainer(system: System) -> Process:
    """Start a trainer worker."""
    own = {"SYNTHQ_WORKER_ID": f"trainer-{len(system.processes)}"}
    return system._start("trainer", "-m", "workers.main", "trainer", **ENV, **own)


def update(job_id: str, number: int) -> Step | None:
    return next((step for step in kit.steps(job_id) if step.key.endswith(f"/update/{number}")), None)


def trains(job_id: str, number: int) -> bool:
    """Whether the update has read its samples and is at its passes."""
    assert kit.ended(job_id) is None, kit.job(job_id).reason
    step = update(job_id, number)
    return step is not None and step.state == "running" and step.total > 1


def test_a_trainer_killed_in_an_update_comes_to_the_same_weights_from_the_stored_samples(
    system: System, tiny_model: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    rl_system.pay(system.home)
    tables = rl_system.spec(tiny_model, iterations=2, turns=3, training={"passes": 16})
    spec = specs.build(tables)
    assert isinstance(spec, specs.RlSpec)
    job = submitted(spec, tiny_model)
    system.scheduler(**ENV)
    system._start("inference", "-m", "workers.main", "inference", SYNTHQ_WORKER_ID="inference-1", **ENV)
    system.worker(**ENV)
    first = trainer(system)

    until(lambda: trains(job.id, 0), 300, "update 0 trains")
    children = descendants(first.pid)
    assert children, "it has a child that computes"
    first.end()
    until(lambda: not any(identity(pid) for pid in children), 15, "its child has ended with it")
    runs = system.home / "runs" / job.id
    assert [path.name for path in runs.iterdir() if not path.name.startswith(".")] == ["begin"], "it was killed in the middle"

    trainer(system)
    done = system.ended(job.id, 500)
    assert done.state == "succeeded", (done.reason, system.said())
    killed = update(job.id, 0)
    assert killed is not None
    assert killed.fence == 2, "it was claimed a second time"
    found = rl_system.updates(system.home, job.id)
    assert len(set(found)) == 3, "every update has learnt something"
    assert rl_system.again(system.home, job.id, tmp_path / "again") == found
