"""An ``eval`` job: policies play seeds, every turn is kept, and the play is scored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, ValidatorFunctionWrapHandler, field_validator, model_validator

from app.errors import did_you_mean
from app.specs import crafter
from app.specs.base import Clash, Compat, Spec, Table, Text, Word, Words
from app.specs.draft import shown
from app.specs.seeds import Seeds

POLICIES = ("random", "scripted")
"""Policies that need no model."""
SEED_POLICY = "crafter-react"
"""The name that files of the followed project give to a policy that asks a model."""

Turns = Annotated[int, Field(ge=1, le=100_000)]


class PolicyConfig(Table):
    """What a policy is shown and how it may answer."""

    use_vision: bool = True
    """The frame is part of the prompt."""
    image_only_mode: bool = False
    """The prompt's user message is the frame alone: no description, no history. Needs `use_vision`."""
    rules: Literal["none", "short", "full"] = "short"
    """How much of the environment's rules the system message tells."""
    history: Annotated[int, Field(ge=0, le=64)] = 3
    """How many of the last turns are told as text; 0 in `image_only_mode`."""
    max_actions: Annotated[int, Field(ge=1, le=8)] = 8
    """How many actions one reply may hold."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the probability that a model samples from."""
    max_tokens: Annotated[int, Field(ge=1, le=131_072)] = 512
    """Most tokens in one reply of a model."""
    use_tools: bool | None = None
    """Must agree with `eval.reply_format`: true goes with `tool_call`, false with `text`."""
    tool_choice: Literal["auto", "required"] = "auto"
    """Whether a model must call the tool."""
    provider: Word | None = None
    """Who serves a model."""
    inference_url: Text | None = None
    """Where a model is served."""

    @model_validator(mode="before")
    @classmethod
    def _no_history_in_image_only_mode(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("image_only_mode") is True and "history" not in value:
            return {**value, "history": 0}
        return value

    def checks(self) -> Iterator[Clash]:
        if self.image_only_mode and not self.use_vision:
            yield Clash("image_only_mode", "true needs use_vision = true: without the picture nothing is left to show")
        if self.image_only_mode and self.history > 0:
            yield Clash("history", f"{self.history} turns of text cannot be told in image_only_mode; write history = 0")


class EvalTable(Table):
    """Who plays what, how often, and what is kept."""

    env: Word = "crafter"
    """The environment, by its registered name."""
    seeds: Annotated[Seeds, Field(examples=["0-9"])]
    """The seeds to play: `"0-9"`, `"0,3,7-9"`, one number, or a list of those; 0 to 2147483647, 100,000 at most."""
    episodes_per_seed: Annotated[int, Field(ge=1, le=1000)] = 1
    """Episodes of each seed by each policy."""
    policies: Annotated[Words, Field(min_length=1, max_length=16)] = ("scripted",)
    """Who plays, by registered name: `random`, `scripted`, or both. All play the same seeds."""
    model: Word | None = None
    """A model that plays."""
    max_turns: Turns = 10_000
    """Turns after which play stops, whatever the environment's own length."""
    max_llm_calls: Turns | None = None
    """Most calls of a model in an episode; a model is called once a turn, so the smaller of this and `max_turns` ends it."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Most steps of this job that run at once; no value: no limit of its own."""
    episodes_per_step: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Episodes that one step plays; no value: chosen by the size of the job."""
    split: Literal["train"] = "train"
    """The split that the seeds belong to; there is one."""
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
        yield from self._model_policies()
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
        if len(set(self.policies)) < len(self.policies):
            yield Clash("policies", f"{shown(self.policies)} names a policy twice")

    def _model_policies(self) -> Iterator[Clash]:
        """The whole of what keeps models out of this release: take it away with the first engine."""
        sentence = "model policies are not in this release; use policies scripted or random"
        if self.model is not None:
            yield Clash("model", f"{sentence}, not {shown(self.model)}")
        for i, policy in enumerate(self.policies):
            if policy == SEED_POLICY or "/" in policy:
                yield Clash(f"policies.{i}", f"{sentence}, not {shown(policy)}")

    def env_settings(self) -> dict[str, Any]:
        """What the environment is built with, by keyword."""
        return self.env_config if isinstance(self.env_config, dict) else self.env_config.settings()


def _enabled_strategy(table: dict[str, Any]) -> str | None:
    """The strategy of step rewards that are switched on in a raw table."""
    config = table.get("env_config")
    rewards = config.get("step_rewards") if isinstance(config, dict) else None
    if table.get("env", crafter.NAMES[0]) != crafter.NAMES[0] or not isinstance(rewards, dict):
        return None
    strategy = rewards.get("strategy", "consistent") if rewards.get("enabled") is True else None
    return strategy if strategy in ("consistent", "per_achievement") else None


SEED_KEYS = Compat(
    values={"eval.env": dict.fromkeys(crafter.NAMES[1:], crafter.NAMES[0])},
    aliases={
        "eval.env_name": "eval.env",
        "eval.app_id": "eval.env",
        "eval.policy": "eval.policies",
        "eval.policy_name": "eval.policies",
        "eval.policy_config.model": "eval.model",
        "eval.policy_config.temperature": "eval.temperature",
        "eval.policy_config.max_llm_calls": "eval.max_llm_calls",
        "eval.top_p": "eval.policy_config.top_p",
        "eval.max_tokens": "eval.policy_config.max_tokens",
        "eval.tool_choice": "eval.policy_config.tool_choice",
        "eval.inference_url": "eval.policy_config.inference_url",
    },
    refused={
        "eval.task_app_url": "eval plays in synthq's own workers and calls no task app; remove the key",
        "eval.judge": "eval scores by achievements and runs no judges; remove the key",
        "eval.judges": "eval scores by achievements and runs no judges; remove the key",
        "judge": "eval scores by achievements and runs no judges; remove the table",
        "judges": "eval scores by achievements and runs no judges; remove the table",
        "eval.metadata": "seeds are chosen by eval.seeds alone; remove the key",
        "eval.metadata_sql": "seeds are chosen by eval.seeds alone; remove the key",
        "eval.env_file": "a spec reads no env files; set the variables in the shell, and ${VAR} in the spec finds them",
        "eval.system_hint": "the prompt's rules are chosen by eval.policy_config.rules; remove the key",
        "eval.policy_config.system_hint": "the prompt's rules are chosen by eval.policy_config.rules; remove the key",
        "eval.reasoning_effort": "no policy of this release reasons; remove the key",
        "eval.policy_config.reasoning_effort": "no policy of this release reasons; remove the key",
        "eval.policy_config.thinking_mode": "no policy of this release thinks aloud; remove the key",
        "eval.policy_config.thinking_budget": "no policy of this release thinks aloud; remove the key",
        "eval.policy_config.api_key": "a spec is stored with its job, so it holds no secrets; remove the key",
    },
    settled={
        "eval.ops": ((["agent", "env"],), 'the policy and the environment take turns; remove the key or write ["agent", "env"]'),
        "eval.return_trace": ((True, False), "every trace is kept whole"),
        "eval.trace_format": (("compact", "full", "structured"), "every trace is kept whole, in one form"),
    },
)
"""Keys of the followed project, for any environment."""

CRAFTER_KEYS = Compat(
    only_if=("eval.env", crafter.NAMES[0]),
    values={
        "eval.env_config.step_rewards.strategy": {
            "simple": "consistent",
            "complex": "per_achievement",
            "achievement_weighted": "per_achievement",
        }
    },
    aliases={"eval.env_config.env_params.max_steps_per_episode": "eval.max_turns"},
    settled={
        "eval.env_config.difficulty": (("normal",), "Crafter has no difficulty; remove the key"),
        "eval.env_config.env_params": (({},), "max_steps_per_episode is the one key that is read here"),
        "eval.env_config.step_rewards.step_beta": ((0,), "nothing is added for time; remove the key or write 0.0"),
    },
)
"""Keys of the followed project in its settings of Crafter."""


_CRAFTER_IN_SCHEMA: dict[str, Any] = {
    "if": {
        "properties": {"env": {"enum": list(crafter.NAMES)}},
        "not": {"anyOf": [{"required": ["env_name"]}, {"required": ["app_id"]}]},
    },
    "then": {"properties": {"env_config": {"$ref": "#/$defs/CrafterConfig"}}},
}
"""JSON Schema for what ``EvalTable._crafter_has_its_own_table`` does."""


class EvalSpec(Spec):
    """Policies play seeds, every turn is kept, and the play is scored."""

    compats: ClassVar[tuple[Compat, ...]] = (SEED_KEYS, CRAFTER_KEYS)

    kind: Literal["eval"] = "eval"
    """What kind of job this is."""
    eval: EvalTable
    """Who plays what, how often, and what is kept."""

    @property
    def episodes(self) -> int:
        """How many episodes the job plays."""
        return len(self.eval.seeds) * self.eval.episodes_per_seed * len(self.eval.policies)

    def headline(self) -> str:
        seeds, episodes = len(self.eval.seeds), self.episodes
        return (
            f"{seeds} seed{'s' * (seeds != 1)} of {self.eval.env}, {' and '.join(self.eval.policies)}, "
            f"{episodes} episode{'s' * (episodes != 1)}"
        )

    @classmethod
    def finish_schema(cls, whole: dict[str, Any]) -> None:
        whole["$defs"]["EvalTable"].update(_CRAFTER_IN_SCHEMA)

    def cautions(self) -> Iterator[str]:
        table, policy = self.eval, self.eval.policy_config
        if table.env != crafter.NAMES[0]:
            near = did_you_mean(table.env, crafter.NAMES[:1])
            yield f"eval.env: {table.env!r} is not built in, so its env_config is checked only where it is installed{near}"
        for name in table.policies:
            if name not in POLICIES:
                near = did_you_mean(name, POLICIES)
                yield f"eval.policies: {name!r} is not built in (built in: {', '.join(POLICIES)}){near}"
        for key in ("top_p", "max_tokens", "tool_choice", "provider", "inference_url"):
            if getattr(policy, key) != PolicyConfig.model_fields[key].default:
                yield f"eval.policy_config.{key}: only models read it, not {' or '.join(table.policies)}"
        if table.temperature != 1.0:
            yield f"eval.temperature: only models read it, not {' or '.join(table.policies)}"
        if table.max_llm_calls is not None and table.max_llm_calls < table.max_turns:
            yield (
                f"eval.max_llm_calls: {table.max_llm_calls} ends a model's episode before max_turns = {table.max_turns}; "
                "a policy that is no model plays on"
            )
        if table.save_frames == "none":
            yield 'eval.save_frames: "none" keeps no pictures, so filter cannot make training data with images of this job'
        if isinstance(table.env_config, crafter.CrafterConfig):
            yield from _picture_cautions(table.env_config, policy)
            yield from _reward_cautions(table.env_config.step_rewards, table.reward)


def _picture_cautions(config: crafter.CrafterConfig, policy: PolicyConfig) -> Iterator[str]:
    if config.upscale_to is not None and config.upscale_to % config.image_size:
        yield (
            f"eval.env_config.upscale_to: {config.upscale_to} is no multiple of image_size = {config.image_size}, "
            "so some pixels come out wider than others"
        )
    if config.upscale_to is not None and not policy.use_vision:
        yield "eval.env_config.upscale_to: nothing is upscaled with use_vision = false"


def _reward_cautions(rewards: crafter.StepRewards, reward: str) -> Iterator[str]:
    for key, reader in (("indicator_lambda", "consistent"), ("weights", "per_achievement"), ("k_limits", "per_achievement")):
        if reward != reader and getattr(rewards, key) != getattr(crafter.StepRewards(), key):
            yield f'eval.env_config.step_rewards.{key}: only reward = "{reader}" reads it, and the reward is "{reward}"'
