"""From a spec to what a learner is made with, and what could not be had here."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from app.specs.sft import SftSpec, SftTable
from app.specs.training import ALL_LINEAR, Sharding
from workers.trainer import precision
from workers.trainer.learner import Lora, Settings
from workers.trainer.learner.prepare import no_qlora


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a job is trained here."""

    settings: Settings
    steps: int
    """Steps of the optimizer in all, unless it stops early."""
    per_epoch: int
    """Steps in an epoch; its last may have fewer samples."""
    substituted: tuple[str, ...] = ()
    """What was asked for and is not here, and what is done in place of it."""


def plan(spec: SftSpec, *, base: str, adapter: str, samples: int, processes: int) -> Plan:
    """How to train on so many samples, in so many processes."""
    table, on_gpu = spec.sft, torch.cuda.is_available()
    mode, substituted = table.mode, list(_hardware(spec, processes))
    if mode == "qlora" and (lacks := no_qlora()):
        mode = "lora"
        substituted.append(f"trainer_mode is lora: {lacks}; the base is kept in its own precision")
    substituted += precision.substituted(table.bf16)
    sharding, without = _sharding(table, mode, processes)
    substituted += without
    total = table.steps(samples)
    settings = Settings(
        base=base,
        mode=mode,
        lora=Lora(
            r=spec.lora.r,
            alpha=spec.lora.alpha,
            dropout=spec.lora.dropout,
            target_modules=ALL_LINEAR if ALL_LINEAR in spec.lora.target_modules else spec.lora.target_modules,
            layers_to_transform=spec.lora.layers_to_transform,
        ),
        adapter=adapter,
        learning_rate=table.learning_rate,
        weight_decay=table.weight_decay,
        warmup_steps=math.ceil(table.warmup_ratio * total),
        total_steps=total,
        schedule=table.schedule,
        betas=(table.adam_beta1, table.adam_beta2),
        eps=table.adam_eps,
        max_grad_norm=table.max_grad_norm,
        gradient_checkpointing=on_gpu if table.gradient_checkpointing is None else table.gradient_checkpointing,
        dtype=precision.dtype_of(table.bf16),
        sharding=sharding,
        seed=table.seed,
        tokens_per_pass=min(table.tokens_per_pass, table.batch_size * table.sequence_length),
    )
    return Plan(
        settings=settings,
        steps=total,
        per_epoch=-(-samples // table.samples_per_step),
        substituted=tuple(substituted),
    )


def _sharding(table: SftTable, mode: str, processes: int) -> tuple[Sharding, list[str]]:
    """How the model is held, and what is said of that: a key of ``parallelism`` is a wish, ``sharding`` is not."""
    asks = table.parallelism.asks_for_shards
    if table.sharding is not None or asks is None:
        return table.sharding or "none", []
    if processes > 1 and mode != "qlora":
        return "fsdp", []
    why = "weights of 4 bits cannot be dealt out" if mode == "qlora" else "it trains on one device"
    return "none", [f"sharding is none: {why}; parallelism.{asks} was asked for"]


def _hardware(spec: SftSpec, processes: int) -> list[str]:
    """Where the hardware is not what the spec asks for."""
    found, asked = torch.cuda.device_count(), spec.compute
    said = []
    if asked.gpu_count is not None and asked.gpu_count * (asked.nodes or 1) != (processes if found else 0):
        used = f"{processes} of {found} GPUs" if found else f"the CPU, in {processes} process{'es' * (processes != 1)}"
        said.append(f"it trains on {used}; compute.gpu_count = {asked.gpu_count} was asked for")
    if asked.gpu_type is not None and found and asked.gpu_type.lower() not in torch.cuda.get_device_name().lower():
        said.append(f"it trains on {torch.cuda.get_device_name()}; compute.gpu_type = {asked.gpu_type!r} was asked for")
    return said
