"""Several processes that train one model: each takes every so many-th pass, and their gradients are added up.

All of them are given the same samples and call the same methods. Without ``torch.distributed``, there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, distributed

from app.errors import StepFailed

T = TypeVar("T")
BUCKET: Final = 1 << 25
"""Numbers of gradients that go over the wire at once: 128 MiB."""


def world() -> tuple[int, int]:
    """Which process this is, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def rounds(passes: Sequence[T]) -> Iterator[tuple[int, T | None]]:
    """This process's share of passes, each with its number among all: one a round, or none in the last round.

    So all processes go through as many rounds, and may ask one another between them.
    """
    rank, size = world()
    for first in range(0, len(passes), size):
        number = first + rank
        yield number, passes[number] if number < len(passes) else None


def together(work: Callable[[], T]) -> list[T]:
    """Have every process do its work; what each made, in their order, on all of them.

    What one raises ends the work of all: it raises that, and the others StepFailed with its words.
    """
    if world()[1] == 1:
        return [work()]
    try:
        made = work()
    except BaseException as error:
        _gathered((None, str(error) or type(error).__name__))
        raise
    parts: list[tuple[T, str]] = _gathered((made, ""))
    if problem := next((problem for _, problem in parts if problem), ""):
        raise StepFailed(f"another process of this training could not go on: {problem}")
    return [part for part, _ in parts]


def _gathered(value: Any) -> list[Any]:
    told: list[Any] = [None] * world()[1]
    distributed.all_gather_object(told, value)
    return told


def add_gradients(parameters: Sequence[Tensor]) -> None:
    """Make every process's gradients the sum of all. What has none anywhere keeps none, as with one process."""
    if world()[1] == 1 or not parameters:
        return
    has = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8, device=parameters[0].device)
    distributed.all_reduce(has, op=distributed.ReduceOp.MAX)
    some = [parameter for parameter, any_has in zip(parameters, has.tolist(), strict=True) if any_has]
    for bucket in _buckets(some):
        for parameter in bucket:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        grads = [parameter.grad for parameter in bucket if parameter.grad is not None]
        flat = torch.cat([grad.flatten() for grad in grads])
        distributed.all_reduce(flat)
        for grad, summed in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(summed.view_as(grad))


def _buckets(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for parameter in parameters:
        bucket.append(parameter)
        if sum(each.numel() for each in bucket) >= BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket
