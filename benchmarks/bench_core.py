"""Requests per second of the batching engine, against the same model by `generate`, one at a time and in one batch.

    python -m benchmarks.bench_core [--model DIR] [--concurrent 1,8,32] [--prompt 40,300] [--reply 3,32] [--threads 1]

In one process, paired: each round asks all three for as many requests, new prompts each time, each with a picture of its own;
the engine is kept at so many requests under way, `generate` gets as many in a batch. Replies are drawn at temperature 1 and all
have the same length, and so have prompts, which is the best that can happen to `generate`: it pads nothing and waits for none.
The engine reports log-probabilities, `generate` none. Nothing comes twice, so no cache helps. In a last comparison all prompts
begin with the same text, as those of one job do, and the engine with its prefix store is held against itself without.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.system import machine, save, spread

TEXTS = (
    "You see a tree and a cow. Move left, right, up or down, or do.",
    '{"name": "act", "arguments": {"actions": ["do"]}}',
) * 50


def prompt(loaded: Any, tokens: int, rng: np.random.Generator, head: tuple[int, ...] = ()) -> Any:
    """A prompt of random tokens, after those of ``head``, with one square picture of random pixels."""
    from workers.model.types import Picture, Prompt

    side = 3 * loaded.merge
    patches = rng.standard_normal((side * side, 3 * loaded.temporal * loaded.patch**2)).astype(np.float32)
    picture = Picture(sha256=hashlib.sha256(patches.tobytes()).hexdigest(), grid=(1, side, side), make=lambda: patches)
    of_picture = [loaded.vision_start_id, *[loaded.image_id] * picture.tokens(loaded.merge), loaded.vision_end_id]
    rest = [int(token) for token in rng.integers(50, 250, tokens - len(of_picture) - len(head))]
    return Prompt(ids=(*head, *rest[:2], *of_picture, *rest[2:]), pictures=(picture,))


def by_generate(loaded: Any, prompts: list[Any], reply: int, batch: int) -> float:
    """Seconds for all prompts, so many in a batch."""
    import torch

    began = time.perf_counter()
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        ids = torch.tensor([each.ids for each in part], device=loaded.device)
        patches = np.concatenate([picture.patches for each in part for picture in each.pictures])
        with torch.inference_mode():
            out = loaded.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=(ids == loaded.image_id).int(),
                pixel_values=torch.from_numpy(patches).to(loaded.device, loaded.dtype),
                image_grid_thw=torch.tensor([picture.grid for each in part for picture in each.pictures], device=loaded.device),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=reply,
                min_new_tokens=reply,
            ).tolist()
        assert all(len(row) == ids.shape[1] + reply for row in out)
    return time.perf_counter() - began


def by_engine(core: Any, prompts: list[Any], reply: int, concurrent: int) -> float:
    """Seconds for all prompts, so many under way at any time."""
    from workers.inference.core.request import Sampling

    sampling, waiting, done = Sampling(max_tokens=reply, ignore_eos=True, seed=0), list(prompts), threading.Event()
    left, wrong = [len(prompts)], []
    (served,) = core.models()

    def submit() -> None:
        core.submit(waiting.pop(), sampling, served["id"], receive)

    def receive(result: Any) -> None:
        if isinstance(result, Exception) or len(result.ids) != reply:
            wrong.append(result)
        left[0] -= 1
        if waiting:
            submit()
        if not left[0]:
            done.set()

    began = time.perf_counter()
    for _ in range(min(concurrent, len(prompts))):
        submit()
    done.wait()
    assert not wrong, wrong[0]
    return time.perf_counter() - began


def compare(
    loaded: Any, core: Any, *, tokens: int, reply: int, concurrent: int, rounds: int, waves: int
) -> dict[str, list[float]]:
    """Requests per second of each, round by round."""
    figures: dict[str, list[float]] = {"one at a time": [], "one batch": [], "engine": []}
    rng = np.random.default_rng((tokens, reply, concurrent))
    for turn in range(rounds + 1):
        asks = {name: [prompt(loaded, tokens, rng) for _ in range(concurrent * waves)] for name in figures}
        few = asks["one at a time"][: max(4, 32 // reply)]  # its speed does not depend on how many there are
        seconds = {
            "one at a time": by_generate(loaded, few, reply, 1) / len(few) * concurrent * waves,
            "one batch": by_generate(loaded, asks["one batch"], reply, concurrent),
            "engine": by_engine(core, asks["engine"], reply, concurrent),
        }
        if turn:  # the first warms up
            for name, took in seconds.items():
                figures[name].append(concurrent * waves / took)
    return figures


def alike(cores: dict[str, Any], loaded: Any, *, tokens: int, reply: int, concurrent: int, rounds: int) -> dict[str, list[float]]:
    """Requests per second of engines, round by round, for prompts of which all but 20 tokens are the same text."""
    figures: dict[str, list[float]] = {name: [] for name in cores}
    rng = np.random.default_rng((tokens, reply))
    head = tuple(int(token) for token in rng.integers(50, 250, tokens - 20))
    for turn in range(rounds + 1):
        for name, core in cores.items():
            seconds = by_engine(core, [prompt(loaded, tokens, rng, head) for _ in range(2 * concurrent)], reply, concurrent)
            if turn:
                figures[name].append(2 * concurrent / seconds)
    return figures


def show(title: str, told: dict[str, list[float]], over: str, under: str) -> None:
    """Print one comparison."""
    ratios = [ours / theirs for ours, theirs in zip(told[over], told[under], strict=True)]
    print(f"\n{title}: requests/s")
    for name, values in told.items():
        print(f"  {name:<24}{spread(values)}")
    print(f"  {f'{over} / {under}':<24}{spread(ratios)}", flush=True)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a model's folder; a tiny one is made unless told")
    for name, default in (("concurrent", "1,8,32"), ("prompt", "40,300"), ("reply", "3,32")):
        parser.add_argument(f"--{name}", default=default)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()

    import torch

    from workers.inference.core import Core
    from workers.model.loading import load
    from workers.model.tiny import init_tiny

    torch.set_num_threads(given.threads)
    print(machine())
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.model or init_tiny(Path(scratch) / "tiny", TEXTS).path
        loaded = load(folder)
        print(f"{loaded.device}, {loaded.dtype}, {given.threads} threads, {given.rounds} paired rounds, median (range)")
        most = max(map(int, given.concurrent.split(",")))
        core = Core(loaded, max_num_seqs=most, max_waiting=most)
        core.start()
        for tokens in map(int, given.prompt.split(",")):
            for reply in map(int, given.reply.split(",")):
                for concurrent in map(int, given.concurrent.split(",")):
                    waves = max(1, 64 // (reply * concurrent))
                    told = compare(
                        loaded, core, tokens=tokens, reply=reply, concurrent=concurrent, rounds=given.rounds, waves=waves
                    )
                    show(f"prompt {tokens}, reply {reply}, {concurrent} concurrent", told, "engine", "one batch")
                    figures[f"prompt={tokens} reply={reply} concurrent={concurrent}"] = told
        keeping = Core(loaded, max_num_seqs=most, max_waiting=most, prefix_bytes=256 * 1024**2)
        keeping.start()
        cores, reply = {"without": core, "with": keeping}, min(map(int, given.reply.split(",")))
        for tokens in map(int, given.prompt.split(",")):
            told = alike(cores, loaded, tokens=tokens, reply=reply, concurrent=most, rounds=given.rounds)
            show(
                f"prefix store, prompt {tokens} ({tokens - 20} alike), reply {reply}, {most} concurrent", told, "with", "without"
            )
            figures[f"prefix prompt={tokens} reply={reply} concurrent={most}"] = told
        seconds = core.figures()["seconds"]
        core.stop(), keeping.stop()
    total = sum(seconds.values()) - seconds["idle"]
    print("\nthe engine's time: " + ", ".join(f"{k} {v / total:.0%}" for k, v in seconds.items() if k != "idle"))
    save("core", figures)


if __name__ == "__main__":
    main()
