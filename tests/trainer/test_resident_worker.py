"""A trainer worker as a process: it trains, leaves a checkpoint when it is asked to end, and takes its child with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from core import kit
from core.kit import Process, System, descendants, until
from data.flow import eval_tables, filter_tables, run_spec, submit

from app import db, lifecycle, runs
from app.models import Job
from app.store import metrics
from app.supervisor.state import identity

pytestmark = [pytest.mark.integration, pytest.mark.slow]


PATIENT = {"SYNTHQ_LEASE_S": "12", "SYNTHQ_RENEW_S": "2"}
"""A machine that does much else lets a process wait for seconds."""


def trainer(system: System) -> Process:
    """Start a trainer worker."""
    words = ("-m", "workers.main", "trainer")
    own = {"SYNTHQ_WORKER_ID": f"trainer-{len(system.processes)}-x", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return system._start("trainer", *words, **own, **PATIENT)


def sft(model: Path, **table: Any) -> Job:
    """A job that learns from what two policies played."""
    played = run_spec(eval_tables(seeds="0", max_turns=4))
    kept = run_spec(filter_tables(jobs=[played.id]))
    assert kept.state == "succeeded", kept.reason
    one_at_a_time = {"batch_size": 1, "gradient_accumulation_steps": 1, "epochs": 1000, "checkpoint_steps": 1000}
    asked = {"model": str(model), "data": kept.id, "sequence_length": 8192, "learning_rate": 1e-3} | one_at_a_time | table
    return submit({"kind": "sft", "sft": asked})


def steps_taken(job: Job) -> int:
    with db.reading() as session:
        return max((row.index for row in metrics.series(session, job.id, "train")), default=0)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_training_goes_on_where_a_worker_that_ended_left_it(system: System, tiny_model: Path, how: signal.Signals) -> None:
    job = sft(tiny_model, max_steps=10, checkpoint_steps=2)
    system.scheduler(**PATIENT)
    first = trainer(system)
    until(lambda: steps_taken(job) >= 3 or kit.ended(job.id), 120, "some steps are taken")
    before = descendants(first.pid)
    assert before, "it has a child"
    os.kill(first.pid, how)
    first.wait(30)
    until(lambda: not any(identity(pid) for pid in before), 10, "the child has ended with it")
    assert kit.job(job.id).state == "running"
    told = [event.type for event in kit.job_events(job.id)]
    if how == signal.SIGTERM:
        assert "step.handed_back" in told
        assert [step.attempt for step in kit.steps(job.id)] == [0], "it is no failed attempt"
    checkpoints = list(runs.folder(job.id).iterdir())
    assert checkpoints

    trainer(system)
    done = system.ended(job.id, 180)

    assert done.state == "succeeded", done.reason
    assert done.summary is not None
    assert done.summary["steps"] == 10
    assert done.summary["resumed_at"] >= (3 if how == signal.SIGTERM else 2)
    assert not runs.folder(job.id).exists()
    with db.reading() as session:
        indexes = [row.index for row in metrics.series(session, job.id, "train")]
    assert indexes == sorted(set(indexes))
    assert indexes[-1] == 10


def test_a_cancel_ends_the_training_and_the_next_job_has_the_same_child(system: System, tiny_model: Path) -> None:
    job = sft(tiny_model, max_steps=10_000)
    system.scheduler(**PATIENT)
    worker = trainer(system)
    until(lambda: steps_taken(job) >= 1 or kit.ended(job.id), 120, "a step is taken")
    before = descendants(worker.pid)
    with db.writing() as session:
        lifecycle.cancel(session, lifecycle.lock_job(session, job.id))
    assert system.ended(job.id, 30).state == "cancelled"

    again = submit({"kind": "sft", "sft": {**job.spec["sft"], "max_steps": 2}})
    done = system.ended(again.id, 120)
    assert done.state == "succeeded", done.reason
    assert descendants(worker.pid) == before


def test_a_machine_without_torch_is_told_what_brings_it(own_home: Path) -> None:
    blind = "import sys; sys.modules['torch'] = None; sys.argv = ['main', 'trainer']; from workers.main import main; main()"
    ran = subprocess.run([sys.executable, "-c", blind], capture_output=True, text=True, timeout=60, check=False)

    assert ran.returncode == 2
    assert ran.stderr == "Error: nothing can be trained here: torch not installed; `make install` brings what is missing\n"
