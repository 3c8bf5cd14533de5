"""What a learner is made with. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from app.errors import InvalidInput, UnknownName

Mode = Literal["lora", "full", "qlora"]
Schedule = Literal["constant", "linear", "cosine"]
Sharding = Literal["none", "fsdp"]

MODES: Final = ("lora", "full", "qlora")
SCHEDULES: Final = ("constant", "linear", "cosine")
SHARDINGS: Final = ("none", "fsdp")
DTYPES: Final = ("auto", "float32", "bfloat16")
ALL_LINEAR: Final = "all-linear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """An adapter that is to be trained: each layer's output becomes ``W x + alpha / r * B (A x)``."""

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    """Share of a layer's inputs that its A does not see in a pass."""
    target_modules: str | tuple[str, ...] = ALL_LINEAR
    """``all-linear``: q, k, v, o, gate, up and down of every layer of the language model; or names of some of these; or one
    regular expression that whole names of modules match. The vision tower is never changed by an adapter."""
    layers_to_transform: tuple[int, ...] | None = None
    """Of these, only those in layers with these indices, which may count from the end; None: in all."""

    def __post_init__(self) -> None:
        if self.r < 1:
            raise InvalidInput(f"r must be a whole number above 0, not {self.r}")
        if not self.alpha > 0:
            raise InvalidInput(f"alpha must be above 0, not {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise InvalidInput(f"dropout must be 0 or more and below 1, not {self.dropout}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is trained, how, and how far. Two learners of equal settings that take the same steps are the same."""

    base: str
    """Folder or hub id of the model."""
    mode: Mode = "lora"
    """``lora``: an adapter beside the weights, which stay as they are; ``qlora``: the same beside weights of 4 bits; ``full``:
    every weight, the vision tower's too."""
    lora: Lora = field(default_factory=Lora)
    """Of the adapter; not looked at in mode ``full``."""
    adapter: str = ""
    """Folder of an adapter to begin from; its rank, scale and targets are taken, and the dropout of ``lora``."""
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    """Share of each weight that is taken away in a step, times the learning rate; norms and biases keep theirs."""
    warmup_steps: int = 0
    """Optimizer steps over which the learning rate rises to its height in equal parts."""
    total_steps: int = 0
    """Optimizer steps over which it falls to 0 in ``linear`` and ``cosine``; 0: it does not fall."""
    schedule: Schedule = "constant"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    max_grad_norm: float = 1.0
    """Longer gradients are shortened to this length; 0: none is."""
    gradient_checkpointing: bool = False
    """Compute each layer a second time on the way back, instead of holding what it computed the first time."""
    dtype: str = "auto"
    """What is computed in: auto (float32 on a CPU, on a GPU the model's own), float32 or bfloat16. Weights that are trained are
    float32 always."""
    device: str = "auto"
    sharding: Sharding = "none"
    """Where several processes train together: ``none``: each holds the whole model; ``fsdp``: each holds a part of every weight,
    and of what the optimizer keeps of it. An adapter, and a vision tower that does not train, each holds whole."""
    seed: int = 0
    """Of an adapter's start and of dropout."""
    tokens_per_pass: int = 8192
    """Most tokens, padding counted, that go through the model together; one longer sample goes alone. Loss and gradient are the
    same whatever it is; a CPU takes fewer where more would be slower."""
    picture_cache_bytes: int = 512 * 1024**2
    """What may be held of pictures that a frozen vision tower has seen."""
    trunk_cache_bytes: int = 512 * 1024**2
    """What may be held of samples as the layers below the lowest one that learns left them."""

    def __post_init__(self) -> None:
        for what, name, known in (
            ("trainer mode", self.mode, MODES),
            ("schedule", self.schedule, SCHEDULES),
            ("sharding", self.sharding, SHARDINGS),
            ("dtype to train in", self.dtype, DTYPES),
        ):
            if name not in known:
                raise UnknownName(what, name, known)
        if not self.learning_rate > 0:
            raise InvalidInput(f"learning_rate must be above 0, not {self.learning_rate}")
        if self.weight_decay < 0 or self.max_grad_norm < 0 or not self.eps > 0:
            raise InvalidInput(
                f"weight_decay and max_grad_norm must be 0 or more and eps above 0, not {self.weight_decay}, "
                f"{self.max_grad_norm} and {self.eps}"
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise InvalidInput(f"betas must be two numbers, 0 or more and below 1, not {self.betas}")
        if self.warmup_steps < 0 or self.total_steps < 0:
            raise InvalidInput(f"warmup_steps and total_steps must be 0 or more, not {self.warmup_steps}, {self.total_steps}")
        if self.tokens_per_pass < 1:
            raise InvalidInput(f"tokens_per_pass must be 1 or more, not {self.tokens_per_pass}")
        if self.sharding == "fsdp" and self.mode == "qlora":
            raise InvalidInput(
                "sharding 'fsdp' cannot deal out weights of 4 bits (mode 'qlora'); take 'lora' with it, or sharding 'none'"
            )
        if self.adapter and self.mode == "full":
            raise InvalidInput(f"adapter is {self.adapter!r}, and mode 'full' trains the model itself; begin from a whole model")
