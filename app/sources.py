"""Which jobs a filter reads, and whether what they played can become the lines that it wants.

The one rule about pictures is asked twice: at submit, of the jobs that a spec names, and of every job while episodes are chosen.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlmodel import Session

from app.errors import ImportNotFound, NotFound, Problem, SpecProblems
from app.models import Job
from app.specs import AnySpec, EvalSpec, FilterSpec, FilterTable, PlayedSpec, RlSpec, parse
from app.specs.filter import STORE
from app.specs.policies import policy_name
from app.store import imports, jobs

PLAY = ("eval", "rl")
"""Kinds of the jobs that play episodes."""
NO_PROMPT = ("random", "scripted")
"""Policies that read no prompt, so that none is stored where its picture is not."""


def jobs_read(session: Session, table: FilterTable) -> list[Job] | None:
    """The jobs whose episodes a filter reads, each once, as the spec names them; None stands for every job of the store.

    Raises JobNotFound, AmbiguousName, ImportNotFound.
    """
    named = {job.id: job for job in (jobs.find(session, ref) for ref in table.jobs)}
    if table.db == STORE:
        return list(named.values()) if named else None
    brought = imports.jobs_of(session, table.db)
    if named:
        return [job for id, job in named.items() if id in brought]
    return [job for id in brought if (job := session.get(Job, id)) is not None]


def unfit(spec: PlayedSpec, policy: str, *, include_images: bool) -> str | None:
    """What a policy's episodes of a job lack to become lines with pictures, or without; None when they lack nothing."""
    how = spec.play()
    shown, kept = how.policy_config, how.save_frames == "all"
    if include_images and not shown.use_vision:
        return "was played without pictures (use_vision = false)"
    if include_images and not kept:
        return 'kept no pictures (save_frames = "none")'
    if not include_images and shown.image_only_mode:
        return "was played from pictures alone (image_only_mode = true)"
    if shown.use_vision and not kept and policy_name(policy)[0] in NO_PROMPT:
        return f'kept no prompts of {policy} (save_frames = "none")'
    return None


def blind(spec: PlayedSpec, policy: str, split: str) -> bool:
    """Whether a policy of a job was shown black pictures in the episodes of a split."""
    if policy_name(policy)[0] in NO_PROMPT:
        return False
    return split == spec.data.blank_split if isinstance(spec, RlSpec) else isinstance(spec, EvalSpec) and spec.eval.blank_frames


def cautions(session: Session, spec: AnySpec) -> list[str]:
    """What of the jobs that a filter names was played with black pictures. Jobs that are not there are ``check``'s to tell."""
    if not isinstance(spec, FilterSpec):
        return []
    found = []
    for i, ref in enumerate(spec.filter.jobs):
        try:
            job = jobs.find(session, ref)
        except NotFound:
            continue
        if job.kind in PLAY and (split := _blind_split(job, spec.filter)) is not None:
            part = f" (split {split})" if job.kind == "rl" else ""
            way_out = "name its other splits in filter.splits" if job.kind == "rl" else "leave the job out"
            found.append(
                f"filter.jobs.{i}: job {_called(job)} was played with black pictures{part}, and what a model says of them "
                f"teaches it not to look; {way_out}"
            )
    return found


def _blind_split(job: Job, table: FilterTable) -> str | None:
    """The split whose episodes were played with black pictures and are not left out by the filter; None for none."""
    spec = parse(job.kind, job.spec)
    if isinstance(spec, RlSpec):
        split = spec.data.blank_split if spec.evaluation.blank_frames_every_n_iters else ""
    else:
        assert isinstance(spec, EvalSpec), "it plays episodes"
        split = spec.eval.split
    if not split or (table.splits and split not in table.splits):
        return None
    policies = [name for name in spec.play().policies if not table.policies or name in table.policies]
    return split if any(blind(spec, policy, split) for policy in policies) else None


def check(session: Session, spec: AnySpec) -> None:
    """Raise SpecProblems for a filter that names jobs, or an import, that it could not make its lines of."""
    if isinstance(spec, FilterSpec) and (problems := list(_problems(session, spec.filter))):
        raise SpecProblems(problems)


def _problems(session: Session, table: FilterTable) -> Iterator[Problem]:
    brought: list[str] | None = None
    if table.db != STORE:
        try:
            brought = imports.jobs_of(session, table.db)
        except ImportNotFound as error:
            yield Problem(key="filter.db", message=f'{error}, and db = "{STORE}" reads what was played here')
    for i, ref in enumerate(table.jobs):
        key = f"filter.jobs.{i}"
        if ref == jobs.LAST:
            yield Problem(key=key, message=f"{ref} will be the filter itself when it runs; write the job's id or its name")
            continue
        try:
            job = jobs.find(session, ref)
        except NotFound as error:
            yield Problem(key=key, message=str(error))
            continue
        if job.kind not in PLAY:
            message = f"job {_called(job)} is of the kind {job.kind}, and only {' and '.join(PLAY)} jobs have episodes to filter"
            yield Problem(key=key, message=message)
        elif brought is not None and job.id not in brought:
            yield Problem(key=key, message=f"job {_called(job)} did not come with {table.db}; leave out db or the job")
        else:
            yield from _disagreement(job, key, table)


def _disagreement(job: Job, key: str, table: FilterTable) -> Iterator[Problem]:
    """A problem when none of the job's episodes can become a line with pictures, or without."""
    spec = parse(job.kind, job.spec)
    assert isinstance(spec, PlayedSpec), "it plays episodes"
    policies = spec.play().policies
    lacks = [unfit(spec, policy, include_images=table.include_images) for policy in policies]
    if lacks[0] is None or None in lacks:
        return
    other = unfit(spec, policies[0], include_images=not table.include_images)
    wanted = "true" if table.include_images else "false"
    way_out = "play it again with its frames kept"
    if other is None:
        way_out = "include_images = false writes its text alone" if table.include_images else "write include_images = true"
    message = f"{wanted} does not agree with {key}: job {_called(job)} {lacks[0]}; {way_out}"
    yield Problem(key="filter.include_images", message=message)


def _called(job: Job) -> str:
    return f"{job.id} ({job.name})" if job.name else job.id
