"""What plain transformers and peft say of a model: the yardstick for engines. Slow on purpose: no cache, one at a time."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

LANGUAGE = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""Layers that engines serve adapters on."""
SPREAD = 0.2
"""Of the weights that make an adapter differ from its base."""


class Reference:
    """A base and adapters on it, in float32 on the CPU."""

    def __init__(self, base: str, adapters: Mapping[str, str]) -> None:
        """``adapters``: folders by name; at least one."""
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self._model: Any = Qwen3VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32).eval()
        for name, path in adapters.items():
            if isinstance(self._model, PeftModel):
                self._model.load_adapter(path, adapter_name=name)
            else:
                self._model = PeftModel.from_pretrained(self._model, path, adapter_name=name).eval()
        self._adapters = tuple(adapters)
        processor: Any = object.__new__(Qwen3VLProcessor)  # made as usual it asks for its video part, which wants torchvision
        processor.tokenizer, processor.image_processor = self.tokenizer, Qwen2VLImageProcessorPil.from_pretrained(base)
        processor.image_token, processor.video_token = "<|image_pad|>", "<|video_pad|>"
        processor.image_token_id, processor.video_token_id = map(self.token, (processor.image_token, processor.video_token))
        self._processor = processor

    def token(self, text: str) -> int:
        """The id of a control token."""
        id: int = self.tokenizer.convert_tokens_to_ids(text)
        return id

    def inputs(self, messages: Sequence[Mapping[str, Any]], tools: Any = None) -> dict[str, torch.Tensor]:
        """Ids and pixels of a prompt, by the family's own processor."""
        text = self.tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, tokenize=False)
        parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        pictures = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
        return dict(self._processor(text=[text], images=pictures or None, return_tensors="pt"))

    def logits(self, messages: Sequence[Mapping[str, Any]], reply: Sequence[int], model: str, tools: Any = None) -> torch.Tensor:
        """[len(reply), vocabulary]: what each token of a reply was drawn from. ``model``: an adapter's name, else the base."""
        inputs = self.inputs(messages, tools)
        said = torch.tensor([list(reply)])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], said], dim=1)
        for name in ("attention_mask", "mm_token_type_ids"):
            inputs[name] = torch.cat([inputs[name], torch.full_like(said, name == "attention_mask")], dim=1)
        with torch.no_grad(), self._as(model):
            found: torch.Tensor = self._model(**inputs, use_cache=False).logits[0, -len(reply) - 1 : -1].float()
        return found

    def logprobs(
        self,
        messages: Sequence[Mapping[str, Any]],
        reply: Sequence[int],
        model: str = "",
        *,
        temperature: float = 1.0,
        bias: Mapping[str, float] | None = None,
    ) -> list[float]:
        """The log-probability of each token of a reply."""
        logits = self.logits(messages, reply, model)
        for id, amount in (bias or {}).items():
            logits[:, int(id)] += amount
        chosen = torch.log_softmax(logits / (temperature or 1.0), dim=-1)[range(len(reply)), list(reply)]
        return [float(value) for value in chosen]

    def greedy(self, messages: Sequence[Mapping[str, Any]], tokens: int, *, ends: Sequence[int]) -> list[int]:
        """The likeliest token, again and again, each time computed from the beginning."""
        reply: list[int] = []
        while len(reply) < tokens and not (reply and reply[-1] in ends):
            reply.append(int(self.logits(messages, [*reply, 0], "")[-1].argmax()))
        return reply

    @contextmanager
    def _as(self, model: str) -> Iterator[None]:
        if model in self._adapters:
            self._model.set_adapter(model)
            yield
        else:
            with self._model.disable_adapter():
                yield


def make_adapter(base: str, folder: Path, *, seed: int, rank: int) -> str:
    """Write an adapter that changes what a base says."""
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    wrapped = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LANGUAGE))
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=SPREAD)
    wrapped.save_pretrained(folder)
    return str(folder)


def noise(seed: int, side: int) -> dict[str, Any]:
    """A picture of noise, as a part of a message; a negative seed: black."""
    pixels = np.zeros((side, side, 3), np.uint8)
    if seed >= 0:
        pixels = np.random.default_rng(seed).integers(0, 256, pixels.shape, dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"}}
