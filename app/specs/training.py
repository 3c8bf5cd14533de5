"""Tables and keys that every kind of job has which trains a model: what is trained of it, with what steps, and who is told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from app.errors import did_you_mean
from app.specs.base import NAME, Clash, Table, Word, listed
from app.specs.draft import shown

TrainerMode = Literal["lora", "full", "qlora"]
"""What is trained: an adapter, the whole model, or an adapter on a base that is kept in 4 bits."""
Sharding = Literal["none", "fsdp"]
"""How several GPUs hold a model that trains: each all of it, or each a part of every weight."""
FOUR_BITS: Final = "is for weights that can be dealt out, and those of 4 bits (qlora) cannot; train lora with it"

ALL_LINEAR: Final = "all-linear"
LANGUAGE: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of the language model, which are those that engines serve with adapters."""
_VISION: Final = re.compile(r"visual|vision|patch_embed|pos_embed|merger|qkv|linear_fc|^(attn\.)?proj$")
"""Found in the names of layers in the vision tower, and in no others."""

Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Module = Literal["all-linear", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def _modules(value: Any) -> Any:
    """Names of layers of the language model. Raises ValueError for one that is elsewhere, with the reason."""
    value = listed(value)
    for name in value if isinstance(value, list | tuple) else ():
        if not isinstance(name, str) or name in (ALL_LINEAR, *LANGUAGE):
            continue
        if _VISION.search(name):
            raise ValueError(
                f"{shown(name)} is in the vision tower, which engines serve without adapters, so what it learnt would be lost "
                f'in play; write "{ALL_LINEAR}" or some of {", ".join(LANGUAGE)}'
            )
        raise ValueError(
            f"{shown(name)} is no linear layer of the language model{did_you_mean(name, LANGUAGE)} "
            f'(known: "{ALL_LINEAR}", or some of {", ".join(LANGUAGE)})'
        )
    return value


Modules = Annotated[
    tuple[Module, ...],
    Field(strict=False, min_length=1, max_length=len(LANGUAGE)),
    BeforeValidator(_modules, json_schema_input_type=Module | list[Module]),
]


Depths = Annotated[
    tuple[Annotated[int, Field(ge=-1000, le=999)], ...], Field(strict=False, min_length=1, max_length=1000, examples=[[-1]])
]


class LoraTable(Table):
    """The adapter that is trained, with `trainer_mode` `lora` or `qlora`."""

    r: Annotated[int, Field(ge=1, le=512)] = 16
    """Rank of its matrices."""
    alpha: Annotated[float, Field(gt=0, le=4096)] = 32.0
    """What it adds is multiplied by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of a layer's inputs that it does not see in a training step."""
    target_modules: Modules = (ALL_LINEAR,)
    """Layers that it changes: `all-linear`, which is every linear layer of the language model, or some of those by name. The
    vision tower stays as it is: engines serve it without adapters."""

    layers_to_transform: Depths | None = None
    """Which of the language model's layers it changes, counted from 0, or with a minus from the end: `[-1]` is the last alone. No
    value: all. Few late layers train faster, and have fewer ways to follow chance."""

    def checks(self) -> Iterator[Clash]:
        if ALL_LINEAR in self.target_modules and len(self.target_modules) > 1:
            yield Clash("target_modules", f'"{ALL_LINEAR}" has the others in it; write it alone, or leave it out')
        twice = next((name for name in self.target_modules if self.target_modules.count(name) > 1), None)
        if twice is not None and twice != ALL_LINEAR:
            yield Clash("target_modules", f"{shown(twice)} is there twice; name each layer once")
        places = self.layers_to_transform or ()
        again = next((place for place in places if places.count(place) > 1), None)
        if again is not None:
            yield Clash("layers_to_transform", f"{again} is there twice; name each layer once")

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, `all-linear` written out."""
        return LANGUAGE if ALL_LINEAR in self.target_modules else self.target_modules


class OptimKeys(Table):
    """How the optimizer (AdamW) steps, and what a step may take. The base of a kind's own table of training."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    """Size of a step, after the warm-up."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How that size goes on after the warm-up: as it is, or down to 0 at the last step along a line or half a wave."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of all steps in which the size grows from 0 to `learning_rate`."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How much a step shrinks the weights, in parts of `learning_rate`."""
    max_grad_norm: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """A longer gradient is cut to this length."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """How slowly the mean of the gradients follows them."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """How slowly the mean of their squares follows them."""
    adam_eps: Annotated[float, Field(gt=0, le=1e-2)] = 1e-8
    """Added to the root of that mean, which it is divided by."""
    gradient_checkpointing: bool | None = None
    """Compute a layer's inner values a second time in place of keeping them: less memory, more time. No value: on a GPU alone."""
    bf16: bool | None = None
    """Compute in bfloat16; false: in float32. No value: as the model's own weights are on a GPU. On a CPU it is float32."""
    tokens_per_pass: Annotated[int, Field(ge=64, le=1_048_576)] = 8192
    """Most tokens, with those that only fill up, that go through the model at once. It changes memory and speed, not what is
    learnt; a longer sample goes alone."""
    sharding: Sharding | None = None
    """How a trainer of several GPUs (`SYNTHQ_TRAINER_DEVICES`) holds the model: `none`: each GPU all of it; `fsdp`: each a part
    of every weight, of its gradient and of what the optimizer keeps of it, so that a model trains that is too large for one.
    It is refused on one GPU and for `qlora`. No value: `none`."""
    seed: Seed = 0
    """Keys the adapter's first weights, its dropout and the order of the samples."""


class LoggersTable(Table):
    """Who else is told the figures of the training, beside the store, which always is."""

    tensorboard: bool = False
    """Files of TensorBoard, in `loggers/tensorboard/PROJECT` of the home of the trainer, where each job is a run."""
    wandb: bool = False
    """Weights & Biases, where its package is installed; the key is the environment's (`WANDB_API_KEY`)."""
    mlflow: bool = False
    """MLflow, where its package is installed; the address is the environment's (`MLFLOW_TRACKING_URI`), else the file
    `loggers/mlflow.db` of that home."""
    trackio: bool = False
    """Trackio, where its package is installed."""
    project: Annotated[str, StringConstraints(pattern=NAME)] = "synthq"
    """The project, or experiment, that the job's figures are a run of."""

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are switched on."""
        return tuple(name for name in ("tensorboard", "wandb", "mlflow", "trackio") if getattr(self, name))


class ComputeTable(Table):
    """What hardware is asked for. The job runs on what the trainer has; where that differs, the job's events say so."""

    gpu_type: Word | None = None
    """Kind of GPU, such as `H200`."""
    gpu_count: Annotated[int, Field(ge=0, le=1024)] | None = None
    """How many GPUs."""
    nodes: Annotated[int, Field(ge=1, le=128)] | None = None
    """On how many machines."""
