"""An ``eval`` job: policies play seeds, every turn is kept, and the play is scored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from app.errors import did_you_mean
from app.specs import crafter
from app.specs.base import BASE_URL, NAME, Clash, Compat, Spec, Table, listed
from app.specs.draft import shown
from app.specs.engine import VLLM_ONLY, VllmTable, ref_fault, too_small
from app.specs.play import CRAFTER_IN_SCHEMA, PlayTable
from app.specs.policies import MODEL, OPENAI, POLICIES, VIEWS, PolicyOptions, policy_name
from app.specs.policy_config import MODEL_KEYS, PROVIDERS, REQUEST_KEYS, SERVED_KEYS, PolicyConfig
from app.specs.seeds import Seeds

SEED_POLICY = "crafter-react"
"""The name that files of the followed project give to a policy that asks a model."""
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


class EvalTable(PlayTable):
    """Who plays what, how often, and what is kept."""

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
    episodes_in_flight: Annotated[int, Field(ge=1, le=256)] = 16
    """Episodes of a model that one step has under way at once, so that the engine's batch is full."""
    budget: Budget = Budget()
    """What the job may ask of paid endpoints."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Most steps of this job that run at once; no value: no limit of its own."""
    episodes_per_step: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Episodes that one step plays; no value: chosen by the size of the job."""
    split: Annotated[str, StringConstraints(pattern=NAME)] = "train"
    """The split that the seeds belong to, for `filter.splits`; the worlds do not depend on it."""
    blank_frames: bool = False
    """Show models a black picture of the same size in place of each frame: how much worse they play tells how much they look at
    it. The traces have the black pictures, which are what was seen."""
    task_app_url: Annotated[str, StringConstraints(pattern=BASE_URL, max_length=1000)] | None = None
    """A task app that plays in place of synthq's own workers, which then ask it for every episode (`POST /rollout`)."""

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

    def checks(self) -> Iterator[Clash]:
        yield from super().checks()
        yield from self._model_policies()
        if self.task_app_url is not None and (self.budget.max_usd is not None or self.budget.max_tokens is not None):
            yield Clash("budget", "a cap cannot be held where a task app asks the model; remove task_app_url or the cap")
        if self.blank_frames and not self.policy_config.use_vision:
            yield Clash("blank_frames", "true needs policy_config.use_vision = true: there is no picture that could be black")
        if self.blank_frames and self.task_app_url is not None:
            yield Clash("blank_frames", "a task app makes its pictures itself, so they cannot be black; remove task_app_url")
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
            write = f"policies = {shown((*self.policies, near))}"
            yield Clash("model", f"{shown(self.model)} is asked by none of the policies; write {write}")
        names = {policy_name(label)[0] for label in self.policies}
        for name in self.policy_options.names():
            if name not in names:
                yield Clash(f"policy_options.{name}", f"{name!r} does not play here{did_you_mean(name, names)}")

    def _served(self, key: str, label: str, ref: str | None) -> Iterator[Clash]:
        """What is asked of a model that synthq serves."""
        if not ref:
            yield Clash(key, "model needs one: write model:REF, or set eval.model")
        elif fault := ref_fault(ref):
            endpoint = "; a model at an endpoint needs policy_config.provider or policy_config.inference_url"
            yield Clash(key, fault if ref.startswith((".", "~")) else fault + endpoint)
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


def _asks(table: dict[str, Any]) -> str:
    """Which policy a raw table's model is asked by: the one for endpoints where it names one."""
    config = table.get("policy_config")
    told = isinstance(config, dict) and (config.get("provider") is not None or config.get("inference_url") is not None)
    return OPENAI if told or table.get("task_app_url") is not None else MODEL


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
            yield from self.eval.served_checks("eval")

    @property
    def served(self) -> tuple[str, ...]:
        """Labels of the policies that ask a model which synthq serves."""
        return tuple(label for label in self.eval.policies if policy_name(label)[0] == MODEL)

    def play(self, purpose: str = "") -> EvalTable:
        """How the job's episodes are played; they all serve one purpose."""
        return self.eval

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
        whole["$defs"]["EvalTable"].update(CRAFTER_IN_SCHEMA)

    def cautions(self) -> Iterator[str]:
        table = self.eval
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
        yield from table.play_cautions("eval")
        if self.served:
            yield from table.served_cautions("eval")

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
        if self.eval.blank_frames and MODEL not in names:
            yield f"eval.blank_frames: only models look at pictures, not {who}"
        if self.eval.budget != Budget():
            yield f"eval.budget: only models at an endpoint spend, not {who}"
