"""Jobs: submit, list, get, cancel, retry, remove; their steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import JSONResponse
from sqlmodel import Session

from app import (
    artifacts,
    broker,
    curricula,
    db,
    extending,
    lifecycle,
    model_refs,
    registered,
    runs,
    sources,
    specs,
    training_refs,
)
from app.auth import LOCAL, Caller
from app.errors import BadFlag, Conflict
from app.estimate import estimate
from app.estimate.left import left_s
from app.idempotency import once
from app.models import ENDED, Job
from app.problems import problems
from app.schemas import (
    IDEMPOTENCY_KEY,
    PLAIN,
    CheckedOut,
    EstimateOut,
    JobIn,
    JobOut,
    JobPage,
    State,
    StepList,
    StepOut,
    SubmittedOut,
)
from app.store import events, jobs, spending
from app.store.paging import MOST_ROWS
from app.store.waiting import waiting_reason, waiting_reasons

router = APIRouter(tags=["jobs"])

KeyHeader = Annotated[
    str | None,
    Header(alias="Idempotency-Key", min_length=1, max_length=200, pattern=IDEMPOTENCY_KEY, description="makes a repeat harmless"),
]


def out(session: Session, job: Job) -> JobOut:
    """A job as the API tells it."""
    spent, progress = spending.spent_of(session, [job]).get(job.id), jobs.progress(session, job)
    left = left_s(session, job, progress)
    return JobOut.of(job, progress=progress, waiting=waiting_reason(session, job), spent=spent, left_s=left)


@router.post(
    "/v1/jobs",
    status_code=202,
    response_model=SubmittedOut,
    responses={
        **problems(404, 409, 413),
        200: {"model": CheckedOut, "description": "dry_run: the job would be accepted"},
        202: {
            "description": "accepted",
            "headers": {"Location": {"schema": {"type": "string"}, "description": "the job"}},
        },
    },
)
def submit_job(
    body: JobIn,
    response: Response,
    caller: Caller,
    dry_run: Annotated[bool, Query(description="check only; store nothing")] = False,
    idempotency_key: KeyHeader = None,
) -> Any:
    """Accept a job. It is stored with its first steps, whole or not at all, before the answer goes out."""
    spec = specs.parse(body.kind, body.spec)
    registered.check(spec)
    draft = _Draft(body, spec, caller)
    if dry_run:
        with db.reading() as session:
            return JSONResponse(draft.checked(session).model_dump(mode="json"))
    if idempotency_key is None:
        with db.writing() as session:
            job, repeated = draft.submit(session), False
    else:
        job, repeated = once(scope=caller, key=idempotency_key, request=body.model_dump(), make=draft.submit)
    broker.nudge()
    if repeated:
        response.headers["Idempotent-Replayed"] = "true"
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    with db.reading() as session:
        return SubmittedOut.accepted(out(session, jobs.find(session, job.id)), draft.warnings, draft.estimate)


class _Draft:
    """A job on its way into the store."""

    def __init__(self, body: JobIn, spec: specs.AnySpec, caller: str) -> None:
        self.body = body
        self.spec = spec = extending.settled(spec)
        self.name = body.name or spec.name
        self.resolved = specs.resolved(spec)
        self.sha256 = specs.sha256(spec)
        self.warnings = specs.warnings(spec)
        self.uses = model_refs.uses(spec)
        if isinstance(spec, specs.RlSpec):
            begin = training_refs.learner(spec)
            self.uses.append(training_refs.use(spec, begin))
            self.warnings += training_refs.cautions(spec, begin)
            self.warnings += extending.checked(spec, begin)
        training_refs.check(spec)
        with db.reading() as session:
            told = estimate(session, spec)
            self.warnings += sources.cautions(session, spec)
        self.estimate = EstimateOut.model_validate(told) if told is not None else None
        self.warnings += told.cautions if told is not None else ()
        self.caller = caller

    def submit(self, session: Session) -> Job:
        """Store it. Raises as ``needed`` does, and SpecProblems for a filter, or a curriculum, that cannot read what it names."""
        sources.check(session, self.spec)
        curricula.check(session, self.spec)
        job = lifecycle.submit(
            session,
            kind=self.body.kind,
            spec=self.resolved,
            spec_sha256=self.sha256,
            name=self.name,
            priority=self.body.priority,
            labels=dict(self.body.labels),
            after=self.needed(session),
            source=self.body.source,
            submitted_by=None if self.caller == LOCAL else self.caller,
            uses=self.uses,
        )
        for warning in self.warnings:
            events.append(session, job.id, "spec.warning", warning, level="warning")
        if self.estimate is not None:
            message = f"estimated {self.estimate.said[-1]}"
            events.append(session, job.id, "job.estimated", message, data=self.estimate.model_dump(mode="json"))
        return job

    def needed(self, session: Session) -> list[dict[str, str]]:
        """The jobs that must end first, by full id. Raises JobNotFound, AmbiguousName, and Conflict for a hope that is lost."""
        found = []
        for wanted in self.body.after:
            job = jobs.find(session, wanted.job)
            if wanted.on == "ok" and job.state in ENDED and job.state != "succeeded":
                raise Conflict(
                    f"job {job.id} ended as {job.state}, so nothing can run after its success; "
                    f'any:{job.id} (on = "any") waits for its end only'
                )
            found.append({"job": job.id, "on": wanted.on})
        own = [*training_refs.waits_for(session, self.spec), *curricula.waits_for(session, self.spec)]
        return found + [one for one in own if one not in found]

    def checked(self, session: Session) -> CheckedOut:
        """What would be stored. Raises as ``submit`` does."""
        sources.check(session, self.spec)
        curricula.check(session, self.spec)
        return CheckedOut.model_validate(
            {
                "kind": self.body.kind,
                "name": self.name,
                "spec": self.resolved,
                "spec_sha256": self.sha256,
                "after": self.needed(session),
                "warnings": self.warnings,
                "estimate": self.estimate,
            }
        )


@router.get("/v1/jobs", response_model=JobPage, responses=problems())
def list_jobs(
    state: Annotated[list[State] | None, Query(description="may come several times")] = None,
    kind: Annotated[str | None, Query(max_length=40, pattern=PLAIN)] = None,
    name: Annotated[str | None, Query(max_length=80, pattern=PLAIN)] = None,
    label: Annotated[list[str] | None, Query(description="key=value; may come several times", max_length=32)] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 50,
    after: Annotated[str | None, Query(max_length=500, description="next_cursor of the page before")] = None,
) -> Any:
    """Jobs, newest first."""
    with db.reading() as session:
        found, cursor = jobs.page(
            session, states=state or (), kind=kind, name=name, labels=_labels(label or ()), limit=limit, after=after
        )
        progress, waiting = jobs.progress_of(session, found), waiting_reasons(session, found)
        spent = spending.spent_of(session, found)
        data = [
            JobOut.of(
                job,
                progress=progress[job.id],
                waiting=waiting.get(job.id),
                spent=spent.get(job.id),
                left_s=left_s(session, job, progress[job.id]),
            )
            for job in found
        ]
    return JobPage(data=data, has_more=cursor is not None, next_cursor=cursor)


def _labels(pairs: Sequence[str]) -> dict[str, str]:
    labels = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key or '"' in key or "\0" in pair:
            raise BadFlag(f"label = {pair[:80]!r} is not key=value")
        labels[key] = value
    return labels


@router.get("/v1/jobs/{ref}", response_model=JobOut, responses=problems(404, 409))
def get_job(ref: str) -> Any:
    """One job, by id, unique start of an id, name (the newest of that name), or @last."""
    with db.reading() as session:
        return out(session, jobs.find(session, ref))


@router.post("/v1/jobs/{ref}/cancel", response_model=JobOut, responses=problems(404, 409))
def cancel_job(ref: str) -> Any:
    """Stop a job. Steps that run stop soon after; cancelled already: no change."""
    return _changed(ref, lifecycle.cancel)


@router.post("/v1/jobs/{ref}/retry", response_model=JobOut, responses=problems(404, 409))
def retry_job(ref: str) -> Any:
    """Put a failed or cancelled job back in the queue. It makes only what is missing."""
    return _changed(ref, lifecycle.retry)


def _changed(ref: str, change: Any) -> JobOut:
    with db.writing() as session:
        job = change(session, jobs.find(session, ref))
    broker.nudge()
    with db.reading() as session:
        return out(session, jobs.find(session, job.id))


@router.delete("/v1/jobs/{ref}", status_code=204, response_class=Response, responses=problems(404, 409))
def remove_job(ref: str) -> None:
    """Delete a job that has ended, with its steps, events, traces and artifacts."""
    with db.writing() as session:
        job = jobs.find(session, ref)
        curricula.check_unneeded(session, job)
        lifecycle.remove(session, job)
    artifacts.delete_job(job.id)
    runs.delete(job.id)


@router.get("/v1/jobs/{ref}/steps", response_model=StepList, responses=problems(404, 409))
def list_steps(ref: str) -> Any:
    """The job's steps, all attempts, in order."""
    with db.reading() as session:
        rows = jobs.steps(session, jobs.find(session, ref))
        return StepList(data=[StepOut.model_validate(row) for row in rows])
