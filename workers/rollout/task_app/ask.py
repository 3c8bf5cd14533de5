"""A body of ``POST /rollout``, in either form, as one strict eval spec of one episode, and the limits of one rollout."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from urllib.parse import parse_qsl, urlsplit

from pydantic import ValidationError

from app import specs, strict_json
from app.errors import InvalidInput, Problem, SpecProblems, cut, did_you_mean
from app.records import EpisodeKey
from app.settings import get_settings
from app.specs.base import Table
from app.specs.draft import Draft
from app.specs.eval import SEED_KEYS, EvalSpec, EvalTable
from app.specs.policies import policy_name
from app.specs.seeds import MAX_SEED
from app.specs.sentences import note
from app.specs.source import storable
from workers.rollout.task_app.bodies import Flat, Nested, Record, Rollout

TRACE_KEYS: Final = ("trace_correlation_id", "trace")
"""Keys of a policy's config that say under which name the caller knows the trace."""
TRACE_QUERY: Final = ("cid", "trace", "trace_correlation_id")
"""The same in the query of an ``inference_url``."""
TRACE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}")
OF_A_JOB: Final = (
    "seeds",
    "episodes_per_seed",
    "concurrency",
    "episodes_per_step",
    "task_app_url",
    "split",
    "task_id",
    "max_time_s",
)
"""Keys of ``eval`` that say how a job is made up of episodes, or how long one may take; a rollout has other words for these."""

NOT_FOR_ONE: Final = ("model", "task_app_url", "episodes_per_seed", "concurrency", "episodes_per_step")
"""Keys of a whole job's table that mean nothing, or another thing, for one of its episodes."""


class BadBody(InvalidInput):
    """A body that cannot be right; ``problems`` are (key, message)."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{key}: {message}" if key else message for key, message in problems))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One rollout that can be played."""

    run_id: str
    trace_correlation_id: str
    spec: EvalSpec
    label: str
    key: EpisodeKey
    record: Record
    mode: str
    training_session_id: str | None
    inference_url: str | None
    """As it was given."""
    max_turns: int
    max_ops: int
    max_time_s: float
    whole: bool = False
    """Asked for by synthq's own worker, which reads the trace alone."""


def read(body: bytes) -> Ask:
    """The rollout that a body asks for. Raises BadBody with every problem of it."""
    tables = _parse(body)
    nested = isinstance(tables.get("env"), dict) or isinstance(tables.get("policy"), dict)
    return _nested(tables) if nested else _flat(tables)


# -- bytes to tables -------------------------------------------------------------------------------------------------------


def _parse(body: bytes) -> dict[str, Any]:
    try:
        value = strict_json.read(body)
    except UnicodeDecodeError:
        _refuse("", "the body is no JSON in UTF-8")
    except strict_json.NotStrict as error:
        _refuse("", f"the body is no JSON: it {error}")
    except ValueError as error:
        said = f"{str(error)[:1].lower()}{str(error)[1:200]}"
        _refuse("", f"the body is no JSON: {said}" if body.strip() else "the body is missing; it is to be a JSON object")
    if not isinstance(value, dict):
        _refuse("", f"the body must be a JSON object, not {cut(json.dumps(value))}")
    faults = [(".".join(map(str, path))[:200], message) for path, message in storable(value)]
    if faults:
        raise BadBody(faults[:20])
    return value


def _refuse(key: str, message: str) -> NoReturn:
    raise BadBody([(key, message)])


def _checked(form: type[Table], tables: dict[str, Any]) -> Any:
    """The tables as a form of body. Raises BadBody."""
    draft = Draft(tables)
    try:
        return form.model_validate(draft.tables)
    except ValidationError as error:
        note(error, form, draft)  # type: ignore[arg-type]
        raise BadBody([(problem.key, problem.message) for problem in draft.problems]) from None


# -- the two forms ---------------------------------------------------------------------------------------------------------


def _nested(tables: dict[str, Any]) -> Ask:
    body: Nested = _checked(Nested, tables)
    if body.synthq is not None:
        return _own(body)
    if body.env.seed is None:
        _refuse("env.seed", "is needed and not given, such as 0")
    config = dict(body.policy.config)
    table: dict[str, Any] = {"seeds": body.env.seed, "env_config": body.env.config, "policy_config": config}
    if body.env.env_name is not None:
        table["env"] = body.env.env_name
    if body.policy.policy_name is not None:
        table["policies"] = [body.policy.policy_name]
    words = {
        "eval.policy_config": "policy.config",
        "eval.env_config": "env.config",
        "eval.seeds": "env.seed",
        "eval.policies": "policy.policy_name",
        "eval.env": "env.env_name",
        "eval.model": "policy.config.model",
    }
    trace_id = _trace_id(config, table, "policy.config.")
    return _ask(body, _spec(table, words), run_id=body.run_id, trace_id=trace_id, record=body.record)


def _flat(tables: dict[str, Any]) -> Ask:
    body: Flat = _checked(Flat, tables)
    table = dict(body.model_extra or {})
    _check_names(table)
    if body.seed is None:
        _refuse("seed", "is needed and not given, such as 0")
    table["seeds"] = body.seed
    config = table.get("policy_config", {})
    if isinstance(config, dict):
        table["policy_config"] = config = dict(config)
    trace_id = _trace_id(config if isinstance(config, dict) else {}, table, "policy_config.")
    spec = _spec(table, {"eval.seeds": "seed", "eval": ""})
    short = {key: value for key in ("return_trace", "trace_format") if (value := getattr(body, key)) is not None}
    record = body.record.model_copy(update=short)
    return _ask(body, spec, run_id=body.run_id or f"run_{secrets.token_hex(6)}", trace_id=trace_id, record=record)


def _check_names(table: Mapping[str, Any]) -> None:
    """Refuse keys that neither a rollout nor an eval has, and those that only a job has."""
    also = {path[1] for alias in SEED_KEYS.aliases if len(path := alias.split(".")) == 2}
    asked = {path[1] for key in SEED_KEYS.refused if len(path := key.split(".")) == 2 and path[0] == "eval"}
    known = (set(EvalTable.model_fields) | also) - set(OF_A_JOB)
    names = known | set(Flat.model_fields)
    for name in table:
        if name in OF_A_JOB:
            other = {"seeds": "; write seed", "max_time_s": "; write safety.max_time_s"}.get(name, "")
            _refuse(name, f"is a key of a whole job, and a rollout is one episode{other}")
        if name not in known and name not in asked:
            listed = f" (known: {', '.join(sorted(names))})"
            _refuse(name[:80], f"no such key{did_you_mean(name, names) or listed}")


def _own(body: Nested) -> Ask:
    """What synthq's own worker asks: a resolved table, of which one policy plays one seed."""
    assert body.synthq is not None
    table = {key: value for key, value in body.synthq.eval.items() if key not in NOT_FOR_ONE}
    labels = table.get("policies")
    if isinstance(labels, list) and len(labels) == 1 and isinstance(options := table.get("policy_options"), dict):
        name = policy_name(str(labels[0]))[0]
        table["policy_options"] = {key: value for key, value in options.items() if key == name}
    spec = _spec(table, {"eval": "synthq.eval"})
    if body.env.seed is not None and (body.env.seed,) != spec.eval.seeds:
        _refuse("env.seed", f"{body.env.seed} is not the seed of synthq.eval, {specs.format_seeds(spec.eval.seeds)}")
    trace_id = _trace_id(dict(body.policy.config), {}, "policy.config.")
    key = EpisodeKey(iteration=body.synthq.iteration, seed=spec.eval.seeds[0], member=body.synthq.member)
    return _ask(body, spec, run_id=body.run_id, trace_id=trace_id, record=body.record, key=key)


# -- tables to one rollout -------------------------------------------------------------------------------------------------


def _spec(table: dict[str, Any], words: Mapping[str, str]) -> EvalSpec:
    """The table as an eval of one episode. Problems are told under the body's own keys, by ``words``."""
    seeds = table.get("seeds")
    try:
        if isinstance(seeds, int) and not 0 <= seeds <= MAX_SEED:
            raise SpecProblems([Problem(key="eval.seeds", message=f"{seeds} is out of range; a seed is 0 to {MAX_SEED}")])
        spec = specs.parse("eval", {"eval": table})
        assert isinstance(spec, EvalSpec)
        if problems := list(_for_one(spec, table)):
            raise SpecProblems(problems)
    except SpecProblems as error:
        raise BadBody([(_worded(problem.key, words), problem.message) for problem in error.problems]) from None
    return spec


def _for_one(spec: EvalSpec, table: Mapping[str, Any]) -> Iterator[Problem]:
    """What a job may ask for and a rollout may not."""
    made, config = spec.eval, spec.eval.policy_config
    if len(made.seeds) != 1:
        yield Problem(key="eval.seeds", message=f"a rollout plays one seed, not {len(made.seeds)}")
    if len(made.policies) != 1:
        yield Problem(key="eval.policies", message=f"one policy plays a rollout, not {len(made.policies)}")
    elif config.endpoint is not None and made.model is None and not {"policies", "policy", "policy_name"} & set(table):
        yield Problem(key="eval.model", message="is needed and not given: there is the address of a model, and none is named")
    if spec.served:
        yield Problem(
            key="eval.policies",
            message=f"a task app asks models by address and serves none itself, so not {cut(spec.served[0])}; give its "
            "policy_config.inference_url and the policy openai:MODEL",
        )
    if made.budget.max_usd is not None or made.budget.max_tokens is not None:
        yield Problem(key="eval.budget", message="a task app sees one rollout and can hold no budget of a job; remove the key")
    variable, allowed = config.api_key_env, get_settings().sent_by_task_app
    if variable is not None and variable not in allowed:
        yield Problem(
            key="eval.policy_config.api_key_env",
            message=f"no request may have the key in {cut(variable)} sent out; SYNTHQ_TASK_APP_MODEL_KEYS of the task app "
            f"names those that may be (now: {', '.join(allowed) or 'none'})",
        )


def _worded(key: str, words: Mapping[str, str]) -> str:
    for ours, theirs in words.items():
        if key == ours or key.startswith(f"{ours}."):
            rest = key[len(ours) :]
            return (theirs + rest).removeprefix(".") if ours != "eval.policies" else theirs
    return key


def _trace_id(config: dict[str, Any], table: Mapping[str, Any], where: str) -> str | None:
    """The caller's name for the trace, taken out of ``config`` or read in the query of the model's address."""
    given = [(f"{where}{key}", config.pop(key)) for key in TRACE_KEYS if key in config]
    for key, url in ((f"{where}inference_url", config.get("inference_url")), ("inference_url", table.get("inference_url"))):
        if isinstance(url, str):
            given += [(key, value) for name, value in _query(key, url) if name in TRACE_QUERY]
    for key, value in given:
        if value is None:
            continue
        if not isinstance(value, str) or not TRACE_ID.fullmatch(value):
            hint = "; a path goes before the `?` of the address" if isinstance(value, str) and "/" in value else ""
            shown = cut(value if isinstance(value, str) else json.dumps(value))
            _refuse(
                key,
                f"the trace correlation id {shown} must be up to 200 letters, digits, dots, dashes, colons and underscores{hint}",
            )
        return value
    return None


def _query(key: str, url: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(urlsplit(url).query, keep_blank_values=True, max_num_fields=100)
    except ValueError as error:
        _refuse(key, f"the address cannot be read: {error}")


def _ask(
    body: Rollout, spec: EvalSpec, *, run_id: str, trace_id: str | None, record: Record, key: EpisodeKey | None = None
) -> Ask:
    table, limit = spec.eval, body.safety.max_time_s
    pairs = len(body.ops) // 2
    own = key is not None
    return Ask(
        run_id=run_id,
        trace_correlation_id=trace_id or f"trace_{run_id}",
        spec=spec,
        label=table.policies[0],
        key=key or EpisodeKey(iteration=0, seed=table.seeds[0], member=0),
        record=record,
        mode=body.mode,
        training_session_id=body.training_session_id,
        inference_url=table.policy_config.endpoint,
        max_turns=min(table.max_turns, pairs) if pairs > 1 and not own else table.max_turns,
        max_ops=body.safety.max_ops,
        max_time_s=min(limit, table.max_time_s) if table.max_time_s is not None else limit,
        whole=own and record.return_trace,
    )
