"""``python -m workers.init_tiny tiny DIR`` and ``random DIR --like NAME``: new models with random weights.

Their tokenizer is trained on what a model of this product reads and says: the built-in expert plays a few seeds in every kind of
prompt, and the prompts and replies are the texts.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from app import engines
from app.command_line import Tick, counted, meter, no_tick, out, out_json, told
from app.errors import NotHere
from app.records import EpisodeKey, Outcome, Turn
from workers.model.folder import check_free
from workers.rollout import envs, policies, prompts
from workers.rollout.actions import ARGUMENT, REPLY_FORMATS, TOOL
from workers.rollout.play import Game, PlayOptions
from workers.transport import chat

if TYPE_CHECKING:
    from workers.model.new import Made, Plan

ENV = "crafter"
SEEDS, TURNS = 1, 50
"""Episodes of each kind of prompt that are played for their texts, and turns of each."""


def words() -> tuple[str, ...]:
    """What a reply is made of, so that each is worth a token of its own."""
    return (*envs.make(ENV).actions, TOOL, ARGUMENT)


def kinds() -> tuple[prompts.PromptOptions, ...]:
    """Every kind of prompt: rules, reply format, number of actions, with and without words about the state."""
    grid = itertools.product(prompts.RULES_LEVELS, REPLY_FORMATS, (1, 8), (False, True))
    return tuple(
        prompts.PromptOptions(rules=rules, reply_format=reply_format, max_actions=most, image_only_mode=only)
        for rules, reply_format, most, only in grid
    )


def texts(*, seeds: int = SEEDS, turns: int = TURNS, tick: Tick = no_tick) -> Iterator[str]:
    """Conversations as the chat template renders them; the same every time."""
    for number, options in enumerate(kinds()):
        for seed in range(seeds):
            yield from asyncio.run(_play(options, 1_000_000 + number * seeds + seed, turns))
            tick(1)
    yield from _rare_lines()


async def _play(options: prompts.PromptOptions, seed: int, turns: int) -> list[str]:
    """One episode of the expert. Its seed is far from those that jobs name."""
    play = PlayOptions(env=ENV, env_config={"image_size": 63}, prompt=options)
    policy = policies.make("scripted:omniscient", {"open_loop_k": options.max_actions})
    game = Game.begin(play, policy, EpisodeKey(iteration=0, seed=seed, member=0))
    tools = prompts.tools(game.env.actions, options.max_actions) if options.reply_format == "tool_call" else None
    told = []
    while not game.ended and game.totals.turns < turns:
        turn, _ = await game.turn()
        messages = [*turn.messages, prompts.assistant(turn.reply)]
        told.append(chat.render(prompts.to_openai(messages, image_url=str), tools))
    return told


def _rare_lines() -> Iterator[str]:
    """What the history of play tells seldom: every achievement, every way in which a reply is not valid."""
    env = envs.make(ENV)
    blank = Turn(
        index=0,
        frame=None,
        messages=(),
        reply=prompts.Reply(),
        outcome=Outcome.OK,
        detail="",
        actions=(),
        dropped=(),
        rewards={},
        reward=0.0,
        unlocked=(),
        terminated=False,
        truncated=False,
        state_sha256=None,
        timings={},
    )
    for name in env.achievements:
        yield prompts.turn_line(replace(blank, unlocked=(name,)))
    for outcome in Outcome:
        yield prompts.turn_line(replace(blank, outcome=outcome, dropped=env.actions))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    return told(lambda: _run(_parser().parse_args(argv)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workers.init_tiny", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    tiny, random = verbs.add_parser("tiny"), verbs.add_parser("random")
    for each in (tiny, random):
        each.add_argument("directory", type=Path)
        each.add_argument("--seed", type=int, default=0)
        each.add_argument("--json", action="store_true")
    tiny.add_argument("--size", default="1m")
    for name, px in (("frame-px", 63), ("patch", 7), ("merge", 3)):
        tiny.add_argument(f"--{name}", type=int, default=px)
    random.add_argument("--like", required=True)
    random.add_argument("--layers", type=int)
    return parser


def _run(given: argparse.Namespace) -> int:
    if why := engines.why_not(engines.TRANSFORMERS):
        raise NotHere(why)
    begun = time.monotonic()
    made = _make(given)
    seconds = time.monotonic() - begun
    if given.json:
        out_json({**dataclasses.asdict(made), "path": str(made.path), "seconds": round(seconds, 1)})
        return 0
    out(f"✓ {made.path}: a Qwen3-VL of {made.parameters:,} parameters with random weights, made in {seconds:.1f} s")
    out(f"  a frame of {made.frame_px} x {made.frame_px} pixels is {counted(made.frame_tokens, 'image token')}")
    out(f"  the tokenizer has {made.vocab:,} tokens, and each action is one of them")
    out(f"  sha256 of its weights: {made.sha256}")
    return 0


def _make(given: argparse.Namespace) -> Made:
    """Check what is asked for, gather the texts, make the model. The last two show how far they are."""
    directory = given.directory.expanduser().absolute()
    check_free(directory)
    from workers.model import new

    plan = _plan(given)
    with meter("playing for texts", total=SEEDS * len(kinds())) as tick:
        gathered = list(texts(tick=tick))
    with meter("drawing weights") as tick:
        return new.make(directory, plan, gathered, seed=given.seed, words=words(), tick=tick)


def _plan(given: argparse.Namespace) -> Plan:
    """Raises InvalidInput and UnknownName for flags that cannot be right."""
    if given.verb == "tiny":
        from workers.model.tiny import plan_tiny

        return plan_tiny(size=given.size, frame_px=given.frame_px, patch=given.patch, merge=given.merge)
    from workers.model.random_like import plan_random

    return plan_random(like=given.like, layers=given.layers)


if __name__ == "__main__":
    sys.exit(main())
