"""A whole system runs rounds of DAgger and goes on from rewards, though its trainer is killed in the middle of a round."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from core import kit
from core.kit import System, descendants, until

pytest.importorskip("torch", reason="the trainer needs the extra 'model'")

import torch
from trainer.test_rl_kill import ENV, trainer, trains, update

from app import db, specs
from app.store import jobs, metrics
from app.supervisor.state import identity
from benchmarks import rl_system
from benchmarks.rl_play import submitted
from cli import learned

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.vision]


def test_rounds_in_a_system_whose_trainer_is_killed_in_one(system: System, tiny_model: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    rl_system.pay(system.home)
    rounds = {"rounds": 2, "epochs": 12, "batch_size": 8, "learning_rate": 1e-2}
    spec = specs.build(rl_system.spec(tiny_model, iterations=3, dagger=rounds))
    assert isinstance(spec, specs.RlSpec)
    job = submitted(spec, tiny_model)
    system.scheduler(**ENV)
    system._start("inference", "-m", "workers.main", "inference", SYNTHQ_WORKER_ID="inference-1", **ENV)
    system.worker(**ENV)
    first = trainer(system)

    until(lambda: trains(job.id, 1), 240, "the second round trains")
    children = descendants(first.pid)
    first.end()
    until(lambda: not any(identity(pid) for pid in children), 15, "its child has ended with it")
    runs = system.home / "runs" / job.id
    assert (runs / "iter-0").is_dir()
    assert not (runs / "iter-1").exists(), "it was killed in the middle"

    trainer(system)
    done = system.ended(job.id, 240)
    assert done.state == "succeeded", (done.reason, system.said())
    killed = update(job.id, 1)
    assert killed is not None
    assert killed.fence == 2, "it was claimed a second time"
    found = rl_system.updates(system.home, job.id)
    assert len(set(found)) == 4, "every update has learnt something"
    shutil.copytree(system.home / "artifacts", tmp_path / "again" / "artifacts")
    assert rl_system.again(system.home, job.id, tmp_path / "again") == found, "the same weights come out undisturbed"

    with db.reading() as session:
        points = {point.index: point.values for point in metrics.series(session, job.id, "update")}
        labels = [row for row in jobs.artifacts(session, done) if row.kind == "labels"]
    assert [points[at].get("lessons") for at in range(3)] == [32.0, 64.0, None]
    assert [("agreement" in points[at], "groups" in points[at]) for at in range(3)] == [(True, False)] * 2 + [(False, True)]
    assert sorted({row.data["iteration"] for row in labels}) == [0, 1]
    assert sum(row.data["turns"] for row in labels) == 64
    said = [event.message for event in kit.job_events(job.id) if event.type == "update.done"]
    assert [message.partition(":")[0] for message in said] == [
        "update 0 (round 1 of 2 of DAgger)",
        "update 1 (round 2 of 2 of DAgger)",
        "update 2",
    ]
    summary = done.summary or {}
    assert summary["dagger"]["expert"] == "scripted:reactive"
    assert [row["lessons"] for row in summary["dagger"]["rounds"]] == [32.0, 64.0]
    assert any(
        line.startswith("it did as scripted:reactive says, before each round's update: ") for line in learned.told(summary)
    )
