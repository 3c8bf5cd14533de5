"""An ``eval`` job: policies play seeds, every turn is kept, and the play is scored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from app.errors import did_you_mean
from app.specs import crafter
from app.specs.base import BASE_URL, NAME, Clash, Compat, Spec, Table, Word, listed
from app.specs.draft import shown
from app.specs.engine import VLLM_ONLY, VllmTable, ref_fault, too_small
from app.specs.policies import MODEL, OPENAI, POLICIES, VIEWS, PolicyOptions, policy_name
from app.specs.policy_config import MODEL_KEYS, PROVIDERS, REQUEST_KEYS, SERVED_KEYS, PolicyConfig
from app.specs.seeds import Seeds

SEED_POLICY = "crafter-react"
"""The name that files of the followed project give to a policy that asks a model."""
Turns = Annotated[int, Field(ge=1, le=100_000)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
"""A policy's name, or ``name:variant``; a variant may be a path."""
Labels = Annotated[
    tuple[Label, ...],
    Field(strict=False, min_length=1, max_length=16),
    BeforeValidator(listed, json_schema_input_type=Label | list[Label]),
]


class Budget(Table):
    """What a job may ask of paid endpoints. Nothing is sent that could go beyond it."""

    max_usd: Annotated[float, Field(gt=0)] | None = None
    """Most that the job may cost; needs the two prices."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most tokens of prompts and replies together."""
    input_usd_per_million: Annotated[float, Field(ge=0)] | None = None
    """Price of a million tokens of prompt."""
    output_usd_per_million: Annotated[float, Field(ge=0)] | None = None
    """Price of a million tokens of reply."""

    def checks(self) -> Iterator[Clash]:
        prices = {"input_usd_per_million": self.input_usd_per_million, "output_usd_per_million": self.output_usd_per_million}
        lacking = [key for key, price in prices.items() if price is None]
        if self.max_usd is not None and lacking:
            yield Clash("max_usd", f"{self.max_usd:g} can be held only with prices; give {' and '.join(lacking)}")


class EvalTable(Table):
    """Who plays what, how often, and what is kept."""

    env: Word = "crafter"
    """The environment, by its registered name."""
    seeds: Annotated[Seeds, Field(examples=["0-9"])]
    """The seeds to play: `"0-9"`, `"0,3,7-9"`, one number, or a list of those; 0 to 2147483647, 100,000 at most."""
    episodes_per_seed: Annotated[int, Field(ge=1, le=1000)] = 1
    """Episodes of each seed by each policy."""
    policies: Labels = ("scripted",)
    """Who plays the seeds, each by name or `name:variant`: `random`; `scripted`, or `scripted:omniscient`, `scripted:visible`
    and `scripted:reactive` by what it may know; `model:REF`, a model that synthq serves, by the whole path of its folder, its
    hub id or an artifact's id, adapters likewise; `openai:MODEL`, a model at `policy_config.provider` or `inference_url`."""
    policy_options: PolicyOptions = PolicyOptions()
    """Options of a policy, in a table under its name: `[eval.policy_options.scripted]`."""
    model: Label | None = None
    """The model that plays, or that `openai`, `model` or `crafter-react` ask when their own names say none: one at an endpoint
    when `policy_config.provider` or `inference_url` names one, else one that synthq serves."""
    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """What serves the models; `auto`: what the inference workers have."""
    episodes_in_flight: Annotated[int, Field(ge=1, le=256)] = 16
    """Episodes of a model that one step has under way at once, so that the engine's batch is full."""
    budget: Budget = Budget()
    """What the job may ask of paid endpoints."""
    max_turns: Turns = 10_000
    """Turns after which play stops, whatever the environment's own length."""
    max_time_s: Annotated[float, Field(gt=0, le=86_400)] | None = None
    """Seconds after which an episode stops, between two turns; it makes play depend on the speed of the machine."""
    max_llm_calls: Turns | None = None
    """Most calls of a model in an episode; a model is called once a turn, so the smaller of this and `max_turns` ends it."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Most steps of this job that run at once; no value: no limit of its own."""
    episodes_per_step: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Episodes that one step plays; no value: chosen by the size of the job."""
    split: Annotated[str, StringConstraints(pattern=NAME)] = "train"
    """The split that the seeds belong to, for `filter.splits`; the worlds do not depend on it."""
    task_id: Annotated[str, StringConstraints(pattern=NAME)] | None = None
    """A name for the task, for `filter.task_ids`."""
    task_app_url: Annotated[str, StringConstraints(pattern=BASE_URL, max_length=1000)] | None = None
    """A task app that plays in place of synthq's own workers, which then ask it for every episode (`POST /rollout`)."""
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
    def _the_model_completes_its_policy(cls, value: Any) -> Any:
        """A model alone plays alone; `crafter-react`, and an `openai` or `model` without a model, ask `model`."""
        if not isinstance(value, dict):
            return value
        model, given = value.get("model"), value.get("policies")
        asks = _asks(value)
        labels = [given] if isinstance(given, str) else given
        if labels is None and isinstance(model, str):
            labels = [asks]
        if not isinstance(labels, list | tuple):
            return value
        named = [asks if label == SEED_POLICY else label for label in labels]
        bare = (OPENAI, MODEL) if isinstance(model, str) else ()
        return {**value, "policies": [f"{label}:{model}" if label in bare else label for label in named]}

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
        if self.task_app_url is not None and (self.budget.max_usd is not None or self.budget.max_tokens is not None):
            yield Clash("budget", "a cap cannot be held where a task app asks the model; remove task_app_url or the cap")
        if len(set(self.policies)) < len(self.policies):
            yield Clash("policies", f"{shown(self.policies)} names a policy twice")

    def _model_policies(self) -> Iterator[Clash]:
        """The whole of what is asked of policies that ask a model."""
        for i, label in enumerate(self.policies):
            name, variant = policy_name(label)
            if "/" in name or name == SEED_POLICY:
                yield Clash(f"policies.{i}", f"{shown(label)} is no policy; a model plays as openai:MODEL")
            elif name == OPENAI and not variant:
                yield Clash(f"policies.{i}", "openai needs a model: write openai:MODEL, or set eval.model")
            elif name == OPENAI and self.policy_config.endpoint is None and self.task_app_url is None:
                known = ", ".join(PROVIDERS)
                yield Clash(
                    f"policies.{i}", f"{shown(label)} needs policy_config.provider ({known}) or policy_config.inference_url"
                )
            elif name == MODEL:
                yield from self._served(f"policies.{i}", label, variant)
            elif name == "scripted" and variant is not None and variant not in VIEWS:
                yield Clash(
                    f"policies.{i}", f"scripted has no view {variant!r}{did_you_mean(variant, VIEWS)} (it has {', '.join(VIEWS)})"
                )
            elif name == "random" and variant is not None:
                yield Clash(f"policies.{i}", f"random has no variants, so not {shown(label)}")
        asked = {f"{name}:{self.model}" for name in (OPENAI, MODEL)}
        if self.model is not None and not asked & set(self.policies):
            near = f"{OPENAI if self.policy_config.endpoint else MODEL}:{self.model}"
            yield Clash("model", f"{shown(self.model)} is asked by none of the policies; add {shown(near)}")
        names = {policy_name(label)[0] for label in self.policies}
        for name in self.policy_options.names():
            if name not in names:
                yield Clash(f"policy_options.{name}", f"{name!r} does not play here{did_you_mean(name, names)}")

    def _served(self, key: str, label: str, ref: str | None) -> Iterator[Clash]:
        """What is asked of a model that synthq serves."""
        if not ref:
            yield Clash(key, "model needs one: write model:REF, or set eval.model")
        elif fault := ref_fault(ref):
            yield Clash(key, fault)
        elif self.task_app_url is not None:
            yield Clash(key, f"a task app cannot ask {shown(label)}, which is served inside this system; remove task_app_url")

    def options_of(self, label: str) -> dict[str, Any]:
        """What the policy with a label is built with, by keyword."""
        name, _ = policy_name(label)
        if name not in (OPENAI, MODEL):
            return self.policy_options.of(name)
        keys = REQUEST_KEYS if name == OPENAI else SERVED_KEYS
        asked = {
            **{key: getattr(self.policy_config, key) for key in keys},
            "temperature": self.temperature,
            "upscale_to": self.env_config.upscale_to if isinstance(self.env_config, crafter.CrafterConfig) else None,
        }
        if name == MODEL:
            return asked
        return {
            **asked,
            "endpoint": self.policy_config.endpoint,
            "api_key_env": self.policy_config.key_variable,
            "input_usd_per_million": self.budget.input_usd_per_million,
            "output_usd_per_million": self.budget.output_usd_per_million,
        }

    def env_settings(self) -> dict[str, Any]:
        """What the environment is built with, by keyword."""
        return self.env_config if isinstance(self.env_config, dict) else self.env_config.settings()


def _asks(table: dict[str, Any]) -> str:
    """Which policy a raw table's model is asked by: the one for endpoints where it names one."""
    config = table.get("policy_config")
    told = isinstance(config, dict) and (config.get("provider") is not None or config.get("inference_url") is not None)
    return OPENAI if told or table.get("task_app_url") is not None else MODEL


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
        "eval.reasoning_effort": "eval.policy_config.reasoning_effort",
    },
    refused={
        "eval.judge": "eval scores by achievements and runs no judges; remove the key",
        "eval.judges": "eval scores by achievements and runs no judges; remove the key",
        "judge": "eval scores by achievements and runs no judges; remove the table",
        "judges": "eval scores by achievements and runs no judges; remove the table",
        "eval.metadata": "seeds are chosen by eval.seeds alone; remove the key",
        "eval.metadata_sql": "seeds are chosen by eval.seeds alone; remove the key",
        "eval.env_file": "a spec reads no env files; set the variables in the shell, and ${VAR} in the spec finds them",
        "eval.system_hint": "the prompt's rules are chosen by eval.policy_config.rules; remove the key",
        "eval.policy_config.system_hint": "the prompt's rules are chosen by eval.policy_config.rules; remove the key",
        "vllm.use_cudagraph": "enforce_eager says it, the other way round; write that",
        "eval.policy_config.api_key": "a spec is stored with its job, so it holds no secrets; name the variable in api_key_env",
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
    vllm: VllmTable = VllmTable()
    """How the models are served, by either engine."""

    def checks(self) -> Iterator[Clash]:
        if self.served:
            policy = self.eval.policy_config
            yield from too_small(self.vllm, pictures=int(policy.use_vision), max_tokens=policy.max_tokens)

    @property
    def served(self) -> tuple[str, ...]:
        """Labels of the policies that ask a model which synthq serves."""
        return tuple(label for label in self.eval.policies if policy_name(label)[0] == MODEL)

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
        names = {policy_name(label)[0] for label in table.policies}
        for name in sorted(names - set(POLICIES)):
            near = did_you_mean(name, POLICIES)
            yield f"eval.policies: {name!r} is not built in (built in: {', '.join(POLICIES)}){near}"
        yield from self._for_models_only(names)
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

    def _for_models_only(self, names: set[str]) -> Iterator[str]:
        """Keys that nobody who plays here reads."""
        table = self.eval
        if MODEL not in names:
            for key in VllmTable.model_fields:
                if getattr(self.vllm, key) != VllmTable.model_fields[key].default:
                    yield f"vllm.{key}: only models that synthq serves (model:REF) have use for it"
        elif table.engine == "transformers":
            for key in VLLM_ONLY:
                if getattr(self.vllm, key) != VllmTable.model_fields[key].default:
                    yield f'vllm.{key}: the engine "transformers" does not read it'
        if OPENAI in names or names - set(POLICIES):
            return
        who = " or ".join(self.eval.policies)
        for key in MODEL_KEYS:
            if MODEL in names and key in SERVED_KEYS:
                continue
            if getattr(self.eval.policy_config, key) != PolicyConfig.model_fields[key].default:
                yield f"eval.policy_config.{key}: only models {'at an endpoint ' * (MODEL in names)}read it, not {who}"
        if self.eval.temperature != 1.0 and MODEL not in names:
            yield f"eval.temperature: only models read it, not {who}"
        if self.eval.budget != Budget():
            yield f"eval.budget: only models at an endpoint spend, not {who}"


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
