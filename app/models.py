"""The tables of the store, and the words that a job and a step can be in. No queries here, no changes of state.

Times are UTC epoch seconds as floats. Where they are compared they come from the database's own clock (``app.db.now``), so that
workers on many hosts agree on when a lease has run out. JSON columns hold plain lists and dicts.
"""

from __future__ import annotations

import secrets
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlmodel import Field, SQLModel

ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32: no letter that looks like another."""

Json = JSON(none_as_null=True)
"""Text in both databases: what was stored comes back byte for byte, which Postgres' binary form would not promise."""
BigId = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only in a column of type INTEGER."""


def new_id(prefix: str) -> str:
    """A fresh id such as ``job_7x3k9q2m4p1z``: 60 random bits after the prefix."""
    return f"{prefix}_{''.join(secrets.choice(ALPHABET) for _ in range(12))}"


class JobState(StrEnum):
    """Where a job is in its life. app/lifecycle.py is the only code that changes it."""

    QUEUED = "queued"
    """Stored; no step of it has been claimed yet, or it waits for another job."""
    RUNNING = "running"
    """At least one step was claimed and the job has not ended."""
    SUCCEEDED = "succeeded"
    """Everything that was asked for was done."""
    FAILED = "failed"
    """Something could not be done; ``reason`` says what. What was done is kept."""
    CANCELLED = "cancelled"
    """A user stopped it."""


class StepState(StrEnum):
    """Where a step is in its life."""

    QUEUED = "queued"
    """Waits to be claimed, from ``available_at`` on."""
    RUNNING = "running"
    """A worker holds it until ``lease_until``."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED: Final = frozenset({"succeeded", "failed", "cancelled"})
"""The terminal states, of jobs and of steps."""


class Queue(StrEnum):
    """The queues, one for each kind of work. A worker's role decides which it serves."""

    ROLLOUT = "rollout"
    DATA = "data"
    INFERENCE = "inference"
    TRAINER = "trainer"


class Job(SQLModel, table=True):
    """What a user submits."""

    __tablename__ = "job"
    __table_args__ = (Index("ix_job_created", "created_at", "id"), Index("ix_job_state", "state", "priority"))

    id: str = Field(primary_key=True)
    kind: str
    name: str | None = Field(default=None, index=True)
    state: str = Field(default=JobState.QUEUED)
    reason: str | None = Field(default=None, sa_column=Column(Text))
    """Why it failed or was cancelled; None otherwise."""
    attempt: int = 1
    """Counts up with every ``retry``."""
    priority: int = 0
    """Higher goes first."""
    max_parallel: int | None = None
    """Most steps of the job that run at once; None means no limit of its own."""
    labels: dict[str, str] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))
    spec: dict[str, Any] = Field(sa_column=Column(Json, nullable=False))
    """The resolved spec: every default written out."""
    spec_sha256: str
    source: str | None = None
    """Name of the file the spec came from, for people."""
    after: list[dict[str, str]] = Field(default_factory=list, sa_column=Column(Json, nullable=False))
    """Jobs that must end first: ``{"job": id, "on": "ok" | "any"}``."""
    summary: dict[str, Any] | None = Field(default=None, sa_column=Column(Json))
    """What came out, such as the scores of an eval."""
    event_seq: int = 0
    """Number of the newest event."""
    submitted_by: str | None = None
    """Name of the API key; None on a server without keys."""
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    cancel_requested_at: float | None = None
    claimed_at: float = 0.0
    """When a step of it was last claimed: turns between jobs go round by this."""


class Step(SQLModel, table=True):
    """A piece of a job that one worker runs in minutes at the most."""

    __tablename__ = "step"
    __table_args__ = (
        UniqueConstraint("job_id", "key"),
        Index("ix_step_claim", "job_id", "state", "queue", "available_at", "position"),
        Index("ix_step_queue", "state", "queue", "available_at"),
        Index("ix_step_lease", "state", "lease_until"),
    )

    id: str = Field(primary_key=True)
    job_id: str = Field(sa_column=Column(String, ForeignKey("job.id", ondelete="CASCADE"), nullable=False))
    key: str
    """Names the step inside its job, such as ``1/play/0007``; the same work always has the same key."""
    job_attempt: int = 1
    kind: str
    queue: str
    position: int
    """Order inside the job: lower is claimed first."""
    payload: dict[str, Any] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))
    needs: str | None = None
    """Label of the served model that it plays with, a row of the job's in ``model_use``: claimed only while that is served."""
    state: str = Field(default=StepState.QUEUED)
    reason: str | None = Field(default=None, sa_column=Column(Text))
    """Why the last attempt did not succeed."""
    attempt: int = 0
    """Attempts begun. Handing a step back on purpose (a drain, a full budget) does not count as one."""
    max_attempts: int = 3
    fence: int = 0
    """Counts up with each claim; every write of the step carries the fence it was claimed under."""
    owner: str | None = None
    """Worker that holds it, or held it last."""
    hint: str | None = None
    """Celery id of the message under which it was claimed."""
    lease_until: float | None = None
    progress_at: float | None = None
    done: int = 0
    """Units done, of ``total``: episodes for a play step."""
    total: int = 0
    result: dict[str, Any] | None = Field(default=None, sa_column=Column(Json))
    created_at: float
    available_at: float
    started_at: float | None = None
    finished_at: float | None = None


class JobEvent(SQLModel, table=True):
    """Something that happened to a job. ``seq`` has no gaps, so a reader knows that it missed nothing."""

    __tablename__ = "job_event"

    job_id: str = Field(sa_column=Column(String, ForeignKey("job.id", ondelete="CASCADE"), primary_key=True))
    seq: int = Field(primary_key=True)
    at: float
    level: str = "info"
    """``info``, ``warning`` or ``error``."""
    type: str
    """Dotted name, such as ``step.requeued``."""
    message: str = Field(sa_column=Column(Text, nullable=False))
    step_id: str | None = None
    data: dict[str, Any] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))


class Outbox(SQLModel, table=True):
    """A promise, made in the transaction that made steps claimable, that their queue will be told."""

    __tablename__ = "outbox"
    __table_args__ = (Index("ix_outbox_unsent", "sent_at", "id"),)

    id: int | None = Field(default=None, sa_column=Column(BigId, primary_key=True, autoincrement=True))
    queue: str
    job_id: str
    created_at: float
    sent_at: float | None = None


class Episode(SQLModel, table=True):
    """One play-through of one seed. A trace is this row with its turns and frames."""

    __tablename__ = "episode"
    __table_args__ = (
        UniqueConstraint("job_id", "iteration", "seed", "member"),
        Index("ix_episode_created", "created_at", "id"),
        Index("ix_episode_seed", "seed"),
    )

    id: str = Field(primary_key=True)
    job_id: str = Field(sa_column=Column(String, ForeignKey("job.id", ondelete="CASCADE"), nullable=False))
    step_id: str
    iteration: int = 0
    seed: int
    member: int = 0
    """Which of the episodes of this seed: policies x repeats in an eval, the group's members in rl."""
    start: str | None = None
    """Where it begins, where that is not the seed's own beginning: sha256 of the text that tells what was done until there (see
    ``app.store.starts``). Turns, length, achievements and rewards are counted from there."""
    start_of: str | None = None
    """Whose play that was: ``<episode>/<turn>``, of an episode that may be gone."""
    env: str
    env_version: str
    split: str = Field(default="train", sa_column=Column(String, nullable=False, server_default="train"))
    """The split that its seed belongs to, as its job says."""
    task_id: str | None = None
    """Which task it is an episode of, as its job says; None where nobody gave it a name."""
    policy: str
    """As its job names it: a policy, or ``policy:variant``."""
    policy_version: str = ""
    model: str | None = None
    state: str
    """``running`` (a snapshot waits to go on), ``done`` or ``failed`` (with a snapshot when a retry goes on from it)."""
    error: str | None = Field(default=None, sa_column=Column(Text))
    ended: str | None = None
    """How it ended: ``died``, ``length``, or ``turns`` and ``time`` when a limit of the spec ended it."""
    turns: int = 0
    length: int = 0
    """Game steps, from its start on."""
    returns: dict[str, float] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))
    """Sum of each reward over the episode."""
    achievements: dict[str, int] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))
    """Achievement -> number of the game step that unlocked it; 0 where a trace from elsewhere does not tell. None of before
    its start."""
    unlocked: int = 0
    """How many achievements."""
    outcomes: dict[str, int] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))
    """Turns by outcome."""
    scores: dict[str, float] | None = Field(default=None, sa_column=Column(Json))
    """What judges gave it afterwards, by the name of the judge; None where none has. No part of its identity."""
    terminated: bool = False
    truncated: bool = False
    last_frame: str | None = None
    """Frame after the last action; no turn has it."""
    sha256: str | None = None
    """Hash over its start and every turn's frame, reply, actions and rewards: equal play, equal hash."""
    timings: dict[str, float] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))
    """Milliseconds by part, summed over the turns."""
    snapshot: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    """Where an episode that has not come to its end goes on."""
    created_at: float
    finished_at: float | None = None


class TurnRow(SQLModel, table=True):
    """One prompt and one reply, and what came of it."""

    __tablename__ = "turn"

    episode_id: str = Field(sa_column=Column(String, ForeignKey("episode.id", ondelete="CASCADE"), primary_key=True))
    index: int = Field(primary_key=True)
    frame: str | None = None
    system: str | None = None
    """sha256 of the system text, in the table ``text``."""
    messages: list[Any] = Field(default_factory=list, sa_column=Column(Json, nullable=False))
    """The other messages of the prompt, images by sha256."""
    reply: dict[str, Any] = Field(sa_column=Column(Json, nullable=False))
    """Text, tool calls, finish and notes, exactly as the policy gave them."""
    outcome: str
    detail: str = ""
    actions: list[str] = Field(sa_column=Column(Json, nullable=False))
    dropped: list[str] = Field(default_factory=list, sa_column=Column(Json, nullable=False))
    reward: float
    rewards: dict[str, float] = Field(sa_column=Column(Json, nullable=False))
    unlocked: list[str] = Field(sa_column=Column(Json, nullable=False))
    terminated: bool = False
    truncated: bool = False
    policy_version: str = ""
    state_sha256: str | None = None
    timings: dict[str, float] = Field(sa_column=Column(Json, nullable=False))
    """Milliseconds by part, none in two: ``frame``, ``prompt``, ``policy``, ``env``; of a served model also ``http``, ``queue``,
    ``processor``, ``prefill`` and ``decode``."""
    prompt_ids: list[int] | None = Field(default=None, sa_column=Column(Json))
    output_ids: list[int] | None = Field(default=None, sa_column=Column(Json))
    logprobs: list[float] | None = Field(default=None, sa_column=Column(Json))


class FrameRow(SQLModel, table=True):
    """A picture, stored once under the sha256 of its PNG bytes."""

    __tablename__ = "frame"

    sha256: str = Field(primary_key=True)
    png: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    width: int
    height: int
    stored_at: float = Field(default=0.0, sa_column=Column(Float, nullable=False, server_default="0"))
    """When it was last stored, to the hour: one that no turn names is dropped only when this is hours ago."""


class TextRow(SQLModel, table=True):
    """A long text that many turns or episodes share, such as a system prompt or a start, stored once under its sha256."""

    __tablename__ = "text"

    sha256: str = Field(primary_key=True)
    text: str = Field(sa_column=Column(Text, nullable=False))


class Metric(SQLModel, table=True):
    """What was measured of a job at one point of its course, such as the loss of an optimizer step."""

    __tablename__ = "metric"

    job_id: str = Field(sa_column=Column(String, ForeignKey("job.id", ondelete="CASCADE"), primary_key=True))
    scope: str = Field(primary_key=True)
    """What is counted by ``index``: ``train``, ``val``, ``update``, ``eval``."""
    index: int = Field(primary_key=True)
    """The optimizer step, or the iteration."""
    at: float
    values: dict[str, float | None] = Field(sa_column=Column(Json, nullable=False))
    """By name; null where it was no finite number."""


FOLDER_KINDS = ("adapter", "model")
"""Kinds of artifacts that are models, each a folder."""


class Artifact(SQLModel, table=True):
    """A file that a job made, or a folder."""

    __tablename__ = "artifact"

    id: str = Field(primary_key=True)
    job_id: str = Field(sa_column=Column(String, ForeignKey("job.id", ondelete="CASCADE"), nullable=False, index=True))
    step_id: str
    kind: str
    """``dataset``, ``report`` or ``labels``, or one of FOLDER_KINDS."""
    name: str
    """File name for people."""
    path: str
    """Where the bytes are, below the artifact root."""
    sha256: str
    bytes: int = Field(sa_column=Column(BigInteger, nullable=False))
    parents: list[str] = Field(default_factory=list, sa_column=Column(Json, nullable=False))
    """Jobs whose traces or artifacts it was made from."""
    data: dict[str, Any] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))
    created_at: float

    @property
    def is_folder(self) -> bool:
        """Whether its bytes are those of a packed folder (``app.packed``)."""
        return self.kind in FOLDER_KINDS


class Worker(SQLModel, table=True):
    """A worker process that says it is alive."""

    __tablename__ = "worker"

    id: str = Field(primary_key=True)
    role: str
    queues: list[str] = Field(sa_column=Column(Json, nullable=False))
    host: str
    pid: int
    slots: int
    """Steps it can run at once."""
    version: str
    started_at: float
    heartbeat_at: float
    stopped_at: float | None = None


class EndpointState(StrEnum):
    """Where an inference worker's engine is in its life. The worker reports it."""

    STARTING = "starting"
    """It has no engine that answers: none is wanted of it yet, or one comes up."""
    READY = "ready"
    """Its engine has answered a probe, and takes requests for ``base`` and for each of ``adapters``."""
    FAILED = "failed"
    """Its engine did not come up, or ended by itself; ``error`` says why."""
    STOPPED = "stopped"
    """The worker has ended."""


class Endpoint(SQLModel, table=True):
    """What an inference worker serves, as it reports it, beside what it should serve, as the scheduler says it."""

    __tablename__ = "endpoint"

    id: str = Field(primary_key=True)
    worker_id: str = Field(index=True)
    host: str
    url: str = ""
    """Base address of its engine, without ``/v1``; empty while there is none."""
    engine: str = ""
    """``transformers`` or ``vllm``: what runs; empty while nothing does."""
    engines: list[str] = Field(default_factory=list, sa_column=Column(Json, nullable=False))
    """What it can run, the preferred first."""
    state: str = Field(default=EndpointState.STARTING)
    base: str = ""
    """What is served, or being loaded; empty while nothing is."""
    sha256: str = Field(default="", sa_column=Column(String, nullable=False, server_default=text("''")))
    """Of the weights of the base that is served; empty while nothing is, and where nobody knows."""
    adapters: dict[str, dict[str, str]] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))
    """What is loaded beside the base, by served name: ``{"path", "sha256"}``."""
    desired: dict[str, Any] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))
    """``{"engine", "base", "options", "adapters": {name: path}}``; empty: nothing is wanted of it."""
    failures: dict[str, dict[str, Any]] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))
    """What it could not load, by base or served name: ``{"reason", "tries", "lasting", "at", "model", "fell"}``, the last as it
    was to be served then; ``others`` are earlier ones, to be served otherwise. ``fell``: it had been served until then."""
    in_flight: int = 0
    """Requests that are under way."""
    capacity: int = 0
    """Requests that it computes at once."""
    error: str | None = Field(default=None, sa_column=Column(Text))
    started_at: float
    heartbeat_at: float
    changed_at: float
    """When its state or its base last changed: since when it loads, or serves."""
    ready_at: float | None = None
    idle_since: float | None = None
    """Since when no job wants what it should serve; None while one does."""


ITS_OWN: Final = "its own"
"""Stands for the job in a use's ``line`` while the job has no id."""


class ModelUse(SQLModel, table=True):
    """A model that a job plays with: what its ref meant when the job was submitted."""

    __tablename__ = "model_use"

    job_id: str = Field(sa_column=Column(String, ForeignKey("job.id", ondelete="CASCADE"), primary_key=True))
    label: str = Field(primary_key=True)
    """The policy's, as the spec has it: ``model:REF``."""
    base: str = Field(index=True)
    """Folder or hub id of the whole model; it is served under this name."""
    adapter: str = ""
    """Name under which the adapter is served; empty without one, and for a line, whose name moves on."""
    adapter_path: str = ""
    """Folder of the adapter; of a line, of the one that it begins from, empty for a fresh one."""
    sha256: str = ""
    """Of the adapter; of the base when there is none and it is known; empty for a line."""
    line: str = ""
    """Job whose published versions are played with, the newest one."""
    artifact: str = ""
    """Artifact that the ref named."""
    engine: str = "auto"
    """The engine that the spec asks for."""
    options: dict[str, Any] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))
    """How the base is to be served: the spec's table ``[vllm]``."""
    facts: dict[str, Any] = Field(default_factory=dict, sa_column=Column(Json, nullable=False))
    """What the folder's own files say of it."""


class VersionState(StrEnum):
    """Where a published version of an adapter is in its life. app/endpoints/publish.py is the only code that changes it."""

    LOADING = "loading"
    """Published; not yet on every endpoint that serves its base."""
    LIVE = "live"
    """The one that a step which begins now plays with. A line has one at the most."""
    DRAINING = "draining"
    """Superseded; steps that began on it still play with it."""
    RETIRED = "retired"
    FAILED = "failed"
    """An endpoint cannot load it; ``reason`` says why."""


def served_name(line: str, version: int) -> str:
    """Name under which a version of a line is served."""
    return f"{line}-v{version}"


class AdapterVersion(SQLModel, table=True):
    """A version of the adapter that a job trains. Its line is the job; the version counts up."""

    __tablename__ = "adapter_version"
    __table_args__ = (Index("ix_adapter_version_state", "state"),)

    line: str = Field(sa_column=Column(String, ForeignKey("job.id", ondelete="CASCADE"), primary_key=True))
    version: int = Field(primary_key=True)
    base: str
    path: str
    sha256: str
    state: str = Field(default=VersionState.LOADING)
    reason: str | None = Field(default=None, sa_column=Column(Text))
    """Why it failed."""
    published_at: float
    live_at: float | None = None
    draining_at: float | None = None
    retired_at: float | None = None

    @property
    def name(self) -> str:
        """Name under which it is served."""
        return served_name(self.line, self.version)


class AdapterHold(SQLModel, table=True):
    """A step plays with a version: it is not retired before the step ends."""

    __tablename__ = "adapter_hold"

    step_id: str = Field(primary_key=True)
    line: str = Field(sa_column=Column(String, ForeignKey("job.id", ondelete="CASCADE"), primary_key=True))
    version: int
    fence: int
    """The hold counts while the step runs under it, and as long as an episode of the step waits to go on."""


class Leader(SQLModel, table=True):
    """Who leads, of the processes that may do a thing only one at a time."""

    __tablename__ = "leader"

    name: str = Field(primary_key=True)
    owner: str
    until: float


class Idempotency(SQLModel, table=True):
    """The answer to a request that carried an Idempotency-Key, to be given again to its repeat."""

    __tablename__ = "idempotency"

    scope: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    request_sha256: str
    job_id: str
    created_at: float = Field(sa_column=Column(Float, nullable=False, index=True))


class Spend(SQLModel, table=True):
    """What a job's policies have asked of paid endpoints, and what is set aside for requests that are under way."""

    __tablename__ = "spend"

    job_id: str = Field(sa_column=Column(String, ForeignKey("job.id", ondelete="CASCADE"), primary_key=True))
    requests: int = 0
    """Answered requests."""
    input_tokens: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    output_tokens: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    usd: float = 0.0
    """Cost of the answered requests, at the spec's prices."""
    held_tokens: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    """Most that the requests under way can take. A worker that dies leaves its part here: the cap holds even so."""
    held_usd: float = 0.0


class Imported(SQLModel, table=True):
    """Another store whose traces were brought into this one."""

    __tablename__ = "imported"

    id: str = Field(primary_key=True)
    name: str = Field(index=True)
    """File name of it, or its address without the password."""
    form: str
    """``synthq`` or ``tracing_v3``."""
    sha256: str | None = None
    """Of the file; None for a database server."""
    jobs: list[str] = Field(sa_column=Column(Json, nullable=False))
    """Jobs that came with it, or were made for it."""
    counts: dict[str, int] = Field(sa_column=Column(Json, nullable=False))
    """Rows by table: those that were new."""
    at: float


class ApiKey(SQLModel, table=True):
    """A key that may call the API. Only its hash is kept."""

    __tablename__ = "api_key"

    id: str = Field(primary_key=True)
    name: str
    sha256: str = Field(index=True)
    created_at: float
    revoked_at: float | None = None
