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


def end(worker: Process, job: Job, how: signal.Signals) -> None:
    """End a worker in the middle of a training, and see that its child goes with it."""
    before = descendants(worker.pid)
    assert before, "it has a child"
    os.kill(worker.pid, how)
    worker.wait(30)
    until(lambda: not any(identity(pid) for pid in before), 10, "the child has ended with it")
    assert kit.job(job.id).state == "running"


def newest_checkpoint(job: Job) -> int:
    """The step of the last checkpoint that is whole."""
    return max(int(path.parent.name.removeprefix("step-")) for path in runs.folder(job.id).glob("step-*/learner.json"))


def test_a_training_goes_on_where_workers_left_it_that_were_asked_to_end_and_killed(system: System, tiny_model: Path) -> None:
    job = sft(tiny_model, max_steps=20, checkpoint_steps=2)
    system.scheduler(**PATIENT)
    first = trainer(system)
    until(lambda: steps_taken(job) >= 3 or kit.ended(job.id), 120, "some steps are taken")
    end(first, job, signal.SIGTERM)
    assert "step.handed_back" in [event.type for event in kit.job_events(job.id)]
    assert [step.attempt for step in kit.steps(job.id)] == [0], "it is no failed attempt"
    left = newest_checkpoint(job)
    assert left >= steps_taken(job) >= 3, "it left a checkpoint of where it stood"

    second = trainer(system)
    until(lambda: steps_taken(job) >= left + 3 or kit.ended(job.id), 120, "more steps are taken")
    end(second, job, signal.SIGKILL)
    kept = newest_checkpoint(job)
    assert kept > left

    trainer(system)
    done = system.ended(job.id, 180)

    assert done.state == "succeeded", done.reason
    assert done.summary is not None
    assert done.summary["steps"] == 20
    assert done.summary["resumed_at"] == kept
    assert not runs.folder(job.id).exists()
    with db.reading() as session:
        indexes = [row.index for row in metrics.series(session, job.id, "train")]
    assert indexes == sorted(set(indexes))
    assert indexes[-1] == 20


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
