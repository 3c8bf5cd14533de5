"""The processes of one ``synthq up``: started in order, watched, ended in order."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from app import db, embedded_broker, migrate
from app.errors import SynthqError
from app.settings import Settings
from app.supervisor import facts, readiness, report
from app.supervisor.child import GRACE_S, WORKER_GRACE_S, Child
from app.supervisor.plan import API, SCHEDULER, Plan
from app.supervisor.state import SupervisorState, end_leftovers, identity, read_state, state_file

LOOK_S = 0.2
BROKER = "broker"


class Crew:
    """Everything that one supervisor runs. ``run`` returns after ``stop``."""

    def __init__(self, plan: Plan, settings: Settings, *, say: Callable[[str, str], None], tell: Callable[[str], None]) -> None:
        self.plan, self.settings = plan, settings
        self._say, self._tell = say, tell
        self.children: dict[str, Child] = {}
        self.state = SupervisorState(
            pid=os.getpid(),
            identity=identity(os.getpid()) or "",
            started_at=time.time(),
            skipped=list(plan.skipped),
            facts=facts.gather(plan, settings),
        )
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Ask for an orderly end; asked again, kill everything now."""
        if self._stop.is_set():
            self._tell("killing what still runs")
            for child in self.children.values():
                child.kill()
        else:
            self._stop.set()

    async def run(self) -> None:
        """Start everything, keep it running until ``stop``, end everything. Raises what keeps it from starting."""
        if before := read_state(self.settings):
            for name in end_leftovers(before):
                self._tell(f"ended {name}, which an earlier synthq up had left running")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self.stop)
        try:
            await self._start()
            await self._get_ready()
            await self._stop.wait()
        except SynthqError:
            if not self._stop.is_set():  # asked to end half way through the start
                raise
        finally:
            await self._end()

    async def _start(self) -> None:
        """Broker, tables, then the Procfile's order."""
        if not self.settings.redis_url:
            await self._start_broker()
        elif (silent := await asyncio.to_thread(readiness.silent_broker, self.settings)) is not None:
            self._tell(silent)
        await asyncio.to_thread(migrate.upgrade)
        if any(planned.role.name == API for planned in self.plan.processes):
            await asyncio.to_thread(_check_address)
        for planned in self.plan.processes:
            if self._stop.is_set():
                return
            await self._child(planned.name, list(planned.role.argv), env=planned.env, is_worker=planned.role.is_worker)

    async def _start_broker(self) -> None:
        embedded_broker.find_binary()
        embedded_broker.prepare(self.settings)
        argv = [*report.PYTHON_M, "app.embedded_broker"]
        # SIGTERM, so that it writes out what it holds when the supervisor is killed.
        child = await self._child(BROKER, argv, at_death=signal.SIGTERM)
        await asyncio.to_thread(
            embedded_broker.wait_until_ready, self.settings.broker_socket, alive=lambda: child.running and not self._stop.is_set()
        )

    async def _child(
        self,
        name: str,
        argv: list[str],
        *,
        env: Mapping[str, str] | None = None,
        is_worker: bool = False,
        at_death: signal.Signals = signal.SIGKILL,
    ) -> Child:
        child = Child(
            name,
            argv,
            env={**os.environ, **(env or {})},
            log=self.log_path(name),
            say=self._say,
            changed=self.write_state,
            ended=self._ended,
            is_worker=is_worker,
            at_death=at_death,
        )
        self.children[name] = child
        self.state.processes[name] = child.state
        await child.start()
        return child

    def log_path(self, name: str) -> Path:
        """Where a process's output goes."""
        return self.settings.logs_dir / f"{name}.log"

    def write_state(self) -> None:
        """Tell other processes how things stand."""
        self.state.write(state_file(self.settings))

    async def _ended(self, child: Child) -> None:
        """A process ended that should not have: what a worker held goes back at once, without waiting for its lease."""
        if not child.is_worker:
            return
        try:
            count = await asyncio.to_thread(release, child.state.worker_id or "", f"worker {child.name} ended")
        except Exception as error:  # noqa: BLE001 - whatever the database says, the worker is started again
            self._tell(f"{child.name}: its steps wait for their leases to run out ({type(error).__name__}: {error})")
            return
        if count:
            self._tell(f"{child.name}: {count} of its steps went back to the queue")

    async def _get_ready(self) -> None:
        """Write down what is missing until nothing is; then say that synthq is up."""
        began = time.monotonic()
        while not self._stop.is_set():
            waiting = await readiness.waiting_for(self.children, self.settings)
            if waiting != self.state.waiting_for:
                self.state.waiting_for = waiting
                self.write_state()
            if not waiting:
                self.state.phase = "ready"
                self.write_state()
                self._tell(report.summary(self.state, took_s=time.monotonic() - began))
                return
            await asyncio.sleep(LOOK_S)

    async def _end(self) -> None:
        """Workers and what only watches first, all at once; then scheduler, api and broker, one after another."""
        self.state.phase = "stopping"
        self.write_state()
        last = [self.children[name] for name in (SCHEDULER, API, BROKER) if name in self.children]
        first = [child for child in self.children.values() if child not in last]
        await asyncio.gather(*(self._end_one(child, WORKER_GRACE_S if child.is_worker else GRACE_S) for child in first))
        for child in last:
            await self._end_one(child, GRACE_S)
        state_file(self.settings).unlink(missing_ok=True)
        await asyncio.to_thread(db.dispose)
        self._tell(f"ended {', '.join(child.name for child in [*first, *last]) or 'before anything had started'}")

    async def _end_one(self, child: Child, grace_s: float) -> None:
        if not await child.stop(grace_s):
            self._tell(f"{child.name} did not end within {grace_s:g} s and was killed")
            await self._ended(child)


def _check_address() -> None:
    """Raises BadFlag when the api is open to others without a key; told here, it is told once."""
    from app import auth  # loads FastAPI, which nothing else here needs

    auth.check_address()


def release(worker_id: str, reason: str) -> int:
    """Give back the steps that a dead worker holds, and stop counting it as alive; how many steps there were."""
    from app import claims, heartbeat  # a run without workers needs neither

    count = claims.release_owner(worker_id, reason)
    heartbeat.stopped(worker_id)
    return count
