"""Makes a Qwen3-VL of one to three million parameters, at random, with a tokenizer of its own.

All of the real thing but its size: transformers and vLLM load the folder as they load the published models. A patch is 7 pixels
and 3 x 3 of them become one token, so a frame of 63 x 63 pixels is 9 tokens, and one patch is one tile of Crafter's picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from app.command_line import no_tick
from app.errors import InvalidInput, UnknownName
from workers.model.geometry import TINY
from workers.model.new import VOCAB, Made, Plan, make
from workers.model.start import Tick

MAX_SIDE_PX: Final = 504
"""A square picture up to this side keeps its size; a larger one is shrunk."""


def init_tiny(
    directory: Path,
    texts: Iterable[str],
    *,
    seed: int = 0,
    size: str = "1m",
    frame_px: int = 63,
    patch: int = 7,
    merge: int = 3,
    vocab: int = VOCAB,
    words: Sequence[str] = (),
    tick: Tick = no_tick,
) -> Made:
    """Write a new model to ``directory``, whole or not at all.

    ``texts`` are what the tokenizer is trained on: prompts and replies as the chat template renders them. ``words`` become
    one token each. ``frame_px`` is the side of the frames it is for; others are read too. The same arguments give the same
    ``model.safetensors`` and ``tokenizer.json``, byte for byte. Raises InvalidInput and UnknownName.
    """
    if size not in TINY:
        raise UnknownName("size of a tiny model", size, TINY)
    for name, value in (("patch", patch), ("merge", merge)):
        if not 1 <= value <= 64:
            raise InvalidInput(f"{name} must be 1 to 64, not {value}")
    step = patch * merge
    if frame_px < step or frame_px % step:
        near = max(step, round(frame_px / step) * step)
        raise InvalidInput(f"frame_px must be a multiple of patch x merge = {step}, such as {near}, not {frame_px}")
    plan = Plan(
        kind="tiny",
        name=size,
        geometry=replace(TINY[size], patch=patch, merge=merge, positions=frame_px // patch),
        frame_px=frame_px,
        least_px=step,
        most_px=max(MAX_SIDE_PX, frame_px),
    )
    return make(directory, plan, texts, seed=seed, vocab=vocab, words=words, tick=tick)
