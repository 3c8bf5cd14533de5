"""What the OpenAPI document says of bodies and answers."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel

from workers.rollout.task_app.bodies import Flat, Nested

MEANINGS: Final = {
    401: "no key, or one that does not fit",
    403: "the task app has no keys and answers its own machine alone",
    413: "the body is too long",
    422: "the request cannot be right",
    500: "the rollout could not begin, for a reason that nobody foresaw",
    503: "a process died, or too much is under way; try again",
}


class Root(BaseModel):
    """That it is here."""

    status: str
    service: str


class Auth(BaseModel):
    """Whether a key is needed."""

    required: bool


class Health(BaseModel):
    """That it is well."""

    healthy: bool
    auth: Auth


class Info(BaseModel):
    """What it has."""

    service: dict[str, Any]
    dataset: dict[str, Any]
    rubrics: dict[str, Any]
    inference: dict[str, Any]
    limits: dict[str, Any]
    environments: list[str]
    policies: list[str]


class Taskset(BaseModel):
    """The seeds that there are."""

    taskset: dict[str, Any]


class TaskInfo(BaseModel):
    """The task of one seed."""

    task: dict[str, Any]
    environment: str
    action_space: dict[str, Any]
    observation: dict[str, Any]
    dataset: dict[str, Any]
    rubric: dict[str, Any]
    inference: dict[str, Any]
    limits: dict[str, Any]


class Done(BaseModel):
    """Nothing more."""

    ok: bool
    service: str


class Metrics(BaseModel):
    """The figures of the episode."""

    episode_returns: list[float]
    mean_return: float
    num_steps: int
    num_episodes: int
    outcome_score: float | None
    events_score: float | None
    details: dict[str, Any]


class Answer(BaseModel):
    """One rollout."""

    run_id: str
    aborted: bool
    error: str | None
    ops_executed: int
    branches: dict[str, Any]
    trace_correlation_id: str
    pipeline_metadata: dict[str, Any]
    metrics: Metrics
    metadata: dict[str, Any]
    trace: dict[str, Any] | None
    trajectories: list[dict[str, Any]]
    trajectory: dict[str, Any] | None


class ErrorItem(BaseModel):
    """One thing that is wrong, and where."""

    key: str
    message: str


class ErrorTold(BaseModel):
    """What is wrong."""

    code: str
    message: str
    errors: list[ErrorItem] | None = None


class Detail(BaseModel):
    """The contract's wrapping."""

    error: ErrorTold


class Error(BaseModel):
    """Every answer that is an error."""

    detail: Detail


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that may end so."""
    return {status: {"model": Error, "description": MEANINGS[status]} for status in statuses}


ROLLOUT: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": Answer, "description": "what was played"},
    **errors(401, 403, 413, 422, 500, 503),
}
TASKS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": Taskset | TaskInfo | list[TaskInfo], "description": "the set of tasks, one task, or several"},
    **errors(401, 403, 422, 503),
}


def rollout_body() -> dict[str, Any]:
    """The two forms of a rollout's body."""
    forms = [form.model_json_schema() for form in (Nested, Flat)]
    return {"required": True, "content": {"application/json": {"schema": {"anyOf": [_inline(form) for form in forms]}}}}


def _inline(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without references: they would point into the wrong document."""
    tables = schema.pop("$defs", {})

    def walk(value: Any) -> Any:
        if isinstance(value, list):
            return [walk(each) for each in value]
        if isinstance(value, dict):
            name = str(value.get("$ref", "")).rpartition("/")[2]
            rest = {key: walk(each) for key, each in value.items() if key != "$ref"}
            return {**walk(tables[name]), **rest} if name else rest
        return value

    inlined: dict[str, Any] = walk(schema)
    return inlined
