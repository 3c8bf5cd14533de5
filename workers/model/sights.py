"""Pictures as the language model sees them, kept by their hash: of a tower that does not learn none is computed twice."""

# P tokens of a picture or of several, W the language model's width, D its layers that are given more of them.

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from workers.model.cache import Cache
from workers.model.types import Picture
from workers.model.vision import embed

Key = tuple[str, tuple[int, int, int]]


class Sights:
    """What the vision tower makes of pictures: of all that it has not seen as one batch, each of them once."""

    def __init__(self, model: Any, budget: int, *, learns: bool = False) -> None:
        """``budget``: bytes of what is kept; ``learns``: the tower is trained, so nothing is."""
        self._model, self._learns = model, learns
        self.cache: Cache[Key, Tensor] = Cache(0 if learns else budget)

    def each(self, pictures: Iterable[Picture]) -> dict[Key, Tensor]:
        """[1 + D, P, W] for each picture: what stands in its tokens' place, and what each of D layers adds there."""
        wanted = {key(picture): picture for picture in pictures}
        seen = {name: held for name in wanted if (held := self.cache.get(name)) is not None}
        fresh = [name for name in wanted if name not in seen]
        with self._gradients():
            for name, sight in zip(fresh, embed(self._model, [wanted[name] for name in fresh]), strict=True):
                seen[name] = torch.stack((sight.embeds, *sight.deepstack))
                self.cache.put(name, seen[name].detach(), seen[name].nbytes)
        return seen

    def of(self, pictures: Sequence[Picture]) -> Tensor:
        """[1 + D, P, W]: the same for all of them, one after the other."""
        seen = self.each(pictures)
        return torch.cat([seen[key(picture)] for picture in pictures], dim=1)

    def _gradients(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._learns else torch.no_grad()


def key(picture: Picture) -> Key:
    """The name of a picture in the cache: one that is read at another size is another."""
    return picture.sha256, picture.grid
