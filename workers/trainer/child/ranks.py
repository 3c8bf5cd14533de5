"""The processes that train together: which one this is, and what the first of them says to the others."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from typing import Any, Final

IDLE: Final = timedelta(days=365)
"""How long the others may wait for the next call."""
TRAINING: Final = timedelta(minutes=30)
"""How long one may wait for another in the middle of a call."""


class Alone:
    """The only one."""

    rank, size = 0, 1

    def share(self, said: Any) -> Any:
        """What the first one says, in all of them; every one must ask. What the others say is dropped."""
        return said

    def meet(self, said: Any) -> list[Any]:
        """What each of them says, in all of them; every one must come, and waits for the others."""
        return [said]

    def leave(self) -> None:
        """Take no further part."""


class Together(Alone):
    """One of several that ``torchrun`` has started. Training speaks through the default group, calls through one of their own."""

    def __init__(self) -> None:
        import torch
        from torch import distributed

        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        backend = "gloo"
        if sys.platform == "linux":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all are here, whatever this machine's name leads to
        if torch.cuda.is_available():
            here = int(os.environ["LOCAL_RANK"])
            if here >= torch.cuda.device_count():
                raise SystemExit(
                    f"SYNTHQ_TRAINER_DEVICES is {self.size}, and {torch.cuda.device_count()} GPUs can be used here "
                    "(CUDA_VISIBLE_DEVICES)"
                )
            torch.cuda.set_device(here)
            backend = "cpu:gloo,cuda:nccl"
        distributed.init_process_group(backend, timeout=TRAINING)
        self._group = distributed.new_group(backend="gloo", timeout=IDLE)

    def share(self, said: Any) -> Any:
        from torch import distributed

        box = [said if self.rank == 0 else None]
        distributed.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def meet(self, said: Any) -> list[Any]:
        from torch import distributed

        heard: list[Any] = [None] * self.size
        distributed.all_gather_object(heard, said, group=self._group)
        return heard

    def leave(self) -> None:
        from torch import distributed

        distributed.destroy_process_group()


def join() -> Alone:
    """Meet the others, if there are any."""
    return Together() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Alone()
