"""From options to an engine that runs. Brings torch and its kin, so it is imported late."""

from __future__ import annotations

from dataclasses import dataclass

from workers.inference.core import Core
from workers.inference.server.answer import Teller
from workers.inference.server.ask import Reader
from workers.inference.server.options import Options
from workers.model.inputs import Inputs
from workers.model.loading import load
from workers.model.threads import settle


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """An engine, what reads requests for it, and what writes its answers."""

    core: Core
    inputs: Inputs
    reader: Reader
    teller: Teller
    capacity: int
    """Requests that are computed at once."""


def build(options: Options) -> Built:
    """Load the model and start its engine. Raises InvalidInput, Unavailable and their like for what cannot be served."""
    loaded = load(options.model, device=options.device, dtype=options.dtype)
    settle(sum(weight.numel() for weight in loaded.model.parameters()))
    core = Core(
        loaded,
        max_num_seqs=options.max_num_seqs,
        max_model_len=options.max_model_len,
        max_waiting=options.max_waiting,
        prefix_bytes=options.prefix_bytes,
        image_cache_bytes=options.image_cache_bytes,
        max_loras=options.max_loras,
        max_lora_rank=options.max_lora_rank,
    )
    core.start()
    inputs = Inputs(loaded, max_tokens=core.max_model_len)
    return Built(
        core=core,
        inputs=inputs,
        reader=Reader(inputs, vocabulary=loaded.vocab, max_model_len=core.max_model_len, limit_images=options.limit_images),
        teller=Teller(loaded.tokenizer.backend_tokenizer, merge=loaded.merge),
        capacity=options.max_num_seqs,
    )
