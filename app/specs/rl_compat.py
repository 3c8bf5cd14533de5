"""How rl files of the project that synthq follows are read: their keys under synthq's names, and what is not taken."""

from __future__ import annotations

from typing import Final

from app.specs import crafter
from app.specs.base import Compat

_JUDGES: Final = "rl learns from the environment's rewards and runs no judges; remove the key"
_PROMPT: Final = "[model] says which model plays; remove the key"
_ONCE: Final = "an achievement counts once in an episode"
_NO_TIME: Final = ((0,), "nothing is added for time; remove the key or write 0.0")
_TURNS: Final = ((["agent", "env"],), 'the policy and the environment take turns; remove the key or write ["agent", "env"]')
_STEP_REWARDS: Final = {
    "step_rewards_enabled": "enabled",
    "step_rewards_mode": "mode",
    "step_rewards_strategy": "strategy",
    "step_rewards_indicator_lambda": "indicator_lambda",
    "step_rewards_weights": "weights",
    "step_rewards_k_limits": "k_limits",
}

SEED_KEYS: Final = Compat(
    aliases={
        "algorithm.variety": "algorithm.estimator",
        "policy.model_name": "model.base",
        "policy.source": "model.source",
        "policy.trainer_mode": "model.trainer_mode",
        "policy.label": "model.label",
        "policy.max_tokens": "rollout.policy_config.max_tokens",
        "policy.temperature": "rollout.temperature",
        "policy.top_p": "rollout.policy_config.top_p",
        "training.lora": "lora",
        "compute.topology": "topology",
        "rollout.env_name": "rollout.env",
        "rollout.env_config.difficulty": "rollout.difficulty",
        "rollout.policy_config.temperature": "rollout.temperature",
        "rollout.policy_config.max_llm_calls": "rollout.max_llm_calls",
        "training.max_turns": "rollout.max_turns",
        "training.max_completion_tokens": "rollout.policy_config.max_tokens",
        "training.max_images_per_message": "rollout.policy_config.max_images_per_message",
        "training.reward_negative_no_tool": "rollout.invalid_penalty",
        "data.evaluation_episodes": "evaluation.instances",
    },
    values={"rollout.env": dict.fromkeys(crafter.NAMES[1:], crafter.NAMES[0])},
    refused={
        "judge.reward_blend": _JUDGES,
        "judge.options.event": _JUDGES,
        "judge.options.outcome": _JUDGES,
        "judge.options.provider": _JUDGES,
        "judge.options.model": _JUDGES,
        "judge.options.rubric_id": _JUDGES,
        "judge.options.rubric_overrides": _JUDGES,
        "judge.options.tracks": _JUDGES,
        "judge.options.weights": _JUDGES,
        "judge.options.max_concurrency": _JUDGES,
        "rubric": "rl learns from the environment's rewards and has no rubrics; remove the table",
        "smoke": "the table was for another command line; remove it",
        "policy.inference_url": "a model at an endpoint cannot be trained; synthq serves it; remove the key",
        "policy.top_k": "every token can be sampled, or the ratios of probabilities would be wrong; remove the key",
        "policy.repetition_penalty": "engines sample from the model's own probabilities; remove the key",
        "policy.stop_sequences": "a reply ends where the model ends it; remove the key",
        "rollout.policy_config.model": _PROMPT,
        "training.reward_positive": "the environment says what an achievement is worth; remove the key",
        "training.reward_negative_no_answer": "rollout.invalid_penalty is for every reply that cannot be read; write that",
        "vllm.use_cudagraph": "enforce_eager says it, the other way round; write that",
    },
    settled={
        "algorithm.type": (("online",), 'rl learns from its own play; remove the key or write "online"'),
        "algorithm.method": (
            ("policy_gradient",),
            "the method is a policy gradient; algorithm.estimator says how turns are valued",
        ),
        "rollout.policy_name": (("crafter-react", "model"), "the policy is the model that is trained"),
        "rollout.ops": _TURNS,
        "rollout.task_app_origin_rewards_only": ((True,), "the environment's rewards are the only ones"),
        "rollout.rubric_rewards_only": ((False,), "the environment's rewards are the only ones"),
        "training.weight_sync_interval": ((1,), "every update is published, so that play is never older than it must be"),
        "training.ops": _TURNS,
        "training.event_rewards_kind": (("unique",), _ONCE),
        "training.rewards.event_rewards_kind": (("unique",), _ONCE),
    },
)
"""Keys of the followed project, for any environment."""

CRAFTER_KEYS: Final = Compat(
    only_if=("rollout.env", crafter.NAMES[0]),
    aliases={
        **{f"training.{old}": f"rollout.env_config.step_rewards.{new}" for old, new in _STEP_REWARDS.items()},
        **{f"training.rewards.{old}": f"rollout.env_config.step_rewards.{new}" for old, new in _STEP_REWARDS.items()},
        "rollout.env_config.env_params.max_steps_per_episode": "rollout.max_turns",
    },
    values={
        "rollout.env_config.step_rewards.strategy": {
            "simple": "consistent",
            "complex": "per_achievement",
            "achievement_weighted": "per_achievement",
        }
    },
    settled={
        "rollout.env_config.env_params": (({},), "max_steps_per_episode is the one key that is read here"),
        "rollout.env_config.step_rewards.step_beta": _NO_TIME,
        "training.step_rewards_beta": _NO_TIME,
        "training.rewards.step_rewards_beta": _NO_TIME,
        "training.rewards": (({},), "these keys are those of rollout.env_config.step_rewards"),
    },
)
"""Keys of the followed project in its settings of Crafter."""
