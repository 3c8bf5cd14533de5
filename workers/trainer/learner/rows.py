"""From samples to what a forward takes: checked, cut into passes, padded on the right. Nothing is computed by a model here."""

# B samples of a pass, T tokens of the longest, N targets of all, P tokens of all pictures.

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.errors import InvalidInput
from workers.model.loading import Loaded
from workers.model.rope import positions
from workers.model.types import Picture
from workers.trainer.samples import Sample

GREEDY: Final = 1e-5
"""Below this temperature an engine takes the likeliest token and tells its log-probability at temperature 1; so does this."""
_TEXT: Final = -1
"""Stands for an image token that is text: no token has this id."""

Ints = NDArray[np.int64]


class Row(NamedTuple):
    """A sample that was checked."""

    sample: Sample
    ids: Ints
    """[tokens]"""
    positions: Ints
    """[3, tokens]: in time, height and width."""
    pictured: Ints
    """Places of the tokens of its pictures."""


class Batch(NamedTuple):
    """Samples as one forward takes them. Whatever is padded stands to the right of what is not, so that nothing real sees it."""

    ids: Tensor
    """int64 [B, T]"""
    positions: Tensor
    """int64 [3, B, T]"""
    pictures: tuple[Picture, ...]
    pictured: Tensor
    """int64 [P]: places of the pictures' tokens in [B, T], flat."""
    before: Tensor
    """int64 [N]: places in [B, T], flat, of the tokens whose next ones are the targets."""
    targets: Tensor
    """int64 [N]"""
    sample: Tensor
    """int64 [N]: which sample each target is of."""
    temperature: Tensor | None
    """float32 [N, 1]; None where all are 1."""
    rows: tuple[Row, ...]
    """The samples that it was made of."""


def read(sample: Sample, loaded: Loaded) -> Row:
    """Check a sample. Raises InvalidInput, with its key, for one that this model cannot learn from."""
    ids, targets = np.array(sample.ids, np.int64), np.array(sample.targets, np.int64)
    if problem := _problem(sample, ids, targets, loaded):
        raise InvalidInput(f"{sample.key}: {problem}")
    shown = ids
    if (ids[targets] == loaded.image_id).any():
        shown = ids.copy()
        shown[targets] = _TEXT
    try:
        told, _ = positions(shown, [picture.grid for picture in sample.pictures], loaded.image_id, loaded.merge)
    except InvalidInput as error:
        raise InvalidInput(f"{sample.key}: {error}") from None
    return Row(sample, ids, told, np.flatnonzero(shown == loaded.image_id))


def _problem(sample: Sample, ids: Ints, targets: Ints, loaded: Loaded) -> str:
    """What is wrong with it, or nothing."""
    if not 0 < len(ids) <= loaded.max_length:
        return f"it has {len(ids)} tokens; this model takes 1 to {loaded.max_length}"
    if ids.min() < 0 or ids.max() >= loaded.vocab:
        return f"its ids reach from {ids.min()} to {ids.max()}; this model has tokens 0 to {loaded.vocab - 1}"
    if len(targets) and (targets[0] < 1 or targets[-1] >= len(ids) or (np.diff(targets) < 1).any()):
        return f"its targets must rise and lie between 1 and {len(ids) - 1}, and they are {_few(targets)}"
    for name, values in (("logprobs", sample.logprobs), ("advantages", sample.advantages)):
        if values is not None and len(values) != len(targets):
            return f"it has {len(targets)} targets and {len(values)} {name}"
    if not 0 <= sample.temperature < np.inf:
        return f"its temperature must be 0 or more, not {sample.temperature}"
    return ""


def _few(values: Ints) -> str:
    return f"[{', '.join(map(str, values[:8]))}{', ...' if len(values) > 8 else ''}]"


def cut(rows: Sequence[Row], most: int) -> list[list[int]]:
    """Places of the samples of each pass: of like length, at most ``most`` tokens with their padding, or one sample."""
    order = sorted(range(len(rows)), key=lambda place: (-len(rows[place].ids), place))
    passes: list[list[int]] = []
    for place in order:
        if passes and (len(passes[-1]) + 1) * len(rows[passes[-1][0]].ids) <= most:
            passes[-1].append(place)
        else:
            passes.append([place])
    return passes


def collate(rows: Sequence[Row], device: torch.device) -> Batch:
    """Put samples of a pass together."""
    longest = max(len(row.ids) for row in rows)
    given = np.zeros((4, len(rows), longest), np.int64)  # ids, then their positions
    for at, row in enumerate(rows):
        given[0, at, : len(row.ids)] = row.ids
        given[1:, at, : len(row.ids)] = row.positions
    counts = [len(row.sample.targets) for row in rows]
    sample = np.repeat(np.arange(len(rows)), counts)
    targets = np.concatenate([np.array(row.sample.targets, np.int64) for row in rows]) + sample * longest
    pictured = np.concatenate([row.pictured + at * longest for at, row in enumerate(rows)])
    heat = np.array([t if t >= GREEDY else 1.0 for t in (row.sample.temperature for row in rows)], np.float32)

    def put(array: NDArray[np.int64] | NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    told = put(given)
    return Batch(
        ids=told[0],
        positions=told[1:],
        pictures=tuple(picture for row in rows for picture in row.sample.pictures),
        pictured=put(pictured),
        before=put(targets - 1),
        targets=put(given[0].reshape(-1)[targets]),
        sample=put(sample),
        temperature=None if (heat == 1).all() else put(heat[sample])[:, None],
        rows=tuple(rows),
    )
