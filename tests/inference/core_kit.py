"""What tests of the batching engine share: prompts with pictures, an engine that runs, and asking it for replies."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from workers.inference.core import Core
from workers.inference.core.request import Generated, Sampling
from workers.model.loading import Loaded
from workers.model.types import Picture, Prompt

WAIT_S = 60.0
Ask = tuple[Prompt, Sampling] | tuple[Prompt, Sampling, str]


def picture(loaded: Loaded, seed: int, blocks: int = 3) -> Picture:
    """A square picture of noise, ``blocks`` x ``blocks`` tokens; seed -1: black."""
    side = blocks * loaded.merge
    shape = side * side, 3 * loaded.temporal * loaded.patch**2
    patches = np.random.default_rng(seed).standard_normal(shape) if seed >= 0 else np.full(shape, -1.0)
    told = patches.astype(np.float32)
    return Picture(sha256=hashlib.sha256(told.tobytes()).hexdigest(), grid=(1, side, side), make=lambda: told)


def prompt(loaded: Loaded, tokens: int, *, pictures: Sequence[Picture] = (), seed: int = 0) -> Prompt:
    """Random text tokens, so many, and pictures between them."""
    ids = [int(token) for token in np.random.default_rng(seed).integers(50, 300, tokens)]
    for place, each in enumerate(pictures):
        at = 4 + place * 20
        ids[at:at] = [loaded.vision_start_id, *[loaded.image_id] * each.tokens(loaded.merge), loaded.vision_end_id]
    return Prompt(ids=tuple(ids), pictures=tuple(pictures))


@contextmanager
def engine(loaded: Loaded, *, start: bool = True, **options: Any) -> Iterator[Core]:
    """An engine, stopped at the end."""
    core = Core(loaded, **options)
    if start:
        core.start()
    try:
        yield core
    finally:
        core.stop()


class Answers:
    """Takes what comes of requests."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._changed = threading.Condition()
        self.results: dict[int, Generated | Exception] = {}
        self.tickets: list[Any] = []

    def ask(self, prompt: Prompt, sampling: Sampling, model: str | None = None) -> int:
        """Submit a request; its place."""
        place = len(self.tickets)
        name = model or self._core.models()[0]["id"]
        self.tickets.append(self._core.submit(prompt, sampling, name, self._receiver(place)))
        return place

    def _receiver(self, place: int) -> Callable[[Generated | Exception], None]:
        def receive(result: Generated | Exception) -> None:
            with self._changed:
                assert place not in self.results, "a request was answered twice"
                self.results[place] = result
                self._changed.notify_all()

        return receive

    def wait(self, *places: int) -> list[Generated | Exception]:
        """The results of these requests, of all unless told which."""
        wanted = places or tuple(range(len(self.tickets)))
        with self._changed:
            assert self._changed.wait_for(lambda: all(place in self.results for place in wanted), WAIT_S), "no answer in time"
        return [self.results[place] for place in wanted]


def replies(core: Core, asks: Sequence[Ask]) -> list[Generated]:
    """The replies to requests that are all there before the first is done."""
    answers = Answers(core)
    for ask in asks:
        answers.ask(*ask)
    results = answers.wait()
    for result in results:
        if isinstance(result, Exception):
            raise result
    return [result for result in results if isinstance(result, Generated)]


def apart(one: Generated, other: Generated) -> float:
    """How far the log-probabilities of two replies of the same tokens lie apart at most."""
    assert one.ids == other.ids
    return max(abs(a - b) for a, b in zip(one.logprobs, other.logprobs, strict=True))


def inputs(loaded: Loaded, asked: Prompt, reply: Sequence[int] = ()) -> dict[str, torch.Tensor]:
    """What transformers' own forward takes for a prompt, and a reply after it."""
    ids = torch.tensor([[*asked.ids, *reply]])
    told = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": (ids == loaded.image_id).int()}
    if asked.pictures:
        told["pixel_values"] = torch.from_numpy(np.concatenate([each.patches for each in asked.pictures]))
        told["image_grid_thw"] = torch.tensor([each.grid for each in asked.pictures])
    return told


def plain_logits(model: Any, loaded: Loaded, asked: Prompt, reply: Sequence[int]) -> torch.Tensor:
    """Logits [reply, V] from which the reply's tokens were drawn, by one forward of transformers' whole model."""
    model.model.rope_deltas = None
    with torch.no_grad():
        logits = model(**inputs(loaded, asked, reply)).logits[0]
    return logits[len(asked.ids) - 1 : -1]
