"""What the language model is given of the pictures of a pass. Of a tower that does not learn it is computed once for each."""

# P tokens of all pictures, W the language model's width, D its layers that are given more of them.

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from workers.model.cache import Cache
from workers.model.types import Picture
from workers.model.vision import embed

Key = tuple[str, tuple[int, int, int]]


class Sights:
    """Pictures through the vision tower: all of a pass that it has not seen as one batch, each of them once."""

    def __init__(self, model: Any, *, learns: bool, budget: int) -> None:
        """``learns``: the tower is trained, so nothing is kept; ``budget``: bytes of what is."""
        self._model, self._learns = model, learns
        self.cache: Cache[Key, Tensor] = Cache(0 if learns else budget)

    def of(self, pictures: Sequence[Picture]) -> Tensor:
        """[1 + D, P, W]: what stands in the place of the pictures' tokens, and what each of D layers adds there."""
        wanted = {_key(picture): picture for picture in pictures}
        seen = {name: held for name in wanted if (held := self.cache.get(name)) is not None}
        fresh = [name for name in wanted if name not in seen]
        with self._gradients():
            for name, sight in zip(fresh, embed(self._model, [wanted[name] for name in fresh]), strict=True):
                seen[name] = torch.stack((sight.embeds, *sight.deepstack))
                self.cache.put(name, seen[name].detach(), seen[name].nbytes)
        return torch.cat([seen[_key(picture)] for picture in pictures], dim=1)

    def _gradients(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._learns else torch.no_grad()


def _key(picture: Picture) -> Key:
    """A picture that is read at another size is another."""
    return picture.sha256, picture.grid
