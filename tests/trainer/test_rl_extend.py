"""A job that goes on from another one's checkpoint: it comes to what one longer job would have come to, or says why it cannot."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the trainer needs the extra 'model'")

from safetensors.torch import load_file
from trainer.rl_kit import Stage, held, spec_of

from app import runs, specs
from app.errors import BadModel, StepFailed
from app.plots.rl import play_of
from app.specs import RlSpec
from workers.trainer.rl import past
from workers.trainer.rl.runs import Runs

pytestmark = [pytest.mark.usefixtures("sqlite_store"), pytest.mark.vision]

SMALL: dict[str, Any] = {"rollout": {"episodes_per_batch": 4, "max_concurrent_rollouts": 4, "max_turns": 2}}


def job(model: Path, iterations: int, extend: str | None = None, *, estimator: str = "grpo_turn", **training: Any) -> Stage:
    """A job of two groups of two."""
    spec = spec_of(model, **SMALL, training={"iterations": iterations, "group_size": 2, "batch_size": 4, **training})
    return Stage(model, changed(spec, model={"extend": extend}, algorithm={"estimator": estimator}))


def changed(spec: RlSpec, **tables: dict[str, Any]) -> RlSpec:
    """The spec with some other values."""
    resolved = specs.resolved(spec)
    made = specs.parse("rl", {**resolved, **{name: {**resolved[name], **table} for name, table in tables.items()}})
    assert isinstance(made, RlSpec)
    return made


def run(of: Stage) -> Stage:
    """All of its play and its updates, by one child."""
    hand = held()
    of.begin(hand)
    for iteration in range(of.spec.begun, of.spec.end):
        of.play(iteration)
        of.update(iteration, hand)
    return of


@pytest.mark.parametrize("estimator", ["grpo_turn", "gae"])
def test_two_iterations_and_two_more_come_to_what_four_come_to(tiny_model: Path, estimator: str) -> None:
    first = run(job(tiny_model, 2, estimator=estimator))
    more = run(job(tiny_model, 2, f"{first.job.id}@2", estimator=estimator))
    whole = run(job(tiny_model, 4, estimator=estimator))
    assert more.result(1)["sha256"] == first.result(1)["sha256"], "it begins with the adapter that there was"
    assert [more.result(at)["sha256"] for at in (2, 3)] == [whole.result(at)["sha256"] for at in (2, 3)]
    assert len({whole.result(at)["sha256"] for at in range(4)}) == 4, "every update changed something"
    assert _same_state(Runs(more.job.id, 2).state(3), Runs(whole.job.id).state(3)), "and so did the optimizer's memory"
    assert (more.spec.evaluated(2), more.spec.evaluated(3), more.spec.evaluated(4)) == (True, False, True)
    if estimator == "gae":  # values are fitted to the play of all four, whichever job it was of
        assert len(past.read(Runs(more.job.id, 2).state(3), whole.spec.algorithm.discount)) == 4
    assert not {seed for _, seed, _ in play_of(more.spec, 2)} & {seed for at in (0, 1) for _, seed, _ in play_of(more.spec, at)}


def _same_state(one: Path, other: Path) -> bool:
    for name in ("weights.safetensors", "optimizer.safetensors"):
        a, b = load_file(one / name), load_file(other / name)
        if a.keys() != b.keys() or any(not bool((a[key] == b[key]).all()) for key in a):
            return False
    return True


def test_a_fork_goes_another_way_from_an_earlier_checkpoint(tiny_model: Path) -> None:
    first = run(job(tiny_model, 2))
    fork = run(job(tiny_model, 1, f"{first.job.id}@1", learning_rate=2e-2))
    assert fork.result(0)["sha256"] == first.result(0)["sha256"]
    assert fork.result(1)["sha256"] != first.result(1)["sha256"]
    assert fork.result(1)["figures"]["learning_rate"] == 2e-2
    assert runs.checkpoints(first.job.id) == [1, 2]


def test_a_checkpoint_that_is_gone_or_does_not_fit_is_told(tiny_model: Path) -> None:
    first = job(tiny_model, 1)
    run(first)
    other = job(tiny_model, 1, f"{first.job.id}@1")
    other.spec = changed(other.spec, lora={"r": 8})
    with pytest.raises(BadModel, match="of another learner"):
        other.begin(held())
    shutil.rmtree(runs.folder(first.job.id))
    with pytest.raises(StepFailed, match=rf"the checkpoint of {first.job.id} after 1 updates is not on this .* --warmstart-from"):
        job(tiny_model, 1, f"{first.job.id}@1").begin(held())
