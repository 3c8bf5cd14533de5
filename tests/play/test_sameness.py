"""The core promise: the same spec is the same play, wherever and however often; and training meets what play met."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from core.kit import REPOSITORY, job, submit, submit_eval, use_settings
from play_elsewhere import player
from play_kit import HERE, begin, episodes, finish, frame_rows, options, play, told, traced, turn_rows
from sqlmodel import select

from app import artifacts, db, specs
from app.models import Artifact, Episode, TextRow, TurnRow
from app.records import ImagePart, Message, Outcome, Reply, TextPart, Turn
from app.specs import EvalSpec
from workers.rollout import actions, envs, prompts
from workers.rollout.play import Game, PlayOptions
from workers.transport.pixels import decode_png, encode_png, upscale

STORED = pytest.mark.usefixtures("sqlite_store", "played_package")
PLAYERS = ["random", "scripted", "babbler"]
"""The last one reads prompts, says two actions a turn, and is now and then not understood."""


# The same spec is the same play.


@STORED
def test_two_jobs_of_one_spec_play_the_same() -> None:
    same = {"seeds": "0-2", "policies": PLAYERS, "max_turns": 40, "episodes_per_seed": 2}
    first, second = submit_eval(**same), submit_eval(**same, episodes_per_step=5)
    assert (finish(first.id).state, job(second.id).state) == ("succeeded", "succeeded")
    mine, theirs = episodes(first.id), episodes(second.id)
    assert mine.keys() == theirs.keys()
    assert len(mine) == 18
    for which, row in mine.items():
        assert row.sha256 == theirs[which].sha256
        assert told(row.id) == told(theirs[which].id)
        assert row.last_frame == theirs[which].last_frame
    # Repeats of a seed differ where a policy draws, and only there.
    hashes = {(row.policy, row.seed): set() for row in mine.values()}
    for row in mine.values():
        hashes[row.policy, row.seed].add(row.sha256)
    assert {policy for (policy, _), found in hashes.items() if len(found) == 2} == {"random", "babbler"}


@STORED
def test_the_sampling_seed_changes_what_is_drawn_and_nothing_else() -> None:
    table = {"seeds": "0-1", "policies": ["random", "scripted"], "max_turns": 20}
    first, second = (submit_eval(**table, sampling_seed=seed) for seed in (0, 1))
    finish(first.id)
    mine, theirs = episodes(first.id), episodes(second.id)
    assert {row.policy for which, row in mine.items() if row.sha256 == theirs[which].sha256} == {"scripted"}
    worlds = [{turn_rows(row.id)[0].frame for row in rows.values()} for rows in (mine, theirs)]
    assert worlds[0] == worlds[1]


@pytest.mark.parametrize("name", PLAYERS)
def test_a_world_that_was_used_before_plays_as_a_new_one(name: str) -> None:
    used = envs.make("crafter")
    play(begin("random", seed=9, env=used), 70)
    assert traced(play(begin(player(name), env=used), 40)) == traced(play(begin(player(name)), 40))


def elsewhere(*questions: dict[str, Any]) -> list[dict[str, Any]]:
    """Play in a new process whose sets and dicts hash otherwise."""
    path = os.pathsep.join([str(REPOSITORY), str(HERE.parent), str(HERE)])
    ran = subprocess.run(
        [sys.executable, str(HERE / "play_elsewhere.py")],
        input=json.dumps(questions),
        env=os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "4711"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    answers: list[dict[str, Any]] = json.loads(ran.stdout)
    return answers


def test_another_process_plays_the_same_from_the_start_and_from_a_snapshot() -> None:
    questions, expected = [], []
    for name in PLAYERS:
        game = begin(player(name), options(sampling_seed=5), seed=3)
        first = traced(play(game, 25))
        kept = base64.b64encode(game.snapshot()).decode()
        rest = traced(play(game, 25))
        end = {"chain": game.totals.chain, "state": game.env.state_sha256()}
        asked = {"policy": name, "seed": 3, "sampling_seed": 5}
        questions += [asked | {"turns": 50, "snapshot": ""}, asked | {"turns": 25, "snapshot": kept}]
        expected += [{"turns": first + rest, **end}, {"turns": rest, **end}]
    assert elsewhere(*questions) == expected


@pytest.mark.usefixtures("store", "played_package")
def test_both_databases_keep_the_play_of_the_loop_alone() -> None:
    with use_settings(SYNTHQ_SEGMENT_S="0.000001"):
        made = submit_eval("1", max_turns=15, policies=["babbler"])
        assert finish(made.id).state == "succeeded"
    (row,) = episodes(made.id).values()
    game = begin(player("babbler"), options(max_turns=15))
    turns = play(game)
    assert row.sha256 == game.totals.chain
    stored = texts()
    for turn, kept in zip(turns, turn_rows(row.id), strict=True):
        assert as_messages(kept, stored[kept.system or ""]) == turn.messages
        assert (kept.index, kept.frame, kept.outcome, kept.detail) == (turn.index, turn.frame, turn.outcome, turn.detail)
        assert (kept.actions, kept.dropped) == (list(turn.actions), list(turn.dropped))
        assert (kept.rewards, kept.reward, kept.unlocked) == (turn.rewards, turn.reward, list(turn.unlocked))
        assert (kept.terminated, kept.truncated, kept.policy_version) == (turn.terminated, turn.truncated, "babbler-1")
        assert kept.reply["text"] == turn.reply.text
        assert (kept.reply["finish"], kept.reply["notes"]) == (turn.reply.finish, turn.reply.notes)
        assert (kept.prompt_ids, kept.output_ids, kept.logprobs) == (None, None, None)


# Going on from a snapshot.


def goes_on(game: Game, name: str, turns: int, every: int, look: int) -> list[Game]:
    """Play with a snapshot after each ``every`` turns; each must give the next ``look`` turns. Gives the games resumed."""
    kept = [(0, game.snapshot())]
    trace, totals = [], []
    while not game.ended and len(trace) < turns:
        trace += traced(play(game, 1))
        totals.append(sums(game))
        if len(trace) % every == 0 and not game.ended:
            kept.append((len(trace), game.snapshot()))
    resumed, used = [], envs.make("crafter")
    for at, snapshot in kept:
        if at == len(trace):
            continue
        other = Game.resume(game.options, player(name), game.key, snapshot, used if at % 2 else None)
        assert other.totals.turns == at
        assert other.snapshot() == snapshot, f"turn {at}: a snapshot of what was resumed is another one"
        resumed.append(Game.resume(game.options, player(name), game.key, snapshot))
        assert traced(play(other, look)) == trace[at : at + look], f"resumed after turn {at}"
        assert sums(other) == totals[min(at + look, len(trace)) - 1]
    return resumed


def sums(game: Game) -> tuple[object, ...]:
    """A game's totals so far, but for how long it took."""
    totals = game.totals
    return totals.turns, dict(totals.returns), dict(totals.outcomes), totals.chain, game.ended


@pytest.mark.parametrize("name", PLAYERS)
def test_play_goes_on_the_same_from_a_snapshot_after_any_turn(name: str) -> None:
    resumed = goes_on(begin(player(name), options(max_turns=50), seed=2), name, turns=50, every=1, look=6)
    assert len(resumed) == 50


def test_play_goes_on_to_the_same_death() -> None:
    game = begin("random", options(keep_frames=False), seed=1)
    goes_on(game, "random", turns=1000, every=40, look=1000)
    assert game.ended == "died"


def test_play_goes_on_the_same_at_night_and_asleep() -> None:
    game = begin("scripted", options(max_turns=330), seed=1)
    resumed = goes_on(game, "scripted", turns=330, every=11, look=5)
    seen = [other.env.status() for other in resumed]
    assert sum(status["sleeping"] for status in seen) >= 3
    assert sum(status["daylight"] < 0.4 and not status["sleeping"] for status in seen) >= 1


# The same prompt in play, in the export and from the builder; the same actions from the exported line.


WAYS = [
    pytest.param(reply_format, policy, images, id=f"{reply_format}-{shown}-{'with' if images else 'without'}-images")
    for reply_format, (shown, policy), images in product(
        ["tool_call", "text"],
        {
            "picture-and-text": {"history": 3},
            "picture-only": {"image_only_mode": True},
            "text-only": {"use_vision": False, "rules": "full", "history": 5},
            "no-rules": {"rules": "none", "history": 0, "max_actions": 4},
        }.items(),
        [True, False],
    )
    if (policy.get("use_vision", True) if images else not policy.get("image_only_mode"))
]


def lines_of(job_id: str) -> list[dict[str, Any]]:
    with db.reading() as session:
        made = session.exec(select(Artifact).where(Artifact.job_id == job_id, Artifact.kind == "dataset")).one()
        session.expunge(made)
    return [json.loads(line) for line in artifacts.read_artifact(made).splitlines()]


def texts() -> dict[str, str]:
    with db.reading() as session:
        return {row.sha256: row.text for row in session.exec(select(TextRow))}


def as_messages(row: TurnRow, system: str) -> tuple[Message, ...]:
    """The prompt of a stored turn."""
    (user,) = row.messages
    parts = [TextPart(text=p["text"]) if p["type"] == "text" else ImagePart(sha256=p["sha256"]) for p in user["parts"]]
    return Message(role="system", parts=(TextPart(text=system),)), Message(role=user["role"], parts=tuple(parts))


def as_turn(row: TurnRow) -> Turn:
    """As much of a stored turn as the history in a prompt tells."""
    return Turn(
        index=row.index,
        frame=row.frame,
        messages=(),
        reply=Reply(),
        outcome=Outcome(row.outcome),
        detail=row.detail,
        actions=tuple(row.actions),
        dropped=tuple(row.dropped),
        rewards=row.rewards,
        reward=row.reward,
        unlocked=tuple(row.unlocked),
        terminated=row.terminated,
        truncated=row.truncated,
        state_sha256=None,
        timings={},
    )


class Replay:
    """An episode's stored actions carried out again in a world of its own, with the prompt of each turn built anew."""

    def __init__(self, spec: EvalSpec, row: Episode, rows: Sequence[TurnRow]) -> None:
        self.way = PlayOptions.of(spec)
        self.env = envs.make(spec.eval.env, dict(self.way.env_config))
        self.env.reset(row.seed)
        self.rows = rows

    def prompt(self, at: int) -> tuple[Message, ...]:
        """The prompt of a turn, from the state that the turns before it led to."""
        way, env = self.way.prompt, self.env
        rules = None if way.rules in prompts.UNTOLD else env.rules(way.rules)
        described = None if way.image_only_mode else env.describe(env.status())
        name = self._frame_name() if way.use_vision else None
        return prompts.build(rules, described, name, [as_turn(row) for row in self.rows[:at]], way, env.actions)

    def _frame_name(self) -> str:
        return hashlib.sha256(encode_png(self.env.frame())).hexdigest()

    def act(self, row: TurnRow) -> None:
        """Do what the turn did; it must give what it gave."""
        results = [self.env.step(action) for action in row.actions]
        assert sum(result.reward for result in results) == pytest.approx(row.rewards["native"])
        assert [name for result in results for name in result.unlocked] == row.unlocked


@STORED
@pytest.mark.parametrize(("reply_format", "policy", "images"), WAYS)
def test_play_export_and_builder_say_the_same_and_the_line_says_the_actions(
    reply_format: Any, policy: dict[str, Any], images: bool
) -> None:
    table = {
        "seeds": "4", "policies": PLAYERS, "max_turns": 12, "reply_format": reply_format, "policy_config": policy,
        "env_config": {"image_size": 45, "upscale_to": 90},
    }  # fmt: skip
    made = submit_eval(**table)
    assert finish(made.id).state == "succeeded"
    wanted = {"jobs": [made.id], "include_images": images, "outcomes_ok_only": False, "filter_errors": False}
    export = submit("filter", specs.resolved(specs.build({"kind": "filter", "filter": wanted})))
    assert finish(export.id).state == "succeeded"
    lines = {(line["metadata"]["episode"], line["metadata"]["turn"]): line for line in lines_of(export.id)}
    spec = specs.parse("eval", job(made.id).spec)
    assert isinstance(spec, EvalSpec)
    stored, frames = texts(), frame_rows()

    for row in episodes(made.id).values():
        rows = turn_rows(row.id)
        replay = Replay(spec, row, rows)
        for turn in rows:
            sent = as_messages(turn, stored[turn.system or ""])
            assert replay.prompt(turn.index) == sent
            line = lines.pop((row.id, turn.index))
            assert line["messages"][:-1] == wire(sent, frames, images=images)
            says_what_was_done(line, turn, replay, reply_format)
            shows_what_was_seen(line, turn, frames, replay, images=images and replay.way.prompt.use_vision)
            replay.act(turn)
    assert not lines


def wire(sent: Sequence[Message], frames: dict[str, bytes], *, images: bool) -> list[dict[str, Any]]:
    """The prompt in OpenAI's format, enlarged as the spec says; its text alone without images."""
    if not images:
        sent = [
            Message(role=message.role, parts=tuple(part for part in message.parts if isinstance(part, TextPart)))
            for message in sent
        ]
    return prompts.to_openai(sent, lambda sha256: encode_png(upscale(decode_png(frames[sha256]), 90, tiles=9)))


def says_what_was_done(line: dict[str, Any], turn: TurnRow, replay: Replay, reply_format: Any) -> None:
    """The exported reply, read by the one parser, is the stored outcome and the actions of the turn."""
    reply = prompts.reply_from_openai(line["messages"][-1])
    assert reply.text == turn.reply["text"]
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [
        (call["name"], call["arguments"]) for call in turn.reply["tool_calls"]
    ]
    assert ("tools" in line) == (reply_format == "tool_call")
    if turn.outcome == "engine_error":
        assert (reply.text, reply.tool_calls) == ("", ())
        return
    most = replay.way.prompt.max_actions
    parsed = actions.parse(reply, reply_format=reply_format, actions=replay.env.actions, max_actions=most)
    assert parsed.outcome == turn.outcome
    done = [*turn.actions, *turn.dropped]
    assert list(parsed.actions) == (done if parsed.outcome is Outcome.OK else [])
    assert done == (list(parsed.actions) or ["noop"])


def shows_what_was_seen(line: dict[str, Any], turn: TurnRow, frames: dict[str, bytes], replay: Replay, *, images: bool) -> None:
    """The exported picture decodes to the stored frame, which is the world before the turn."""
    assert np.array_equal(decode_png(frames[turn.frame or ""]), replay.env.frame())
    content = line["messages"][1]["content"]
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"] if isinstance(content, list) else []
    assert len(urls) == images
    for url in urls:
        shown = decode_png(base64.b64decode(url.removeprefix(prompts.PNG_URL), validate=True))
        assert np.array_equal(shown, upscale(replay.env.frame(), 90, tiles=9))
