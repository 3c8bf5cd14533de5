"""Several LoRA adapters in one batch: each row of a forward gets the one that it asks for, or none.

The adapters of a layer stand one after another in two tensors. Rows with different ones are multiplied with all of them and
each keeps its own part, which costs little beside the layer itself; rows that share one are multiplied with that one alone.
"""

# M rows of a forward, T tokens, S slots for adapters, r the highest rank.

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Turn:
    """Which adapters the rows of the next forward have."""

    def __init__(self, slots: int, rank: int, *, device: torch.device) -> None:
        self.rank = rank
        self.one: int | None = None
        """The slot that all rows share."""
        self.one_rank, self.one_scale = 0, 0.0
        self.shares: Tensor | None = None
        """[M, 1, S * r] float32, where rows differ: the scale of a row's own adapter in its columns, 0 elsewhere."""
        self._table = torch.zeros(slots + 1, slots * rank, device=device)
        self._ranks = [0] * slots
        self._scales = [0.0] * slots

    def scale(self, slot: int, rank: int, scale: float) -> None:
        """Say what stands in a slot."""
        self._ranks[slot], self._scales[slot] = rank, scale
        self._table[slot].zero_()
        self._table[slot, slot * self.rank : slot * self.rank + rank] = scale

    def select(self, slots: Sequence[int | None]) -> None:
        """Say what the rows have: a slot, or None."""
        told = set(slots)
        self.one = self.shares = None
        if told == {None}:
            return
        if len(told) == 1:
            (slot,) = told
            assert slot is not None
            self.one, self.one_rank, self.one_scale = slot, self._ranks[slot], self._scales[slot]
            return
        none = len(self._ranks)
        at = torch.tensor([none if slot is None else slot for slot in slots], device=self._table.device)
        self.shares = self._table[at].unsqueeze(1)


class Adapted(nn.Module):
    """A linear layer with room for adapters."""

    def __init__(self, base: nn.Linear, turn: Turn, slots: int) -> None:
        super().__init__()
        self.base, self._turn = base, turn
        weight = base.weight
        self._down = weight.new_zeros(slots * turn.rank, base.in_features)
        self._up = weight.new_zeros(base.out_features, slots * turn.rank)

    def put(self, slot: int, down: Tensor, up: Tensor) -> None:
        """Take an adapter's A [rank, in] and B [out, rank]."""
        at = slot * self._turn.rank
        self.clear(slot)
        self._down[at : at + len(down)] = down
        self._up[:, at : at + len(down)] = up

    def clear(self, slot: int) -> None:
        """Have nothing in a slot."""
        at = slot * self._turn.rank
        self._down[at : at + self._turn.rank].zero_()
        self._up[:, at : at + self._turn.rank].zero_()

    def forward(self, x: Tensor) -> Tensor:
        """[M, T, in] to [M, T, out]."""
        y: Tensor = self.base(x)
        turn = self._turn
        if turn.one is not None:
            at = slice(turn.one * turn.rank, turn.one * turn.rank + turn.one_rank)
            return y.add_(functional.linear(functional.linear(x, self._down[at]), self._up[:, at]), alpha=turn.one_scale)
        if turn.shares is not None:
            scaled = functional.linear(x, self._down) * turn.shares
            # what others' adapters make of a row may be beyond the dtype, and infinity times 0 is no number
            own = torch.where(turn.shares != 0, scaled, 0.0).to(x.dtype)
            return y.add_(functional.linear(own, self._up))
        return y


class Adapters:
    """The adapters of one language model. Its layers are replaced by ``Adapted`` ones as adapters come that change them."""

    def __init__(self, root: nn.Module, *, slots: int, rank: int, device: torch.device) -> None:
        """``root`` is what the adapters' module names are told from."""
        self._root, self._slots = root, slots
        self._turn = Turn(slots, rank, device=device)
        self._adapted: dict[str, Adapted] = {}
        self._used = [False] * slots

    def put(self, weights: Mapping[str, tuple[Tensor, Tensor]], *, rank: int, scale: float) -> int:
        """Hold an adapter: A [rank, in] and B [out, rank] by module name. Gives its slot; there must be a free one.

        What fails, as for want of memory, leaves the slot free.
        """
        slot = self._used.index(False)
        try:
            for name, adapted in self._adapted.items():
                if name not in weights:
                    adapted.clear(slot)
            for name, (down, up) in weights.items():
                self._layer(name).put(slot, down, up)
            self._turn.scale(slot, rank, scale)
            self._used[slot] = True
        finally:
            self._plain_if_unused()
        return slot

    def drop(self, slot: int) -> None:
        """Free a slot. When none is left in use, the layers are the plain ones again."""
        self._used[slot] = False
        self._plain_if_unused()

    def _plain_if_unused(self) -> None:
        if not any(self._used):
            for name, adapted in self._adapted.items():
                self._replace(name, adapted.base)
            self._adapted.clear()

    def select(self, slots: Sequence[int | None]) -> None:
        """Say which adapters the rows of the next forward have."""
        if self._adapted:
            self._turn.select(slots)

    def _layer(self, name: str) -> Adapted:
        if name not in self._adapted:
            base = self._root.get_submodule(name)
            assert isinstance(base, nn.Linear), f"{name} is no linear layer"
            self._adapted[name] = Adapted(base, self._turn, self._slots)
            self._replace(name, self._adapted[name])
        return self._adapted[name]

    def _replace(self, name: str, module: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(self._root.get_submodule(parent), child, module)
