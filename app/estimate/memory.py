"""What a training, and the serving beside it, takes of memory: by arithmetic from the sizes of the model.

What is counted exactly: weights, adapter, gradients, what the optimizer remembers, keys and values. What a pass computes is a sum
over what the layers keep for the way back, and a bound rather than a forecast: it is of a pass that is as full as it may be. The
program itself (Python, torch, a GPU's libraries) is not in it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from app.geometry import COLOURS, TEMPORAL, Geometry
from app.specs.training import TrainerMode

Device = Literal["cpu", "gpu"]
BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
FULL: Final = 4
"""Bytes of a number that trains, of its gradient, and of each of the two that AdamW remembers of it."""
STEP_BYTES: Final = 4
"""What AdamW remembers besides, for each tensor."""
NF4: Final = 0.5 + 4 / 64
"""Bytes of a weight in 4 bits: half a byte, and a float32 for each 64 of them."""
PASS_ON_CPU: Final = 2560
"""Most tokens of a pass on a CPU; held equal to the learner's by a test."""
LOGITS: Final = 1 << 27
"""Numbers of logits that are computed at once; as above."""
PATCHES: Final = 16_384
"""Patches that go through the vision tower at once; as above."""
SIGHTS_BYTES: Final = 512 * 1024**2
"""What is kept at the most of pictures that a tower which does not learn has seen; as above."""
TRUNK_BYTES: Final = 512 * 1024**2
"""What is kept at the most of samples as layers left them that do not learn; as above."""
PREFIX_BYTES: Final = 512 * 1024**2
IMAGES_BYTES: Final = 256 * 1024**2
"""What the transformers engine keeps at the most of prompts' beginnings and of pictures; as above, of its server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing that takes memory."""

    name: str
    bytes: int
    most: bool = False
    """It is a bound, which need not be reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What of a training decides how much memory it takes."""

    mode: TrainerMode
    rank: int
    layers: Collection[str]
    """Names of the layers with an adapter."""
    depths: Collection[int] | None = None
    """Which layers of the depth; None: all."""
    tokens: int
    """Most tokens of a pass."""
    sample_tokens: int
    """Of all samples together, at the most."""
    pictures: int
    """Pictures that samples show, each counted once, at the most."""
    picture_tokens: int
    """Of one, at the most."""
    read_bytes: int
    """What is kept at the most of pictures and samples as they were read, in the memory of the machine."""
    dropout: bool
    checkpointing: bool | None
    """None: on a GPU alone."""
    bf16: bool | None
    processes: int = 1
    """That share the passes of a step, each on a device of its own."""
    dealt_out: bool = False
    """Each of them holds a part of every weight (``sharding = "fsdp"``), and not all of it."""


def held_in(geometry: Geometry, asked: bool | None, device: Device, mode: TrainerMode) -> int:
    """Bytes of a number of the base."""
    if mode == "full" or device == "cpu":
        return FULL
    if mode == "qlora":
        return FULL if asked is False else BYTES["bfloat16"]
    return FULL if asked is False else BYTES["bfloat16"] if asked else BYTES.get(geometry.dtype, 2)


def trainer(geometry: Geometry, what: Trained, device: Device) -> list[Part]:
    """What each process of the trainer holds, on a CPU or on one GPU."""
    width = held_in(geometry, what.bf16, device, what.mode)
    count, tensors = geometry.adapter(what.rank, what.layers, what.depths)
    if what.mode == "full":
        count, tensors = geometry.parameters, geometry.tensors
    weights = geometry.parameters * width
    if what.mode == "qlora" and device == "gpu":
        weights = round((geometry.parameters - geometry.linear_parameters) * width + geometry.linear_parameters * NF4)
    if what.dealt_out and what.processes > 1:
        return _dealt_out(geometry, what, device, weights)
    adapter = [] if what.mode == "full" else [Part(name="adapter", bytes=count * FULL)]
    return [
        Part(name="weights", bytes=weights),
        *adapter,
        Part(name="gradients", bytes=count * FULL),
        Part(name="optimizer", bytes=2 * count * FULL + tensors * STEP_BYTES),
        Part(name=f"a pass of {_pass(what, device):,} tokens", bytes=_activations(geometry, what, device), most=True),
        *_trunk(geometry, what, width),
        *_pictures(geometry, what, width, device),
    ]


def _dealt_out(geometry: Geometry, what: Trained, device: Device, weights: int) -> list[Part]:
    """What each process holds of weights that are dealt out: an adapter, and the tower beside one, are whole on each."""
    width, n = weights / geometry.parameters, what.processes
    full = what.mode == "full"
    count, tensors = geometry.adapter(what.rank, what.layers, what.depths)
    whole = 0 if full else round(geometry.vision_parameters * width)
    if full:
        count, tensors = -(-geometry.parameters // n), geometry.tensors
    layer = geometry.linear_parameters // geometry.layers
    embedding = (geometry.vocab or 0) * geometry.hidden
    return [
        Part(name=f"1 of {n} parts of the weights", bytes=-(-(weights - whole) // n)),
        *([] if full else [Part(name="vision tower", bytes=whole), Part(name="adapter", bytes=count * FULL)]),
        Part(name="gradients", bytes=count * FULL),
        Part(name="optimizer", bytes=2 * count * FULL + tensors * STEP_BYTES),
        Part(name="layers that are gathered", bytes=round(max(2 * layer, embedding) * width), most=True),
        Part(name=f"a pass of {_pass(what, device):,} tokens", bytes=_activations(geometry, what, device), most=True),
        *_pictures(geometry, what, held_in(geometry, what.bf16, device, what.mode), device),
    ]


def _trunk(geometry: Geometry, what: Trained, width: int) -> Iterator[Part]:
    """What is kept of samples where the lowest layers have no adapter, and the tower adds nothing above them."""
    lowest = min(depth % geometry.layers for depth in what.depths) if what.depths else 0
    if what.mode != "full" and lowest > 0 and lowest >= len(geometry.deepstack):
        seen = what.sample_tokens * geometry.hidden * width
        yield Part(name="samples as frozen layers left them", bytes=min(TRUNK_BYTES, seen), most=True)


def _pictures(geometry: Geometry, what: Trained, width: int, device: Device) -> Iterator[Part]:
    """What is kept of pictures: as they were read, and as a tower that does not learn has seen them."""
    g, tokens = geometry, what.pictures * what.picture_tokens
    if not tokens:
        return
    if what.mode != "full":
        seen = tokens * g.hidden * (1 + len(g.deepstack)) * width
        yield Part(name="pictures seen", bytes=min(SIGHTS_BYTES, seen), most=True)
    if device == "cpu":
        read = tokens * g.merge**2 * COLOURS * TEMPORAL * g.patch**2 * FULL
        yield Part(name="pictures read", bytes=min(what.read_bytes, read), most=True)


def _pass(what: Trained, device: Device) -> int:
    return min(what.tokens, PASS_ON_CPU) if device == "cpu" else what.tokens


def _activations(geometry: Geometry, what: Trained, device: Device) -> int:
    """What a full pass keeps for the way back, and computes beside it."""
    tokens, g = _pass(what, device), geometry
    small = FULL if device == "cpu" or what.bf16 is False or g.dtype == "float32" else BYTES["bfloat16"]
    asked, kept = g.heads * g.head_dim, g.kv_heads * g.head_dim
    # norms keep float32; attention keeps queries, keys, values and what it found, before and after norm and turn
    layer = 2 * g.hidden * FULL + (2 * g.hidden + 6 * asked + 3 * kept + 4 * g.intermediate) * small
    if what.mode != "full":  # an adapter keeps what it is given in its own precision, and with dropout a copy for each layer
        given = [into for name, (into, _) in g.projections.items() if name.rpartition(".")[2] in what.layers]
        layer += sum(given) * (2 * FULL if what.dropout else 0) + (0 if small == FULL else sum(set(given)) * FULL)
    again = device == "gpu" if what.checkpointing is None else what.checkpointing
    kept_of_layers = g.layers * g.hidden * small + layer if again else g.layers * layer
    logits = min(tokens * (g.vocab or 0), LOGITS) * FULL * 4  # they, their logarithms, and the gradients of both
    return round(tokens * kept_of_layers + logits + _tower(geometry, what, tokens, small, again))


def _tower(geometry: Geometry, what: Trained, tokens: int, small: int, again: bool) -> int:
    """What the vision tower computes, and keeps where it learns."""
    if not what.pictures:
        return 0
    g, patches = geometry, min(PATCHES, tokens * geometry.merge**2)
    begin = COLOURS * TEMPORAL * g.patch**2 * FULL
    block = (8 * g.vision_hidden + 2 * g.vision_intermediate) * small
    layers = g.vision_depth if what.mode == "full" and not again else 1
    return patches * (begin + layers * block)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What of a spec decides how much memory its engine takes."""

    dtype: str
    sequences: int
    """Most that are computed at once."""
    tokens: int
    """Most of a prompt and its reply."""
    loras: int
    lora_rank: int
    prefixes: bool
    sees: bool


def engine(geometry: Geometry, what: Served, device: Device) -> list[Part]:
    """What synthq's own engine holds beside the program."""
    g = geometry
    own = FULL if device == "cpu" else BYTES.get(g.dtype, 2)
    width = own if what.dtype == "auto" else BYTES[what.dtype]
    names = [name.rpartition(".")[2] for name in g.projections]
    slots = what.loras * g.adapter(what.lora_rank, names)[0] * width
    token = g.kv_bytes(width)
    return [
        Part(name="weights", bytes=g.parameters * width),
        Part(name=f"room for {what.loras} adapters of rank {what.lora_rank}", bytes=slots),
        Part(
            name=f"KV of {what.sequences:,} sequences of {what.tokens:,} tokens ({token:,} bytes each)",
            bytes=what.sequences * what.tokens * token,
            most=True,
        ),
        *([Part(name="prefixes", bytes=PREFIX_BYTES, most=True)] if what.prefixes else []),
        *([Part(name="pictures", bytes=IMAGES_BYTES, most=True)] if what.sees else []),
    ]


def total(parts: Sequence[Part], *, most: bool = True) -> int:
    """All together; without ``most`` what is counted exactly."""
    return sum(part.bytes for part in parts if most or not part.most)
