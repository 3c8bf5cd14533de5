"""What the API takes and gives, as JSON. Times go out as RFC 3339 in UTC with milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, StringConstraints, WithJsonSchema

from app.models import Job
from app.store.jobs import Progress


def rfc3339(seconds: float) -> str:
    """UTC epoch seconds as RFC 3339, such as ``2026-11-23T04:55:01.250Z``."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Time = Annotated[
    float,
    PlainSerializer(rfc3339, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}, mode="serialization"),
]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"
Name = Annotated[str, StringConstraints(pattern=NAME)]
PLAIN = r"^[^\x00-\x1f\x7f]*$"
"""Text without control characters."""
Plain = Annotated[str, StringConstraints(pattern=PLAIN)]
LABEL_KEY = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$"
LabelKey = Annotated[str, StringConstraints(pattern=LABEL_KEY)]
IDEMPOTENCY_KEY = r"^[!-~]+$"
State = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class In(BaseModel):
    """A request's body. Unknown fields are refused, and the nearest known name is told."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Out(BaseModel):
    """A response's body."""

    model_config = ConfigDict(from_attributes=True, protected_namespaces=())


class AfterIn(In):
    """A job that must end first."""

    job: str = Field(min_length=1, max_length=100, description="id, unique start of an id, name, or @last")
    on: Literal["ok", "any"] = Field("ok", description="ok: only if that job succeeded; any: however it ended")


class JobIn(In):
    """A job to be made."""

    kind: str = Field(min_length=1, max_length=40, description="eval, filter, ...")
    spec: dict[str, Any] = Field(description="the spec's tables, as in a TOML file")
    name: Name | None = Field(None, description="for people; the spec's own name unless given")
    priority: int = Field(0, ge=-1000, le=1000, strict=True, description="higher goes first")
    labels: dict[LabelKey, Annotated[Plain, Field(max_length=200)]] = Field(default_factory=dict, max_length=32)
    after: list[AfterIn] = Field(default_factory=list, max_length=32, description="jobs that must end first")
    source: Annotated[Plain, Field(max_length=255)] | None = Field(None, description="name of the file the spec came from")


class EstimateIn(In):
    """A spec that is asked about, and lines that the server does not have yet."""

    kind: str = Field(min_length=1, max_length=40, description="sft or rl")
    spec: dict[str, Any] = Field(description="the spec's tables, as in a TOML file")
    lines: int | None = Field(None, ge=0, description="lines of the data, where the server does not have them (sft)")
    images: int = Field(0, ge=0, description="pictures in those lines")


class KeyIn(In):
    """A key to be made."""

    name: Name = Field(description="whose key it is, for people")


MOST_SCORED = 10_000
"""Episodes that are scored in one request."""
Score = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class ScoredIn(In):
    """Scores of one episode."""

    episode: str = Field(min_length=1, max_length=100, description="id")
    scores: dict[Name, Score | None] = Field(min_length=1, max_length=32, description="judge -> score; null takes it away")


class ScoresIn(In):
    """Scores by judges, for episodes that are over."""

    data: list[ScoredIn] = Field(min_length=1, max_length=MOST_SCORED)


class AfterOut(Out):
    """A job that must end first."""

    job: str
    on: Literal["ok", "any"]


class ProgressOut(Out):
    """How far a job is; a total of 0 is not known yet."""

    done: int
    failed: int
    total: int
    unit: Literal["episodes", "steps", "iterations"]
    cut_short: int = Field(0, description="episodes that the job's cancellation ended in their middle; a retry goes on with them")


class JobLinks(Out):
    """Where more of a job is."""

    self: str
    events: str
    steps: str
    metrics: str
    traces: str
    artifacts: str


class JobOut(Out):
    """A job."""

    id: str
    kind: str
    name: str | None
    state: State
    reason: str | None = Field(description="why it failed or was cancelled")
    waiting: str | None = Field(description="why it does not get on; null when it does or has ended")
    attempt: int
    priority: int
    max_parallel: int | None
    labels: dict[str, str]
    spec: dict[str, Any] = Field(description="the resolved spec, every default written out")
    spec_sha256: str
    source: str | None
    after: list[AfterOut]
    submitted_by: str | None
    summary: dict[str, Any] | None = Field(description="what came out, such as the scores of an eval")
    progress: ProgressOut
    left_s: float | None = Field(description="seconds that a running training takes yet, by its own pace; null where not known")
    spent: dict[str, Any] | None = Field(description="what it has asked of paid endpoints so far; null when it asked nothing")
    cancel_requested: bool
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    links: JobLinks

    @classmethod
    def of(
        cls, job: Job, *, progress: Progress, waiting: str | None, spent: dict[str, Any] | None, left_s: float | None
    ) -> JobOut:
        """A job's row with what was counted for it."""
        counted = {"progress": progress, "waiting": waiting, "spent": spent, "left_s": left_s}
        return cls.model_validate({**_job_fields(job), **counted})


class EstimateOut(Out):
    """What a training comes to, as far as it is known before it begins."""

    said: list[str] = Field(description="for people: what, a colon, and how much, with where that is known from")
    cautions: list[str] = Field(description="what it would pass, such as a cap")
    seconds: float | None = Field(description="how long it takes, by earlier jobs; null where none was measured")
    figures: dict[str, Any] = Field(description="the same as numbers; memory in bytes, by device")


class SubmittedOut(JobOut):
    """A job that was just accepted."""

    warnings: list[str] = Field(description="what is allowed in the spec and looks like a mistake")
    estimate: EstimateOut | None = Field(description="what a training comes to; null for other kinds")

    @classmethod
    def accepted(cls, job: JobOut, warnings: Sequence[str], estimate: EstimateOut | None) -> SubmittedOut:
        """The job with the warnings of its spec, and what it comes to."""
        return cls.model_construct(**{**dict(job), "warnings": list(warnings), "estimate": estimate})


def _job_fields(job: Job) -> dict[str, Any]:
    here = f"/v1/jobs/{job.id}"
    more = {name: f"{here}/{name}" for name in ("events", "steps", "metrics", "artifacts")}
    links = {"self": here, "traces": f"/v1/traces?job={job.id}", **more}
    return {**job.model_dump(), "cancel_requested": job.cancel_requested_at is not None, "links": links}


class CheckedOut(Out):
    """A job that would be accepted; nothing was stored."""

    dry_run: Literal[True] = True
    kind: str
    name: str | None
    spec: dict[str, Any]
    spec_sha256: str
    after: list[AfterOut]
    warnings: list[str]
    estimate: EstimateOut | None = Field(description="what a training comes to; null for other kinds")


class Page(Out):
    """A page of a list."""

    object: Literal["list"] = "list"
    has_more: bool
    next_cursor: str | None = Field(description="give it as `after` for the next page")


class JobPage(Page):
    """Jobs, newest first."""

    data: list[JobOut]


class EventOut(Out):
    """Something that happened to a job. The numbers have no gaps."""

    seq: int
    at: Time
    level: str
    type: str
    message: str
    step_id: str | None
    data: dict[str, Any]


class EventPage(Out):
    """Events in order."""

    data: list[EventOut]
    next_after: int = Field(description="give it as `after` for what comes next")
    ended: bool = Field(description="the job has ended and no event is left")


class MetricOut(Out):
    """What was measured of a job at one point of its course."""

    scope: str
    index: int = Field(description="the optimizer step, or the iteration")
    at: Time
    values: dict[str, float | None] = Field(description="by name; null where it was no finite number")


class ScopeOut(Out):
    """How much was measured in one scope."""

    scope: str
    points: int
    last: int = Field(description="the greatest index")


class MetricPage(Out):
    """Points in the order of their index."""

    object: Literal["list"] = "list"
    data: list[MetricOut]
    scopes: list[ScopeOut] = Field(description="every scope of the job, whatever was asked for")
    has_more: bool
    next_after: int | None = Field(description="give it as `after` for what comes next")


class StepOut(Out):
    """A piece of a job that one worker runs."""

    id: str
    key: str
    kind: str
    queue: str
    state: State
    reason: str | None = Field(description="why the last attempt did not succeed")
    job_attempt: int
    attempt: int
    max_attempts: int
    owner: str | None
    lease_until: Time | None
    done: int
    total: int
    result: dict[str, Any] | None
    created_at: Time
    available_at: Time
    started_at: Time | None
    finished_at: Time | None


class StepList(Out):
    """Steps of a job, in order."""

    object: Literal["list"] = "list"
    data: list[StepOut]


class EpisodeOut(Out):
    """A trace without its turns."""

    id: str
    job_id: str
    job_name: str | None
    step_id: str
    iteration: int
    seed: int
    member: int
    env: str
    env_version: str
    split: str
    task_id: str | None
    start: str | None = Field(description="sha256 of what was done before it began; null where it begins at its seed's beginning")
    start_of: str | None = Field(description="episode/turn that it begins at, of an episode that may be gone; null as `start`")
    policy: str
    policy_version: str
    model: str | None
    state: str
    error: str | None
    ended: str | None
    turns: int
    length: int = Field(description="game steps, from its start on")
    returns: dict[str, float]
    achievements: dict[str, int] = Field(description="achievement -> game step that unlocked it")
    unlocked: int
    outcomes: dict[str, int] = Field(description="turns by outcome")
    scores: dict[str, float] | None = Field(description="judge -> score; null where no judge gave one")
    terminated: bool
    truncated: bool
    last_frame: str | None
    sha256: str | None
    timings: dict[str, float] = Field(description="milliseconds by part, summed over the turns")
    created_at: Time
    finished_at: Time | None


class TracePage(Page):
    """Traces, newest first."""

    data: list[EpisodeOut]


class ScoredOut(Out):
    """All scores of one episode."""

    episode: str
    scores: dict[str, float]


class ScoredList(Out):
    """Scores of episodes, in the order in which they were given."""

    object: Literal["list"] = "list"
    data: list[ScoredOut]


class TurnOut(Out):
    """One prompt and one reply, and what came of it."""

    index: int
    frame: str | None = Field(description="sha256 of the frame the policy saw; GET /v1/frames/{sha256}")
    messages: list[Any] = Field(description="the whole prompt, system text first; images by sha256")
    reply: dict[str, Any]
    outcome: str
    detail: str
    actions: list[str]
    dropped: list[str]
    reward: float
    rewards: dict[str, float]
    unlocked: list[str]
    terminated: bool
    truncated: bool
    policy_version: str
    state_sha256: str | None
    timings: dict[str, float]
    prompt_ids: list[int] | None
    output_ids: list[int] | None
    logprobs: list[float] | None


class TurnPage(Out):
    """Turns in order."""

    object: Literal["list"] = "list"
    data: list[TurnOut]
    has_more: bool


class ArtifactOut(Out):
    """A file that a job made, or a folder, whose bytes are those of a tar."""

    id: str
    job_id: str
    step_id: str
    kind: str
    name: str
    is_folder: bool
    sha256: str
    bytes: int
    parents: list[str]
    data: dict[str, Any]
    created_at: Time


class ArtifactList(Out):
    """Artifacts of a job, oldest first."""

    object: Literal["list"] = "list"
    data: list[ArtifactOut]


class FigureOut(Out):
    """A number with its 95 % interval; no interval where there is one seed only."""

    mean: float
    low: float | None
    high: float | None


class RateOut(Out):
    """How often an achievement was unlocked."""

    mean: float = Field(description="share of the episodes")
    count: int


class ArmOut(Out):
    """A side of a comparison: a policy of a job."""

    label: str = Field(description="short, and no other arm's")
    job: str
    name: str | None
    kind: str
    state: State
    policy: str
    iteration: int | None = Field(description="of an rl job: after how many updates it was evaluated")
    versions: list[str] = Field(description="which rules or weights answered")
    asked: int
    done: int
    failed: int


class FiguresOut(Out):
    """Figures of an arm, or of a difference; those of achievements are left out where an environment has none."""

    crafter_score: FigureOut | None = Field(None, description="percent")
    achievements: FigureOut | None = Field(None, description="unlocked in an episode")
    progress: FigureOut | None = Field(None, description="share of all achievements")
    return_: FigureOut = Field(alias="return", description="sum of the environment's own rewards")
    turns: FigureOut
    length: FigureOut = Field(description="game steps")


class ResultOut(FiguresOut):
    """What an arm came to on the seeds that are compared."""

    episodes: int
    achievement_rates: dict[str, RateOut]
    outcomes: dict[str, int] = Field(description="turns by outcome")
    ended: dict[str, int] = Field(description="episodes by how they ended")


class SeedsOut(Out):
    """On how many seeds one arm unlocked more achievements than the other."""

    more: int
    same: int
    fewer: int


class DifferenceOut(FiguresOut):
    """What ``b`` has more than ``a``."""

    a: str
    b: str
    achievement_rates: dict[str, FigureOut]
    gain_shares: dict[str, FigureOut] | None = Field(
        description="share of the difference in achievements that each one makes; null where there may be no difference"
    )
    seeds: SeedsOut


class ComparedOut(Out):
    """Which seeds count: those that every arm has played whole."""

    compared: int
    not_asked_of_all: int = Field(description="left out: not every arm was asked to play them")
    not_whole: int = Field(description="left out: an arm lacks episodes of them")


class UnlikeOut(Out):
    """A condition that was not the same for all arms."""

    key: str
    values: dict[str, Any] = Field(description="by label")
    fair: bool = Field(description="it may differ; it gives nobody an advantage")
    sentence: str


class MethodOut(Out):
    """How the intervals were made."""

    confidence: float
    resamples: int
    interval: str


class CompareOut(Out):
    """Policies of jobs side by side."""

    arms: list[ArmOut]
    seeds: ComparedOut
    achievements: list[str]
    results: dict[str, ResultOut] = Field(description="by label")
    differences: list[DifferenceOut] = Field(description="every arm less the first, then every arm less the one before it")
    conditions: dict[str, Any] = Field(description="what was the same for all")
    different: list[UnlikeOut] = Field(description="what was not")
    notes: list[str] = Field(description="what must be known beside the numbers")
    method: MethodOut


class WorkerOut(Out):
    """A worker process."""

    id: str
    role: str
    queues: list[str]
    host: str
    pid: int
    slots: int
    busy: int = Field(description="steps it holds")
    state: Literal["live", "gone", "stopped"]
    version: str
    started_at: Time
    heartbeat_at: Time
    stopped_at: Time | None


class WorkerList(Out):
    """Workers."""

    object: Literal["list"] = "list"
    data: list[WorkerOut]


class ModelOut(Out):
    """A model that jobs have named or made."""

    ref: str = Field(description="what a spec names it by, as model:REF; the served name of a published version")
    kind: Literal["base", "adapter", "version"] = Field(description="a whole model, an adapter on one, a published adapter")
    base: str = Field(description="folder or hub id of the whole model")
    name: str = Field(description="under which endpoints serve it")
    path: str = Field(description="the adapter's folder")
    sha256: str = Field(description="of an adapter's weights and settings")
    artifact: str | None
    made_by: str | None = Field(description="job that made it")
    state: Literal["loading", "live", "draining", "retired", "failed"] | None = Field(description="of a published version")
    used_by: list[str] = Field(description="jobs that play with it or did, the newest first, 20 at most")
    served_by: list[str] = Field(description="endpoints that answer for it now")
    last_at: Time | None = Field(description="when a job last named or made it; null when none has")
    facts: dict[str, Any] = Field(description="what the folder says of itself; empty for a model on the hub")


class ModelList(Out):
    """Models, the last named first."""

    object: Literal["list"] = "list"
    data: list[ModelOut]


class EndpointOut(Out):
    """An inference worker's engine."""

    id: str
    worker_id: str
    host: str
    url: str = Field(description="base address of the engine; empty while there is none")
    state: Literal["starting", "ready", "failed", "stopped", "gone"]
    engines: list[str] = Field(description="what the worker can run, the preferred first")
    engine: str = Field(description="what it runs")
    base: str = Field(description="what it serves or loads")
    sha256: str = Field(description="of the weights that it serves; empty while it serves none, and where nobody knows")
    adapters: dict[str, dict[str, str]] = Field(description="what is loaded beside the base, by served name")
    desired: dict[str, Any] = Field(description="what it should serve: engine, base, options, adapters")
    failures: dict[str, dict[str, Any]] = Field(description="what it could not load, by base or served name")
    error: str | None
    in_flight: int = Field(description="requests under way")
    capacity: int = Field(description="requests that it computes at once")
    started_at: Time
    heartbeat_at: Time
    changed_at: Time = Field(description="when its state or its base last changed")
    ready_at: Time | None


class EndpointList(Out):
    """Endpoints, the oldest first."""

    object: Literal["list"] = "list"
    data: list[EndpointOut]


class QueueOut(Out):
    """How a queue stands."""

    queue: str
    waiting: int
    running: int
    oldest_s: float | None = Field(description="how long the longest-waiting claimable step has waited")
    hints: int | None = Field(description="messages in the broker; null when it does not answer")
    workers: int
    slots: int
    busy: int


class QueueList(Out):
    """Every queue."""

    object: Literal["list"] = "list"
    data: list[QueueOut]


class KeyOut(Out):
    """An API key, without the key."""

    id: str
    name: str
    created_at: Time
    revoked_at: Time | None


class KeyList(Out):
    """API keys in the store, oldest first."""

    object: Literal["list"] = "list"
    data: list[KeyOut]


class KeyMade(KeyOut):
    """A new API key. The key itself is shown this once."""

    key: str


class HealthOut(Out):
    """The process answers."""

    healthy: Literal[True] = True
    version: str


class VersionOut(Out):
    """Which synthq answers."""

    version: str


class Part(Out):
    """One thing that the API needs."""

    ready: bool
    detail: str


class ReadyOut(Out):
    """Whether jobs that are submitted now will run."""

    ready: bool
    parts: dict[str, Part]


class FieldProblem(Out):
    """One thing that is wrong in a request."""

    key: str
    message: str


class Problem(Out):
    """RFC 9457: what went wrong."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: str
    request_id: str
    retryable: bool = Field(description="the same request may succeed later")
    errors: list[FieldProblem] | None = None
