"""The policy of the settings, applied once an hour beside the scheduler that leads, in a thread of its own: a look at everything
may take minutes, and nobody waits for it."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from sqlalchemy.exc import OperationalError

from app.errors import SynthqError
from app.heartbeat import lead
from app.retention.policy import Policy
from app.retention.prune import Pruned, Pruner

log = logging.getLogger("synthq.retention")

EVERY_S: Final = 3600.0
LEAD: Final = "retention"
"""Name of the lead that lasts an hour: whoever has it has applied the policy in this hour."""


class Keeper:
    """Applies the policy when it is due. ``stop`` ends it between two transactions."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._stop = threading.Event()
        self._looked_at = float("-inf")
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Begin an application if one is due and a policy is set; returns at once."""
        if time.monotonic() - self._looked_at < EVERY_S:
            return
        self._looked_at = time.monotonic()
        wanted = Policy.of_settings()
        if wanted.keeps_all or (self._thread is not None and self._thread.is_alive()) or not lead(LEAD, self._owner, EVERY_S):
            return
        self._thread = threading.Thread(target=self._apply, args=(wanted,), name="retention", daemon=True)
        self._thread.start()

    def _apply(self, wanted: Policy) -> None:
        try:
            done = Pruner(wanted, stop=self._stop).run()
        except (OperationalError, SynthqError, OSError) as error:
            log.warning("what is old could not be dropped, and will be in an hour: %s", error)
            return
        if done != Pruned(young_frames=done.young_frames, unknown_files=done.unknown_files, unknown_bytes=done.unknown_bytes):
            log.info("dropped what is old: %s", done)

    def stop(self) -> None:
        """End, and wait for the transaction that is under way."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=30)
