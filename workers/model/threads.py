"""How a process that computes with torch shares the cores of a machine. No torch here: it is said before torch is there."""

from __future__ import annotations

import os
from functools import cache
from typing import Final

WAITING: Final = "OMP_WAIT_POLICY"
COUNT: Final = "OMP_NUM_THREADS"
SMALL: Final = 8_000_000
"""Parameters of a model whose layers are done before another thread has woken up."""


def sharing() -> dict[str, str]:
    """Variables for such a process, beside those of this one.

    Its threads sleep where they wait for one another. As they are, they spin for a while, which takes the cores from the very
    threads that they wait for as soon as anything else runs: a training step beside other work then takes ten times as long.
    """
    return {} if WAITING in os.environ else {WAITING: "PASSIVE"}


def settle(parameters: int) -> None:
    """Have this process compute a small model in one thread, unless the user has said how many. torch is there by now."""
    if COUNT in os.environ:
        return
    import torch

    usual = _usual()
    torch.set_num_threads(1 if parameters < SMALL else usual)


@cache
def _usual() -> int:
    """How many threads torch takes by itself; asked before anything was set."""
    import torch

    return torch.get_num_threads()
