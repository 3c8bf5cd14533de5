"""Samples per second that a learner trains on, against a plain loop over transformers' own forward.

    python -m benchmarks.bench_learner [--model DIR] [--prompt 40,150,300] [--reply 3] [--batch 32] [--rounds 5] [--threads 2]

In one process, paired: each round has every one of them take ``--steps`` optimizer steps of ``--batch`` samples, each of which is
random text with a picture of its own and a reply. ``new`` pictures come for the first time, ``seen`` ones have come before, as
they do after the first pass over a data set. The plain loop is what one writes by hand: right padding, ``model(**inputs).loss``,
``backward``, clipping, AdamW; peft's adapter in ``lora``, the whole model in ``full``. Its inputs are made before the clock runs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_core import TEXTS, prompt
from benchmarks.system import machine, save, spread


def samples(loaded: Any, tokens: int, reply: int, count: int, rng: np.random.Generator) -> list[Any]:
    """Prompts of so many tokens, a tenth more or less, and replies that are learned."""
    from workers.trainer.samples import Sample

    made = []
    for i in range(count):
        asked = prompt(loaded, int(tokens * rng.uniform(0.9, 1.1)), rng)
        ids = (*asked.ids, *(int(token) for token in rng.integers(50, 250, reply)))
        targets = tuple(range(len(asked.ids), len(ids)))
        made.append(Sample(key=str(i), ids=ids, targets=targets, pictures=asked.pictures))
    return made


def imitate(out: Any) -> Any:
    """The loss of imitation."""
    return -out.logprobs.sum(), {}


def inputs(loaded: Any, batch: list[Any]) -> dict[str, Any]:
    """What transformers' own forward takes."""
    import torch

    ids = torch.zeros(len(batch), max(len(one.ids) for one in batch), dtype=torch.int64)
    seen, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, one in enumerate(batch):
        ids[row, : len(one.ids)] = torch.tensor(one.ids)
        seen[row, : len(one.ids)] = 1
        labels[row, list(one.targets)] = ids[row, list(one.targets)]
    pictures = [picture for one in batch for picture in one.pictures]
    told = {
        "input_ids": ids,
        "attention_mask": seen,
        "labels": labels,
        "mm_token_type_ids": (ids == loaded.image_id).int(),
        "pixel_values": torch.from_numpy(np.concatenate([picture.patches for picture in pictures])),
        "image_grid_thw": torch.tensor([picture.grid for picture in pictures]),
    }
    return {name: value.to(loaded.device) for name, value in told.items()}


def by_learner(learner: Any, batches: list[list[Any]]) -> Iterator[None]:
    """Steps of a learner."""
    for batch in batches:
        learner.accumulate(batch, imitate, scale=1 / sum(len(one.targets) for one in batch))
        learner.step()
        yield


def by_hand(model: Any, optimizer: Any, batches: list[dict[str, Any]]) -> Iterator[None]:
    """Steps of the plain loop."""
    import torch

    for batch in batches:
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_([each for each in model.parameters() if each.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield


def plain(base: Path, mode: str, device: str) -> tuple[Any, Any]:
    """The model as one takes it by hand, and an optimizer."""
    import torch
    from peft import LoraConfig, get_peft_model

    from workers.model.loading import load

    model: Any = load(base, device=device).model
    if mode == "full":
        model.requires_grad_(True)
    else:
        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=r".*language_model.*_proj"))
    model.train()
    return model, torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-4)


def seconds(steps: Iterator[None]) -> float:
    """What all steps take, once the device has done them."""
    import torch

    began = time.perf_counter()
    for _ in steps:
        pass
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(base: Path, tokens: int, given: argparse.Namespace) -> dict[str, list[float]]:
    """Samples per second of each, round by round."""
    from workers.trainer.learner import Learner, Settings

    def learner(mode: Any, checkpointing: bool) -> Any:
        return Learner(Settings(base=str(base), mode=mode, gradient_checkpointing=checkpointing, device=given.device))

    lora, lora_twice = learner("lora", False), learner("lora", True)
    full, full_twice = learner("full", False), learner("full", True)
    hand = {mode: plain(base, mode, given.device) for mode in ("lora", "full")}
    rng, found = np.random.default_rng(0), dict[str, list[float]]()
    for number in range(given.rounds + 1):
        batches = [samples(lora.loaded, tokens, given.reply, given.batch, rng) for _ in range(given.steps)]
        as_inputs = [inputs(lora.loaded, batch) for batch in batches]
        runs: dict[str, Callable[[], Iterator[None]]] = {
            "lora, new pictures": lambda b=batches: by_learner(lora, b),
            "lora, seen pictures": lambda b=batches: by_learner(lora, b),
            "lora, checkpointing": lambda b=batches: by_learner(lora_twice, b),
            "lora, plain loop": lambda b=as_inputs: by_hand(*hand["lora"], b),
            "full": lambda b=batches: by_learner(full, b),
            "full, checkpointing": lambda b=batches: by_learner(full_twice, b),
            "full, plain loop": lambda b=as_inputs: by_hand(*hand["full"], b),
        }
        for name, run in runs.items():
            took = seconds(run())
            if number:  # the first round warms up
                found.setdefault(name, []).append(given.steps * given.batch / took)
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder; default: a new tiny model")
    parser.add_argument("--prompt", default="40,150,300", help="tokens of a prompt, its picture's nine among them")
    parser.add_argument("--reply", type=int, default=3, help="tokens of a reply")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of each in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    import torch

    from workers.model.tiny import init_tiny

    torch.set_num_threads(given.threads)
    print(machine())
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        base = given.model
        if base is None:
            base = Path(folder) / "tiny"
            init_tiny(base, TEXTS)
        for tokens in map(int, given.prompt.split(",")):
            found = measure(base, tokens, given)
            print(f"\nprompts of about {tokens} tokens, replies of {given.reply}, batches of {given.batch}:")
            print("  samples/s, median (range)")
            for name, rates in found.items():
                print(f"  {name:22} {spread(rates, 1)}")
            figures[str(tokens)] = found
    save("learner", figures)


if __name__ == "__main__":
    main()
