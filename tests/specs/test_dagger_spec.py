"""Rounds of DAgger in an rl spec: what they come to, how they are asked for, and what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app import specs
from app.errors import SpecProblems
from app.specs import RlSpec

SMALL = Path(__file__).resolve().parents[2] / "tests" / "artifacts" / "configs" / "rl.vision.small.toml"


def made(**tables: Any) -> RlSpec:
    """Four iterations of eight episodes of three turns, and one action in a reply."""
    given: dict[str, Any] = {
        "kind": "rl",
        "model": {"base": "/m"},
        "rollout": {"max_turns": 3, "episodes_per_batch": 8, "policy_config": {"max_actions": 1}},
        "training": {"iterations": 4, "group_size": 2},
        "evaluation": {"seeds": "0-1"},
    }
    for name, table in tables.items():
        given[name] = given.get(name, {}) | table
    spec = specs.build(given, env={})
    assert isinstance(spec, RlSpec)
    return spec


def wrong(**tables: Any) -> dict[str, str]:
    with pytest.raises(SpecProblems) as caught:
        made(**tables)
    return {problem.key: problem.message for problem in caught.value.problems}


def cautions(spec: RlSpec) -> dict[str, str]:
    found = {text.partition(": ")[0]: text.partition(": ")[2] for text in specs.warnings(spec)}
    return {key: text for key, text in found.items() if key.startswith("dagger.")}


def test_without_the_table_there_are_no_rounds_and_nothing_else_changes() -> None:
    spec = made()
    assert (spec.rounds, spec.optimizer_steps, spec.schedule_steps) == (0, 4, 4)
    assert spec.estimate()["samples"] == 4 * 8 * 3
    assert "DAgger" not in spec.headline()
    old = specs.resolved(spec)
    del old["dagger"]
    assert specs.parse("rl", old) == spec, "a spec that was stored before there were rounds"


@pytest.mark.parametrize(("aggregate", "samples", "steps"), [(True, 24 + 48, 2 + 3), (False, 24 + 24, 2 + 2)])
def test_rounds_count_in_what_the_job_comes_to(aggregate: bool, samples: int, steps: int) -> None:
    spec = made(dagger={"rounds": 2, "epochs": 3, "batch_size": 20, "aggregate": aggregate})
    told = spec.estimate()
    assert (told["iterations"], told["dagger_rounds"], told["episodes"]) == (4, 2, 32)
    assert told["samples"] == 2 * 8 * 3 + 3 * samples, "two iterations from rewards, and each round as often as it is gone over"
    assert told["optimizer_steps"] == 2 + 3 * steps
    assert spec.schedule_steps == 2, "the learning rate's course is that of the iterations from rewards"
    assert spec.headline().endswith("optimizer steps, 2 rounds of DAgger with scripted:reactive first")


def test_a_round_is_asked_for_from_the_command_line() -> None:
    flags = ["dagger.rounds=1", "dagger.expert=scripted:visible", "dagger.aggregate=false"]
    spec = specs.load(SMALL, overrides=flags, env={})
    assert isinstance(spec, RlSpec)
    assert (spec.dagger.rounds, spec.dagger.view, spec.dagger.aggregate) == (1, "visible", False)
    assert specs.parse("rl", specs.resolved(spec)) == spec


@pytest.mark.parametrize(
    ("expert", "view"),
    [
        ("scripted", "visible"),
        ("scripted:visible", "visible"),
        ("scripted:reactive", "reactive"),
        ("scripted:omniscient", "omniscient"),
    ],
)
def test_experts_are_called_as_a_filter_calls_them(expert: str, view: str) -> None:
    assert made(dagger={"rounds": 1, "expert": expert}).dagger.view == view


@pytest.mark.parametrize(
    ("tables", "key", "sentence"),
    [
        ({"dagger": {"rounds": 5}}, "dagger.rounds", "5 is more than the iterations of the job: training.iterations = 4"),
        (
            {"dagger": {"rounds": 3}, "training": {"iterations": None, "num_epochs": 2, "iterations_per_epoch": 1}},
            "dagger.rounds",
            "3 is more than the iterations of the job: training.num_epochs x training.iterations_per_epoch = 2",
        ),
        (
            {"dagger": {"rounds": 1}, "rollout": {"env": "corridor"}},
            "dagger.rounds",
            'a round needs an expert, and there is one for crafter, none for "corridor"',
        ),
        (
            {"dagger": {"rounds": 1, "actions": 2}},
            "dagger.actions",
            "2 is more than a reply may hold: rollout.policy_config.max_actions = 1",
        ),
        (
            {"dagger": {"rounds": 1}, "rollout": {"save_frames": "none", "policy_config": {"use_vision": False}}},
            "dagger.rounds",
            'a round needs the frames that a replay is held to, and rollout.save_frames = "none" keeps none; write "all"',
        ),
        (
            {"dagger": {"rounds": 2}, "model": {"base": "/m", "extend": "job_0a1b2c3d4e5f@1"}},
            "dagger.rounds",
            "2 rounds cannot go on from job_0a1b2c3d4e5f@1: what the expert said in the first of them is that job's; go on "
            "from 2 updates or more, or begin from its adapter with warmstart_from",
        ),
        ({"dagger": {"rounds": -1}}, "dagger.rounds", "must be 0 or more, not -1"),
        ({"dagger": {"rounds": 1, "epochs": 0}}, "dagger.epochs", "must be 1 or more, not 0"),
        ({"dagger": {"rounds": 1, "learning_rate": 0.0}}, "dagger.learning_rate", "must be more than 0, not 0.0"),
        (
            {"dagger": {"rounds": 1, "expert": "random"}},
            "dagger.expert",
            'must be "scripted", "scripted:omniscient", "scripted:visible" or "scripted:reactive", not "random"',
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(tables: dict[str, Any], key: str, sentence: str) -> None:
    assert wrong(**tables)[key] == sentence


def test_a_job_that_goes_on_from_one_behind_its_rounds_has_none_of_its_own() -> None:
    spec = made(dagger={"rounds": 2}, model={"base": "/m", "extend": "job_0a1b2c3d4e5f@2"})
    assert (spec.rounds, spec.optimizer_steps, spec.schedule_steps) == (0, 4, 4)
    assert "counted from the beginning of the job that it goes on from" in cautions(spec)["dagger.rounds"]


def test_what_looks_like_a_mistake_is_said() -> None:
    assert cautions(made(dagger={"epochs": 3})) == {"dagger.epochs": "3 is read only with dagger.rounds = 1 or more"}
    assert cautions(made(dagger={"rounds": 4})) == {
        "dagger.rounds": "4 are all iterations of the job, so nothing is learnt from rewards"
    }
    several = made(dagger={"rounds": 1}, rollout={"max_turns": 3, "episodes_per_batch": 8, "policy_config": {"max_actions": 4}})
    assert cautions(several) == {
        "dagger.actions": "the expert says 1 at a turn, and a reply may hold 4; what is learnt in these rounds is to say no more "
        "than the expert does"
    }
    assert not cautions(made(dagger={"rounds": 2}))
