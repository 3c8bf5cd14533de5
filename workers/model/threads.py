"""How a process that computes with torch shares the cores of a machine. No torch here: it is said before torch is there."""

from __future__ import annotations

import os
from typing import Final

WAITING: Final = "OMP_WAIT_POLICY"


def sharing() -> dict[str, str]:
    """Variables for such a process, beside those of this one.

    Its threads sleep where they wait for one another. As they are, they spin for a while, which takes the cores from the very
    threads that they wait for as soon as anything else runs: a training step beside other work then takes ten times as long.
    """
    return {} if WAITING in os.environ else {WAITING: "PASSIVE"}
