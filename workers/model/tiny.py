"""Makes a Qwen3-VL of one to three million parameters, at random, with a tokenizer of its own.

All of the real thing but its size: transformers and vLLM load the folder as they load the published models. A patch is 7 pixels
and 3 x 3 of them become one token, so a frame of 63 x 63 pixels is 9 tokens, and one patch is one tile of Crafter's picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from app.errors import InvalidInput, UnknownName
from workers.model.geometry import TINY
from workers.model.new import VOCAB, Made, Plan, make

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
) -> Made:
    """Write a new model to ``directory``, whole or not at all, as ``workers.model.new.make`` does.

    ``frame_px`` is the side of the frames it is for; others are read too. Raises InvalidInput and UnknownName.
    """
    plan = plan_tiny(size=size, frame_px=frame_px, patch=patch, merge=merge)
    return make(directory, plan, texts, seed=seed, vocab=vocab, words=words)


def plan_tiny(*, size: str, frame_px: int, patch: int, merge: int) -> Plan:
    """What is to be made. Raises InvalidInput and UnknownName."""
    if size not in TINY:
        raise UnknownName("size of a tiny model", size, TINY)
    for name, value in (("patch", patch), ("merge", merge)):
        if not 1 <= value <= 64:
            raise InvalidInput(f"{name} must be 1 to 64, not {value}")
    step = patch * merge
    if frame_px < step or frame_px % step:
        near = max(step, round(frame_px / step) * step)
        raise InvalidInput(f"frame_px must be a multiple of patch x merge = {step}, such as {near}, not {frame_px}")
    return Plan(
        kind="tiny",
        name=size,
        geometry=replace(TINY[size], patch=patch, merge=merge, positions=frame_px // patch),
        frame_px=frame_px,
        least_px=step,
        most_px=max(MAX_SIDE_PX, frame_px),
    )
