"""Plays one episode: prompt, reply, parse, act, reward, turn after turn. eval and rl both play here, and nowhere else.

An episode can stop after any turn and go on elsewhere: ``Game.snapshot`` holds the world, the policy's memory and the running
totals. What is decided is decided by (spec, seed, member) alone, so the same episode played twice gives the same trace.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from time import perf_counter
from typing import Any

import numpy as np

from app.errors import BadSnapshot, EpisodeOver, InvalidInput
from app.records import EpisodeKey, Frame, Message, Outcome, Reply, Turn
from app.specs import PlayedSpec
from app.specs.crafter import CrafterConfig
from app.store import turns as turn_rows
from app.store.starts import Start
from workers.rollout import actions, envs, prompts, rewards
from workers.rollout.envs.base import Environment, StepResult
from workers.rollout.policies.base import Policy, Request
from workers.transport.pixels import encode_png

SNAPSHOT_VERSION = 1
TURN_LIMIT, TIME_LIMIT = "turns", "time"
"""How an episode ended that used up the spec's turns, or its time."""
NOOP = "noop"
TIMINGS = "timings_ms"
"""The note of a reply in which a policy tells what parts of its time went where, such as to an engine's ``prefill``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayOptions:
    """What a spec says about play."""

    env: str
    env_config: Mapping[str, Any]
    prompt: prompts.PromptOptions
    reward: str = "unlocked"
    rewards: rewards.RewardOptions = field(default_factory=rewards.RewardOptions)
    max_turns: int = 10_000
    max_llm_calls: int | None = None
    """Turns of a policy that asks a model, which is once a turn; None for no limit of its own."""
    max_time_s: float | None = None
    """Seconds of play, counted over every turn wherever it was played; None for no limit."""
    invalid_reply: str = NOOP
    """``noop`` or ``skip``: what a reply that cannot be read does to the world."""
    invalid_penalty: float = 0.0
    """0 or more; taken off the reward of such a turn."""
    keep_frames: bool = True
    blank_frames: bool = False
    """A policy that reads prompts is shown a black picture of the frame's size in its place."""
    sampling_seed: int = 0

    @classmethod
    def of(cls, spec: PlayedSpec, purpose: str = "") -> PlayOptions:
        """The options of a job's play, where it has several by what the play is for."""
        table = spec.play(purpose)
        policy = table.policy_config
        config = table.env_settings()
        crafter = table.env_config if isinstance(table.env_config, CrafterConfig) else None
        step = crafter.step_rewards if crafter else None
        if crafter:
            # upscale_to is between engine and trainer, step_rewards between play and the reward: neither is the world's business.
            config = {"image_size": crafter.image_size, "length": crafter.length, "area": crafter.area}
        return cls(
            env=table.env,
            env_config=config,
            prompt=prompts.PromptOptions(
                use_vision=policy.use_vision,
                image_only_mode=policy.image_only_mode,
                rules=policy.rules,
                history=policy.history,
                reply_format=table.reply_format,
                max_actions=policy.max_actions,
            ),
            reward=table.reward,
            rewards=rewards.RewardOptions(weight=step.indicator_lambda, weights=step.weights, k_limits=step.k_limits)
            if step
            else rewards.RewardOptions(),
            max_turns=table.max_turns,
            max_llm_calls=table.max_llm_calls,
            max_time_s=table.max_time_s,
            invalid_reply=table.invalid_reply,
            invalid_penalty=-table.invalid_penalty,
            keep_frames=table.save_frames == "all",
            blank_frames=table.blank_frames,
            sampling_seed=table.sampling_seed,
        )


@dataclass(slots=True, kw_only=True)
class Totals:
    """Sums over an episode's turns."""

    turns: int = 0
    returns: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    timings: Counter[str] = field(default_factory=Counter)
    chain: str = ""
    """Identity of the episode so far: equal play, equal chain. The first link is the name of the start, where there is one."""
    terminated: bool = False
    truncated: bool = False

    def add(self, turn: Turn, row: turn_rows.Row, start: str = "") -> None:
        """Count a turn of an episode that has this start."""
        self.turns += 1
        self.terminated, self.truncated = turn.terminated, turn.truncated
        self.returns.update(turn.rewards)
        self.outcomes[str(turn.outcome)] += 1
        self.timings.update(turn.timings)
        self.chain = turn_rows.chained(self.chain or start, row)

    def figures(self) -> dict[str, Any]:
        """Columns of an episode's row that the turns alone decide."""
        return {
            "turns": self.turns,
            "returns": {name: float(value) for name, value in self.returns.items()},
            "outcomes": dict(self.outcomes),
            "terminated": self.terminated,
            "truncated": self.truncated,
            "sha256": self.chain,
            "timings": {name: round(value, 3) for name, value in self.timings.items()},
        }


@dataclass(frozen=True, slots=True)
class Before:
    """What had happened in the world before the episode began: nothing of it is the episode's own."""

    steps: int = 0
    unlocked: tuple[str, ...] = ()
    start: str = ""
    """The name of the start; empty where the episode begins at its seed."""


@lru_cache(maxsize=16)
def black(width: int, height: int) -> Frame:
    """A black picture."""
    return Frame.of(encode_png(np.zeros((height, width, 3), np.uint8)), width=width, height=height)


class Game:
    """One running episode: a world, a policy in it, and what happened so far."""

    def __init__(
        self, options: PlayOptions, policy: Policy, key: EpisodeKey, env: Environment, before: Before | None = None
    ) -> None:
        if options.invalid_reply == NOOP and NOOP not in env.actions:
            raise InvalidInput(f"invalid_reply = {NOOP!r} needs an action of that name, and {env.name} has none; write 'skip'")
        options.rewards.check(env.achievements)
        self.options, self.policy, self.key, self.env = options, policy, key, env
        self.totals = Totals()
        self._before = before or Before()
        self._most_turns = options.max_turns
        if policy.model is not None and options.max_llm_calls is not None:
            self._most_turns = min(options.max_turns, options.max_llm_calls)
        self._rows: list[turn_rows.Row] = []
        self._history: deque[Turn] = deque(maxlen=options.prompt.history or 1)
        level = options.prompt.rules
        self._rules = None if level in prompts.UNTOLD else env.rules(level)

    @classmethod
    def begin(
        cls,
        options: PlayOptions,
        policy: Policy,
        key: EpisodeKey,
        env: Environment | None = None,
        start: Start | None = None,
    ) -> Game:
        """Begin the episode of a seed, in ``env`` if a used one is at hand; with a start, where ``env`` stands already."""
        env = env or envs.make(options.env, dict(options.env_config))
        if start is None:
            env.reset(key.seed)
        policy.begin(env, key, sampling_seed=options.sampling_seed)
        if start is None:
            return cls(options, policy, key, env)
        return cls(options, policy, key, env, Before(env.length, tuple(env.unlocked()), start.sha256))

    @property
    def ended(self) -> str | None:
        """None while the episode runs; else how it ended."""
        if self.env.ended:
            return self.env.ended
        if self.totals.turns >= self._most_turns:
            return TURN_LIMIT
        limit = self.options.max_time_s
        return TIME_LIMIT if limit is not None and sum(self.totals.timings.values()) >= limit * 1e3 else None

    def frame(self) -> Frame | None:
        """The present picture as it is stored; None when neither the prompt nor the spec wants one."""
        wanted = self.options.keep_frames or (self.options.prompt.needs_frame and self.policy.needs_messages)
        if not wanted:
            return None
        pixels = self.env.frame()
        return Frame.of(encode_png(pixels), width=pixels.shape[1], height=pixels.shape[0])

    def _shown(self) -> Frame | None:
        """The picture that goes with a turn: what its prompt shows."""
        frame = self.frame()
        if frame is None or not (self.options.blank_frames and self.policy.needs_messages):
            return frame
        return black(frame.width, frame.height)

    async def turn(self) -> tuple[Turn, Frame | None]:
        """Play one turn. Raises EpisodeOver after the end."""
        if self.ended:
            raise EpisodeOver(self.ended)
        begun = perf_counter()
        frame = self._shown()
        framed = perf_counter()
        messages = self._messages(frame)
        asked = perf_counter()
        reply = await self.policy.reply(self._request(messages, frame))
        parsed = actions.parse(
            reply,
            reply_format=self.options.prompt.reply_format,
            actions=self.env.actions,
            max_actions=self.options.prompt.max_actions,
        )
        answered = perf_counter()
        wanted = parsed.actions
        if parsed.outcome is not Outcome.OK and self.options.invalid_reply == NOOP:
            wanted = (NOOP,)
        results = self._act(wanted)
        acted = perf_counter()
        turn = self._record(
            frame=frame.sha256 if frame else None,
            messages=messages,
            reply=reply,
            outcome=parsed.outcome,
            detail=parsed.detail,
            wanted=wanted,
            results=results,
            timings={
                "frame": (framed - begun) * 1e3,
                "prompt": (asked - framed) * 1e3,
                **_parted((answered - asked) * 1e3, reply),
                "env": (acted - answered) * 1e3,
            },
        )
        return turn, frame

    def _messages(self, frame: Frame | None) -> tuple[Message, ...]:
        prompt = self.options.prompt
        if frame is None and prompt.needs_frame and not self.policy.needs_messages:
            return ()  # no frames are kept and the policy reads no prompt: there is nothing to build one from
        description = None if prompt.image_only_mode else self.env.describe(self.env.status())
        sha256 = frame.sha256 if frame else None
        return prompts.build(self._rules, description, sha256, tuple(self._history), prompt, self.env.actions)

    def _request(self, messages: tuple[Message, ...], frame: Frame | None) -> Request:
        return Request(
            index=self.totals.turns,
            messages=messages,
            options=self.options.prompt,
            actions=self.env.actions,
            env=self.env,
            frames={frame.sha256: frame.png}.__getitem__ if frame else None,
        )

    def _act(self, wanted: Sequence[str]) -> list[StepResult]:
        results: list[StepResult] = []
        for action in wanted:
            results.append(self.env.step(action))
            if self.env.ended:
                break
        return results

    def _record(
        self,
        *,
        frame: str | None,
        messages: tuple[Message, ...],
        reply: Reply,
        outcome: Outcome,
        detail: str,
        wanted: Sequence[str],
        results: Sequence[StepResult],
        timings: dict[str, float],
    ) -> Turn:
        given = rewards.turn_rewards(results, self.options.rewards, outcome=outcome, invalid_penalty=self.options.invalid_penalty)
        turn = Turn(
            index=self.totals.turns,
            frame=frame,
            messages=messages,
            reply=reply,
            outcome=outcome,
            detail=detail,
            actions=tuple(wanted[: len(results)]),
            dropped=tuple(wanted[len(results) :]),
            rewards=given,
            reward=given[self.options.reward],
            unlocked=rewards.unlocked_names(results),
            terminated=bool(results) and results[-1].terminated,
            truncated=bool(results) and results[-1].truncated,
            state_sha256=None,
            timings=timings,
        )
        row = turn_rows.row(turn)
        self._rows.append(row)
        self.totals.add(turn, row, self._before.start)
        self._history.append(turn)
        return turn

    def take_rows(self) -> list[turn_rows.Row]:
        """The turns since this was last asked, as the store keeps them."""
        rows, self._rows = self._rows, []
        return rows

    def figures(self) -> dict[str, Any]:
        """What the episode's row keeps of its turns so far: who played, how it ended, the sums, the hash."""
        env, before = self.env, self._before
        achievements = {name: step - before.steps for name, step in env.unlocked().items() if name not in before.unlocked}
        return {
            "policy_version": self.policy.version,
            "model": self.policy.model,
            "ended": self.ended,
            "length": env.length - before.steps,
            "achievements": achievements,
            "unlocked": len(achievements),
            **self.totals.figures(),
        }

    def snapshot(self) -> bytes:
        """Everything needed to go on elsewhere: zlib over JSON."""
        remembered = [
            [turn.index, list(turn.actions), str(turn.outcome), list(turn.dropped), list(turn.unlocked)] for turn in self._history
        ]
        totals = self.totals
        value = {
            "version": SNAPSHOT_VERSION,
            "env": base64.b64encode(self.env.snapshot()).decode(),
            "policy": base64.b64encode(self.policy.snapshot()).decode(),
            "turns": totals.turns,
            "returns": totals.returns,
            "outcomes": totals.outcomes,
            "timings": totals.timings,
            "chain": totals.chain,
            "history": remembered,
            "before": [self._before.steps, self._before.unlocked, self._before.start],
        }
        return zlib.compress(json.dumps(value).encode())

    @classmethod
    def resume(
        cls, options: PlayOptions, policy: Policy, key: EpisodeKey, snapshot: bytes, env: Environment | None = None
    ) -> Game:
        """Go on from ``snapshot``. Raises BadSnapshot."""
        world, memory, totals, history, before = _opened(snapshot)
        env = env or envs.make(options.env, dict(options.env_config))
        env.restore(world)
        policy.restore(memory)
        game = cls(options, policy, key, env, before)
        game.totals = totals
        game._history.extend(history)
        return game


def _parted(policy_ms: float, reply: Reply) -> dict[str, float]:
    """A policy's time, less the parts of it that its reply tells of, and those."""
    parts: Mapping[str, float] = reply.notes.get(TIMINGS) or {}
    return {"policy": max(0.0, policy_ms - sum(parts.values())), **parts}


def _opened(snapshot: bytes) -> tuple[bytes, bytes, Totals, list[Turn], Before]:
    """The world's snapshot, the policy's, the totals, the last turns, and what was before. Raises BadSnapshot."""
    try:
        value = json.loads(zlib.decompress(snapshot))
        if value["version"] != SNAPSHOT_VERSION:
            raise BadSnapshot(f"the snapshot has version {value['version']!r}; this synthq reads {SNAPSHOT_VERSION}")
        totals = Totals(
            turns=value["turns"],
            returns=Counter(value["returns"]),
            outcomes=Counter(value["outcomes"]),
            timings=Counter(value["timings"]),
            chain=value["chain"],
        )
        history = [_remembered(*row) for row in value["history"]]
        steps, unlocked, start = value.get("before", (0, (), ""))  # one of the time before there were starts has none
        before = Before(steps, tuple(unlocked), start)
        return base64.b64decode(value["env"]), base64.b64decode(value["policy"]), totals, history, before
    except (zlib.error, ValueError, TypeError, KeyError) as error:
        raise BadSnapshot(f"these bytes are no snapshot of a running episode: {error!r}") from None


def _remembered(index: int, done: list[str], outcome: str, dropped: list[str], unlocked: list[str]) -> Turn:
    """As much of a past turn as prompts tell of it."""
    return Turn(
        index=index,
        frame=None,
        messages=(),
        reply=Reply(),
        outcome=Outcome(outcome),
        detail="",
        actions=tuple(done),
        dropped=tuple(dropped),
        rewards={},
        reward=0.0,
        unlocked=tuple(unlocked),
        terminated=False,
        truncated=False,
        state_sha256=None,
        timings={},
    )
