"""The scheduler process: sends the outbox, sweeps, and does nothing else. Two may run; one leads.

python -m app.scheduler
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid

from sqlalchemy.exc import OperationalError

from app import broker, db, migrate
from app.claims import release_expired
from app.endpoints.desired import tend
from app.errors import BrokerUnavailable, SynthqError
from app.heartbeat import lead, resign
from app.logs import set_up_logging
from app.outbox import dispatch
from app.reconciler import start_waiting, sweep
from app.retention.keeper import Keeper
from app.settings import get_settings

log = logging.getLogger("synthq.scheduler")

LEAD = "scheduler"
LEAD_S = 15.0
"""How long a lead lasts without being renewed; another scheduler takes over after it."""
SHORTEST_ROUND_S = 0.01
"""Nudges that come closer together than this are answered together."""
TEND_S = 0.25
"""Shortest time between two looks at what serves models, however many nudges come."""


class Scheduler:
    """One scheduler. ``run`` returns when ``stop`` is called."""

    def __init__(self) -> None:
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self.publisher = broker.HintPublisher()
        self.keeper = Keeper(self.owner)
        self._stop = threading.Event()
        self._swept_at = float("-inf")
        self._looked_at = float("-inf")
        self._tended_at = float("-inf")
        self._rounded_at = float("-inf")
        self._led_at = float("-inf")
        self._broker_down = False

    def stop(self) -> None:
        """End ``run`` after the present round."""
        self._stop.set()

    def run(self) -> None:
        """Go round until stopped. An outage of the database or the broker is waited out."""
        while not self._stop.is_set():
            try:
                self._sleep() if self._leads() and self._round() else self._stop.wait(get_settings().poll_s)
            except OperationalError as error:
                if not db.is_outage(error):
                    raise
                log.warning("the database does not answer, trying again: %s", error.orig)
                self._stop.wait(get_settings().poll_s)
        self.keeper.stop()
        resign(LEAD, self.owner)
        self.publisher.close()

    def _leads(self) -> bool:
        if time.monotonic() - self._led_at < LEAD_S / 3:
            return True
        if not lead(LEAD, self.owner, LEAD_S):
            return False
        if self._led_at == float("-inf"):
            log.info("leading as %s", self.owner)
        self._led_at = time.monotonic()
        return True

    def _round(self) -> bool:
        """One round; False when the broker is out of reach, and then only the database's part was done."""
        self._rounded_at = time.monotonic()
        self._look_after()
        try:
            dispatch(self.publisher)
        except BrokerUnavailable as error:
            if not self._broker_down:
                log.warning("%s; hints wait until it does", error)
            self._broker_down = True
            return False
        if self._broker_down:
            log.info("the broker answers again")
        self._broker_down = False
        return True

    def _look_after(self) -> None:
        """What is cheap and somebody waits for, every second or so; everything else that may be due, less often."""
        settings, at = get_settings(), time.monotonic()
        if at - self._swept_at >= settings.reconcile_s:
            sweep()
            self.keeper.look()
            self._swept_at = self._looked_at = time.monotonic()
        elif at - self._looked_at >= min(settings.poll_s, settings.reconcile_s):
            release_expired()
            start_waiting()
            self._looked_at = time.monotonic()
        if at - self._tended_at >= TEND_S:
            tend()
            self._tended_at = time.monotonic()

    def _sleep(self) -> None:
        owed = self._tended_at < self._rounded_at  # this round came too soon after a look, and what it was nudged for may wait
        try:
            if broker.wait_for_nudge(TEND_S if owed else get_settings().poll_s):
                self._stop.wait(max(0.0, self._rounded_at + SHORTEST_ROUND_S - time.monotonic()))
        except BrokerUnavailable:
            self._stop.wait(get_settings().poll_s)


def main() -> None:
    """Run a scheduler until SIGTERM or SIGINT."""
    try:
        set_up_logging()
        migrate.upgrade()
    except SynthqError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(error.exit_code) from None
    scheduler = Scheduler()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: scheduler.stop())
    scheduler.run()


if __name__ == "__main__":
    main()
