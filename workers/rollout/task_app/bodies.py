"""What a body of ``POST /rollout`` may hold, key by key. What the keys of an eval mean is the spec's own business."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StringConstraints

from app.specs.base import Clash, Table, Word

Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
OPS = {"agent": "agent", "policy": "agent", "model": "agent", "env": "env", "environment": "env", "step": "env"}
"""Every name of an op, and which of the two it is."""


def _plain(text: str) -> str:
    if any(c < " " or c == "\x7f" for c in text):
        raise ValueError(f"must be text without control characters, not {text[:60]!r}")
    return text


Id = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_plain)]


def _op(value: Any) -> Any:
    """An op's name, from a name or an object that holds it."""
    named = value
    if isinstance(value, dict):
        keys = [key for key in ("type", "op") if key in value]
        if len(keys) != 1:
            raise ValueError(f"an op is 'agent' or 'env', or an object with one of the keys type and op, not {str(value)[:60]}")
        named = value[keys[0]]
    if not isinstance(named, str) or named not in OPS:
        raise ValueError(f"must be 'agent' or 'env', not {str(named)[:40]!r}")
    return OPS[named]


Op = Annotated[str, BeforeValidator(_op, json_schema_input_type=Literal[tuple(OPS)] | dict[str, Any])]


class Env(Table):
    """Which world."""

    env_name: Word | None = None
    """The environment's name; no value: crafter."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Its settings: `eval.env_config` of a spec."""
    seed: int | None = None
    """The seed of the one episode."""


class Policy(Table):
    """Who plays."""

    policy_name: Word | None = None
    """A policy or `name:variant`, as in `eval.policies`; no value: `openai` when `config` names a model, else `scripted`."""
    config: dict[str, Any] = Field(default_factory=dict)
    """`eval.policy_config` of a spec, with `model`, `temperature`, `max_llm_calls` and `trace_correlation_id` beside its keys."""


class Record(Table):
    """What the answer holds."""

    trajectories: bool = True
    """The turns, as steps."""
    logprobs: bool = False
    """A step's `info.meta` has the reply's log-probabilities, where the policy gives them."""
    value: bool = False
    """Must be false: no policy here has a value function."""
    return_trace: bool = False
    """The whole trace, pictures and all, as `trace`."""
    trace_format: Literal["compact", "full", "structured"] = "compact"
    """Every trace is whole, in one form."""

    def checks(self) -> Iterator[Clash]:
        if self.value:
            yield Clash("value", "true cannot be had: no policy here has a value function; write false")


class Safety(Table):
    """Limits that end a rollout early. What was played by then is the answer."""

    max_ops: Annotated[int, Field(ge=2, le=2**31 - 1)] = 100_000
    """Most ops; a turn is two, the agent's and the environment's."""
    max_time_s: Annotated[float, Field(gt=0, le=86_400)] = 3600.0
    """Seconds of wall time from the first turn on; a reply that is under way then is cut off."""


class Extension(Table):
    """What synthq's own workers say, in place of `env`, `policy` and `ops`."""

    eval: dict[str, Any]
    """The whole table `eval` of a spec, with one seed and one policy."""
    iteration: Count = 0
    member: Count = 0
    """Which episode of the seed; with `iteration` and `eval.sampling_seed` it keys every random draw of the policy."""


class Rollout(Table):
    """What both forms share."""

    run_id: Id | None = None
    """A name for the rollout."""
    ops: Annotated[tuple[Op, ...], Field(strict=False, max_length=200_000)] = ("agent", "env")
    """Pairs of `agent` and `env`; one pair means play to the end, more bound the turns."""
    record: Record = Record()
    """What the answer holds."""
    on_done: Literal["reset", "terminate"] = "reset"
    """One rollout is one episode: when it ends, play ends, whichever of the two is written."""
    safety: Safety = Safety()
    """Limits that end it early."""
    mode: Literal["rl", "eval"] = "eval"
    """What the rollout is for. It is told back, and changes nothing."""
    training_session_id: Id | None = None
    """Told back."""
    synth_base_url: Annotated[str, StringConstraints(max_length=1000)] | None = None
    """Taken, and not used."""

    def checks(self) -> Iterator[Clash]:
        out_of_turn = next((i for i, op in enumerate(self.ops) if op != ("agent", "env")[i % 2]), None)
        if out_of_turn is not None:
            yield Clash(f"ops.{out_of_turn}", f"{self.ops[out_of_turn]!r} is out of turn: ops are pairs of 'agent' and 'env'")
        elif len(self.ops) % 2 or not self.ops:
            yield Clash("ops", f"a list of {len(self.ops)} is not pairs of 'agent' and 'env'")


class Nested(Rollout):
    """A rollout, as the contract writes it."""

    run_id: Id
    """A name for the rollout."""
    env: Env
    """Which world."""
    policy: Policy = Policy()
    """Who plays."""
    synthq: Extension | None = None
    """What synthq's own workers say, in place of `env`, `policy` and `ops`."""


class Flat(Rollout):
    """A rollout in one table: `seed`, and beside the keys here every key of a spec's table `eval`, such as `env_name`,
    `max_turns`, `policy_name`, `policy_config`, `model`, `inference_url` and `reward`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    seed: int | None = None
    """The seed of the one episode."""
    return_trace: bool | None = None
    """Short for `record.return_trace`."""
    trace_format: Literal["compact", "full", "structured"] | None = None
    """Short for `record.trace_format`."""

    def checks(self) -> Iterator[Clash]:
        yield from super().checks()
        for key in ("return_trace", "trace_format"):
            said, recorded = getattr(self, key), getattr(self.record, key)
            if said is not None and key in self.record.model_fields_set and said != recorded:
                yield Clash(key, f"{said!r} and record.{key} = {recorded!r} cannot both be; keep one")
