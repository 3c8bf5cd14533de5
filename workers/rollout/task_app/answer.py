"""What was played, in the contract's words. A picture is sent once, in the trace; wherever else it belongs, its sha256 is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from app import specs
from app.records import ToolCall, Turn
from app.specs.crafter import CrafterConfig, StepRewards
from app.store.turns import reply_json
from workers.rollout.actions import ARGUMENT
from workers.rollout.task_app.rollout import OPS_A_TURN, Played
from workers.transport import trace


def encode(played: Played) -> bytes:
    """The answer to ``POST /rollout`` as JSON. The one trajectory is encoded once and stands under both its names."""
    ask = played.ask
    whole = {
        "run_id": ask.run_id,
        "aborted": played.aborted,
        "error": played.error,
        "ops_executed": OPS_A_TURN * len(played.turns),
        "branches": {},
        "trace_correlation_id": ask.trace_correlation_id,
        "pipeline_metadata": {"trace_correlation_id": ask.trace_correlation_id, "inference_url": ask.inference_url},
        "metrics": metrics(played),
        "metadata": metadata(played),
        "trace": trace.pack(played.trace()) if ask.record.return_trace else None,
    }
    text = json.dumps(whole, separators=(",", ":"))[:-1]
    if ask.whole or not ask.record.trajectories:
        return f'{text},"trajectories":[],"trajectory":null}}'.encode("ascii")
    one = json.dumps(trajectory(played), separators=(",", ":"))
    return f'{text},"trajectories":[{one}],"trajectory":{one}}}'.encode("ascii")


def metrics(played: Played) -> dict[str, Any]:
    """The figures of the episode."""
    game = played.game
    figures = {**game.figures(), "ended": played.ended}
    returned = figures["returns"].get(game.options.reward, 0.0)
    return {
        "episode_returns": [returned],
        "mean_return": returned,
        "num_steps": len(played.turns),
        "num_episodes": 1,
        "outcome_score": None,
        "events_score": None,
        "details": {**figures, "reward": game.options.reward, "stepwise": stepwise(played)},
    }


def step_rewards(played: Played) -> StepRewards:
    """What stepwise rewards are made of; those of an environment that has none are the defaults."""
    config = played.ask.spec.eval.env_config
    return config.step_rewards if isinstance(config, CrafterConfig) else StepRewards()


def stepwise(played: Played) -> dict[str, Any]:
    """The sums of stepwise rewards over all turns."""
    chosen = step_rewards(played)
    turns = [turn for turn, _ in played.turns]
    names = [name for turn in turns for name in turn.unlocked]
    return {
        "mode": chosen.mode,
        "strategy": chosen.strategy,
        "indicator_lambda": chosen.indicator_lambda,
        "weights": dict(chosen.weights),
        "k_limits": dict(chosen.k_limits),
        "step_beta": 0.0,
        "indicator_sum": sum(bool(turn.unlocked) for turn in turns),
        "reward_sum": sum(turn.rewards[chosen.strategy] for turn in turns),
        "resource_reward": 0.0,
        "new_achievements_total": len(names),
        "unique_achievements_total": len(set(names)),
        "unique_achievements": sorted(set(names)),
        "final_achievements": sorted(played.game.env.unlocked()),
    }


def metadata(played: Played) -> dict[str, Any]:
    """What was asked for, and who played."""
    ask, game = played.ask, played.game
    prompt = game.options.prompt
    return {
        "run_id": ask.run_id,
        "mode": ask.mode,
        "training_session_id": ask.training_session_id,
        "env_name": game.options.env,
        "env_version": game.env.version,
        "seed": ask.key.seed,
        "iteration": ask.key.iteration,
        "member": ask.key.member,
        "policy_name": ask.label,
        "policy_version": game.policy.version,
        "model": game.policy.model,
        "use_vision": prompt.use_vision,
        "image_only_mode": prompt.image_only_mode,
        "max_turns": game.options.max_turns,
        "ended": played.ended,
        "spec_sha256": specs.sha256(ask.spec),
        "warnings": specs.warnings(ask.spec),
        "synthq": version("synthq"),
    }


def trajectory(played: Played) -> dict[str, Any]:
    """The episode as steps, one a turn."""
    ask = played.ask
    samples = [_sample(played, turn) for turn, _ in played.turns]
    last = played.last_frame.sha256 if played.last_frame else None
    return {
        "env_id": played.game.options.env,
        "policy_id": ask.label,
        "length": len(played.turns),
        "inference_url": ask.inference_url,
        "trace_correlation_id": ask.trace_correlation_id,
        "decision_samples": samples,
        "steps": [_step(played, turn, told, sample) for (turn, told), sample in zip(played.turns, samples, strict=True)],
        "final": {"observation": {"text": played.final, "frame": last}, "ended": played.ended},
    }


def _sample(played: Played, turn: Turn) -> dict[str, Any]:
    strategy = step_rewards(played).strategy
    return {
        "decision_index": turn.index,
        "indicator": int(bool(turn.unlocked)),
        "r_i": turn.rewards[strategy],
        "base": turn.rewards[strategy],
        "resource_reward": 0.0,
        "strategy": strategy,
        "actions": list(turn.actions),
    }


def _step(played: Played, turn: Turn, told: str | None, sample: Mapping[str, Any]) -> dict[str, Any]:
    reply, timings = turn.reply, turn.timings
    meta = {
        "turn_index": turn.index,
        "outcome": str(turn.outcome),
        "detail": turn.detail,
        "raw_response": reply_json(reply),
        "policy_version": reply.policy_version,
        "usage": reply.notes.get("usage"),
        "inference_url": played.ask.inference_url,
        "inference_ms": round(timings["policy"], 3),
        "env_step_ms": round(timings["env"], 3),
        "timing": {name: round(ms, 3) for name, ms in timings.items()},
    }
    if played.ask.record.logprobs:
        meta |= {"prompt_ids": reply.prompt_ids, "output_ids": reply.output_ids, "logprobs": reply.logprobs}
    return {
        "obs": {"text": told, "frame": turn.frame},
        "tool_calls": [{"tool_name": call.name, "arguments": _arguments(call)} for call in reply.tool_calls],
        "reward": turn.reward,
        "done": turn.terminated or turn.truncated,
        "truncated": turn.truncated,
        "info": {
            "achievements_added": list(turn.unlocked),
            "actions": list(turn.actions),
            "dropped": list(turn.dropped),
            "rewards": dict(turn.rewards),
            "stepwise": sample,
            "meta": meta,
        },
    }


def _arguments(call: ToolCall) -> Any:
    """The arguments as an object, where they are a list of actions and nothing else; otherwise as the text that came."""
    try:
        value = json.loads(call.arguments)
    except (ValueError, RecursionError):
        return call.arguments
    named = value.get(ARGUMENT) if isinstance(value, dict) and len(value) == 1 else None
    return value if isinstance(named, list) and all(isinstance(name, str) for name in named) else call.arguments
