"""Draws the next token of many replies at once. What a reply draws depends on its seed and on its own logits, on no neighbour."""

# N replies, V tokens of the vocabulary.

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from workers.inference.core.request import Sampling

Top = tuple[tuple[int, float], ...]
GREEDY: Final = 1e-5
"""Temperatures below this one take the likeliest token, as in vLLM: float32 cannot hold what is divided by them."""


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) for a reply's token at ``index``, in steps of 2**-52, so that it times a sum stays below that sum."""
    return (int.from_bytes(hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest(), "little") >> 12) * 2.0**-52


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One token for each reply."""

    ids: list[int]
    logprobs: list[float]
    """Of the distribution after bias and temperature, before ``top_k`` and ``top_p``; below ``GREEDY`` as at 1."""
    top: list[Top] | None
    """The likeliest tokens, where any reply asks for them."""


class Sampler:
    """Draws for one set of replies, step after step; made anew when the set changes."""

    def __init__(self, samplings: Sequence[Sampling], seeds: Sequence[int], vocabulary: int, device: torch.device) -> None:
        self._seeds, self._device = seeds, device
        greedy = [sampling.temperature < GREEDY for sampling in samplings]
        self._all_greedy, self._greedy = all(greedy), torch.tensor(greedy, device=device) if any(greedy) else None
        temperatures = [1.0 if likeliest else s.temperature for likeliest, s in zip(greedy, samplings, strict=True)]
        plain = all(temperature == 1.0 for temperature in temperatures)
        self._temperature = None if plain else torch.tensor(temperatures, device=device)[:, None]
        self._bias = self._biases(samplings)
        cut = [not g and (0 < s.top_k < vocabulary or s.top_p < 1) for g, s in zip(greedy, samplings, strict=True)]
        self._cut = _Cut(samplings, cut, vocabulary, device) if any(cut) else None
        self._top = min(max(sampling.top_logprobs for sampling in samplings), vocabulary)

    def _biases(self, samplings: Sequence[Sampling]) -> tuple[tuple[Tensor, Tensor], Tensor] | None:
        told = [(row, token, bias) for row, s in enumerate(samplings) for token, bias in s.logit_bias.items()]
        if not told:
            return None
        rows, tokens, biases = zip(*told, strict=True)
        at = torch.tensor(rows, device=self._device), torch.tensor(tokens, device=self._device)
        return at, torch.tensor(biases, dtype=torch.float32, device=self._device)

    def draw(self, logits: Tensor, indices: Sequence[int]) -> Drawn:
        """From logits [N, V]; ``indices`` tell which token of its reply each draws. Waits for the device once."""
        scores = logits.float()
        if self._bias is not None:
            scores = scores.index_put(*self._bias, accumulate=True)
        if self._temperature is not None:
            scores = scores / self._temperature
        logp = torch.log_softmax(scores, dim=-1)
        tokens = self._tokens(logp, indices)
        chosen = logp.gather(1, tokens[:, None])[:, 0]
        parts = [tokens[:, None].double(), chosen[:, None].double()]
        if self._top:
            values, likeliest = logp.topk(self._top)
            parts += [likeliest.double(), values.double()]
        told = torch.cat(parts, dim=1).tolist()
        top = [_pairs(row[2:]) for row in told] if self._top else None
        return Drawn(ids=[int(row[0]) for row in told], logprobs=[row[1] for row in told], top=top)

    def _tokens(self, logp: Tensor, indices: Sequence[int]) -> Tensor:
        if self._all_greedy:
            return logp.argmax(dim=-1)
        chances = logp.double().exp_()
        if self._cut is not None:
            chances = self._cut(chances)
        sums = chances.cumsum(dim=-1)
        points = torch.tensor([uniform(s, i) for s, i in zip(self._seeds, indices, strict=True)], dtype=torch.float64)
        drawn = torch.searchsorted(sums, points.to(self._device)[:, None] * sums[:, -1:], right=True)[:, 0]
        drawn.clamp_(
            max=logp.shape[-1] - 1
        )  # logits that are no numbers have no sum; such a row is told apart by its log-probability
        return drawn if self._greedy is None else torch.where(self._greedy, logp.argmax(dim=-1), drawn)


class _Cut:
    """Takes the tail away from those that ask for it."""

    def __init__(self, samplings: Sequence[Sampling], cut: Sequence[bool], vocabulary: int, device: torch.device) -> None:
        ks = [s.top_k if c and 0 < s.top_k < vocabulary else vocabulary for s, c in zip(samplings, cut, strict=True)]
        ps = [s.top_p if c else 1.0 for s, c in zip(samplings, cut, strict=True)]
        self._k = torch.tensor(ks, device=device)[:, None]
        self._p = torch.tensor(ps, dtype=torch.float64, device=device)[:, None]
        self._whole = self._p >= 1
        self._ranks = torch.arange(vocabulary, device=device)[None]

    def __call__(self, chances: Tensor) -> Tensor:
        """Chances [N, V], zero where they are cut off: of the ``top_k`` likeliest, ``top_p`` of their sum stays."""
        falling, order = chances.sort(dim=-1, descending=True, stable=True)
        falling = falling.masked_fill(self._ranks >= self._k, 0.0)
        before = falling.cumsum(dim=-1) - falling  # of the likelier ones: the first always stays
        falling = falling.masked_fill((before >= self._p * falling.sum(dim=-1, keepdim=True)) & ~self._whole, 0.0)
        return torch.zeros_like(chances).scatter_(1, order, falling)


def _pairs(row: Sequence[float]) -> Top:
    half = len(row) // 2
    return tuple((int(token), logprob) for token, logprob in zip(row[:half], row[half:], strict=True))
