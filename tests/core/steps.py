"""Steps that misbehave, each in its own way. A file in the home, ``go``, lets those that wait go on."""

from __future__ import annotations

import time
from typing import Any

from app.errors import BrokerUnavailable, StepFailed
from app.settings import get_settings
from workers.runner import StepContext


def wait_for_go(context: StepContext, *, looking: bool) -> None:
    """Wait until the test says go; notice meanwhile that the work should stop, or not."""
    (get_settings().home / "begun").touch()
    while not (get_settings().home / "go").exists():
        if looking:
            context.check()
        time.sleep(0.01)


def patient(context: StepContext) -> dict[str, Any]:
    """Works until the test says go, and looks around all the time."""
    wait_for_go(context, looking=True)
    return {"fence": context.claim.fence}


def hang(context: StepContext) -> dict[str, Any]:
    """Hangs in something that cannot be interrupted."""
    wait_for_go(context, looking=False)
    return {}


def write_late(context: StepContext) -> dict[str, Any]:
    """Writes after a pause, without having looked."""
    wait_for_go(context, looking=False)
    context.log("too late")
    return {}


def use_a_folder(context: StepContext) -> dict[str, Any]:
    """Leaves a file in its folder."""
    (context.workdir / "left.txt").write_text("left")
    return {"folder": str(context.workdir)}


def hopeless(context: StepContext) -> dict[str, Any]:
    """Fails for good."""
    raise StepFailed("the file has no lines")


def unlucky(context: StepContext) -> dict[str, Any]:
    """Fails with something that may pass."""
    raise BrokerUnavailable("the engine does not answer")


def faulty(context: StepContext) -> dict[str, Any]:
    """Has a fault."""
    return {"one": 1 // 0}
