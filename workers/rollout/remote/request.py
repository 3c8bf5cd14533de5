"""What a task app is asked for one episode: the contract that every task app knows, and what only synthq's own reads."""

from __future__ import annotations

from typing import Any

from app.records import EpisodeKey
from app.specs.eval import SEED_POLICY, EvalSpec
from app.specs.policies import OPENAI, policy_name

LONGEST_S = 3600
"""The contract's own limit of time, for a spec that sets none."""
EXTENSION = "synthq"
"""The field that synthq's own task app reads in place of ``env``, ``policy`` and ``ops``: the eval's table and the episode's key.
Others, which do not know it, go by the contract."""


def turns_of(spec: EvalSpec, label: str) -> int:
    """Most turns of an episode of a policy."""
    table = spec.eval
    if policy_name(label)[0] == OPENAI and table.max_llm_calls is not None:
        return min(table.max_turns, table.max_llm_calls)
    return table.max_turns


def rollout_body(spec: EvalSpec, label: str, key: EpisodeKey, *, run_id: str) -> dict[str, Any]:
    """The body of ``POST /rollout`` for one episode."""
    table, turns = spec.eval, turns_of(spec, label)
    plain = table.model_dump(mode="json")
    name, variant = policy_name(label)
    config = {name: value for name, value in plain["policy_config"].items() if value is not None}
    if name == OPENAI:
        config |= {"model": variant, "temperature": table.temperature, "max_llm_calls": turns}
        if table.policy_config.endpoint:
            config["inference_url"] = table.policy_config.endpoint
    return {
        "run_id": run_id,
        "env": {"env_name": table.env, "seed": key.seed, "config": plain["env_config"]},
        "policy": {"policy_name": SEED_POLICY if name == OPENAI else label, "config": config},
        "ops": ["agent", "env"] * turns,
        "record": {"trajectories": True, "return_trace": True, "trace_format": "structured"},
        "on_done": "terminate",
        "safety": {"max_ops": 2 * turns, "max_time_s": table.max_time_s or LONGEST_S},
        "mode": "eval",
        EXTENSION: {
            "eval": {**plain, "seeds": [key.seed], "policies": [label]},
            "iteration": key.iteration,
            "member": key.member,
        },
    }
