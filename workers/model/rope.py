"""Where each token of a prompt stands, in time, height and width: Qwen3-VL's positions for its rotary embedding. No torch here.

They come from the prompt alone. What a model says after it is text, even an image token: token ``i`` of prompt and reply
together, ``i`` past the prompt's end, stands at ``i + delta`` in all three.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.errors import InvalidInput

Grid = tuple[int, int, int]


def positions(
    ids: Sequence[int] | NDArray[np.int64], grids: Sequence[Grid], image_token: int, merge: int
) -> tuple[NDArray[np.int64], int]:
    """Positions of a prompt's tokens, int64 [3, tokens], and what to add to the place of a later token to have its own.

    ``grids`` are those of the prompt's pictures, in order; ``merge`` x ``merge`` patches are one token. Raises InvalidInput when
    the image tokens in ``ids`` are not those of the pictures.
    """
    tokens = np.asarray(ids, np.int64)
    at = np.flatnonzero(tokens == image_token)
    sizes = [t * (h // merge) * (w // merge) for t, h, w in grids]
    if len(at) != sum(sizes):
        raise InvalidInput(f"the prompt holds {len(at)} image tokens, and its {len(grids)} pictures have {sum(sizes)}")
    told = np.empty((3, len(tokens)), np.int64)
    done = here = first = 0  # tokens told, the next position, image tokens told
    for (t, h, w), size in zip(grids, sizes, strict=True):
        start = int(at[first])
        if int(at[first + size - 1]) - start != size - 1:
            raise InvalidInput(f"the {size} image tokens of the picture at token {start} do not stand together")
        told[:, done:start] = np.arange(here, here + start - done)
        here += start - done
        high, wide = h // merge, w // merge
        told[:, start : start + size] = here + np.indices((t, high, wide)).reshape(3, size)
        here += max(high, wide)
        done, first = start + size, first + size
    told[:, done:] = np.arange(here, here + len(tokens) - done)
    last = int(told.max()) + 1 if len(tokens) else 0
    return told, last - len(tokens)
