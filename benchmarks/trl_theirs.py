"""TRL's side of ``bench_trl``: runs in vLLM's environment, where trl is installed, and imports nothing of synthq but ``sides``.

Everything that is timed is TRL's and transformers' own: ``SFTTrainer.train`` and ``GRPOTrainer.train``. What is added: a callback
that waits for orders between epochs and reads the clock; for GRPO a ``rollout_func`` that gives the ready replies, and the old
log-probabilities that go with them; and rows in their order, so that every sample has a picture of its own.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
warnings.filterwarnings("ignore", ".*TRL currently supports vLLM versions.*")

import accelerate  # noqa: E402
import datasets  # noqa: E402
import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
import trl  # noqa: E402
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer  # noqa: E402
from trl.chat_template_utils import qwen3_vl_training_chat_template  # noqa: E402

from benchmarks.sides import Orders, Seconds  # noqa: E402

END, TARGETED = "{{- '<|im_end|>\\n' }}\n        {%- endgeneration -%}", "{{- '<|im_end|>' }}\n        {%- endgeneration -%}"


class Over(Exception):
    """The rounds are over: no error, but the way out of a training that would go on."""


class Watch(transformers.TrainerCallback):
    """A round is an epoch: it begins when it is ordered, and its seconds are the answer."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._began = self._step = self._ready = Seconds()
        self.scoring = Seconds()
        """Spent on making inputs, within steps."""

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._orders.next()["do"] == "end":
            raise Over
        self._began, self._ready, self.scoring = Seconds.now(), Seconds(), Seconds()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._step = Seconds.now()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._ready = self._ready.plus(Seconds.now().less(self._step))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._orders.answer({"whole": Seconds.now().less(self._began), "ready": self._ready.less(self.scoring)})


class Sft(SFTTrainer):
    """TRL's, as it is."""

    def compared(self, size: int) -> dict[str, Any]:
        """Loss and gradient of the first ``size`` lines, by the trainer's own collator and ``compute_loss``."""
        inputs = self._prepare_inputs(self.data_collator([self.train_dataset[i] for i in range(size)]))
        labels = inputs["labels"]
        ids, seen = inputs["input_ids"], inputs["attention_mask"].bool()
        told = {"ids": [row[mask].tolist() for row, mask in zip(ids, seen, strict=True)], "targets": int((labels != -100).sum())}
        return {**told, **_gradient(self, inputs)}


class Grpo(GRPOTrainer):
    """TRL's, with replies that are there already."""

    watch: Watch

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return torch.utils.data.SequentialSampler(dataset or self.train_dataset)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        began = Seconds.now()
        self.rows = inputs
        made = super()._generate_and_score_completions(inputs)
        made["old_per_token_logps"] = made["sampling_per_token_logps"]
        self.watch.scoring = self.watch.scoring.plus(Seconds.now().less(began))
        return made

    def compared(self, size: int) -> dict[str, Any]:
        """Loss and gradient of the first ``size`` rows, by ``_compute_loss``."""
        inputs = self._generate_and_score_completions([self.train_dataset[i] for i in range(size)])
        self.current_gradient_accumulation_steps = 1  # train sets it
        prompts, replies = (
            [row[mask.bool()].tolist() for row, mask in zip(inputs[f"{part}_ids"], inputs[f"{part}_mask"], strict=True)]
            for part in ("prompt", "completion")
        )
        told = {"ids": [one + other for one, other in zip(prompts, replies, strict=True)]}
        told |= {"targets": int(inputs["completion_mask"].sum()), "advantages": inputs["advantages"].tolist()}
        return {**told, **_gradient(self, inputs)}


def ready_replies(prompts: list[Any], trainer: Grpo) -> dict[str, Any]:
    """What a ``rollout_func`` gives: here what was sampled before."""
    rows = trainer.rows
    return {name: [row[name] for row in rows] for name in ("prompt_ids", "completion_ids", "logprobs")}


def reward(completions: list[Any], reward: list[float], **_: Any) -> list[float]:
    """What each reply earned."""
    return reward


def _gradient(trainer: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    grads = [weight.grad for weight in trainer.model.parameters() if weight.grad is not None]
    norm = torch.nn.utils.get_total_norm(grads)
    trainer.model.zero_grad()
    trained = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    return {"loss": float(loss.detach()), "grad_norm": float(norm), "parameters": trained}


def model_of(config: dict[str, Any], mode: str) -> Any:
    """The model that trains: all of it, or the adapter on it that both sides begin from."""
    model = transformers.Qwen3VLForConditionalGeneration.from_pretrained(config["base"], dtype=torch.float32)
    return peft.PeftModel.from_pretrained(model, config["adapter"], is_trainable=True) if mode == "lora" else model


def common(config: dict[str, Any]) -> dict[str, Any]:
    """Settings of both trainers: the optimizer's as synthq's, and nothing that costs time beside the training."""
    return {
        "output_dir": config["scratch"],
        "per_device_train_batch_size": config["batch"],
        "num_train_epochs": 10_000,
        "learning_rate": config["learning_rate"],
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Lines in OpenAI's format as TRL takes them: texts, and pictures as the bytes of their files beside."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        messages, images = [], []
        for message in json.loads(line)["messages"]:
            parts = message["content"] if isinstance(message["content"], list) else []
            urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
            images += [{"bytes": base64.b64decode(url.partition(",")[2])} for url in urls]
            text = "".join(part["text"] for part in parts if part["type"] == "text") if parts else message["content"]
            messages.append({"role": message["role"], "content": text})
        rows.append({"messages": messages, "images": images})
    return rows


def dataset_of(rows: list[dict[str, Any]]) -> Any:
    """Rows as a data set, whose pictures are read when they are wanted."""
    return datasets.Dataset.from_list(rows).cast_column("images", datasets.List(datasets.Image()))


def sft(config: dict[str, Any], mode: str, watch: Watch) -> Sft:
    """SFT over the lines, its loss on what the assistant says and its end alone."""
    processor = transformers.AutoProcessor.from_pretrained(config["base"])
    # TRL's template also learns the newline after a reply's end, which nobody samples; without it the targets are the same
    assert qwen3_vl_training_chat_template.count(END) == 1, "another version of trl writes this template otherwise"
    processor.chat_template = qwen3_vl_training_chat_template.replace(END, TARGETED)
    args = SFTConfig(**common(config), assistant_only_loss=True)
    data = dataset_of(lines_of(Path(config["lines"])))
    return Sft(model_of(config, mode), args, train_dataset=data, processing_class=processor, callbacks=[watch])


def grpo(config: dict[str, Any], mode: str, watch: Watch) -> Grpo:
    """GRPO over replies that are there; one optimizer step for each ``batch`` of them."""
    played = json.loads(Path(config["play"][mode]).read_text())
    rows = [
        {"prompt": line["messages"][:-1], "images": line["images"], **row}
        for line, row in zip(lines_of(Path(config["lines"])), played, strict=True)
    ]
    args = GRPOConfig(
        **common(config),
        num_generations=config["group"],
        epsilon=config["clip_low"],
        epsilon_high=config["clip_high"],
        scale_rewards="none",
        loss_type="dapo",
        max_completion_length=64,
    )
    made = Grpo(
        model_of(config, mode),
        reward_funcs=reward,
        args=args,
        train_dataset=dataset_of(rows),
        processing_class=transformers.AutoProcessor.from_pretrained(config["base"], padding_side="left"),
        callbacks=[watch],
        rollout_func=ready_replies,
    )
    made.watch = watch
    return made


def main() -> None:
    """Obey."""
    config = json.loads(Path(sys.argv[1]).read_text())
    orders = Orders()
    while True:
        order = orders.next()
        if order["do"] == "say":
            told = {module.__name__: module.__version__ for module in (trl, transformers, peft, accelerate, datasets, torch)}
            orders.answer({"versions": told, "threads": torch.get_num_threads()})
            continue
        watch = Watch(orders)
        trainer = (sft if order["task"] == "sft" else grpo)(config, order["mode"], watch)
        orders.answer(trainer.compared(config["batch"]))
        try:
            trainer.train()
        except Over:
            orders.answer({})


if __name__ == "__main__":
    main()
