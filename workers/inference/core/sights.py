"""Pictures as the language model sees them, kept by their hash: a picture that comes again is not seen again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from workers.model.cache import Cache
from workers.model.types import Picture
from workers.model.vision import embed

Key = tuple[str, tuple[int, int, int]]


class Sights:
    """What the vision tower makes of pictures, within a budget of bytes."""

    def __init__(self, model: Any, budget: int) -> None:
        self._model = model
        self.cache: Cache[Key, Tensor] = Cache(budget)
        self.pictures = 0
        """That went through the tower."""

    def of(self, pictures: Iterable[Picture]) -> dict[Key, Tensor]:
        """[1 + D, tokens, width] for each picture: what stands in its tokens' place, and what D layers add there."""
        wanted = {key(picture): picture for picture in pictures}
        seen = {name: held for name in wanted if (held := self.cache.get(name)) is not None}
        fresh = [name for name in wanted if name not in seen]
        self.pictures += len(fresh)
        for name, sight in zip(fresh, embed(self._model, [wanted[name] for name in fresh]), strict=True):
            seen[name] = torch.stack((sight.embeds, *sight.deepstack))
            self.cache.put(name, seen[name], seen[name].nbytes)
        return seen


def key(picture: Picture) -> Key:
    """The name of a picture in the cache: one that is read at another size is another."""
    return picture.sha256, picture.grid
