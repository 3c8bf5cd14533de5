"""Every deliberate error of synthq: its sentence, its HTTP status, its exit code.

    SynthqError
    ├── InvalidInput (422, exit 2)      the user gave something that cannot be right
    │   ├── SpecProblems, BadScores     every problem of one spec, or of one list of scores, found at once
    │   ├── BadDataset                  the problems of training data
    │   ├── UnknownEnvironment, UnknownPolicy, UnknownKind
    │   └── BadFlag, BodyTooLarge, UploadTooLarge, NotHere, BadSource, BadTrace, BadModel
    ├── NotFound (404, exit 3)          JobNotFound, TraceNotFound, FrameNotFound, ArtifactNotFound, ApiKeyNotFound,
    │                                   AmbiguousName, SourceNotFound, ImportNotFound, ModelNotFound, UploadNotFound
    ├── NotAllowed (401/403, exit 4)    LoopbackOnly
    ├── TooManyStreams (429, exit 6)
    ├── Conflict (409, exit 5)          IllegalMove, AlreadyEnded, KeyReused, NotComparable
    ├── Unavailable (503, exit 6)       BrokerUnavailable, StoreUnavailable, ServerUnreachable, EngineBusy
    ├── WaitTimeout (exit 7)
    ├── LostStep                        a worker's hold on a step was taken back; it must write nothing more
    ├── StepCancelled, StepFailed       how a step that runs can end other than by success
    │   └── StepBlocked                 nor can any other that needs the same: EngineRefused, BudgetSpent, TaskAppRefused
    ├── ChildDied, ChildFailed          the trainer's child ended in the middle of its work, or could not do it
    ├── EngineFault, RequestCancelled   why an engine gave one request no reply
    └── EpisodeOver, ReplayMismatch, MissingFrame, EngineFailed, TaskAppFailed   a fault inside one episode

A sentence says what was wrong, with the value, and what would be right: lower case, no blame. To add an error, subclass the
nearest parent, build the sentence in ``__init__``, and raise it; nothing else needs to know it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like ``name``, or None when nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'; did you mean 'x'?' or an empty string: the tail of a sentence about an unknown name."""
    near = nearest(name, known)
    return f"; did you mean {near!r}?" if near else ""


def cut(text: str) -> str:
    """A name that somebody gave as a sentence shows it: quoted, its control characters escaped, not endless."""
    return repr(text) if len(text) <= 80 else f"{text[:80]!r}..."


class SynthqError(Exception):
    """A deliberate error. Its text is the whole message for the user."""

    status = 500
    exit_code = 1
    retryable = False

    @property
    def code(self) -> str:
        """A stable name for programs: the class name in snake case."""
        name = type(self).__name__
        return "".join("_" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(name))


class InvalidInput(SynthqError):
    """Something the user gave cannot be right."""

    status = 422
    exit_code = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong in a spec, and where."""

    key: str
    """Dotted path of the key, such as ``eval.seeds``."""
    message: str
    """What is wrong, with the value, and what would be right."""
    file: str | None = None
    line: int | None = None
    """1-based line in ``file``; None when the key came from a flag or is absent."""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.file and self.line else f"{self.file}: " if self.file else ""
        return f"{where}{self.key}: {self.message}" if self.key else f"{where}{self.message}"


class SpecProblems(InvalidInput):
    """Every problem of one spec, found at once."""

    what = "the spec"

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        heading = f"1 problem in {self.what}" if count == 1 else f"{count} problems in {self.what}"
        super().__init__("\n  ".join([f"{heading}:", *map(str, self.problems)]))


class BadDataset(InvalidInput):
    """Lines of training data that cannot be trained on: the first problems, and how many there are."""

    def __init__(self, problems: Iterable[Problem], *, total: int, lines: int) -> None:
        self.problems, self.total = tuple(problems), total
        heading = f"{total} {'problem' if total == 1 else 'problems'} in {lines} {'line' if lines == 1 else 'lines'}"
        rest = [f"and {total - len(self.problems)} more"] if total > len(self.problems) else []
        super().__init__("\n  ".join([f"{heading}:", *map(str, self.problems), *rest]))


class BadScores(SpecProblems):
    """Scores by judges that cannot be attached, every one told at once."""

    what = "the scores"


class UnknownName(InvalidInput):
    """A name that is looked up in a registry is not there."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        listed = ", ".join(names) or "none"
        super().__init__(f"no {what} named {name!r}{did_you_mean(name, names)} (known: {listed})")


class UnknownEnvironment(UnknownName):
    """A spec names an environment that is not registered."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__("environment", name, known)


class UnknownPolicy(UnknownName):
    """A spec names a policy that is not registered."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__("policy", name, known)


class UnknownKind(UnknownName):
    """A job kind that synthq does not have, or does not have yet."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__("job kind", name, known)


class BadFlag(InvalidInput):
    """A command-line flag or a request field has a value that cannot be right."""


class NotHere(InvalidInput):
    """Something that this release does not do yet; the sentence says what does the nearest thing."""

    status = 501


class BadSource(InvalidInput):
    """A store or a backup that something should be brought from cannot be read."""


class BadModel(InvalidInput):
    """A folder or a hub id that is no model, not a whole one, or not of a kind that synthq works with."""


class BadTrace(InvalidInput):
    """What came as a trace from elsewhere is none, or does not agree with itself."""


class NotFound(SynthqError):
    """What was asked for by name is not in the store."""

    status = 404
    exit_code = 3


class JobNotFound(NotFound):
    """No job has this id, prefix or name."""

    def __init__(self, ref: str) -> None:
        if ref == "@last":
            super().__init__("there is no job yet, so no last one; `synthq submit eval --seeds 0-9` makes one")
        else:
            super().__init__(f"no job matches {cut(ref)}; `synthq list` shows the jobs there are")


class AmbiguousName(NotFound):
    """A prefix or a name fits several jobs."""

    status = 409

    def __init__(self, ref: str, ids: Iterable[str]) -> None:
        super().__init__(f"{ref!r} fits several jobs ({', '.join(ids)}); give more of the id")


class TraceNotFound(NotFound):
    """No episode has this id."""

    def __init__(self, ref: str) -> None:
        super().__init__(f"no trace matches {cut(ref)}; `synthq traces list` shows the traces there are")


class FrameNotFound(NotFound):
    """No frame has this sha256."""

    def __init__(self, sha256: str) -> None:
        super().__init__(f"no frame with sha256 {sha256!r} in the store")


class ArtifactNotFound(NotFound):
    """No artifact has this id, or its bytes are gone."""

    def __init__(self, ref: str) -> None:
        super().__init__(f"no artifact matches {cut(ref)}; `synthq artifacts JOB` shows those of a job")


class UploadNotFound(NotFound):
    """No file with this id is on its way."""

    def __init__(self, id: str) -> None:
        super().__init__(f"no upload with id {cut(id)} is on its way; one that nobody goes on with is forgotten after a day")


class ModelNotFound(NotFound):
    """No model goes by this name."""

    def __init__(self, ref: str) -> None:
        super().__init__(f"no model matches {cut(ref)}; `synthq models list` shows those that jobs have named or made")


class ArtifactDamaged(SynthqError):
    """An artifact's bytes are not those that were stored."""

    def __init__(self, id: str, *, wanted: str, found: str) -> None:
        super().__init__(f"artifact {id} is damaged: its bytes have sha256 {found}, and {wanted} was stored")


class ApiKeyNotFound(NotFound):
    """No API key has this id."""

    def __init__(self, id: str) -> None:
        super().__init__(f"no API key with id {cut(id)}; `synthq key list` shows the ids there are")


class SourceNotFound(NotFound):
    """There is no file where a store or a backup should be."""


class ImportNotFound(NotFound):
    """No store of this name was brought into this one."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        listed = ", ".join(map(cut, names)) or "none"
        super().__init__(
            f"no imported store named {cut(name)}{did_you_mean(name, names)} (known: {listed}); "
            "`synthq traces import FILE` brings one in"
        )


class NotAllowed(SynthqError):
    """No API key, or one that does not fit. The sentence never shows any part of a key."""

    status = 401
    exit_code = 4


class LoopbackOnly(NotAllowed):
    """A server without API keys answers its own machine alone."""

    status = 403


class BodyTooLarge(InvalidInput):
    """A request body is longer than the API reads."""

    status = 413

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the request body is longer than {limit_bytes} bytes, the most that is read")


class UploadTooLarge(InvalidInput):
    """A file is larger than the server takes."""

    status = 413

    def __init__(self, name: str, size: int, most: int) -> None:
        super().__init__(
            f"{cut(name)} has {size:,} bytes, and the server takes files of {most:,} at most (SYNTHQ_UPLOAD_BYTES); cut it, or "
            "have a filter job write the lines where the server is"
        )


class TooManyStreams(SynthqError):
    """One caller holds as many event streams as it may."""

    status = 429
    exit_code = 6
    retryable = True

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} event streams are open already, the most for one caller; close one, or read pages instead")


class Conflict(SynthqError):
    """The request does not fit the present state."""

    status = 409
    exit_code = 5


class IllegalMove(Conflict):
    """A job or step cannot go from its present state to the one asked for."""

    def __init__(self, what: str, id: str, state: str, to: str) -> None:
        super().__init__(f"{what} {id} is {state}, and {state} does not lead to {to}")


class AlreadyEnded(Conflict):
    """A job has reached its end; what was asked needs one that has not."""

    def __init__(self, id: str, state: str, asked: str) -> None:
        super().__init__(f"job {id} has already {state}; {asked}")


class NotComparable(Conflict):
    """Arms of a comparison were not played alike, so a difference may be one of the conditions."""

    def __init__(self, differences: Iterable[str]) -> None:
        heading = "these arms were not played alike, so what differs may not be who played (--anyway compares them all the same):"
        super().__init__("\n  ".join([heading, *differences]))


class KeyReused(Conflict):
    """An Idempotency-Key came again with another request."""

    status = 422

    def __init__(self, key: str) -> None:
        super().__init__(f"idempotency key {key!r} was used before with another request; take a new key")


class Unavailable(SynthqError):
    """Something outside this process does not answer; trying again later may help."""

    status = 503
    exit_code = 6
    retryable = True


class BrokerUnavailable(Unavailable):
    """Redis or Valkey cannot be found, started or reached."""


class StoreUnavailable(Unavailable):
    """The trace store's database cannot be opened."""


class ServerUnreachable(Unavailable):
    """The CLI cannot reach the API."""


class EngineBusy(Unavailable):
    """An engine has as many requests waiting as it takes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} requests wait already, the most that this engine holds; ask again later")


class WaitTimeout(SynthqError):
    """A wait ended before the job did."""

    exit_code = 7


class LostStep(SynthqError):
    """A worker's hold on a step was taken back: its fence is old, so it must write nothing more."""

    def __init__(self, step_id: str, fence: int) -> None:
        super().__init__(f"step {step_id} is no longer held under fence {fence}; another worker may have it")


class StepCancelled(SynthqError):
    """The job of the step that runs was cancelled."""


class StepFailed(SynthqError):
    """A step cannot succeed. Another try would end the same way."""


class StepBlocked(StepFailed):
    """A step cannot go on, and no other part of it could: what all of them need is refused."""


class EngineRefused(StepBlocked):
    """A model's endpoint answers no request of this job: no key, a wrong key, no such model, no credit."""


class BudgetSpent(StepBlocked):
    """The next request to a paid endpoint could go beyond the job's budget, so it is not sent."""

    def __init__(self, sentence: str, *, for_now: bool = False) -> None:
        super().__init__(sentence)
        self.for_now = for_now
        """It would fit once the requests that are under way have cost less than they could."""


class ChildDied(SynthqError):
    """The trainer's child ended while it was at work; another starts with the next try."""

    status = 503
    exit_code = 6
    retryable = True


class ChildFailed(SynthqError):
    """What the trainer's child was asked to do went wrong there."""

    def __init__(self, sentence: str, *, of: str, retryable: bool) -> None:
        super().__init__(sentence)
        self.of = of
        """The class of what was raised there."""
        self.retryable = retryable


class TaskAppRefused(StepBlocked):
    """A remote task app takes no request of this job: a wrong key, a body that it does not know, or it never woke up."""


class TaskAppFailed(SynthqError):
    """A remote task app gave no usable answer to one rollout; the episode ends there."""


class EngineFailed(SynthqError):
    """A model's endpoint gave no answer to one request in time, or refused it; the episode ends there."""


class EngineFault(SynthqError):
    """An engine could not compute a reply; others that it has under way go on."""


class RequestCancelled(SynthqError):
    """A request was taken back before its reply was there."""


class EpisodeOver(SynthqError):
    """An action came after the episode's end."""

    def __init__(self, how: str) -> None:
        super().__init__(f"the episode is over ({how}); reset before the next action")


class UnknownAction(InvalidInput):
    """An environment was given an action that it does not have."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        names = list(known)
        super().__init__(f"no action named {name!r}{did_you_mean(name, names)} (known: {', '.join(names)})")


class BadFrame(InvalidInput):
    """Bytes that are no frame: not a whole 8-bit RGB PNG."""


class BadSnapshot(InvalidInput):
    """Bytes that are no snapshot of this environment or this version of it."""


class ReplayMismatch(SynthqError):
    """A recorded episode, played again, did not come out as it is recorded."""


class MissingFrame(SynthqError):
    """A prompt needs a picture and there is none. Text is never sent in its place."""
