"""How episodes are played, in whatever kind of job: the world, what a policy is shown, what counts, where play stops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, ValidationInfo, ValidatorFunctionWrapHandler, field_validator, model_validator

from app.errors import did_you_mean
from app.specs import crafter
from app.specs.base import NAME, Clash, Table, Word
from app.specs.draft import shown
from app.specs.policy_config import PolicyConfig

MOST_TEMPERATURE: Final = 2.0
"""That vLLM takes."""
Turns = Annotated[int, Field(ge=1, le=100_000)]


class PlayTable(Table):
    """How episodes are played."""

    env: Word = "crafter"
    """The environment, by its registered name."""
    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """What serves the models; `auto`: what the inference workers have."""
    max_turns: Turns = 10_000
    """Turns after which play stops, whatever the environment's own length."""
    max_time_s: Annotated[float, Field(gt=0, le=86_400)] | None = None
    """Seconds after which an episode stops, between two turns; it makes play depend on the speed of the machine."""
    max_llm_calls: Turns | None = None
    """Most calls of a model in an episode; a model is called once a turn, so the smaller of this and `max_turns` ends it."""
    task_id: Annotated[str, StringConstraints(pattern=NAME)] | None = None
    """A name for the task, for `filter.task_ids`."""
    sampling_seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Keys the random draws of the policies; the worlds depend on `seeds` alone."""
    temperature: Annotated[float, Field(ge=0, le=10)] = 1.0
    """Sampling temperature of a model; the same for all that are compared."""
    reward: Literal["native", "unlocked", "consistent", "per_achievement"] = "unlocked"
    """The reward of a turn that counts; the others are stored beside it."""
    reply_format: Literal["tool_call", "text"] = "tool_call"
    """How a reply says its actions."""
    invalid_reply: Literal["noop", "skip"] = "noop"
    """What a reply that cannot be read does: one game step of no action, or no game step at all."""
    invalid_penalty: Annotated[float, Field(ge=-1000, le=0)] = 0.0
    """Added to the reward of a turn whose reply cannot be read."""
    save_frames: Literal["all", "none"] = "all"
    """Which frames are stored; a job without frames cannot become training data with pictures."""
    policy_config: PolicyConfig = PolicyConfig()
    """What a policy is shown and how it may answer."""
    env_config: Annotated[crafter.CrafterConfig | dict[str, Any], Field(default_factory=dict, validate_default=True)]
    """Settings of the environment: these keys for `crafter`; another package's environment checks its own."""

    @model_validator(mode="before")
    @classmethod
    def _step_rewards_choose_the_reward(cls, value: Any) -> Any:
        if isinstance(value, dict) and "reward" not in value and (strategy := _enabled_strategy(value)):
            return {**value, "reward": strategy}
        return value

    @field_validator("env_config", mode="wrap")
    @classmethod
    def _crafter_has_its_own_table(cls, value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        if info.data.get("env") == crafter.NAMES[0]:
            return crafter.CrafterConfig.model_validate(value)
        return value if isinstance(value, dict) else check(value)

    def checks(self) -> Iterator[Clash]:
        if self.policy_config.use_tools not in (None, self.reply_format == "tool_call"):
            fits = "tool_call" if self.policy_config.use_tools else "text"
            yield Clash(
                "policy_config.use_tools",
                f'{shown(self.policy_config.use_tools)} goes with reply_format = "{fits}", not "{self.reply_format}"',
            )
        rewards = self.env_config.step_rewards if isinstance(self.env_config, crafter.CrafterConfig) else None
        if rewards is not None and rewards.enabled and self.reward != rewards.strategy:
            yield Clash(
                "reward",
                f'"{self.reward}" and step_rewards with strategy = "{rewards.strategy}" cannot both be the reward; leave one out',
            )

    def env_settings(self) -> dict[str, Any]:
        """What the environment is built with, by keyword."""
        return self.env_config if isinstance(self.env_config, dict) else self.env_config.settings()

    def served_checks(self, where: str) -> Iterator[Clash]:
        """What the engine does not take that the table named ``where`` has models served by."""
        if self.engine == "vllm" and self.temperature > MOST_TEMPERATURE:
            said = f'{self.temperature:g} is above {MOST_TEMPERATURE:g}, the most that the engine "vllm" takes'
            yield Clash(f"{where}.temperature", f'{said}; lower it, or write engine = "transformers"')

    def served_cautions(self, where: str) -> Iterator[str]:
        """What some engine does not take that may come to serve the models of the table named ``where``."""
        if self.engine == "auto" and self.temperature > MOST_TEMPERATURE:
            said = f'{self.temperature:g} is above {MOST_TEMPERATURE:g}, the most that the engine "vllm" takes'
            yield f'{where}.temperature: {said}; write {where}.engine = "transformers", which takes it'

    def play_cautions(self, where: str) -> Iterator[str]:
        """What looks like a mistake in how the table named ``where`` has episodes played."""
        if self.env != crafter.NAMES[0]:
            near = did_you_mean(self.env, crafter.NAMES[:1])
            yield f"{where}.env: {self.env!r} is not built in, so its env_config is checked only where it is installed{near}"
        if isinstance(self.env_config, crafter.CrafterConfig):
            yield from _picture_cautions(f"{where}.env_config", self.env_config, self.policy_config)
            yield from _reward_cautions(f"{where}.env_config.step_rewards", self.env_config.step_rewards, self.reward)


def _picture_cautions(where: str, config: crafter.CrafterConfig, policy: PolicyConfig) -> Iterator[str]:
    if config.upscale_to is not None and config.upscale_to % config.image_size:
        yield (
            f"{where}.upscale_to: {config.upscale_to} is no multiple of image_size = {config.image_size}, "
            "so some pixels come out wider than others"
        )
    if config.upscale_to is not None and not policy.use_vision:
        yield f"{where}.upscale_to: nothing is upscaled with use_vision = false"


def _reward_cautions(where: str, rewards: crafter.StepRewards, reward: str) -> Iterator[str]:
    for key, reader in (("indicator_lambda", "consistent"), ("weights", "per_achievement"), ("k_limits", "per_achievement")):
        if reward != reader and getattr(rewards, key) != getattr(crafter.StepRewards(), key):
            yield f'{where}.{key}: only reward = "{reader}" reads it, and the reward is "{reward}"'


def _enabled_strategy(table: dict[str, Any]) -> str | None:
    """The strategy of step rewards that are switched on in a raw table."""
    config = table.get("env_config")
    rewards = config.get("step_rewards") if isinstance(config, dict) else None
    if table.get("env", crafter.NAMES[0]) != crafter.NAMES[0] or not isinstance(rewards, dict):
        return None
    strategy = rewards.get("strategy", "consistent") if rewards.get("enabled") is True else None
    return strategy if strategy in ("consistent", "per_achievement") else None


CRAFTER_IN_SCHEMA: Final[dict[str, Any]] = {
    "if": {
        "properties": {"env": {"enum": list(crafter.NAMES)}},
        "not": {"anyOf": [{"required": ["env_name"]}, {"required": ["app_id"]}]},
    },
    "then": {"properties": {"env_config": {"$ref": "#/$defs/CrafterConfig"}}},
}
"""JSON Schema for what ``PlayTable._crafter_has_its_own_table`` does."""
