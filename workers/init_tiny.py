"""``python -m workers.init_tiny tiny DIR`` and ``random DIR --like NAME``: new models with random weights.

Their tokenizer is trained on what a model of this product reads and says: the built-in expert plays a few seeds in every kind of
prompt, and the prompts and replies are the texts.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import replace

from app.command_line import Tick, no_tick
from app.records import EpisodeKey, Outcome, Turn
from workers.rollout import envs, policies, prompts
from workers.rollout.actions import ARGUMENT, REPLY_FORMATS, TOOL
from workers.rollout.play import Game, PlayOptions
from workers.transport import chat

ENV = "crafter"
SEEDS, TURNS = 2, 50
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
