"""Keeps what prompts have in common: keys and values of blocks of tokens, found again by a hash of all that leads up to them.

A block is kept when it is seen for the second time, so prompts that come once cost nothing but their hashes.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.inference.core.rows import BLOCK, Rows
from workers.model.types import Picture

SEEN: Final = 65_536
"""Hashes of blocks that are remembered for the case that they come again."""
GROWTH: Final = 64
"""Blocks by which the store grows at least."""

log = logging.getLogger("synthq.engine")

Chain = tuple[bytes, ...]


def chain_of(ids: NDArray[np.int64], pictures: Sequence[tuple[int, int, Picture]], salt: str) -> Chain:
    """A hash for each whole block of a prompt, but for the last token: that one is always computed.

    Each hash stands for everything up to its block's end: tokens, ``pictures`` (first token, one past the last, picture), and
    the ``salt`` that names the weights.
    """
    tokens = ids.astype(np.int32)
    chain, last, here = [], salt.encode(), 0
    for start in range(0, (len(ids) - 1) // BLOCK * BLOCK, BLOCK):
        hashed = hashlib.blake2b(last, digest_size=16)
        hashed.update(tokens[start : start + BLOCK].tobytes())
        while here < len(pictures) and pictures[here][1] <= start:
            here += 1
        for first, _, picture in pictures[here:]:
            if first >= start + BLOCK:
                break
            hashed.update(f"{first} {picture.sha256} {picture.grid}".encode())
        last = hashed.digest()
        chain.append(last)
    return tuple(chain)


class Prefixes:
    """Blocks within a budget of bytes; those that were used least recently go first."""

    def __init__(self, rows: Rows, budget: int) -> None:
        self._rows = rows
        self.most = budget // (rows.token_bytes * BLOCK)
        self._pool = [self._new(0) for _ in range(rows.layers)]
        """[2, blocks, H, BLOCK, D] a layer."""
        self._at: OrderedDict[bytes, int] = OrderedDict()
        self._made = 0
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._at)

    def _new(self, blocks: int) -> Tensor:
        rows = self._rows
        return torch.empty(2, blocks, rows.heads, BLOCK, rows.width, dtype=rows.dtype, device=rows.device)

    def held(self, chain: Chain) -> list[int]:
        """Where the longest beginning of a chain that is kept lies."""
        found = []
        for key in chain:
            if (at := self._at.get(key)) is None:
                break
            found.append(at)
        for key in reversed(chain[: len(found)]):  # the end of a chain is to go before its beginning
            self._at.move_to_end(key)
        return found

    def load(self, first: int, found: Sequence[Sequence[int]]) -> None:
        """Copy kept blocks to the beginning of rows ``first`` and following; the rows are long enough for the longest."""
        longest = max(map(len, found))
        if longest == 0:
            return
        at = torch.tensor([[*blocks, *[0] * (longest - len(blocks))] for blocks in found], device=self._rows.device)
        for kv, pool in zip(self._rows.kv, self._pool, strict=True):
            # what is past a row's own beginning is overwritten by its forward, or lies past its end
            taken = pool[:, at].transpose(2, 3).flatten(3, 4)
            kv[:, first : first + len(found), :, : longest * BLOCK] = taken

    def keep(self, chains: Sequence[tuple[int, Chain]]) -> None:
        """Keep the blocks of rows that were just computed, where they were seen before. Never raises for memory."""
        wanted: list[tuple[int, int, int]] = []
        for row, chain in chains:
            for block, key in enumerate(chain):
                if key in self._at:
                    continue
                if key not in self._seen:
                    self._remember(key)
                elif (slot := self._slot(key)) is not None:
                    wanted.append((row, block, slot))
            for key in reversed(chain):
                if key in self._at:
                    self._at.move_to_end(key)
        newest = {slot: (row, block) for row, block, slot in wanted}  # one that went again at once was overtaken
        if newest:
            self._copy(newest)

    def _remember(self, key: bytes) -> None:
        self._seen[key] = None
        if len(self._seen) > SEEN:
            self._seen.popitem(last=False)

    def _slot(self, key: bytes) -> int | None:
        if self._made < self.most:
            slot, self._made = self._made, self._made + 1
        elif self._at:
            _, slot = self._at.popitem(last=False)
        else:
            return None
        self._at[key] = slot
        return slot

    def _copy(self, newest: dict[int, tuple[int, int]]) -> None:
        try:
            self._grow()
            rows, blocks = torch.tensor(list(newest.values()), device=self._rows.device).T
            slots = torch.tensor(list(newest), device=self._rows.device)
            for kv, pool in zip(self._rows.kv, self._pool, strict=True):
                split = kv.unflatten(3, (-1, BLOCK)).transpose(2, 3)
                pool[:, slots] = split[:, rows, blocks]
        except torch.AcceleratorError:
            raise  # the device is lost
        except (RuntimeError, MemoryError) as error:  # of which errors of a GPU's memory are
            log.warning("what prompts have in common is forgotten: %s: %s", type(error).__name__, error)
            self.clear()

    def _grow(self) -> None:
        for layer, old in enumerate(self._pool):
            if (have := old.shape[1]) < self._made:
                new = self._new(min(self.most, max(self._made, 2 * have, have + GROWTH)))
                new[:, :have] = old
                self._pool[layer] = new

    def clear(self) -> None:
        """Keep nothing, and give the memory back."""
        self._at.clear()
        self._seen.clear()
        self._made = 0
        self._pool = [self._new(0) for _ in self._pool]
