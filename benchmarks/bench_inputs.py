"""Milliseconds from a PNG to what the language model sees, against transformers' own image processor and vision tower.

    python -m benchmarks.bench_inputs [--threads 1] [--rounds 15]

Paired in one process: in each round theirs, then ours, over the same pictures (random tiles), the order turned every round.
Prompts are those of an agent that sees one frame: a short system text, a picture, and for the last row a text that never comes
again; theirs is the chat template, the image processor and the tokenizer, as Qwen3VLProcessor calls them. The tower of 63 px is
the tiny model's; that of 256 px has the widths of Qwen3-VL-4B's and two of its 24 layers, random weights, float32. Every pair
is compared: bit for bit after reading, id by id, to the largest difference after the tower.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from benchmarks.system import machine, save, scratch, spread
from workers.init_tiny import texts, words
from workers.model import vision
from workers.model.images import ImageReader
from workers.model.inputs import Inputs
from workers.model.tiny import init_tiny

READING = ((63, 7, 3), (144, 16, 3), (256, 16, 2))
"""Pixels of a side, pixels of a patch's side, patches of a token's side."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{machine()}, torch {torch.__version__}, threads: {options.threads}")
    print(f"{options.rounds} rounds each, a fifth of them for 256 px through the tower; median (lowest to highest) in ms\n")
    print(f"{'':36}{'theirs':26}{'ours':26}times as fast")
    figures: dict[str, Any] = {"machine": machine(), "threads": options.threads}
    for side, patch, merge in READING:
        figures[f"read {side}"] = reading(side, patch, merge, options.rounds)
    figures["prompt"] = prompting(options.rounds)
    for name, side, model in (("tiny", 63, tower(63)), ("4B, 2 layers", 256, tower(256))):
        for count in (1, 8, 32):
            figures[f"tower {side} x {count}"] = seeing(
                f"tower of {name}, {count} of {side} px", side, count, model, options.rounds
            )
    save("inputs", figures)


def pairs(name: str, rounds: int, theirs: Callable[[], Any], ours: Callable[[], Any]) -> list[tuple[float, float]]:
    """Milliseconds of both in each round."""
    both = [theirs, ours]
    took = []
    for i in range(-2, rounds):
        pair = {}
        for call in both if i % 2 else both[::-1]:
            began = time.perf_counter()
            call()
            pair[call] = 1000 * (time.perf_counter() - began)
        if i >= 0:
            took.append((pair[theirs], pair[ours]))
    first, second = zip(*took, strict=True)
    print(f"{name:36}{spread(first, 3):26}{spread(second, 3):26}{spread([a / b for a, b in took], 1)}")
    return took


def settings(side: int, patch: int, merge: int) -> dict[str, Any]:
    """An image processor that takes this side as it is."""
    half = [0.5, 0.5, 0.5]
    size = {"shortest_edge": side * side, "longest_edge": side * side}
    return {
        "patch_size": patch,
        "merge_size": merge,
        "temporal_patch_size": 2,
        "size": size,
        "image_mean": half,
        "image_std": half,
    }


def picture(side: int, seed: int) -> bytes:
    """A PNG of 9 x 9 tiles of random colours."""
    tiles = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    pixels = np.kron(tiles, np.ones((side // 9 + 1, side // 9 + 1, 1), np.uint8))[:side, :side]
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def reading(side: int, patch: int, merge: int, rounds: int) -> list[tuple[float, float]]:
    """A PNG as patches: decoded, scaled, cut. Nothing is cached. 20 pictures a round, the figure is of one."""
    config, files = settings(side, patch, merge), [picture(side, seed) for seed in range(20)]
    processor, reader = Qwen2VLImageProcessorPil(**config), ImageReader.described(config, cache_bytes=0)

    def theirs() -> list[Any]:
        return [processor(images=[Image.open(io.BytesIO(data))], return_tensors="np")["pixel_values"] for data in files]

    def ours() -> list[Any]:
        return [reader.read(data).patches for data in files]

    assert all(a.tobytes() == np.ascontiguousarray(b).tobytes() for a, b in zip(ours(), theirs(), strict=True))
    return pairs(f"20 PNGs of {side} px read", rounds, theirs, ours)


def prompting(rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Messages as ids and patches, 20 prompts a round."""
    with scratch() as home:
        init_tiny(home / "tiny", texts(seeds=1, turns=3), words=words())
        tokenizer = AutoTokenizer.from_pretrained(home / "tiny")
        processor, reader = Qwen2VLImageProcessorPil.from_pretrained(home / "tiny"), ImageReader.of(home / "tiny")
    pad = "<|image_pad|>"
    inputs = Inputs(SimpleNamespace(tokenizer=tokenizer, images=reader, image_id=tokenizer.convert_tokens_to_ids(pad)))
    files = [picture(63, seed) for seed in range(20)]
    numbers = itertools.count()

    def messages(data: bytes, told: bool) -> list[dict[str, Any]]:
        url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}}]
        content += [{"type": "text", "text": f"turn {next(numbers)}: noop had no effect"}] if told else []
        return [{"role": "system", "content": "Play Crafter. Reply with one action."}, {"role": "user", "content": content}]

    def theirs(chats: list[Any]) -> list[list[int]]:
        made = []
        for chat in chats:
            data = base64.b64decode(chat[-1]["content"][0]["image_url"]["url"].partition(",")[2])
            given = processor(images=[Image.open(io.BytesIO(data))], return_tensors="np")
            rendered = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            made.append(tokenizer(rendered.replace(pad, pad * (given["image_grid_thw"].prod() // 9)))["input_ids"])
        return made

    def ours(chats: list[Any], again: bool) -> list[list[int]]:
        if not again:
            reader.cache.clear()
        return [list(inputs.prompt(chat).ids) for chat in chats]

    took = {}
    for name, told, again in (
        ("new pictures", False, False),
        ("known pictures", False, True),
        ("new pictures and texts", True, False),
    ):
        assert ours(chats := [messages(data, told) for data in files], again) == theirs(chats)
        fresh = iter([[messages(data, told) for data in files] for _ in range(2 * rounds + 4)])
        took[name] = pairs(f"20 prompts: {name}", rounds, lambda: theirs(next(fresh)), lambda: ours(next(fresh), again))  # noqa: B023
    return took


def tower(side: int) -> Any:
    """A model with the tower for this side; its language model is as small as can be."""
    small = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 7, "spatial_merge_size": 3}
    wide = {
        "depth": 2,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "patch_size": 16,
        "spatial_merge_size": 2,
    }
    seeing = {**(small if side == 63 else wide), "deepstack_visual_indexes": [0], "out_hidden_size": 128}
    text = {
        "hidden_size": 128,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 64,
    }
    torch.manual_seed(0)
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(vision_config=seeing, text_config=text)).eval()


def seeing(name: str, side: int, count: int, model: Any, rounds: int) -> list[tuple[float, float]]:
    """Patches through the tower. Both are given arrays, as an engine has them."""
    sizes = model.config.vision_config
    reader = ImageReader.described(settings(side, sizes.patch_size, sizes.spatial_merge_size))
    pictures = [reader.read(picture(side, seed)) for seed in range(count)]

    @torch.inference_mode()
    def theirs() -> Any:
        values = torch.from_numpy(np.concatenate([one.patches for one in pictures]))
        return model.model.get_image_features(values, torch.tensor([one.grid for one in pictures])).pooler_output

    @torch.inference_mode()
    def ours() -> Any:
        return vision.embed(model, pictures)

    assert max(float((a.embeds - b).abs().max()) for a, b in zip(ours(), theirs(), strict=True)) < 1e-5
    return pairs(name, rounds, theirs, ours)


if __name__ == "__main__":
    main()
