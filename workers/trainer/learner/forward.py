"""The forward of a learner: what the model makes of each target, and nothing that no target needs.

transformers' layers compute; here are only their inputs, in the order in which its own forward calls them. No mask is needed:
attention looks back only, and padding stands behind everything real.
"""

# B samples of a pass, T tokens of the longest, N targets of all, P tokens of all pictures, W the model's width, V the vocabulary.

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from workers.model.sights import Sights
from workers.model.types import Picture
from workers.trainer.learner.rows import Batch
from workers.trainer.learner.shards import Whole, blank
from workers.trainer.learner.trunk import Trunk

LOGITS: Final = 1 << 27
"""Numbers of logits that are computed at once: 512 MiB of them, and some times that on the way back."""


class Scores(NamedTuple):
    """Of each target."""

    logprobs: Tensor
    """float32 [N]"""
    entropy: Tensor
    """float32 [N], no gradient."""
    likeliest: Tensor
    """bool [N]"""


class Forward:
    """A Qwen3-VL that is trained, or some of it."""

    def __init__(
        self, model: Any, sights: Sights, trunk: Trunk, *, dtype: torch.dtype, checkpointing: bool, shards: Whole
    ) -> None:
        """``dtype``: what is computed in; ``checkpointing``: layers compute a second time on the way back."""
        self._text, self._head, self._sights, self._trunk = model.model.language_model, model.lm_head, sights, trunk
        self._tower, self._shards = model.model.visual, shards
        self._blank = blank(model) if shards.has(self._tower) else None
        self._dtype, self._checkpointing = dtype, checkpointing
        self._device: torch.device = self._text.embed_tokens.weight.device
        self._dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout) and module.p > 0]
        self._vocabulary = int(self._head.out_features)

    @property
    def draws(self) -> bool:
        """Whether a pass that trains draws at random."""
        return bool(self._dropouts)

    def __call__(self, batch: Batch, *, dropout: bool, pictured: bool = False) -> Scores:
        """Score the targets of a batch; ``dropout``: where the model has it; ``pictured``: some process has pictures in its own.

        Where weights are dealt out, all processes call it, and all go back from what it gives or none does.
        """
        for module in self._dropouts:
            module.train(dropout)
        with self._precision():
            return self._shards.within(self._text, self._all, batch, pictured)

    def states(self, batch: Batch, *, pictured: bool = False) -> Tensor:
        """[N, W]: what the targets of a batch are predicted from, without dropout; called as above."""
        for module in self._dropouts:
            module.train(False)
        with self._precision():
            states: Tensor = self._shards.within(self._text, self._states, batch, pictured)
            return states

    def _all(self, batch: Batch, pictured: bool) -> Scores:
        return self._scores(self._states(batch, pictured), batch)

    def _precision(self) -> AbstractContextManager[Any]:
        if self._dtype is torch.float32:
            return nullcontext()
        # what it keeps of weights until the end of the pass would be the whole model
        return torch.autocast(self._device.type, dtype=self._dtype, cache_enabled=not self._shards.dealt)

    def _again(self, function: Any, *args: Any, **named: Any) -> Any:
        """Compute, and on the way back once more rather than hold what was computed, if that is asked for."""
        if self._checkpointing and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False, **named)
        return function(*args, **named)

    def _within(self, module: nn.Module, function: Any, *args: Any, **named: Any) -> Any:
        """As ``_again``, with the weights of a module whole."""
        return self._shards.within(module, self._again, function, *args, **named)

    def _seen(self, pictures: Sequence[Picture], pictured: bool) -> Tensor | None:
        """What is seen in pictures. With none of its own a process goes through a tower that is dealt out all the same."""
        if pictures:
            seen: Tensor = self._within(self._tower, self._sights.of, pictures)
            return seen
        if pictured and self._blank is not None:
            nothing: Tensor = self._within(self._tower, self._sights.of, [self._blank])
            return nothing[:, :0]
        return None

    def _states(self, batch: Batch, pictured: bool) -> Tensor:
        """[N, W]: what the targets are predicted from."""
        layers, below = self._text.layers, self._trunk.depth
        deep: list[Tensor] = []
        if below:
            states = self._trunk.of(batch, lambda: self._through(batch, *self._begun(batch, pictured), 0, below))
        else:
            states, deep = self._begun(batch, pictured)
        if len(layers) - 1 < max(below, len(deep)):
            return self._normed(self._through(batch, states, deep, below, len(layers)).flatten(0, 1)[batch.before])
        states = self._through(batch, states, deep, below, len(layers) - 1)
        turned = self._text.rotary_emb(states, batch.positions)
        return self._normed(self._within(layers[-1], _last, layers[-1], states, turned, batch.before))

    def _begun(self, batch: Batch, pictured: bool) -> tuple[Tensor, list[Tensor]]:
        """[B, T, W]: words and pictures as the first layer reads them; and [P, W] of each of the first layers, to be added."""
        embed = self._text.embed_tokens
        states: Tensor = self._shards.within(embed, embed, batch.ids)
        if (seen := self._seen(batch.pictures, pictured)) is None:
            return states, []
        seen = seen.to(states.dtype)
        return states.flatten(0, 1).index_copy(0, batch.pictured, seen[0]).view(states.shape), list(seen[1:])

    def _through(self, batch: Batch, states: Tensor, deep: Sequence[Tensor], first: int, end: int) -> Tensor:
        """[B, T, W]: what the layers from ``first`` to before ``end`` make of states."""
        turned, shape = self._text.rotary_emb(states, batch.positions), states.shape
        for depth in range(first, end):
            layer = self._text.layers[depth]
            states = self._within(layer, layer, states, position_embeddings=turned, attention_mask=None)
            if depth < len(deep):
                states = states.flatten(0, 1).index_add(0, batch.pictured, deep[depth].to(states.dtype)).view(shape)
        return states

    def _normed(self, states: Tensor) -> Tensor:
        normed: Tensor = self._text.norm(states)
        return normed

    def _scores(self, states: Tensor, batch: Batch) -> Scores:
        return self._shards.within(self._head, self._pieces, states, batch)

    def _pieces(self, states: Tensor, batch: Batch) -> Scores:
        most = max(1, LOGITS // self._vocabulary)
        if len(states) <= most:
            return Scores(*self._piece(states, batch.targets, batch.temperature))
        heat = [None] * len(states.split(most)) if batch.temperature is None else batch.temperature.split(most)
        pieces = [
            checkpoint(self._piece, *each, use_reentrant=False)
            for each in zip(states.split(most), batch.targets.split(most), heat, strict=True)
        ]
        return Scores(*(torch.cat(parts) for parts in zip(*pieces, strict=True)))

    def _piece(self, states: Tensor, targets: Tensor, temperature: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        logits = self._head(states).float()
        if temperature is not None:
            logits = logits / temperature
        logp = torch.log_softmax(logits, dim=-1)
        chosen = -functional.nll_loss(logp, targets, reduction="none")
        with torch.no_grad():
            told = logp.detach()
            entropy = -(told.exp() * told).sum(-1)
            likeliest = chosen >= told.amax(-1)
        return chosen, entropy, likeliest


def _last(layer: Any, states: Tensor, turned: tuple[Tensor, Tensor], before: Tensor) -> Tensor:
    """[N, W]: what the last layer makes of the tokens before targets. Nothing looks at what its second half makes of others."""
    found, _ = layer.self_attn(layer.input_layernorm(states), position_embeddings=turned, attention_mask=None)
    kept: Tensor = (states + found).flatten(0, 1)[before]
    return kept + layer.mlp(layer.post_attention_layernorm(kept))
