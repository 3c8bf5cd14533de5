"""One model that is served: the engine's process from its start to its end, and the adapters on it. Knows no store.

What may take time (coming up, loading adapters, asking, ending) is done in threads of the background; all else is called by one
thread, the supervisor's. What the background finds is put in place whole, so that a reader sees all of it or none.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from app import model_folder
from app.engines import choose
from app.errors import BadFlag, BadModel, Conflict, InvalidInput, NotFound, SynthqError
from app.settings import get_settings
from app.specs.engine import VllmTable
from workers.inference import engines, files
from workers.inference.backoff import Backoff
from workers.inference.base import Base
from workers.inference.engines.admin import Admin, ServedModel
from workers.inference.engines.child import EngineChild, free_port
from workers.inference.engines.probe import probe

log = logging.getLogger("synthq.inference")

LAST_WORDS_S: Final = 1.0
"""How long an engine that gives no answer may take to be noticed as ended, which is a better reason."""
READY_LOOK_S: Final = 0.1
"""How often an engine that comes up is asked whether it is there."""
START_S: Final = 1800.0
"""Longest start: a large model may have to be downloaded first."""
ASK_EVERY_S: Final = 1.0
"""How often an engine that is up is asked what it has to do."""
SILENT_S: Final = 60.0
"""An engine that has not answered for this long hangs."""
IN_USE_S: Final = 1.0
"""Until an adapter that was in use is tried to be unloaded again."""
NO_ROOM_S: Final = 30.0
"""Until an adapter for which there was no room is tried again, while none has gone."""
END_S: Final = 7.0
"""How long an engine may take to end before it is killed; synthq's own gives its last answers five seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What is served, and how. Another one needs another process."""

    engine: str
    """As jobs ask for it; ``auto`` leaves it to the machine."""
    base: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why something did not come about, or is no more."""

    name: str
    """The base or the adapter."""
    reason: str
    lasting: bool
    """Another try would end the same way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """An adapter that could not be loaded, and when it may be tried again."""

    path: str
    backoff: Backoff


class Served:
    """A process that serves one model, or is on its way there."""

    def __init__(self, model: Model, child: EngineChild, admin: Admin, base: Base, *, wake: Callable[[], None]) -> None:
        """``child`` has just been started. ``wake`` is called when the background has news."""
        self.model, self.engine, self.weights = model, child.engine.name, base
        self.ready_at: float | None = None
        """Since when it serves, by the monotonic clock; None before it has answered the probe."""
        self.adapters: dict[str, dict[str, str]] = {}
        """Loaded, by served name: ``{"path", "sha256"}``."""
        self.in_flight = 0
        self.capacity = VllmTable.model_validate(model.options).max_num_seqs
        self.fault: Fault | None = None
        """Why it serves no more, or never will."""
        self.faults: list[Fault] = []
        """Adapters that could not be loaded, and that nobody was told of."""
        self._child, self._admin, self._wake = child, admin, wake
        self._hashes = files.Hashes((model_folder.ADAPTER_WEIGHTS, model_folder.ADAPTER_CONFIG), model_folder.adapter_sha256)
        self._refused: dict[str, Refused] = {}
        self._heard_at = time.monotonic()
        self._unload_at = self._load_at = 0.0
        self._full_with: frozenset[str] | None = None
        """The adapters that were loaded when there was no room for another; None while there may be room."""
        self._threads = ThreadPoolExecutor(3, thread_name_prefix="synthq-engine")
        self._asking: Future[None] | None = None
        self._ending: Future[None] | None = None
        self._work = self._do(self._come_up)

    @property
    def url(self) -> str:
        """Where it answers."""
        return self._admin.url

    @property
    def ready(self) -> bool:
        """Whether it answers."""
        return self.ready_at is not None and self.fault is None and not self.ending

    @property
    def well_for_s(self) -> float:
        """How long it has served."""
        return 0.0 if self.ready_at is None else time.monotonic() - self.ready_at

    @property
    def ending(self) -> bool:
        """Whether ``end`` was called."""
        return self._ending is not None

    @property
    def ended(self) -> bool:
        """Whether nothing of it is left."""
        return self._ending is not None and self._ending.done()

    def look(self, *, now: bool = False) -> None:
        """See whether it still lives; ask what it has to do when that is due, or ``now``."""
        if not self._child.running:
            self.fault = self.fault or self._fallen()
        elif self.ready and (self._asking is None or self._asking.done()):
            silent_s = time.monotonic() - self._heard_at
            if now or silent_s >= ASK_EVERY_S:
                self._asking = self._threads.submit(self._ask)

    def idle_since(self, then: float) -> bool:
        """Whether it said after ``then``, by the monotonic clock, that it has nothing to do."""
        return not self.in_flight and self._heard_at > then

    def bring(self, adapters: Mapping[str, str]) -> None:
        """Begin to load and unload until ``adapters`` (served name -> path), as far as can be, are those that are loaded."""
        if not self.ready or not self._work.done():
            return
        self._refused = {name: each for name, each in self._refused.items() if adapters.get(name) == each.path}
        now = time.monotonic()
        missing = {name: path for name, path in adapters.items() if name not in self.adapters and self._may_load(name)}
        if now < self._load_at and self._full_with == frozenset(self.adapters):
            missing = {}
        spare = [name for name in self.adapters if name not in adapters] if now >= self._unload_at else []
        if missing or spare:
            self._work = self._do(partial(self._change, missing, spare))

    def _may_load(self, name: str) -> bool:
        return name not in self._refused or self._refused[name].backoff.due

    def end(self) -> None:
        """Begin to end it and all that it started; ``ended`` tells when that is done."""
        if self._ending is None:
            self._ending = self._do(self._stop)
            self._threads.shutdown(wait=False)

    # -- in the background -------------------------------------------------------------------------------------------------

    def _do(self, work: Callable[[], None]) -> Future[None]:
        future = self._threads.submit(work)
        future.add_done_callback(self._done)
        return future

    def _done(self, future: Future[None]) -> None:
        error = future.exception()
        if error is not None and not self.ending:
            log.error("the engine is given up", exc_info=error)
            self.fault = self.fault or self._broken(f"is given up ({type(error).__name__}: {error})")
        self._wake()

    def _come_up(self) -> None:
        deadline = time.monotonic() + START_S
        while (health := self._admin.health()) == "coming":
            if self.ending or self._child.wait(READY_LOOK_S):
                return
            if time.monotonic() > deadline:
                self.fault = self._broken(f"was not there within {START_S:.0f} s")
                return
        try:
            if health == "ready":
                probed = probe(self._admin, self.model.base)
        except SynthqError as error:
            if not self._child.wait(LAST_WORDS_S):
                self.fault = self._broken(f"does not do what it should: {error}")
            return
        if health == "broken":
            self.fault = self._broken("came up and can serve nothing (GET /health)")
            return
        self.weights.begin(self._told_models())
        self._heard_at = self.ready_at = time.monotonic()
        log.info(
            "%s answers at %s; a first answer took %.1f s, a second %.2f s",
            self.model.base,
            self.url,
            probed.first_s,
            probed.again_s,
        )

    def _told_models(self) -> list[ServedModel]:
        try:
            return self._admin.models()
        except SynthqError as error:
            log.warning("%s does not tell what it serves: %s", self.url, error)
            return []

    def _change(self, missing: Mapping[str, str], spare: list[str]) -> None:
        for name in spare:
            self._unload(name)
        for name, path in missing.items():
            self._load(name, path)
            self._wake()

    def _unload(self, name: str) -> None:
        try:
            self._admin.unload_adapter(name)
        except SynthqError as error:
            if not isinstance(error, Conflict):  # a request that is under way uses it
                log.warning("adapter %s: %s", name, error)
            self._unload_at = time.monotonic() + IN_USE_S
            return
        self.adapters = {other: each for other, each in self.adapters.items() if other != name}

    def _load(self, name: str, path: str) -> None:
        began = time.monotonic()
        try:
            sha256 = _checked(name, path, self._hashes.of(Path(path)))
            self._admin.load_adapter(name, path)
        except Conflict as error:  # there is no room until another, which requests use, has gone: that is not its fault
            log.debug("adapter %s waits: %s", name, error)
            self._load_at, self._full_with = time.monotonic() + NO_ROOM_S, frozenset(self.adapters)
            return
        except SynthqError as error:
            lasting = isinstance(error, InvalidInput | NotFound)
            if lasting or not self._child.wait(LAST_WORDS_S):  # an engine's end says nothing of the adapter
                self._refuse(name, path, str(error), lasting=lasting)
            return
        self._refused = {other: each for other, each in self._refused.items() if other != name}
        self.adapters = {**self.adapters, name: {"path": path, "sha256": sha256}}
        log.info("adapter %s is loaded from %s (%.2f s)", name, path, time.monotonic() - began)

    def _refuse(self, name: str, path: str, reason: str, *, lasting: bool) -> None:
        backoff = self._refused[name].backoff if name in self._refused else Backoff()
        backoff.failed(reason, lasting=lasting)
        self._refused = {**self._refused, name: Refused(path=path, backoff=backoff)}
        self.faults.append(Fault(name=name, reason=reason, lasting=lasting))

    def _ask(self) -> None:
        try:
            if self._admin.health() == "broken":
                self.fault = self.fault or self._broken("can serve no more (GET /health)")
                return
            load = self._admin.load()
        except Exception as error:  # whatever it is, what is not heard is silent
            if not isinstance(error, SynthqError):
                log.warning("%s could not be asked how busy it is", self.url, exc_info=error)
            if time.monotonic() - self._heard_at > SILENT_S:
                self.fault = self.fault or self._broken(f"has not answered for {SILENT_S:.0f} s ({error})")
            return
        self.in_flight, self.capacity = load.running + load.waiting, load.capacity or self.capacity
        self._heard_at = time.monotonic()
        if self.weights.look():
            self._wake()

    def _stop(self) -> None:
        self._child.stop(END_S)
        self._admin.close()

    # ----------------------------------------------------------------------------------------------------------------------

    def _fallen(self) -> Fault:
        refused = self._child.exit_status in (InvalidInput.exit_code, NotFound.exit_code)
        return Fault(name=self.model.base, reason=self._child.why(), lasting=refused)

    def _broken(self, what: str) -> Fault:
        return Fault(
            name=self.model.base, reason=f"engine {self.engine} {what}; its log is {self._child.log_file}", lasting=False
        )


def _checked(name: str, path: str, sha256: str) -> str:
    """The sha256 of the adapter in a folder. Raises BadModel when it is not the one that its served name was made from."""
    if name.startswith(model_folder.SERVED) and name != model_folder.served_as(sha256):
        raise BadModel(f"the adapter in {path} was changed after its job was submitted (its sha256 is {sha256[:16]}... now)")
    return sha256


def serve(model: Model, *, wake: Callable[[], None]) -> Served:
    """Start what serves a model. The calling thread must live as long as the engine may.

    Raises NotHere where this engine cannot be started, InvalidInput for what it cannot serve, EngineFailed for want of a process,
    OSError for a folder or a log that cannot be opened.
    """
    settings = get_settings()
    engine = engines.make(choose(model.engine))
    base = Base(model.base)
    if model.base.startswith("/"):
        model_folder.read(Path(model.base))  # an engine would take seconds to find out what is wrong with it
        base.note()
    try:
        port = free_port(settings.engine_host)
    except OSError as error:
        raise BadFlag(
            f"SYNTHQ_ENGINE_HOST={settings.engine_host} is no address of this machine ({error.strerror or error}); "
            "127.0.0.1 is this one alone"
        ) from None
    child = EngineChild(engine, model.base, model.options, host=settings.engine_host, port=port)
    return Served(model, child, Admin(address(settings.engine_host, port), key=settings.engine_key), base, wake=wake)


def address(host: str, port: int) -> str:
    """Where an engine that listens there is asked; one that listens on every address, by this machine's name."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    return f"http://{f'[{name}]' if ':' in name else name}:{port}"
