"""Runs one step: claim it, keep its lease, watch its progress, fence its writes, and turn what goes wrong into a reason.

The only broad excepts of the data plane are here: ``run_claim`` for a step and ``failure`` for the parts of one.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from sqlalchemy import update
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlmodel import Session, col

from app import broker, claims, db, lifecycle, specs
from app.errors import LostStep, StepBlocked, StepCancelled, StepFailed, SynthqError
from app.models import Queue, Step
from app.settings import get_settings
from app.store import events

log = logging.getLogger("synthq.runner")


class Drain(SynthqError):
    """The step cannot go on here and now: bring it to a point where it can go on elsewhere or later, and hand it back."""

    def __init__(self, why: str, *, pause_s: float = 0.0) -> None:
        super().__init__(why)
        self.pause_s = pause_s
        """How long nobody should take it up again."""


def worker_id() -> str:
    """This worker's name, the same in all its pool processes."""
    return os.environ["SYNTHQ_WORKER_ID"]


def drain_file() -> Path:
    """While this file exists, the worker starts nothing new and hands back what it has."""
    return get_settings().run_dir / f"{worker_id()}.drain"


def describe(error: BaseException) -> str:
    """An error as the reason of a failure: deliberate ones say it themselves, others with their class."""
    return str(error) if isinstance(error, SynthqError) else f"{type(error).__name__}: {error}"


class StepContext:
    """What a running step may use. Everything that it writes goes through ``write``."""

    def __init__(self, claim: claims.Claim) -> None:
        self.claim = claim
        self.started = time.monotonic()
        self._stop: SynthqError | None = None
        self._workdir: Path | None = None

    job_id = property(lambda self: self.claim.job_id)
    step_id = property(lambda self: self.claim.step_id)
    kind = property(lambda self: self.claim.kind)
    job_attempt = property(lambda self: self.claim.job_attempt)
    attempt = property(lambda self: self.claim.attempt)
    payload = property(lambda self: self.claim.payload)

    @cached_property
    def spec(self) -> Any:
        """The job's spec, parsed."""
        return specs.parse(self.claim.job_kind, self.claim.spec)

    @property
    def workdir(self) -> Path:
        """A folder of this step alone, removed after it."""
        if self._workdir is None:
            self._workdir = Path(tempfile.mkdtemp(prefix=f"synthq-{self.step_id}-"))
        return self._workdir

    def check(self) -> None:
        """Raise StepCancelled, LostStep or Drain when the work should stop. Costs nothing: call it every turn."""
        if self._stop is not None:
            raise self._stop

    def stop(self, why: SynthqError) -> None:
        """Make the next ``check`` raise. A lost hold outranks a cancel, which outranks a drain."""
        if self._stop is None or isinstance(self._stop, Drain):
            self._stop = why

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction that is committed only if this step is still held under its fence. Raises LostStep."""
        with db.writing() as session:
            yield session
            session.flush()
            lifecycle.guard(session, self.claim.step_id, self.claim.fence)

    def progress(self, done: int, total: int | None = None, *, session: Session | None = None) -> None:
        """Say how many of the step's units are done; inside ``session`` if one is given."""
        values = {"done": done} | ({"total": total} if total is not None else {})
        statement = update(Step).where(col(Step.id) == self.claim.step_id).values(**values)
        if session is not None:
            session.connection().execute(statement)
            return
        with self.write() as own:
            own.connection().execute(statement)

    def log(self, message: str, level: str = "info", *, type: str = "log", **data: Any) -> None:
        """Write an event of the job."""
        with self.write() as session:
            events.append(session, self.job_id, type, message, level=level, step_id=self.step_id, data=data)

    def close(self) -> None:
        """Remove the step's folder."""
        if self._workdir is not None:
            shutil.rmtree(self._workdir, ignore_errors=True)


class Keeper:
    """A thread that keeps a step's lease while it runs, and notices cancels, lost holds, drains and standstill."""

    def __init__(self, context: StepContext, *, on_stuck: Callable[[], None]) -> None:
        self._context = context
        self._on_stuck = on_stuck
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="synthq-keeper", daemon=True)

    def __enter__(self) -> Keeper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        settings = get_settings()
        renewed_at = time.monotonic()
        told_at: float | None = None
        while not self._done.wait(min(settings.watch_s, settings.renew_s)):
            if told_at is not None and time.monotonic() - told_at > settings.cancel_grace_s:
                self._on_stuck()  # its step is not its own any more, and it would keep the slot for ever
                return
            try:
                standing = claims.look(self._context.claim)
                if time.monotonic() - renewed_at >= settings.renew_s:
                    claims.renew(self._context.claim)
                    renewed_at = time.monotonic()
                if standing.idle_s > settings.progress_deadline_s:
                    self._give_up(standing.idle_s)
            except (StepCancelled, LostStep) as why:
                self._context.stop(why)
                told_at = told_at or time.monotonic()
                continue
            except SQLAlchemyError as error:
                log.warning("the database does not answer; the lease of step %s is not renewed: %s", self._context.step_id, error)
                continue
            if drain_file().exists():
                self._context.stop(Drain("the worker is asked to stop"))

    def _give_up(self, idle_s: float) -> None:
        claim = self._context.claim
        reason = f"no progress for {idle_s:.0f} s (the limit is {get_settings().progress_deadline_s:.0f})"
        with db.writing() as session:
            lifecycle.fail_step(session, claim.step_id, claim.fence, reason, retryable=True)
        broker.nudge()
        self._done.wait(0.1)  # time for the nudge to leave
        self._on_stuck()


def kill_this_process() -> None:
    """End a pool process that hangs, whatever it hangs in; the pool starts another."""
    log.error("ending this process: its step neither goes on nor stops")
    os.kill(os.getpid(), signal.SIGKILL)


def load(path: str) -> Callable[[StepContext], dict[str, Any]]:
    """A step function from ``module:function``."""
    module, _, name = path.partition(":")
    function: Callable[[StepContext], dict[str, Any]] = getattr(import_module(module), name)
    return function


def leave_running() -> None:
    """What a process does that is no pool process: it is not its own to end."""
    log.error("a step neither goes on nor stops, and this process is not one that a pool would start again")


def run_hint(
    queue: Queue, steps: dict[str, str], *, hint: str | None, on_stuck: Callable[[], None] = leave_running
) -> str | None:
    """Claim the best step of ``queue`` and run it; give its id, or None when nothing waited.

    ``steps`` maps a step's kind to its function as ``module:function``. ``on_stuck`` is called from another thread when the step
    neither goes on nor stops.
    """
    if drain_file().exists():
        return None
    claim = claims.claim(queue, owner=worker_id(), hint=hint)
    if claim is None:
        return None
    try:
        run_claim(claim, steps, on_stuck=on_stuck)
    finally:
        broker.nudge()
    return claim.step_id


def run_claim(claim: claims.Claim, steps: dict[str, str], *, on_stuck: Callable[[], None] = leave_running) -> None:
    """Run a claimed step to its end, whatever that is."""
    context = StepContext(claim)
    try:
        with Keeper(context, on_stuck=on_stuck):
            result = _run(context, steps)
        with db.writing() as session:
            lifecycle.succeed_step(session, claim.step_id, claim.fence, result)
    except LostStep as error:
        log.warning("%s; what it was doing is dropped", error)
    except Drain as drain:
        why, pause_s = str(drain), drain.pause_s
        _settle(lambda session: lifecycle.hand_back(session, claim.step_id, claim.fence, why, pause_s=pause_s))
    except StepCancelled:
        _settle(lambda session: lifecycle.cancel_step(session, claim.step_id, claim.fence))
    except Exception as error:  # whatever ends a step is data: the reason in its row
        if not isinstance(error, SynthqError):
            log.exception("step %s of job %s failed", claim.key, claim.job_id)
        retryable = error.retryable if isinstance(error, SynthqError) else True
        reason = describe(error)
        _settle(lambda session: lifecycle.fail_step(session, claim.step_id, claim.fence, reason, retryable=retryable))
    finally:
        context.close()


def _run(context: StepContext, steps: dict[str, str]) -> dict[str, Any]:
    if context.kind not in steps:
        raise StepFailed(
            f"this worker has no step of kind {context.kind!r} (it has {', '.join(sorted(steps))}); is it of an older version?"
        )
    return load(steps[context.kind])(context)


def _settle(write: Callable[[Session], None]) -> None:
    """Write how the step ended; if the hold is gone, somebody else has written it."""
    try:
        with db.writing() as session:
            write(session)
    except LostStep as error:
        log.warning("%s; how it ended is not written", error)


async def failure(work: Awaitable[Any]) -> str | None:
    """Do a part of a step that may go wrong by itself, such as one episode: None, or the reason why it failed.

    What stops the whole step (a cancel, a lost hold, a drain, something that all its parts lack, a database that is gone) goes
    through.
    """
    try:
        await work
    except (StepCancelled, LostStep, Drain, StepBlocked, DBAPIError):
        raise
    except Exception as error:  # one bad seed must not end the others
        if not isinstance(error, SynthqError):
            log.exception("a part of a step failed")
        return describe(error)
    return None
