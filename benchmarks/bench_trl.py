"""synthq's trainer beside TRL's, in turn, on one machine: samples per second of sft and of GRPO's update, and the same loss.

    make vllm-env
    .venv-vllm/bin/pip install trl==1.16.0 peft==0.21.2 accelerate==1.15.0 datasets==5.2.0
    python -m benchmarks.bench_trl [--threads 2,1] [--rounds 5] [--tasks sft,grpo] [--modes lora,full]

Both train the same tiny Qwen3-VL (float32 on the CPU; ``full``: every weight; ``lora``: the same adapter of rank 16 on the
language model) on the same turns of real expert play, 63 px pictures in prompts of 19 tokens, in the same batches, with AdamW
(fused, a constant rate, gradients no longer than 1), no checkpointing, no dropout, nothing logged or saved. Each is a process
with its own interpreter and as many threads; one waits while the other trains, and the order turns. A round is an epoch.

TRL's figures are of ``SFTTrainer.train`` and ``GRPOTrainer.train`` as they are; ``benchmarks/trl_theirs.py`` says what is added.

``from files``: sft from a JSONL file with PNGs in it, which synthq looks through first, and that counts; TRL's collator reads
pictures and texts anew in every epoch, from a data set that was made before. synthq's ``later epochs`` find samples, and with
an adapter what the vision tower made of their pictures, in memory.
``from replies``: GRPO from tokens, old log-probabilities, rewards and PNGs that are there.
``inputs ready``: what of it is forward, backward, clipping and the optimizer's step. TRL's: from ``on_step_begin`` to
``on_step_end``, less ``_generate_and_score_completions``; synthq's: ``accumulate`` and ``step``, on new pictures.

``by CPU time`` is the same ratio of processor seconds, which other work on the machine disturbs less.

Generating is in none of it. GRPO here: one step for each batch, clipped token by token, mean over tokens, no KL. The replies are
the expert's; their old log-probabilities are the model's, moved at random (0.2 nats), so that ratios are not 1 and some are
clipped. In TRL the replies of a group would answer one prompt; here each has a picture of its own, as in play.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.expert_lines import expert_lines, store, teach
from benchmarks.served import tiny
from benchmarks.sides import Seconds, Side
from benchmarks.system import machine, save, scratch, spread

MOVED = 0.2
TAUGHT_STEPS = 40
PAIRS = {
    "sft": (
        ("from files, first epoch", "whole", "whole"),
        ("from files, later epochs", "later", "whole"),
        ("inputs ready", "ready", "ready"),
    ),
    "grpo": (("from replies", "whole", "whole"), ("inputs ready", "ready", "ready")),
}
"""What is told of each, by the names of synthq's and TRL's seconds."""
Figures = dict[str, list[Seconds]]


def prepared(base: Path, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """What both sides are given, written under ``folder``."""
    from workers.trainer.learner import Settings

    with store(folder / "home"):
        lines = expert_lines(folder / "lines.jsonl", given.seeds, given.samples)
    adapter = folder / "adapter"
    teach(Settings(base=str(base), learning_rate=1e-3, device="cpu"), lines, adapter, steps=TAUGHT_STEPS, batch=given.batch)
    config = {
        "base": str(base),
        "adapter": str(adapter),
        "lines": str(lines),
        "scratch": str(folder / "trl"),
        "batch": given.batch,
        "group": given.group,
        "learning_rate": 1e-4,
        "clip_low": 0.2,
        "clip_high": 0.28,
    }
    config["play"] = {mode: str(replies(config, mode, folder / f"play-{mode}.json")) for mode in given.modes.split(",")}
    return config


def replies(config: dict[str, Any], mode: str, into: Path) -> Path:
    """Write the replies of the lines as if the model had said them: with log-probabilities near its own, and rewards."""
    import numpy as np

    from benchmarks.trl_ours import learner_of
    from workers.trainer.sft.data import Data, Limits
    from workers.trainer.sft.lines import reading

    data = Data(Path(config["lines"]), "lines.jsonl", reading(config["base"]), Limits(tokens=1024))
    samples = [data.sample(number) for number in range(len(data))]
    rng, rows = np.random.default_rng(0), []
    for sample, logprobs in zip(samples, learner_of(config, mode).logprobs(samples), strict=True):
        start = sample.targets[0]
        row = {"prompt_ids": sample.ids[:start], "completion_ids": sample.ids[start:], "reward": float(rng.normal())}
        rows.append({**row, "logprobs": (logprobs + rng.normal(0, MOVED, len(logprobs))).tolist()})
    into.write_text(json.dumps(rows))
    return into


def measure(sides: dict[str, Side], task: str, mode: str, rounds: int) -> tuple[dict[str, Any], dict[str, Figures]]:
    """What each makes of the first batch, and each one's seconds, round by round."""
    first = {name: side.ask("begin", task=task, mode=mode) for name, side in sides.items()}
    check(first["synthq"], first["TRL"])
    found: dict[str, Figures] = {name: defaultdict(list) for name in sides}
    for number in range(-1, rounds):  # the first one warms up
        for name in sorted(sides, reverse=number % 2 == 0):
            seconds = sides[name].ask("round")
            for what, value in seconds.items() if number >= 0 else ():
                found[name][what].append(Seconds(*value))
    for side in sides.values():
        side.ask("end")
    return first, found


def check(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Both must be given the same. Raises SystemExit."""
    for what in ("ids", "targets", "parameters"):
        if ours[what] != theirs[what]:
            raise SystemExit(f"the two do not train on the same: {what} {str(ours[what])[:200]} and {str(theirs[what])[:200]}")
    if "advantages" in ours:
        apart = max(abs(one - other) for one, other in zip(ours["advantages"], theirs["advantages"], strict=True))
        if apart > 1e-5:
            raise SystemExit(f"the two do not train on the same: advantages differ by {apart:.2g}")


def rows_of(task: str, samples: int, found: dict[str, Figures]) -> list[dict[str, Any]]:
    """Samples per second of both, and the ratios of each round, on the clock and of processor time."""
    made = []
    for what, mine, its in PAIRS[task]:
        ours, theirs = found["synthq"][mine], found["TRL"][its]
        rates = {"synthq": [samples / each.wall for each in ours], "TRL": [samples / each.wall for each in theirs]}
        ratios = {
            "ratio": [other.wall / own.wall for own, other in zip(ours, theirs, strict=True)],
            "ratio_cpu": [other.cpu / own.cpu for own, other in zip(ours, theirs, strict=True)],
        }
        made.append({"what": what, **rates, **ratios})
    return made


def run(config: dict[str, Any], folder: Path, threads: int, given: argparse.Namespace) -> dict[str, Any]:
    """Measure everything with so many threads each, and print it."""
    (folder / "config.json").write_text(json.dumps(config))
    figures: dict[str, Any] = {}

    def side(python: str | Path, module: str) -> Side:
        return Side(python, f"benchmarks.{module}", folder / "config.json", threads=threads, log=folder / f"{module}.log")

    with side(sys.executable, "trl_ours") as ours, side(given.python, "trl_theirs") as theirs:
        sides = {"synthq": ours, "TRL": theirs}
        for name, each in sides.items():
            told = each.ask("say")
            versions = ", ".join(f"{package} {version}" for package, version in told["versions"].items())
            print(f"{name}: {told['threads']} threads; {versions}")
        names = ("trained", "from", "synthq, samples/s", "TRL, samples/s", "synthq / TRL", "by CPU time", "loss", "gradient")
        print(f"| {' | '.join(names)} |\n|{' --- |' * len(names)}")
        for task in given.tasks.split(","):
            for mode in given.modes.split(","):
                first, found = measure(sides, task, mode, given.rounds)
                rows = rows_of(task, given.samples, found)
                tell(f"{task}, {mode}", rows, first)
                figures[f"{task}, {mode}"] = {
                    "first batch": {name: _figures_of(told) for name, told in first.items()},
                    "rows": rows,
                }
    return figures


def _figures_of(told: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name not in ("ids", "advantages")}


def tell(kind: str, rows: list[dict[str, Any]], first: dict[str, Any]) -> None:
    """Print the lines of one training."""
    ours, theirs = first["synthq"], first["TRL"]
    loss = f"{ours['loss']:.6f}, {theirs['loss'] - ours['loss']:+.1e}"
    norm = f"{ours['grad_norm']:.6f}, {theirs['grad_norm'] - ours['grad_norm']:+.1e}"
    if "clip_share" in ours:
        loss += f" ({ours['clip_share']:.0%} of tokens clipped)"
    for row in rows:
        rates = f"{spread(row['synthq'], 0)} | {spread(row['TRL'], 0)} | {spread(row['ratio'])} | {spread(row['ratio_cpu'])}"
        print(f"| {kind} | {row['what']} | {rates} | {loss} | {norm} |", flush=True)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder; default: a new tiny model")
    parser.add_argument(
        "--python", type=Path, default=Path(".venv-vllm/bin/python"), help="an interpreter with trl (%(default)s)"
    )
    parser.add_argument("--threads", default="2,1", help="of each side; one run for each number (%(default)s)")
    parser.add_argument("--tasks", default="sft,grpo")
    parser.add_argument("--modes", default="lora,full")
    parser.add_argument("--samples", type=int, default=512, help="of an epoch, whole batches (%(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="samples of an optimizer step (%(default)s)")
    parser.add_argument("--group", type=int, default=8, help="replies that are compared with one another (%(default)s)")
    parser.add_argument("--seeds", default="20000-20004", help="that the expert plays (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if given.samples % given.batch or given.batch % given.group:
        parser.error("--samples must be whole batches, and --batch whole groups")
    if not given.python.exists():
        parser.error(f"{given.python} is not there; the first lines of this file say how it is made")
    print(machine())
    figures: dict[str, Any] = {}
    with tiny(given.model) as base, scratch() as folder:
        config = prepared(base, folder, given)
        print(
            f"{given.samples} samples an epoch, {given.batch} a step; median (range) of {given.rounds} rounds; loss and gradient"
        )
        print("of the first batch: synthq's, and by how much TRL's is more")
        for threads in map(int, given.threads.split(",")):
            print()
            figures[f"{threads} threads"] = run(config, folder, threads, given)
    save("trl", {"machine": machine(), **figures})


if __name__ == "__main__":
    main()
