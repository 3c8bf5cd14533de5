"""What an rl job's spec says to the trainer. The one place that reads it here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch

from app.specs.crafter import CrafterConfig
from app.specs.dagger import DaggerTable
from app.specs.rl import RlSpec
from workers.trainer.learner.settings import Lora, Settings
from workers.trainer.objective import advantages, losses
from workers.trainer.precision import dtype_of

TILES: Final = 9
"""Tiles along a side of Crafter's picture, for the upscale; held equal to the environment's by a test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """How the job's episodes were played, as far as a sample shows it."""

    split: str
    """Of the episodes that are learnt from."""
    reward: str
    """Name of the reward that counts."""
    temperature: float
    upscale_to: int | None
    """Side in pixels of the pictures that the model was sent; None: as stored."""
    staleness: int
    """Updates that a sample may be old."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """When something looks wrong."""

    parity_warn: float
    parity_stop: float
    """Distances (KL, in nats by token) between sampler and trainer."""
    blank_every: int
    """Iterations between two checks with blank pictures; 0: never."""
    min_entropy: float | None
    max_kl: float | None
    max_invalid_share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Imitate:
    """How the expert is imitated."""

    table: DaggerTable
    max_tokens: int
    """Most that a reply may have in play."""
    max_actions: int
    """Most that a reply may hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What an update does."""

    play: Play
    imitate: Imitate
    gates: Gates
    estimator: str
    value_updates: int
    """Updates whose play values are fitted to, this one among them."""
    advantages: advantages.Options
    loss: str
    losses: losses.Options
    seed: int
    """Keys the order of the samples."""
    passes: int
    """How often each sample is learnt from."""
    step_episodes: int
    """Episodes of an optimizer step."""
    batch_episodes: int
    """Episodes that are computed together."""
    keep: int
    """Newest checkpoints that stay."""

    @classmethod
    def of(cls, spec: RlSpec) -> Options:
        """The options of a job."""
        algorithm, training, gates = spec.algorithm, spec.training, spec.gates
        return cls(
            play=_play(spec),
            imitate=_imitate(spec),
            gates=Gates(
                parity_warn=gates.parity_warn,
                parity_stop=gates.parity_stop,
                blank_every=gates.blank_frames_every if spec.rollout.policy_config.use_vision else 0,
                min_entropy=gates.min_entropy,
                max_kl=gates.max_kl,
                max_invalid_share=gates.max_invalid_share,
            ),
            estimator=algorithm.estimator,
            value_updates=algorithm.value_updates,
            advantages=advantages.Options(
                discount=algorithm.discount, least_spread=algorithm.least_spread, gae_lambda=algorithm.gae_lambda
            ),
            loss=algorithm.loss,
            losses=losses.Options(
                clip_low=algorithm.clip_low,
                clip_high=algorithm.clip_high,
                cap=algorithm.tis_cap,
                mask_low=algorithm.mask_low,
                mask_high=algorithm.mask_high,
                kl_weight=algorithm.kl_beta,
            ),
            seed=training.seed,
            passes=training.passes,
            step_episodes=-(-spec.rollout.episodes // spec.updates),
            batch_episodes=training.batch_size,
            keep=spec.checkpoint.keep,
        )


def _play(spec: RlSpec) -> Play:
    table = spec.play()
    config = table.env_config
    return Play(
        split=table.split,
        reward=table.reward,
        temperature=table.temperature,
        upscale_to=config.upscale_to if isinstance(config, CrafterConfig) else None,
        staleness=spec.training.staleness,
    )


def _imitate(spec: RlSpec) -> Imitate:
    policy = spec.rollout.policy_config
    return Imitate(table=spec.dagger, max_tokens=policy.max_tokens, max_actions=policy.max_actions)


def settings(spec: RlSpec, base: str, adapter: str, iteration: int = 0) -> Settings:
    """What the learner of an update is made with: on ``base``, beginning from the adapter in a folder; empty: from none."""
    made = _settings(spec, base, adapter)
    if iteration >= spec.dagger.rounds:
        return made
    return replace(made, learning_rate=spec.dagger.learning_rate, warmup_steps=0, total_steps=0, schedule="constant")


def _settings(spec: RlSpec, base: str, adapter: str) -> Settings:
    training, lora, steps = spec.training, spec.lora, spec.schedule_steps
    checkpointing = training.gradient_checkpointing
    return Settings(
        base=base,
        mode=spec.model.trainer_mode,
        lora=Lora(
            r=lora.r,
            alpha=lora.alpha,
            dropout=lora.dropout,
            target_modules=lora.layers,
            layers_to_transform=lora.layers_to_transform,
        ),
        adapter=adapter,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        warmup_steps=round(training.warmup_ratio * steps),
        total_steps=steps,
        schedule=training.schedule,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_eps,
        max_grad_norm=training.max_grad_norm,
        gradient_checkpointing=torch.cuda.is_available() if checkpointing is None else checkpointing,
        dtype=dtype_of(training.bf16),
        sharding=training.sharding or "none",
        seed=training.seed,
        tokens_per_pass=training.tokens_per_pass,
    )
