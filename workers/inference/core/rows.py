"""Keys and values of the sequences that run: row ``i`` of a few tensors belongs to the ``i``-th of them, from its first token on.

It is what transformers' attention layers call ``past_key_values``: they hand over what a forward computed, and get back what it
may look at. Which rows and places that is, is told before the forward (``fresh``, ``after``, ``one_more``).
"""

# R rows, M rows of this forward, T tokens of each in it, H heads of keys, L places of a row, D width of a head.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

BLOCK: Final = 8
"""Tokens that the prefix store takes as one; every row is a whole number of them long. Short prompts lose little to rounding."""
GROWTH: Final = 64
"""Places by which rows become longer."""


def up_to(count: int, step: int) -> int:
    """The multiple of ``step`` that is not below ``count``."""
    return -(-count // step) * step


class Rows:
    """One pair of tensors a layer, which grow as more or longer sequences run."""

    def __init__(self, config: Any, *, most: int, longest: int, dtype: torch.dtype, device: torch.device) -> None:
        """``config`` is the language model's; never more than ``most`` rows of ``longest`` places."""
        self.layers = int(config.num_hidden_layers)
        self.heads, self.width = int(config.num_key_value_heads), int(config.head_dim)
        self.most, self.longest = most, up_to(longest, BLOCK)
        self.dtype, self.device = dtype, device
        self.kv = [self._new(0, 0) for _ in range(self.layers)]
        """[2, R, H, L, D] a layer: keys, values."""
        self._first = self._count = self._end = 0
        self._fresh = True
        self._rows: Tensor = torch.empty(0)
        self._places: Tensor = torch.empty(0)

    @property
    def token_bytes(self) -> int:
        """What one token takes, in all layers."""
        return 2 * self.layers * self.heads * self.width * self.dtype.itemsize

    def _new(self, rows: int, places: int) -> Tensor:
        # zeros, not whatever was there: places that are masked still enter a sum, and 0 times NaN is NaN
        return torch.zeros(2, rows, self.heads, places, self.width, dtype=self.dtype, device=self.device)

    def reserve(self, rows: int, places: int) -> None:
        """Have at least this many rows of this length. A memory error leaves every layer whole, some of them grown."""
        for layer, kv in enumerate(self.kv):
            have_rows, have_places = kv.shape[1], kv.shape[3]
            if rows <= have_rows and places <= have_places:
                continue
            to_rows = have_rows if rows <= have_rows else min(self.most, max(rows, 2 * have_rows))
            to_places = (
                have_places if places <= have_places else min(self.longest, up_to(max(places, have_places * 5 // 4), GROWTH))
            )
            self._resize(layer, to_rows, to_places)

    def shrink(self, rows: int) -> None:
        """Keep the first rows alone, and give the memory of the others back."""
        for layer, kv in enumerate(self.kv):
            if rows < kv.shape[1]:
                self._resize(layer, rows, kv.shape[3])

    def _resize(self, layer: int, rows: int, places: int) -> None:
        old = self.kv[layer]
        new = self._new(rows, places)
        both, long = min(rows, old.shape[1]), min(places, old.shape[3])
        new[:, :both, :, :long] = old[:, :both, :, :long]
        self.kv[layer] = new

    def move(self, sources: Sequence[int], targets: Sequence[int], places: int) -> None:
        """Copy whole rows, as far as they are used, onto others."""
        if not sources:
            return
        source, target = self._index(sources), self._index(targets)
        for kv in self.kv:
            kv[:, target, :, :places] = kv[:, source, :, :places]

    def _index(self, rows: Sequence[int]) -> Tensor:
        return torch.tensor(rows, device=self.device)

    # -- what the next forward is ---------------------------------------------------------------------------------------

    def fresh(self, first: int, count: int) -> None:
        """Prompts from their first token on, in rows ``first`` and following; they see themselves alone."""
        self._first, self._count, self._fresh = first, count, True

    def after(self, first: int, places: Tensor, end: int) -> None:
        """The rest of prompts whose beginning is there: ``places`` [M, T] of the tokens; ``end`` places are looked at."""
        self._first, self._count, self._end, self._fresh = first, len(places), end, False
        self._rows, self._places = torch.arange(first, first + len(places), device=self.device)[:, None], places

    def one_more(self, places: Tensor, end: int) -> None:
        """One token of each of the first rows: ``places`` [M]."""
        self.after(0, places[:, None], end)

    # -- as transformers' layers call it --------------------------------------------------------------------------------

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Take the keys and values [M, H, T, D] of a layer; give those to look at [M, H, places, D]."""
        kv = self.kv[layer_idx]
        if self._fresh:
            mine = kv[:, self._first : self._first + self._count, :, : key.shape[2]]
            mine[0].copy_(key)
            mine[1].copy_(value)
            return key, value
        kv[0][self._rows, :, self._places] = key.transpose(1, 2)
        kv[1][self._rows, :, self._places] = value.transpose(1, 2)
        mine = kv[:, self._first : self._first + self._count, :, : self._end]
        return mine[0], mine[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Places before the tokens of this forward, where all rows have the same."""
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """As ``get_seq_length``."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """How many places a mask that transformers makes by itself has, and where they begin."""
        return (query_length if self._fresh else self._end), 0
