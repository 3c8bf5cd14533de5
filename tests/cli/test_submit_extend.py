"""`submit rl --extend`: what goes on from which job, what may change, and what is said where it cannot go on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from console import Ran, Synthq
from core import model_folders
from core.kit import job_events, submit_noop

from app import db, runs
from app.models import Job
from app.store import metrics

SMALL = [
    word
    for key in ("evaluation.seeds=0-3", "rollout.episodes_per_batch=4", "training.group_size=2", "training.batch_size=4")
    for word in ("--set", key)
]
Json = dict[str, Any]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A whole model."""
    return model_folders.base(tmp_path / "base")


def learnt(served: Synthq, base: Path, *flags: object, updates: int = 4, kept: int = 3, state: str = "succeeded") -> str:
    """A job of two groups of two that has made so many updates, and keeps the newest checkpoints."""
    ran = served("submit", "rl", "--model", base, "--iterations", updates, "--name", "first", *SMALL, *flags)
    assert ran.code == 0, ran.err
    with db.writing() as session:
        job = session.get_one(Job, ran.job_id)
        job.state = state
        begun = int(((job.spec["model"]["extend"] or "@0").partition("@"))[2])
        for iteration in range(begun, begun + updates):
            metrics.record(session, job.id, "update", iteration, {"loss": 0.5})
        session.add(job)
    for iteration in range(begun + updates)[-kept:]:
        (runs.folder(ran.job_id) / f"iter-{iteration}" / "state").mkdir(parents=True)
    return ran.job_id


def extend(served: Synthq, ref: str, *flags: object) -> Ran:
    return served("submit", "rl", "--extend", ref, *flags)


def spec_of(served: Synthq, ran: Ran) -> Json:
    assert ran.code == 0, ran.err
    spec: Json = served("status", ran.job_id, "--json").json["spec"]
    return spec


def test_it_has_the_spec_of_the_job_and_goes_on_after_its_last_update(served: Synthq, base: Path) -> None:
    first = learnt(served, base)
    ran = extend(served, "first", "--iterations", 2, "--name", "more")
    spec = spec_of(served, ran)
    was = served("status", first, "--json").json["spec"]
    assert spec["model"] == {**was["model"], "extend": f"{first}@4"}
    assert spec["training"] == {**was["training"], "iterations": 2}
    assert {name: spec[name] for name in ("rollout", "data", "evaluation", "lora")} == {
        name: was[name] for name in ("rollout", "data", "evaluation", "lora")
    }
    assert f"goes on from  {first}@4" in served("status", ran.job_id).out
    assert not [event for event in job_events(ran.job_id) if "model.extend" in event.message]


def test_a_fork_goes_on_from_an_earlier_checkpoint_with_what_is_changed(served: Synthq, base: Path) -> None:
    first = learnt(served, base)
    ran = extend(served, f"{first[:12]}@2", "--set", "training.learning_rate=2e-5", "--set", "training.schedule=linear")
    spec = spec_of(served, ran)
    assert (spec["model"]["extend"], spec["training"]["learning_rate"]) == (f"{first}@2", 2e-5)
    assert "the learning rate goes on at step 2 of 6 of its course" in ran.err


def test_a_dry_run_tells_seeds_and_episodes_of_what_is_to_come_alone(served: Synthq, base: Path) -> None:
    learnt(served, base)
    ran = extend(served, "first", "--iterations", 3, "--dry-run")
    assert ran.code == 0, ran.err
    assert "3 iterations, 12 episodes, 8 episodes of evaluation" in ran.err
    ran = extend(served, "first", "--iterations", 3, "--set", "evaluation.seeds=10013", "--dry-run")
    assert "seed 10013 is of training too" in ran.err, "the seventh iteration plays it"


def test_a_file_may_say_what_goes_on_too(served: Synthq, base: Path, tmp_path: Path) -> None:
    first = learnt(served, base)
    text = f'kind = "rl"\n[model]\nbase = "{base}"\nextend = "first"\n[rollout]\nepisodes_per_batch = 4\n'
    (tmp_path / "more.toml").write_text(text + "[training]\ngroup_size = 2\nbatch_size = 4\niterations = 1\n")
    spec = spec_of(served, served("submit", "rl", tmp_path / "more.toml"))
    assert spec["model"]["extend"] == f"{first}@4"


@pytest.mark.parametrize(
    ("ref", "flags", "said"),
    [
        ("first@9", (), "stood after 1 to 4 updates, and never after 9"),
        ("first@1", (), "after 1 updates is not kept (kept are after 2, 3, 4 updates, of which one can be gone on from"),
        ("first", ("--set", "lora.r=8"), "lora.r: 8 is not what the checkpoint was trained with, 16; --warmstart-from"),
        ("first", ("--set", "lora.target_modules=q_proj"), "lora.target_modules: q_proj is not what"),
        ("first", ("--set", "evaluation.seeds=10002"), "10002"),
        ("first@", (), "--extend first@ names no job; it takes JOB, or JOB@N"),
    ],
)
def test_what_cannot_go_on_is_refused_with_a_sentence(
    served: Synthq, base: Path, ref: str, flags: tuple[str, ...], said: str
) -> None:
    learnt(served, base)
    ran = extend(served, ref, *flags)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


def test_another_base_is_refused(served: Synthq, base: Path, tmp_path: Path) -> None:
    learnt(served, base)
    other = model_folders.base(tmp_path / "other")
    ran = extend(served, "first", "--model", other)
    assert ran.code == 2
    assert f"it began from {base}, and this job from {other}; leave the model as it was" in ran.err


def test_a_job_that_runs_or_has_learnt_nothing_or_is_no_rl_job_is_refused(served: Synthq, base: Path) -> None:
    learnt(served, base, state="running")
    assert "is running; go on from it when it has ended" in extend(served, "first").err
    learnt(served, base, updates=1, state="failed", kept=0)
    with db.writing() as session:
        session.connection().exec_driver_sql("DELETE FROM metric")
    assert "is failed and has made no update, so there is nothing to go on from" in extend(served, "first").err
    other = submit_noop(name="other")
    ran = extend(served, "other")
    assert f"job {other.id} is of the kind noop, and only rl jobs are gone on from" in ran.err
    assert extend(served, "job_nothing").code == 3


def test_of_a_job_that_went_on_itself_the_way_back_is_told(served: Synthq, base: Path) -> None:
    first = learnt(served, base, updates=2)
    more = learnt(served, base, "--extend", "first", updates=2)
    ran = extend(served, f"{more}@2")
    assert ran.code == 2
    assert f"stood after 3 to 4 updates, and never after 2; it went on from {first}@2 itself" in ran.err
    assert spec_of(served, extend(served, more))["model"]["extend"] == f"{more}@4"


def test_where_no_checkpoint_is_on_the_server_that_is_told_and_the_trainer_decides(served: Synthq, base: Path) -> None:
    first = learnt(served, base)
    shutil.rmtree(runs.folder(first))
    ran = extend(served, "first")
    assert ran.code == 0
    assert f"no checkpoint of {first} is on the server's machine; a trainer that has none either fails the job" in ran.err


def test_sft_refuses_it(synthq: Synthq) -> None:
    assert "--extend is read by rl alone" in synthq("submit", "sft", "--extend", "x", "--dry-run").err
