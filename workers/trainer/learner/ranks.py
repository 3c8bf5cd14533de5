"""Several processes that train one model: each takes every so many-th pass, and their gradients are added up.

All of them are given the same samples and call the same methods. Without ``torch.distributed``, there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from app.errors import StepFailed

T = TypeVar("T")
R = TypeVar("R")
BUCKET: Final = 1 << 25
"""Numbers of gradients that go over the wire at once: 128 MiB."""


def world() -> tuple[int, int]:
    """Which process this is, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def through(
    passes: Sequence[T], work: Callable[[int, T, Sequence[T]], R], check: Callable[[], None], *, in_step: bool = False
) -> list[R]:
    """Do this process's share of passes, one a round: ``work(number, its own, those of the round)``; what came of them.

    All go through as many rounds, and call ``check`` before each. ``in_step``: one process cannot compute without the others, so
    one that has no pass left in the last round does that round's first once more, under a number beyond the last; and what one
    raises leaves the others waiting. Otherwise it raises after the last round, for until then the others ask it to check.
    """
    (rank, size), made, problem = world(), [], None
    for first in range(0, len(passes), size):
        check()
        round_, number = passes[first : first + size], first + rank
        if problem is not None or (number >= len(passes) and not in_step):
            continue
        try:
            one = work(number, round_[rank] if number < len(passes) else round_[0], round_)
        except Exception as error:
            if size == 1 or in_step:
                raise
            problem = error
            continue
        if number < len(passes):
            made.append(one)
    if problem is not None:
        raise problem
    return made


def together(work: Callable[[], T], *, in_step: bool = False) -> list[T]:
    """Have every process do its work; what each made, in their order, on all of them.

    What one raises ends the work of all: it raises that, and the others StepFailed with its words. Work ``in_step`` that fails in
    one alone cannot be ended so: the others wait in the middle of it, and whoever started them all must end them.
    """
    if world()[1] == 1:
        return [work()]
    try:
        made = work()
    except BaseException as error:
        if not in_step:
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
    """Make every process's gradients the sum of all. What has none anywhere keeps none, as with one process.

    Those of weights that are dealt out are sums already.
    """
    parameters = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
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
