"""Makes a model of the size of a published Qwen3-VL, at random: for measuring, and for trying a machine, without its weights.

It computes what the published one computes, as fast and in as much memory; what it says is noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from app.command_line import Tick, no_tick
from app.errors import InvalidInput, UnknownName
from app.geometry import LEAST_PX, MOST_PX, PUBLISHED
from workers.model.new import VOCAB, Made, Plan, make

FRAME_PX: Final = 288
"""Side of the frames that its facts are told for: Crafter's of 144 pixels, drawn twice as large."""


def init_random(
    directory: Path,
    texts: Iterable[str],
    *,
    like: str,
    seed: int = 0,
    layers: int | None = None,
    vocab: int = VOCAB,
    words: Sequence[str] = (),
    tick: Tick = no_tick,
) -> Made:
    """Write a new model like a published one to ``directory``, whole or not at all, as ``workers.model.new.make`` does.

    ``layers`` makes the language model less deep. The weights are bfloat16, in files of 2 GB, of which one is in memory at a
    time. The tokenizer has few tokens; the embedding has as many rows as the published model's. Raises InvalidInput and
    UnknownName.
    """
    return make(directory, plan_random(like=like, layers=layers), texts, seed=seed, vocab=vocab, words=words, tick=tick)


def plan_random(*, like: str, layers: int | None = None) -> Plan:
    """What is to be made. Raises InvalidInput and UnknownName."""
    if like not in PUBLISHED:
        raise UnknownName("published Qwen3-VL", like, PUBLISHED)
    geometry = PUBLISHED[like]
    if layers is not None:
        least = len(geometry.deepstack)
        if not least <= layers <= geometry.layers:
            raise InvalidInput(f"layers must be {least} to {geometry.layers}, not {layers}")
        geometry = replace(geometry, layers=layers)
    return Plan(kind="random", name=like, geometry=geometry, frame_px=FRAME_PX, least_px=LEAST_PX, most_px=MOST_PX)
