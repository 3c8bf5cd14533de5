"""The forwards of an engine: prompts into rows, one token more of each row, and the scores of what may come next.

transformers' modules compute; here are only their inputs.
"""

# M prompts, T tokens of the longest, W the model's width, V tokens of the vocabulary, N replies.

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.inference.core.lora import Adapters
from workers.inference.core.prefix import Prefixes
from workers.inference.core.rows import BLOCK, Rows
from workers.inference.core.ticket import Ticket
from workers.model.sights import Sights, key


class Forward:
    """A model and what it remembers of the sequences that run."""

    def __init__(
        self,
        model: Any,
        *,
        max_num_seqs: int,
        max_model_len: int,
        prefix_bytes: int,
        image_cache_bytes: int,
        max_loras: int,
        max_lora_rank: int,
    ) -> None:
        self._text, self._head = model.model.language_model, model.lm_head
        self._embed = self._text.embed_tokens
        self.dtype, self.device = self._embed.weight.dtype, self._embed.weight.device
        self.vocabulary = int(self._head.out_features)
        config = model.config.get_text_config()
        self.rows = Rows(config, most=max_num_seqs, longest=max_model_len, dtype=self.dtype, device=self.device)
        self.prefixes = Prefixes(self.rows, prefix_bytes)
        self.sights = Sights(model, image_cache_bytes)
        self.adapters = Adapters(model, slots=max_loras, rank=max_lora_rank, device=self.device)
        self.seconds: defaultdict[str, float] = defaultdict(float)
        """By phase: vision, prefill, decode, sample."""

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Count the seconds of a block. What a GPU is given to do counts where it is waited for."""
        began = perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += perf_counter() - began

    def forget(self) -> None:
        """Give back the memory of all that may come again."""
        self.prefixes.clear()
        self.sights.cache.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    # -- prompts --------------------------------------------------------------------------------------------------------

    def cached(self, ticket: Ticket) -> int:
        """How many tokens of a prompt need not be computed."""
        return BLOCK * len(self.prefixes.held(ticket.chain))

    def prefill(self, tickets: Sequence[Ticket], first: int) -> Tensor:
        """Compute all that these have so far, into rows ``first`` and following; the states of their last tokens [M, W]."""
        found = [self.prefixes.held(ticket.chain) for ticket in tickets]
        starts = [BLOCK * len(blocks) for blocks in found]
        with self.timed("vision"):
            seen = self._seen(tickets, starts)
        with self.timed("prefill"):
            lengths = [len(ticket.ids) for ticket in tickets]
            # one place more: what pads a shorter prompt is written where its reply's first token will be
            self.rows.reserve(first + len(tickets), max(lengths) + 1)
            self.prefixes.load(first, found)
            ends = self._prompts(tickets, starts, first, seen)
        for ticket, start in zip(tickets, starts, strict=True):
            ticket.prefix_tokens = min(start, ticket.prompt_tokens)
        return ends

    def _prompts(
        self, tickets: Sequence[Ticket], starts: Sequence[int], first: int, seen: tuple[Tensor, NDArray[np.int64]] | None
    ) -> Tensor:
        lengths = np.array([len(ticket.ids) - start for ticket, start in zip(tickets, starts, strict=True)], np.int64)
        longest = int(lengths.max())
        given = np.zeros((4, len(tickets), longest), np.int64)  # tokens, then their places in time, height and width
        for row, (ticket, start) in enumerate(zip(tickets, starts, strict=True)):
            given[0, row, : lengths[row]] = ticket.ids[start:]
            given[1:, row, : lengths[row]] = ticket.positions(start)
        tokens, positions = self._put(given).split((1, 3))
        embeds = self._embed(tokens[0])
        visual: dict[str, Any] = {}
        if seen is not None:
            sights, places = seen[0], self._put(seen[1])
            embeds.view(-1, embeds.shape[-1]).index_copy_(0, places, sights[0])
            mask = torch.zeros(embeds.shape[:2], dtype=torch.bool, device=self.device)
            mask.view(-1)[places] = True
            visual = {"visual_pos_masks": mask, "deepstack_visual_embeds": list(sights[1:])}
        mask_of_rest = None
        if any(starts):
            mask_of_rest = self._after(first, np.array(starts, np.int64), lengths)
        else:
            self.rows.fresh(first, len(tickets))
        self.adapters.select([ticket.served.slot for ticket in tickets])
        states = self._run(embeds, positions, mask_of_rest, **visual)
        last = np.arange(len(tickets)) * longest + lengths - 1
        return states.flatten(0, 1)[self._put(last)]

    def _after(self, first: int, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Tensor:
        """Have the rows take the rest of prompts; the mask of what each of its tokens may see."""
        ends = starts + lengths
        places = starts[:, None] + np.arange(lengths.max())
        self.rows.after(first, self._put(np.minimum(places, ends[:, None])), int(ends.max()))
        alike = places[:1] if (starts == starts[0]).all() else places
        return self._mask(self._put(alike), int(ends.max()))

    def _seen(self, tickets: Sequence[Ticket], starts: Sequence[int]) -> tuple[Tensor, NDArray[np.int64]] | None:
        """What is seen in the pictures after the starts [1 + D, tokens, W], and the places of its tokens in [M, T], flat."""
        longest = max(len(ticket.ids) - start for ticket, start in zip(tickets, starts, strict=True))
        spans = [
            (row * longest - start, max(start, begin), begin, picture)
            for row, (ticket, start) in enumerate(zip(tickets, starts, strict=True))
            for begin, end, picture in ticket.pictures
            if end > start
        ]
        if not spans:
            return None
        sights = self.sights.each(picture for _, _, _, picture in spans)
        parts = [sights[key(picture)][:, since - begin :] for _, since, begin, picture in spans]
        places = [
            np.arange(since, since + part.shape[1]) + offset for (offset, since, _, _), part in zip(spans, parts, strict=True)
        ]
        return torch.cat(parts, dim=1), np.concatenate(places)

    # -- replies --------------------------------------------------------------------------------------------------------

    def decode(self, tickets: Sequence[Ticket]) -> Tensor:
        """Compute the last token of each row, of which there are as many as tickets; their states [N, W]."""
        with self.timed("decode"):
            places = [len(ticket.ids) - 1 for ticket in tickets]
            positions = [place + ticket.delta for place, ticket in zip(places, tickets, strict=True)]
            end = max(places) + 1
            self.rows.reserve(len(tickets), end)
            told = self._put(np.array(([ticket.ids[-1] for ticket in tickets], places, positions)))
            self.rows.one_more(told[1], end)
            # rows of one length see all that there is, which needs no mask
            mask = None if min(places) + 1 == end else self._mask(told[1][:, None], end)
            self.adapters.select([ticket.served.slot for ticket in tickets])
            embeds = self._embed(told[0])[:, None]
            return self._run(embeds, told[2].expand(3, -1)[:, :, None], mask)[:, 0]

    def scores(self, states: Tensor) -> Tensor:
        """Logits [N, V] of states [N, W]."""
        logits: Tensor = self._head(states)
        return logits

    # -- both -----------------------------------------------------------------------------------------------------------

    def _run(self, embeds: Tensor, positions: Tensor, mask: Tensor | None, **visual: Any) -> Tensor:
        states: Tensor = self._text(
            inputs_embeds=embeds, position_ids=positions, attention_mask=mask, past_key_values=self.rows, use_cache=True, **visual
        ).last_hidden_state
        return states

    def _mask(self, places: Tensor, end: int) -> Tensor:
        """[M, 1, T, end] to add to attention: tokens at ``places`` [M, T] see what is not after them."""
        after = torch.arange(end, device=self.device) > places[..., None]
        return torch.zeros(after.shape, dtype=self.dtype, device=self.device).masked_fill_(after, -torch.inf)[:, None]

    def _put(self, array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)
