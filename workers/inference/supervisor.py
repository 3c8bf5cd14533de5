"""What an inference worker does: it reads what its endpoint should serve, brings that about, and reports what is.

A thread of the worker's main process. It starts the engine's process itself, for the leash that ends the engine with the worker
is held by the thread that started it.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy.exc import SQLAlchemyError

from app import broker, endpoints, engines
from app.errors import BadFlag, InvalidInput, SynthqError
from app.models import EndpointState
from app.settings import get_settings
from workers.inference.backoff import Backoff
from workers.inference.served import Fault, Model, Served, serve

log = logging.getLogger("synthq.inference")

LOOK_S: Final = 0.25
"""How often the desired state is read."""
IDLE_LOOK_S: Final = 0.5
"""The same while nothing is served."""
LEAVE_S: Final = 8.0
"""How long requests that are under way may keep an engine that is to end."""
STORE_AGAIN_S: Final = 2.0
"""Pause after the database did not answer."""


def make(worker_id: str) -> Supervisor:
    """The supervisor of this worker. Raises NotHere where no engine can be started, BadFlag for an address open to all."""
    from app.auth import is_loopback  # loads FastAPI, which nothing else here needs

    settings = get_settings()
    engines.choose()
    if not is_loopback(settings.engine_host) and not settings.engine_key:
        raise BadFlag(
            f"SYNTHQ_ENGINE_HOST = {settings.engine_host!r} is open to others and engines have no key; "
            "set SYNTHQ_ENGINE_KEY, to the same here and where rollout workers run"
        )
    return Supervisor(worker_id)


class Supervisor:
    """One endpoint: what is wanted of it, and what serves it. ``start``, ``drain`` and ``stop`` are called by the main thread."""

    def __init__(self, worker_id: str) -> None:
        self._worker_id = worker_id
        self._id = ""
        self._served: Served | None = None
        self._wanted: Model | None = None
        self._backoff = Backoff()
        self._leaving_since: float | None = None
        """Since when what is served is not wanted any more."""
        self._told: dict[str, Any] = {}
        self._told_at = 0.0
        self._draining, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="synthq-supervisor", daemon=True)

    def start(self) -> None:
        """Register the endpoint and look after it from now on."""
        self._thread.start()

    def drain(self) -> None:
        """Let nobody take the endpoint any more. Returns at once."""
        self._draining.set()
        self._wake.set()

    def stop(self) -> None:
        """Wait for what is under way, for up to ``LEAVE_S``, and end the engine."""
        self.drain()
        if self._thread.is_alive():
            self._thread.join()

    # -- the thread --------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._draining.is_set():
                self._wake.wait(LOOK_S if self._served is not None else IDLE_LOOK_S)
                self._wake.clear()
                self._round_or_pause()
            self._finish()
        except BaseException:
            log.exception("the supervisor ends, and this worker with it")
            os.kill(os.getpid(), signal.SIGTERM)  # one that looks after nothing must not look alive
            raise

    def _round_or_pause(self) -> None:
        try:
            self._round()
        except SQLAlchemyError as error:
            log.warning("the database does not answer; what is served stays as it is: %s", error)
            self._draining.wait(STORE_AGAIN_S)

    def _round(self) -> None:
        desired = endpoints.desired_of(self._id) if self._id else None
        if desired is None:
            self._register()
            desired = {}
        wanted = _model(desired)
        if wanted != self._wanted:  # what failed before says nothing of it
            self._wanted, self._backoff = wanted, Backoff()
        self._bring(desired.get("adapters") or {})
        self._tell()

    def _register(self) -> None:
        self._id = endpoints.register(self._worker_id, engines=engines.startable())
        self._told = {}
        log.info("endpoint %s can serve with %s", self._id, " and ".join(engines.startable()))
        broker.nudge()

    def _bring(self, adapters: Mapping[str, str]) -> None:
        """One move towards what is wanted."""
        served = self._served
        if served is None:
            if self._wanted is not None and self._backoff.due:
                self._begin(self._wanted)
            return
        served.look()
        if served.ended:
            self._served = self._leaving_since = None
            self._wake.set()
        elif served.ending:
            return
        elif served.fault is not None:
            self._fell(served, served.fault)
        elif served.model != self._wanted or served.weights.outdated:
            self._leave(served)
        else:
            self._leaving_since = None
            served.bring(adapters)

    def _begin(self, model: Model) -> None:
        try:
            self._served = serve(model, wake=self._wake.set)
        except SynthqError as error:
            self._failed(model, Fault(name=model.base, reason=str(error), lasting=isinstance(error, InvalidInput)))
            return
        except OSError as error:  # of the model's folder, or of the engine's log: a disk may be back later
            where = f" ({error.filename})" if error.filename else ""
            reason = f"no engine starts: {error.strerror or error}{where}"
            self._failed(model, Fault(name=model.base, reason=reason, lasting=False))
            return
        log.info("%s comes up with engine %s", model.base, self._served.engine)

    def _fell(self, served: Served, fault: Fault) -> None:
        served.end()
        self._failed(served.model, fault, well_for_s=served.well_for_s)

    def _failed(self, model: Model, fault: Fault, *, well_for_s: float = 0.0) -> None:
        self._backoff.failed(fault.reason, lasting=fault.lasting, well_for_s=well_for_s)
        log.error("%s: %s", fault.name, fault.reason.partition("\n")[0])
        self._write_down(model, fault)

    def _write_down(self, model: Model, fault: Fault) -> None:
        """A fault is one of what was to be served then, whatever is desired by now."""
        asked = {"engine": model.engine, "base": model.base, "options": dict(model.options)}
        endpoints.failed(self._id, fault.name, fault.reason, lasting=fault.lasting, model=asked)

    def _leave(self, served: Served) -> None:
        """End what is not wanted any more, or not as it is, once nobody waits for an answer of it, or after ``LEAVE_S``."""
        if self._leaving_since is None:
            self._leaving_since = time.monotonic()
        if _may_end(served, self._leaving_since):
            log.info("%s is %s", served.model.base, "loaded anew" if served.weights.outdated else "not wanted any more")
            served.end()

    # -- reports -----------------------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Report what has changed; else, now and then, that it lives."""
        served = self._served
        while served is not None and served.faults:
            fault = served.faults[0]
            self._write_down(served.model, fault)
            log.error("adapter %s: %s", fault.name, fault.reason)
            served.faults.pop(0)
        now, is_ = time.monotonic(), self._standing()
        in_flight = served.in_flight if served is not None else 0
        if is_ != self._told:
            known = endpoints.report(self._id, **is_, in_flight=in_flight)
            broker.nudge()
        elif now - self._told_at >= get_settings().endpoint_heartbeat_s:
            known = endpoints.beat(self._id, in_flight=in_flight)
        else:
            return
        self._told, self._told_at = is_, now
        if not known:
            self._id = ""

    def _standing(self) -> dict[str, Any]:
        """What is reported, but for what changes all the time."""
        served, wanted = self._served, self._wanted
        here = served is not None and served.model == wanted and not (served.ending or served.weights.outdated)
        ready = here and served is not None and served.ready
        failed = not ready and self._backoff.hopeless
        return {
            "state": EndpointState.READY if ready else EndpointState.FAILED if failed else EndpointState.STARTING,
            "url": served.url if ready and served else "",
            "engine": served.engine if here and served else "",
            "base": wanted.base if wanted else "",
            "sha256": served.weights.sha256 if ready and served else "",
            "adapters": served.adapters if ready and served else {},
            "capacity": served.capacity if ready and served else 0,
            "error": None if ready else self._backoff.reason or None,
        }

    def _finish(self) -> None:
        """Take the endpoint out of use, let it answer what it was asked, end it."""
        try:
            if self._id:
                endpoints.stopped(self._id)
                broker.nudge()
        except SQLAlchemyError as error:
            log.warning("the end of the endpoint is not written: %s", error)
        served = self._served
        if served is None:
            return
        since = time.monotonic()
        while not served.ending and not _may_end(served, since):
            time.sleep(LOOK_S)
        served.end()
        while not served.ended:
            self._wake.wait(LOOK_S)
            self._wake.clear()


def _may_end(served: Served, since: float) -> bool:
    """Whether nobody waits for an answer any more, or has for long enough ``since`` nobody should ask."""
    served.look(now=True)
    return not served.ready or served.idle_since(since) or time.monotonic() - since >= LEAVE_S


def _model(desired: Mapping[str, Any]) -> Model | None:
    """The model that is desired; None when none is."""
    if not desired.get("base"):
        return None
    return Model(engine=desired.get("engine") or engines.AUTO, base=desired["base"], options=desired.get("options") or {})
