"""How wide and deep a Qwen3-VL is, and what follows from that by arithmetic: parameters, an adapter's too, tokens of pictures."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from app.errors import BadModel, cut

TEMPORAL: Final = 2
"""Frames that a patch spans, in every Qwen3-VL."""
COLOURS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The sizes that make up a config."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vision_hidden: int
    vision_depth: int
    vision_heads: int
    vision_intermediate: int
    deepstack: tuple[int, ...]
    """Layers of the vision tower whose features also enter the language model's first layers."""
    patch: int = 16
    """Side of a patch in pixels."""
    merge: int = 2
    """Patches along each side that become one token."""
    positions: int = 48
    """Side of the square of learned positions; those of another grid are interpolated."""
    vocab: int | None = 151_936
    """Rows of the embedding; None: as many as the tokenizer has tokens."""
    tied: bool = True
    """The embedding is the output's weights too."""
    mrope: tuple[int, int, int] = (24, 20, 20)
    """How a head's frequencies are shared out between time, height and width."""
    theta: float = 5_000_000.0
    max_length: int = 262_144
    """Most tokens of a prompt and its reply together."""
    dtype: str = "bfloat16"

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """(in, out) of the linear layers of one layer of the language model, by name in it."""
        return projections(self.hidden, self.heads, self.kv_heads, self.head_dim, self.intermediate)

    @property
    def linear_parameters(self) -> int:
        """Parameters of all linear layers of the language model, but for its output."""
        return self.layers * sum(into * out for into, out in self.projections.values())

    @property
    def parameters(self) -> int:
        """Parameters of the whole model; tied weights once."""
        vocab = self.vocab or 0
        norms = self.layers * (2 * self.hidden + 2 * self.head_dim) + self.hidden
        embeddings = vocab * self.hidden * (1 if self.tied else 2)
        return embeddings + self.linear_parameters + norms + self.vision_parameters

    @property
    def vision_parameters(self) -> int:
        """Parameters of the vision tower, with what leads from it into the language model."""
        wide, inner = self.vision_hidden, self.vision_intermediate
        begin = wide * COLOURS * TEMPORAL * self.patch**2 + wide + self.positions**2 * wide
        block = 4 * wide + _linear(wide, 3 * wide) + _linear(wide, wide) + _linear(wide, inner) + _linear(inner, wide)
        joined = wide * self.merge**2
        leave = _linear(joined, joined) + _linear(joined, self.hidden)
        return begin + self.vision_depth * block + 2 * wide + leave + len(self.deepstack) * (2 * joined + leave)

    @property
    def tensors(self) -> int:
        """Tensors that its parameters are in."""
        language = 1 + self.layers * (len(self.projections) + 4) + 1 + (not self.tied)
        return language + 3 + self.vision_depth * 12 + (1 + len(self.deepstack)) * 6

    def adapter(self, rank: int, layers: Collection[str], depths: Collection[int] | None = None) -> tuple[int, int]:
        """Parameters and tensors of a LoRA adapter of a rank on layers of those names (``q_proj``), at these depths or all."""
        sizes = [size for name, size in self.projections.items() if name.rpartition(".")[2] in layers]
        deep = self.layers if depths is None else len({depth % self.layers for depth in depths})
        return deep * rank * sum(map(sum, sizes)), 2 * deep * len(sizes)

    def kv_bytes(self, width: int) -> int:
        """What keys and values of one token take, in numbers of so many bytes."""
        return 2 * self.layers * self.kv_heads * self.head_dim * width


def projections(hidden: int, heads: int, kv_heads: int, head_dim: int, intermediate: int) -> dict[str, tuple[int, int]]:
    """(in, out) of the linear layers of one layer of a language model, by name in it."""
    asked, kept = heads * head_dim, kv_heads * head_dim
    return {
        "self_attn.q_proj": (hidden, asked),
        "self_attn.k_proj": (hidden, kept),
        "self_attn.v_proj": (hidden, kept),
        "self_attn.o_proj": (asked, hidden),
        "mlp.gate_proj": (hidden, intermediate),
        "mlp.up_proj": (hidden, intermediate),
        "mlp.down_proj": (intermediate, hidden),
    }


def _linear(into: int, out: int) -> int:
    """Parameters of a linear layer with a bias."""
    return into * out + out


def read_size(width: int, height: int, *, step: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """(width, height) in pixels at which a picture is read: a whole number of tokens of ``step`` pixels along each side."""
    wide, high = round(width / step) * step, round(height / step) * step
    if wide * high > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        high = max(step, math.floor(height / shrink / step) * step)
        wide = max(step, math.floor(width / shrink / step) * step)
    elif wide * high < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        high, wide = math.ceil(height * grow / step) * step, math.ceil(width * grow / step) * step
    return wide, high


def geometry_of(config: Mapping[str, Any], where: str) -> Geometry:
    """The sizes that a ``config.json`` of a Qwen3-VL tells. Raises BadModel, with ``where`` it was read."""
    text, vision = _table(config, "text_config", where), _table(config, "vision_config", where)
    hidden, heads = _number(text, "hidden_size", where), _number(text, "num_attention_heads", where)
    deep = vision.get("deepstack_visual_indexes")
    return Geometry(
        hidden=hidden,
        layers=_number(text, "num_hidden_layers", where),
        heads=heads,
        kv_heads=_number(text, "num_key_value_heads", where),
        head_dim=_number(text, "head_dim", where) if text.get("head_dim") is not None else hidden // heads,
        intermediate=_number(text, "intermediate_size", where),
        vision_hidden=_number(vision, "hidden_size", where),
        vision_depth=_number(vision, "depth", where),
        vision_heads=_number(vision, "num_heads", where),
        vision_intermediate=_number(vision, "intermediate_size", where),
        deepstack=tuple(deep) if isinstance(deep, list) else (),
        patch=_number(vision, "patch_size", where),
        merge=_number(vision, "spatial_merge_size", where),
        positions=math.isqrt(_number(vision, "num_position_embeddings", where)),
        vocab=_number(text, "vocab_size", where),
        tied=bool(config.get("tie_word_embeddings")),
        max_length=_number(text, "max_position_embeddings", where),
        dtype=str(config.get("dtype") or text.get("dtype") or config.get("torch_dtype") or "bfloat16"),
    )


def _table(config: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    found = config.get(key)
    if not isinstance(found, dict):
        raise BadModel(f"{where} has no {key}, which a Qwen3-VL has")
    return found


def _number(table: Mapping[str, Any], key: str, where: str) -> int:
    found = table.get(key)
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise BadModel(f"{where}: {key} must be a whole number above 0, not {cut(str(found))}")
    return found


# -- the models that Qwen has published --------------------------------------------------------------------------------------

_SMALL_TOWER: Final[dict[str, Any]] = {
    "vision_hidden": 1024,
    "vision_depth": 24,
    "vision_heads": 16,
    "vision_intermediate": 4096,
    "deepstack": (5, 11, 17),
}
_LARGE_TOWER: Final[dict[str, Any]] = {
    "vision_hidden": 1152,
    "vision_depth": 27,
    "vision_heads": 16,
    "vision_intermediate": 4304,
    "deepstack": (8, 16, 24),
}


def _published(tower: dict[str, Any], hidden: int, layers: int, heads: int, intermediate: int, *, tied: bool) -> Geometry:
    return Geometry(
        hidden=hidden, layers=layers, heads=heads, kv_heads=8, head_dim=128, intermediate=intermediate, tied=tied, **tower
    )


PUBLISHED: Final = {
    "qwen3-vl-2b": _published(_SMALL_TOWER, 2048, 28, 16, 6144, tied=True),
    "qwen3-vl-4b": _published(_SMALL_TOWER, 2560, 36, 32, 9728, tied=True),
    "qwen3-vl-8b": _published(_LARGE_TOWER, 4096, 36, 32, 12_288, tied=False),
    "qwen3-vl-32b": _published(_LARGE_TOWER, 5120, 64, 64, 25_600, tied=False),
}
"""The dense models that Qwen has published."""
LEAST_PX: Final = 256
MOST_PX: Final = 4096
"""Sides of the squares whose area they enlarge pictures to, and shrink them to."""
