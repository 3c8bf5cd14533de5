"""What the layers below the lowest one that learns make of samples, kept: in every pass until the next save it is the same."""

# B samples of a pass, T tokens of the longest, W the model's width.

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any, Final

import torch
from torch import Tensor

from workers.model.cache import Cache
from workers.trainer.learner.rows import Batch, Row

_LAYER: Final = re.compile(r"\.language_model\.layers\.(\d+)\.")


def depth_of(learning: Iterable[str], model: Any) -> int:
    """How many layers of the language model come before the first that learns; 0 where anything else learns too.

    ``learning``: names of weights. Layers to which the vision tower adds are not told apart from what it adds: 0 up to those.
    """
    found = [_LAYER.search(name) for name in learning]
    lowest = min((int(hit[1]) if hit else 0 for hit in found), default=0)
    return lowest if lowest >= len(model.config.vision_config.deepstack_visual_indexes) else 0


class Trunk:
    """Keeps the states of samples by what they are computed from: ids, positions and pictures."""

    def __init__(self, depth: int, budget: int) -> None:
        """``depth``: layers that it stands for; ``budget``: bytes of what is kept."""
        self.depth = depth
        self.cache: Cache[bytes, Tensor] = Cache(budget)

    @torch.no_grad()
    def of(self, batch: Batch, compute: Callable[[], Tensor]) -> Tensor:
        """[B, T, W]: what is kept of a batch, or else what ``compute`` gives, which is kept; padding stands as anything."""
        keys = [_key(row) for row in batch.rows]
        held = [self.cache.get(key) for key in keys]
        known = [states for states in held if states is not None]
        if len(known) == len(held):
            return torch.nn.utils.rnn.pad_sequence(known, batch_first=True)
        computed = compute()
        for key, row, states in zip(keys, batch.rows, computed, strict=True):
            kept = states[: len(row.ids)].clone()  # the pass itself would stay as long as one of its samples
            self.cache.put(key, kept, kept.nbytes)
        return computed


def _key(row: Row) -> bytes:
    """A hash of what a layer reads of a sample. What its pictures stand for follows from their places."""
    pictures = "".join(picture.sha256 for picture in row.sample.pictures)
    told = (row.ids.tobytes(), row.positions.tobytes(), row.pictured.tobytes(), pictures.encode())
    made = blake2b(digest_size=20)
    for part in told:
        made.update(len(part).to_bytes(8, "little"))
        made.update(part)
    return made.digest()
