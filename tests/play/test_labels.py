"""The step that asks the expert about a round's play: a line for every turn, with the reply to learn, under the step's fence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from core.kit import small_rl, submit, write
from play_kit import turn_rows
from sqlmodel import select

pytest.importorskip("torch", reason="play for rl is by the extra 'model'")

from app import artifacts, db, specs
from app.models import Artifact, Job
from app.records import EpisodeKey
from app.specs import RlSpec
from app.store import episodes
from benchmarks.rl_play import ask, play
from workers.rollout.actions import parse
from workers.rollout.envs.crafter import Crafter
from workers.rollout.play import PlayOptions
from workers.rollout.policies.random import Random
from workers.rollout.policies.scripted import Scripted
from workers.rollout.prompts import reply_from_openai
from workers.rollout.relabel import recorded, relabel

pytestmark = pytest.mark.usefixtures("sqlite_store")


def spec_of(**tables: Any) -> RlSpec:
    """Two groups of two play six turns, of up to four actions."""
    shown = {"max_turns": 6, "policy_config": {"max_actions": 4}, "reply_format": "text"}
    return small_rl({"rollout": shown, "dagger": {"rounds": 1}}, tables)


def begun(spec: RlSpec, policy: Any) -> Job:
    """A job whose first iteration was played by a policy of ours."""
    job = submit("rl", specs.resolved(spec))
    play(job.id, spec, policy, 0)
    return job


def files(job: Job) -> list[Artifact]:
    with db.reading() as session:
        found = list(session.exec(select(Artifact).where(Artifact.job_id == job.id, Artifact.kind == "labels")))
        session.expunge_all()
        return found


def lines(job: Job) -> list[dict[str, Any]]:
    (file,) = files(job)
    return [json.loads(line) for line in artifacts.read_artifact(file).splitlines()]


def test_of_its_own_play_the_expert_says_what_it_did() -> None:
    spec = spec_of(dagger={"expert": "scripted:reactive"})
    job = begun(spec, Scripted(variant="reactive"))
    step = ask(job.id, spec)
    assert (step.state, step.done, step.total) == ("succeeded", 4, 4)
    told = lines(job)
    assert {key: (step.result or {})[key] for key in ("episodes", "turns")} == {"episodes": 4, "turns": len(told)}
    assert len(told) == 4 * 6
    assert all(line["said"] == line["actions"] for line in told)
    assert all(len(line["actions"]) == 1 for line in told), "one action, unless the spec asks for more"


@pytest.mark.parametrize("reply_format", ["text", "tool_call"])
def test_a_line_has_the_reply_that_play_would_read_as_the_experts_word(reply_format: str) -> None:
    shown = {"reply_format": reply_format}
    spec = spec_of(rollout=shown, dagger={"expert": "scripted:visible", "actions": 3})
    job = begun(spec, Random(actions_per_turn=2))
    ask(job.id, spec)
    told = lines(job)
    wanted = []
    options = PlayOptions.of(spec, "train")
    for seed in spec.seeds_of(0):
        for member in range(2):
            with db.reading() as session:
                row = episodes.find(session, job.id, EpisodeKey(iteration=0, seed=seed, member=member))
                assert row is not None
                played = recorded(session, row.id, options.env, options.env_config)
            wanted += [
                (row.id, label.turn, list(label.actions), label.goal) for label in relabel(played, "visible", open_loop_k=3)
            ]
    assert [(line["episode"], line["turn"], line["actions"], line["goal"]) for line in told] == wanted
    for line in told:
        read = parse(
            reply_from_openai(line["message"]), reply_format=options.prompt.reply_format, actions=Crafter.actions, max_actions=4
        )
        assert (str(read.outcome), list(read.actions)) == ("ok", line["actions"])


def test_a_line_has_what_the_model_said_whole_and_nothing_where_it_cannot_be_read() -> None:
    spec = spec_of()
    job = begun(spec, Random(actions_per_turn=3))
    with db.reading() as session:
        row = episodes.find(session, job.id, EpisodeKey(iteration=0, seed=spec.seeds_of(0)[0], member=0))
    assert row is not None
    turns = turn_rows(row.id)
    write("UPDATE turn SET outcome = 'parse_error' WHERE episode_id = :id AND \"index\" = 1", id=row.id)
    write("UPDATE turn SET outcome = 'engine_error' WHERE episode_id = :id AND \"index\" = 2", id=row.id)
    ask(job.id, spec)
    said = [line["said"] for line in lines(job) if line["episode"] == row.id]
    assert said[0] == [*turns[0].actions, *turns[0].dropped]
    assert len(said[0]) == 3
    assert said[1:3] == [[], None]


def test_play_that_comes_out_otherwise_is_refused_with_the_turn() -> None:
    spec = spec_of()
    job = begun(spec, Random())
    with db.reading() as session:
        row = episodes.find(session, job.id, EpisodeKey(iteration=0, seed=spec.seeds_of(0)[1], member=1))
    assert row is not None
    other = "move_up" if turn_rows(row.id)[4].actions == ["move_down"] else "move_down"
    write('UPDATE turn SET actions = :actions WHERE episode_id = :id AND "index" = 4', actions=json.dumps([other]), id=row.id)
    step = ask(job.id, spec)
    assert step.state == "failed"
    assert step.reason is not None
    assert step.reason.startswith(f"the expert cannot be asked about episode {row.id}: turn ")
    assert "when it is played again" in step.reason
    assert not files(job)


def test_asked_again_it_says_the_same(own_home: Path) -> None:
    spec = spec_of()
    job = begun(spec, Random())
    ask(job.id, spec)
    ask(job.id, spec, attempt=2)
    one, other = files(job)
    assert one.sha256 == other.sha256
    assert one.data == other.data == {"iteration": 0, "expert": "scripted:reactive", "episodes": 4, "turns": 24}
