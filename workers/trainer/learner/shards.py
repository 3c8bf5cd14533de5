"""The weights of a model dealt out over the processes that train it (FSDP): each holds a part of every weight.

A layer is whole only while it computes: the processes gather it before, and drop it after, in the same order. So all of them
compute at the same time or none does. A gradient is added up over all of them where it is made, and each keeps its own part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from workers.model.types import Picture
from workers.trainer.learner import ranks

T = TypeVar("T")


class Whole:
    """Nothing is dealt out: every process holds every weight."""

    dealt = False
    """Whether weights are; then all processes compute in step."""

    def has(self, module: nn.Module) -> bool:
        """Whether the weights of a module are dealt out as one, so that all processes must use it together."""
        return False

    def within(self, module: nn.Module, function: Callable[..., T], *args: Any, **named: Any) -> T:
        """Call a function that uses a module's weights, which are whole meanwhile."""
        return function(*args, **named)

    def reset(self) -> None:
        """Be as before a pass that broke off."""


class Unit(nn.Module):
    """Modules whose weights are gathered together, for as long as a function of them runs."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, function: Callable[..., T], *args: Any, **named: Any) -> T:
        """What the function gives."""
        return function(*args, **named)


class Shards(Whole):
    """A Qwen3-VL whose weights are dealt out, but those of ``kept`` and of a vision tower that does not learn.

    Such a tower is small, and each process sees the pictures of its own samples when it must, which a cache decides.
    """

    dealt = True

    def __init__(self, model: Any, *, device: torch.device, dtype: torch.dtype, kept: set[nn.Parameter]) -> None:
        """Deals them out layer by layer, so that a device never holds more than one beside its parts.

        ``dtype``: what they are held in. ``kept``: weights that every process has whole, and whose gradients are its own.
        """
        self._mesh = init_device_mesh(device.type, (ranks.world()[1],))
        self._device, self._dtype, self._kept = device, dtype, kept
        text, head, tower = model.model.language_model, model.lm_head, model.model.visual
        ends = [text.embed_tokens, head]
        tied = head.weight is text.embed_tokens.weight
        single = [*text.layers, *([] if tied else ends)]
        self._units = {module: self._unit([module]) for module in single}
        # the outermost of its units is the one by which FSDP knows the others
        self._units[text] = self._unit([*self._units.values(), text.norm, text.rotary_emb, *(ends if tied else [])])
        self._roots = [self._units[text]]
        if any(weight.requires_grad for weight in tower.parameters()):
            self._units[tower] = self._unit([tower])
            self._roots.append(self._units[tower])
        else:
            for weight in tower.parameters():
                weight.data = weight.data.to(device, dtype, copy=True)  # it may lie in a file until then
            tower.to(device)

    def _unit(self, modules: Iterable[nn.Module]) -> Any:
        unit = Unit(modules)
        _hold(unit, self._dtype, but=self._kept)
        for weight in unit.parameters():
            if weight in self._kept:
                weight.data = weight.data.to(self._device)
        dealt: Any = fully_shard(unit, mesh=self._mesh, reshard_after_forward=True, ignored_params=self._kept)
        dealt.set_gradient_divide_factor(1.0)  # sums: a loss is one already
        dealt.set_force_sum_reduction_for_comms(True)  # gloo knows no other
        return dealt

    def has(self, module: nn.Module) -> bool:
        """As ``Whole``."""
        return module in self._units

    def within(self, module: nn.Module, function: Callable[..., T], *args: Any, **named: Any) -> T:
        """As ``Whole``; every process must call it for the same module, and go back through it if one does."""
        unit = self._units.get(module)
        return function(*args, **named) if unit is None else unit(function, *args, **named)

    def reset(self) -> None:
        """As ``Whole``, in this process."""
        for root in self._roots:
            root.reset_iter_state()


def _hold(module: nn.Module, dtype: torch.dtype, but: Iterable[nn.Parameter] = ()) -> None:
    """Hold the weights in a precision; tables that are no weights keep theirs."""
    for weight in module.parameters():
        if weight not in but and not isinstance(weight, DTensor):
            weight.data = weight.data.to(dtype)


def blank(model: Any) -> Picture:
    """The smallest picture, for a process that has none while others use a tower that is dealt out."""
    tower = model.model.visual
    merge, numbers = tower.spatial_merge_size, tower.patch_embed.proj.weight[0].numel()
    patches = np.zeros((merge * merge, numbers), np.float32)
    return Picture(sha256="", grid=(1, merge, merge), make=lambda: patches)


def collected(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors; of those that are dealt out the whole ones, on the CPU of the first process, and nothing on the others.

    All processes must call it. One at a time is whole on a device.
    """
    if not any(isinstance(tensor, DTensor) for tensor in tensors.values()):
        return dict(tensors)
    found = {}
    for name, tensor in tensors.items():
        whole = tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.detach()
        if ranks.world()[0] == 0:
            found[name] = whole.cpu()
    return found


def dealt(whole: Tensor, like: Tensor) -> Tensor:
    """A copy of a whole tensor, on the device of another and dealt out as that is."""
    if not isinstance(like, DTensor):
        return whole.to(like.device, copy=True)
    parts = whole.chunk(like.device_mesh.size())
    rank = like.device_mesh.get_local_rank()
    mine = (parts[rank] if rank < len(parts) else whole[:0]).to(like.device, copy=True)
    return DTensor.from_local(mine, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride())


def bytes_here(tensors: Iterable[Tensor]) -> int:
    """What this process holds of tensors."""
    return sum((tensor.to_local() if isinstance(tensor, DTensor) else tensor).nbytes for tensor in tensors)
