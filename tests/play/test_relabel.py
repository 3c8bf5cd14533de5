"""Labels for DAgger: the expert's own actions at every turn of an episode, whoever played it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from core.kit import job, submit_eval
from play_kit import begin, episodes, finish, options, play, turn_rows

from app import specs
from app.errors import InvalidInput, ReplayMismatch, UnknownName
from app.records import Turn
from workers.rollout import envs
from workers.rollout.actions import format_reply, parse
from workers.rollout.envs.crafter import Crafter
from workers.rollout.play import Game, PlayOptions
from workers.rollout.policies.random import Random
from workers.rollout.policies.scripted import Scripted
from workers.rollout.policies.scripted.player import MINDS
from workers.rollout.prompts import PromptOptions
from workers.rollout.relabel import Played, relabel

CHOSEN = options(length=220, prompt=PromptOptions(max_actions=8))


@pytest.fixture(params=sorted(MINDS))
def view(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def recorded(game: Game, turns: list[Turn], *, start: bytes | None = None) -> Played:
    return Played(
        env="crafter",
        env_config=game.options.env_config,
        seed=game.key.seed,
        turns=turns,
        env_version=game.env.version,
        start=start,
    )


def said(turn: Turn) -> tuple[str, ...]:
    """All that a reply says, carried out or not."""
    return parse(turn.reply, reply_format="tool_call", actions=Crafter.actions, max_actions=8).actions


@pytest.mark.parametrize("k", [1, 5])
def test_the_labels_of_the_experts_own_play_are_what_it_did(view: str, k: int) -> None:
    for seed in (21, 22):
        game = begin(Scripted(variant=view, open_loop_k=k), CHOSEN, seed=seed)
        turns = play(game)
        labels = list(relabel(recorded(game, turns), view, open_loop_k=k))
        assert [label.actions for label in labels] == [said(turn) for turn in turns]
        assert [label.goal for label in labels] == [turn.reply.notes["goal"] for turn in turns]
        assert [label.turn for label in labels] == list(range(len(turns)))


def test_the_labels_of_the_experts_play_after_a_snapshot_begin_there(view: str) -> None:
    game = begin(Random(), CHOSEN, seed=23)
    play(game, 40)
    start = game.env.snapshot()
    later = begin(Random(), CHOSEN, seed=23)
    later.env.restore(start)
    turns = play(later, 30)
    labels = list(relabel(recorded(later, turns, start=start), view))
    assert len(labels) == 30
    with pytest.raises(ReplayMismatch, match="turn 0 has the frame"):
        list(relabel(recorded(later, turns), view))


@pytest.mark.parametrize("per_turn", [1, 4])
def test_what_chance_did_gets_sensible_labels_and_is_not_changed(view: str, per_turn: int) -> None:
    game = begin(Random(actions_per_turn=per_turn), CHOSEN, seed=24)
    turns = play(game)
    world = Crafter(length=220)
    labels = list(relabel(recorded(game, turns), view, env=world))
    assert len(labels) == len(turns)
    for label in labels:
        reply = format_reply(label.actions, "tool_call")
        assert parse(reply, reply_format="tool_call", actions=Crafter.actions, max_actions=8).actions == label.actions
        assert label.goal
    assert world.state_sha256() == game.env.state_sha256()
    agreed = sum(label.actions[0] == turn.actions[0] for label, turn in zip(labels, turns, strict=True))
    assert agreed < len(turns) / 2


def test_the_expert_on_the_students_way_knows_where_it_is() -> None:
    """Eight blind actions a turn, and its map still shows the world around the player as it is."""
    game = begin(Random(actions_per_turn=8), CHOSEN, seed=25)
    turns = play(game)
    world, seen = Crafter(length=220), []

    class Watched(Scripted):
        def decide(self):  # type: ignore[no-untyped-def]
            seen.append((self._mind.memory.at, world.world.player.x, world.world.player.y))
            return super().decide()

    import workers.rollout.relabel as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Scripted", Watched)
        list(relabel(recorded(game, turns), "visible", env=world))
    cell, x0, y0 = seen[0]
    assert [at - cell for at, _, _ in seen] == [(y - y0) * 128 + x - x0 for _, x, y in seen]
    assert len({at for at, _, _ in seen}) > 5


@pytest.mark.usefixtures("sqlite_store")
def test_labels_come_from_the_stores_rows(own_home: Path) -> None:
    policies = ["scripted", "random", "scripted:omniscient"]
    job_id = submit_eval(seeds="3-4", policies=policies, max_turns=40).id
    assert finish(job_id).state == "succeeded"
    chosen = PlayOptions.of(specs.build(job(job_id).spec))
    for (seed, member), row in episodes(job_id).items():
        turns = turn_rows(row.id)
        assert all(turn.frame for turn in turns)
        played = Played(env=row.env, env_config=chosen.env_config, seed=seed, turns=turns, env_version=row.env_version)
        labels = list(relabel(played, "omniscient" if member == 2 else "visible"))
        same = [list(label.actions) == turn.actions for label, turn in zip(labels, turns, strict=True)]
        assert all(same) == (member != 1)


def test_a_record_that_does_not_fit_the_world_is_refused_at_its_turn() -> None:
    game = begin(Scripted(), CHOSEN, seed=26)
    turns = play(game, 30)
    forged = [*turns[:10], replace(turns[10], actions=("noop",)), *turns[11:]]
    seen = []
    with pytest.raises(ReplayMismatch, match=r"turn 11 has the frame \w{12} on record, and \w{12} when"):
        seen.extend(relabel(recorded(game, forged)))
    without = [replace(turn, frame=None) for turn in forged]
    assert len(list(relabel(recorded(game, without)))) == 30  # nothing to hold it against
    other = replace(recorded(game, turns), env_version="0")
    with pytest.raises(ReplayMismatch, match="played in crafter 0; this is 1"):
        list(relabel(other))


def test_turns_beyond_the_worlds_end_are_refused() -> None:
    game = begin(Scripted(), options(length=12), seed=27)
    turns = play(game)
    more = [*turns, SimpleNamespace(index=12, actions=["noop"], frame=None)]
    with pytest.raises(ReplayMismatch, match="turn 12 is on record; played again, the world has ended before it"):
        list(relabel(recorded(game, more)))  # type: ignore[arg-type]
    long = [*turns[:-1], replace(turns[-1], actions=("noop", "noop"), frame=None)]
    with pytest.raises(ReplayMismatch, match="turn 11 has 2 actions"):
        list(relabel(recorded(game, long)))


def test_a_view_that_there_is_not_and_a_game_it_does_not_play_are_refused(played_package: Path) -> None:
    game = begin(Scripted(), options(length=5), seed=27)
    played = recorded(game, play(game))
    with pytest.raises(UnknownName, match="did you mean 'visible'"):
        list(relabel(played, "visibel"))
    with pytest.raises(InvalidInput, match="plays crafter only, not 'corridor'"):
        list(relabel(replace(played, env="corridor", env_config={}, turns=[], env_version=None)))
    assert "corridor" in envs.registered()
