"""What serves a model: the `[vllm]` table, and the spellings of a model in a label.

The table's name is that of the engine it was first written for; synthq's own engine reads the keys that mean something to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Final, Literal

from pydantic import Field

from app.specs.base import Clash, Table
from app.specs.draft import shown

VLLM_ONLY: Final = ("tensor_parallel_size", "gpu_memory_utilization", "enforce_eager")
"""Keys of the table that mean nothing to the `transformers` engine."""

HUB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
ARTIFACT_ID: Final = re.compile(r"art_[0-9a-z]{12}")


def ref_fault(ref: str) -> str | None:
    """Why a text names no model, or None. A folder is named by its whole path, for other processes stand elsewhere."""
    if ref.startswith("/") and "\0" not in ref:
        return None
    if HUB_ID.fullmatch(ref) or ARTIFACT_ID.fullmatch(ref):
        return None
    if ref.startswith((".", "~")):
        return f"{shown(ref)} is a path from somewhere; write the whole path, or submit with --model, which finds it"
    return (
        f"{shown(ref)} is no model: write the whole path of a folder, a hub id such as Qwen/Qwen3-VL-4B-Instruct or the id of an "
        "artifact"
    )


class LimitPerPrompt(Table):
    """Most pictures and videos in one prompt."""

    image: Annotated[int, Field(ge=0, le=64)] = 1
    """Most pictures in one prompt."""
    video: Literal[0] = 0
    """No prompt has videos; room for them would only take memory."""


class VllmTable(Table):
    """How a model is served."""

    tensor_parallel_size: Annotated[int, Field(ge=1, le=64)] = 1
    """GPUs that share one model; vllm only."""
    max_model_len: Annotated[int, Field(ge=64, le=1_048_576)] = 4096
    """Most tokens of a prompt and its reply together; a model that can hold less is served with what it can."""
    limit_mm_per_prompt: LimitPerPrompt = LimitPerPrompt()
    """Most pictures and videos in one prompt."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.85
    """Share of a GPU's memory that the engine takes; vllm only."""
    enable_prefix_caching: bool = True
    """What prompts have in common at their beginning is computed once."""
    max_lora_rank: Annotated[int, Field(ge=1, le=512)] = 64
    """Highest rank of an adapter."""
    max_loras: Annotated[int, Field(ge=1, le=64)] = 4
    """Adapters that are in use at once."""
    max_num_seqs: Annotated[int, Field(ge=1, le=1024)] = 64
    """Prompts that are computed at once."""
    enforce_eager: bool | None = None
    """Whether to do without CUDA graphs; no value: only where there are none. vllm only."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Numbers that the model computes with; auto: float32 on a CPU, else the model's own."""


def too_small(table: VllmTable, *, pictures: int, max_tokens: int, picture_tokens: int = 0) -> Iterator[Clash]:
    """What the table leaves no room for. ``picture_tokens`` is of one picture, 0 where the model's form is not known."""
    limit = table.limit_mm_per_prompt.image
    if pictures > limit:
        yield Clash(
            "vllm.limit_mm_per_prompt.image",
            f"{limit} is below the {pictures} picture{'s' * (pictures != 1)} of every prompt (use_vision); write {pictures}",
        )
    least = pictures * picture_tokens + max_tokens
    if table.max_model_len <= least:
        parts = f"{pictures * picture_tokens} tokens of pictures and " if picture_tokens * pictures else ""
        yield Clash(
            "vllm.max_model_len",
            f"{table.max_model_len} leaves no room for a prompt beside {parts}the {max_tokens} tokens of a reply "
            "(policy_config.max_tokens); raise it or lower the other",
        )
