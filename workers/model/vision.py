"""Many pictures through the vision tower at once: pictures of one grid attend as one batch.

transformers lays all pictures end to end and attends to each in a call of its own, layer by layer. Here a group of pictures of
one grid is [pictures, patches, width] from the first layer to the last. The tower's own weights and layers are used, so the
numbers are the same but for the order of sums, and gradients reach every weight that they reach there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.model.types import Picture

Grid = tuple[int, int, int]

MOST_PATCHES: Final = 16_384
"""Patches that go through the tower in one pass, unless one picture has more: bounds what a large batch takes of memory."""
_GRIDS: Final = 256
"""Grids whose tables are kept."""


class Seen(NamedTuple):
    """What the language model is given of a picture."""

    embeds: Tensor
    """[tokens, width]: stand in the place of the picture's tokens."""
    deepstack: tuple[Tensor, ...]
    """A [tokens, width] for each of the language model's first layers: added at the same places."""


class _Tables(NamedTuple):
    """What depends on a picture's grid alone. ``patches`` are those of one frame, in the order of the processor."""

    corners: Tensor
    """int64 [patches, 4]: the learned positions around each patch."""
    shares: Tensor
    """float32 [patches, 4, 1]: how much of each."""
    cos: Tensor
    """float32 [patches, 1, 1, head width]: the rotary embedding of queries and keys."""
    sin: Tensor
    """As ``cos``, the first half of its sign turned, so that the halves of a head can be swapped instead of rotated."""


_tables: WeakKeyDictionary[nn.Module, dict[tuple[int, int, torch.device], _Tables]] = WeakKeyDictionary()


def embed(model: Any, pictures: Sequence[Picture]) -> list[Seen]:
    """What a ``Qwen3VLForConditionalGeneration`` sees in pictures, in their order, on the model's device and in its dtype.

    The tensors of pictures that went through together are parts of one: clone what is kept longer than the rest. Gradients are
    as ``torch`` is told to keep them.
    """
    tower = model.model.visual
    seen: list[Seen | None] = [None] * len(pictures)
    for grid, places in _passes(pictures):
        told = _see(tower, grid, [pictures[i].patches for i in places])
        for i, one in zip(places, told, strict=True):
            seen[i] = one
    return [one for one in seen if one is not None]


def _passes(pictures: Sequence[Picture]) -> Iterator[tuple[Grid, list[int]]]:
    """Places of pictures that go through the tower together."""
    alike: defaultdict[Grid, list[int]] = defaultdict(list)
    for i, picture in enumerate(pictures):
        alike[picture.grid].append(i)
    for grid, places in alike.items():
        most = max(1, MOST_PATCHES // (grid[0] * grid[1] * grid[2]))
        for start in range(0, len(places), most):
            yield grid, places[start : start + most]


def _see(tower: Any, grid: Grid, patches: Sequence[np.ndarray]) -> list[Seen]:
    """Pictures of one grid through the tower."""
    weight = tower.patch_embed.proj.weight
    tables = _tables_of(tower, grid, weight.device)
    values = torch.from_numpy(np.stack(patches)).to(weight.device).to(weight.dtype)
    # the convolution's window is a whole patch, so it is a matrix; as a convolution some versions of torch run it slowly
    x = functional.linear(values, weight.flatten(1), tower.patch_embed.proj.bias)
    x = x.view(len(patches) * grid[0], grid[1] * grid[2], -1)
    x = x + (tower.pos_embed(tables.corners) * tables.shares).sum(1).to(x.dtype)
    kept = []
    for layer, block in enumerate(tower.blocks):
        x = x + _attend(block.attn, block.norm1(x), tables)
        x = x + block.mlp(block.norm2(x))
        if layer in tower.deepstack_visual_indexes:
            merger = tower.deepstack_merger_list[tower.deepstack_visual_indexes.index(layer)]
            kept.append(merger(x.reshape(-1, x.shape[-1])))
    embeds = tower.merger(x.reshape(-1, x.shape[-1]))
    size = embeds.shape[0] // len(patches)
    parts = [level.split(size) for level in kept]
    return [Seen(one, tuple(part[i] for part in parts)) for i, one in enumerate(embeds.split(size))]


def _attend(attention: Any, x: Tensor, tables: _Tables) -> Tensor:
    """[frames, patches, width]: each patch attends to all of its own frame."""
    frames, patches, width = x.shape
    mixed = attention.qkv(x).view(frames, patches, 3, attention.num_heads, -1)
    turned = mixed[:, :, :2].float()
    first, second = turned.chunk(2, dim=-1)
    turned = (turned * tables.cos + torch.cat((second, first), dim=-1) * tables.sin).to(mixed.dtype)
    query, key = turned.permute(2, 0, 3, 1, 4)
    found = functional.scaled_dot_product_attention(query, key, mixed[:, :, 2].transpose(1, 2), scale=attention.scaling)
    return attention.proj(found.transpose(1, 2).reshape(frames, patches, width))


def _tables_of(tower: Any, grid: Grid, device: torch.device) -> _Tables:
    held = _tables.setdefault(tower, {})
    name = (grid[1], grid[2], device)
    if name not in held:
        if len(held) >= _GRIDS:
            held.clear()
        with torch.inference_mode(False), torch.no_grad():  # what inference mode makes, training could not use later
            held[name] = _Tables(*(part.to(device) for part in _tables_for(tower, grid[1], grid[2])))
    return held[name]


def _tables_for(tower: Any, high: int, wide: int) -> _Tables:
    merge = tower.spatial_merge_size
    place = torch.stack(torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij"))
    place = place.view(2, high // merge, merge, wide // merge, merge).transpose(2, 3).reshape(2, -1)
    corners, shares = _around(place, (high, wide), tower.num_grid_per_side)
    angles = place.T[..., None].float() * tower.rotary_pos_emb.inv_freq.cpu().float()
    angles = angles.flatten(1)[:, None, None]
    cos, sin = angles.cos(), angles.sin()
    return _Tables(corners, shares, torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))


def _around(place: Tensor, size: tuple[int, int], side: int) -> tuple[Tensor, Tensor]:
    """The four learned positions around each patch, of ``side`` x ``side``, and how much of each: corners meet corners."""
    below, above, beyond = [], [], []
    for axis in (0, 1):
        exact = place[axis].float() * (side - 1) / max(size[axis] - 1, 1)
        floor = exact.floor()
        below.append(floor.long())
        above.append((floor.long() + 1).clamp(max=side - 1))
        beyond.append(exact - floor)
    rows, columns = torch.stack((below[0], above[0]), -1), torch.stack((below[1], above[1]), -1)
    of_row, of_column = (torch.stack((1 - part, part), -1) for part in beyond)
    corners = (rows[:, :, None] * side + columns[:, None]).flatten(1)
    return corners, (of_row[:, :, None] * of_column[:, None]).flatten(1)[..., None]
