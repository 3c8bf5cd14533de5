"""How training files of the project that synthq follows are read, and what is left of its keys that mean nothing here."""

from __future__ import annotations

from typing import Final

from app.specs.base import Compat

_BEST: Final = "the best model is the one with the least loss on the validation lines"
_STEPS: Final = "the model is tried every eval_steps steps"
_LOSS: Final = ("val.loss", "val_loss", "eval_loss")

SEED_SETTLED: Final = Compat(
    refused={
        "policy": "sft trains a model from data and has no policy; remove the table",
        "job.poll_seconds": "the command line is told of every change by itself (--watch); remove the key",
        "job.description": "text for people goes into [tags]; remove the key",
        "job.modalities": "sft.supports_vision says whether lines show pictures; remove the key",
    },
    settled={
        "algorithm.type": (("offline",), 'sft learns from data; remove the key or write "offline"'),
        "algorithm.method": (("sft", "supervised_finetune"), 'remove the key or write "sft"'),
        "data.topology": (({},), "the trainer finds out by itself what hardware there is"),
    },
)
"""Keys that go before the others are moved, out of tables that only the followed project has."""

SEED_KEYS: Final = Compat(
    aliases={
        "algorithm.variety": "sft.variety",
        "job.model": "sft.model",
        "job.data": "sft.data",
        "job.data_path": "sft.data",
        "data.validation_path": "sft.validation.data",
        "model_config.supports_vision": "sft.supports_vision",
        "model_config.max_images_per_message": "sft.max_images_per_message",
        "model_config.max_model_len": "sft.max_model_len",
        "training.mode": "sft.trainer_mode",
        "training.use_qlora": "sft.use_qlora",
        "tags": "sft.tags",
        "training.lora": "lora",
        "training.validation": "sft.validation",
        "sft.validation.save_best_model_at_end": "sft.validation.save_best",
        "sft.validation.load_best_model_at_end": "sft.validation.save_best",
        "hyperparameters.n_epochs": "sft.epochs",
        "hyperparameters.batch_size": "sft.batch_size",
        "hyperparameters.per_device_batch": "sft.batch_size",
        "hyperparameters.global_batch": "sft.global_batch",
        "hyperparameters.gradient_accumulation_steps": "sft.gradient_accumulation_steps",
        "hyperparameters.sequence_length": "sft.sequence_length",
        "hyperparameters.learning_rate": "sft.learning_rate",
        "hyperparameters.warmup_ratio": "sft.warmup_ratio",
        "hyperparameters.weight_decay": "sft.weight_decay",
        "hyperparameters.train_kind": "sft.train_kind",
        "hyperparameters.lora_rank": "lora.r",
        "hyperparameters.lora_alpha": "lora.alpha",
        "hyperparameters.lora_dropout": "lora.dropout",
        "hyperparameters.lora_target_modules": "lora.target_modules",
        "hyperparameters.world_size": "compute.gpu_count",
        "hyperparameters.parallelism": "sft.parallelism",
        "sft.parallelism.bf16": "sft.bf16",
        "sft.parallelism.activation_checkpointing": "sft.gradient_checkpointing",
        "sft.parallelism.eval_steps": "sft.validation.eval_steps",
        "sft.parallelism.save_best_model_at_end": "sft.validation.save_best",
        "sft.parallelism.load_best_model_at_end": "sft.validation.save_best",
    },
    values={"sft.trainer_mode": {"full_finetune": "full", "sft_offline": "auto"}},
    settled={
        "sft.parallelism.fp16": ((False,), "numbers of 16 bits are bfloat16 here (bf16 = true)"),
        "sft.parallelism.evaluation_strategy": (("steps",), _STEPS),
        "sft.parallelism.metric_for_best_model": (_LOSS, _BEST),
        "sft.parallelism.greater_is_better": ((False,), _BEST),
        "sft.validation.evaluation_strategy": (("steps",), _STEPS),
        "sft.validation.metric_for_best_model": (_LOSS, _BEST),
        "sft.validation.greater_is_better": ((False,), _BEST),
    },
)
"""Keys that mean one of synthq's, in the order in which they are moved: a table before the keys in it. Keys of validation stand
among those of parallelism where a file has them behind that table's head, as the project's own example does."""
