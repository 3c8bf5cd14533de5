"""One trained adapter in plain transformers and peft, in synthq's engine and in vLLM: do they say the same actions?

    make vllm-env
    python -m benchmarks.bench_greedy [--frames 100] [--base DIR --adapter DIR] [--engines transformers,vllm]

The expert plays; a new tiny model learns its turns with every weight, and then an adapter on it goes on (unless ``--base`` and
``--adapter`` name two that are there). Then the expert plays other seeds, and on frames of that play each of the three is asked
for the likeliest reply. The engines are those that inference workers start, asked over HTTP, several requests under way at once;
peft computes each token from the beginning, one frame at a time, in float32 like the others. The margin of a frame is how much
more peft's model gives its own token than the next likeliest, in logits; where two differ it is that of the first token in
which they do: below about 1e-4 the order of sums decides. An engine that this machine cannot start is named and left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.expert_lines import expert_lines, store, teach
from benchmarks.served import tiny
from benchmarks.system import machine, save, scratch

NAME, PEFT = "adapter", "transformers + peft"
TOKENS = 4
AT_ONCE = 10
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Largest ranks that vLLM can be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A reply to one frame."""

    ids: tuple[int, ...]
    action: str
    """What would be played, or why nothing."""


def taught(base: Path, folder: Path, given: argparse.Namespace) -> tuple[Path, Path]:
    """The model, and the adapter on it: those that were named, or new ones."""
    from workers.trainer.learner import Lora, Settings

    if given.adapter:
        return base, given.adapter.absolute()
    lines = expert_lines(folder / "learnt.jsonl", given.learnt_seeds, given.lines)
    made, adapter = folder / "base", folder / "adapter"
    about: dict[str, Any] = {"warmup_steps": 10, "total_steps": given.steps, "schedule": "linear", "device": "cpu"}
    full = Settings(base=str(base), mode="full", learning_rate=2e-3, **about)
    lora = Settings(base=str(made), lora=Lora(r=8, alpha=16.0), learning_rate=2e-3, **about)
    for settings, into in ((full, made), (lora, adapter)):
        told = teach(settings, lines, into, steps=given.steps, batch=given.batch)
        words = ", ".join(f"{name} {value:.3f}" for name, value in told.items())
        print(f"taught {settings.mode} for {given.steps} steps of {given.batch}: {words}", flush=True)
    return made, adapter


def by_peft(reference: Any, asked: Sequence[Any]) -> tuple[list[tuple[int, ...]], list[list[Any]]]:
    """The likeliest reply to each prompt, and the logits that each of its tokens was taken from."""
    replies, logits = [], []
    for messages in asked:
        ids: list[int] = []
        seen: list[Any] = []
        while len(ids) < TOKENS and not (ids and ids[-1] == reference.tokenizer.eos_token_id):
            seen.append(reference.logits(messages, [*ids, 0], NAME)[-1])
            ids.append(int(seen[-1].argmax()))
        replies.append(tuple(ids))
        logits.append(seen)
    return replies, logits


def by_engine(subject: Any, asked: Sequence[Any]) -> list[tuple[int, ...]]:
    """The reply of an engine to each prompt."""
    body = {
        "model": NAME,
        "max_tokens": TOKENS,
        "temperature": 0.0,
        "logprobs": True,
        "top_logprobs": 0,
        "return_token_ids": True,
    }
    bodies = [{**body, "messages": messages, "skip_special_tokens": False, "stream": False} for messages in asked]
    replies: list[tuple[int, ...]] = []
    for first in range(0, len(bodies), AT_ONCE):
        replies += [ids for _, ids, _ in subject.together(bodies[first : first + AT_ONCE])]
    return replies


def reader(tokenizer: Any) -> Callable[[tuple[int, ...]], Said]:
    """Reads replies as play does."""
    from app.records import Reply
    from workers.rollout import envs
    from workers.rollout.actions import parse

    names = envs.make("crafter").actions

    def read(ids: tuple[int, ...]) -> Said:
        ended = bool(ids) and ids[-1] == tokenizer.eos_token_id
        text = tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=False)
        reply = Reply(text=text, finish="stop" if ended else "length")
        found = parse(reply, reply_format="text", actions=names, max_actions=1)
        return Said(ids=ids, action=" ".join(found.actions) or str(found.outcome))

    return read


def margins(ids: tuple[int, ...], logits: Sequence[Any]) -> float:
    """The least by which a token of a reply was likelier than the next likeliest, in logits."""
    tops = [each.topk(2).values for each in logits]
    return min(float(top[0] - top[1]) for top in tops)


def margin_between(one: Said, other: Said, logits: Sequence[Any]) -> float:
    """How far apart peft's model has the first two tokens that differ, in logits; nan where it did not say what went before."""
    place = next(i for i, (a, b) in enumerate(itertools.zip_longest(one.ids, other.ids)) if a != b)
    if place >= min(len(one.ids), len(other.ids), len(logits)):
        return float("nan")
    return abs(float(logits[place][one.ids[place]] - logits[place][other.ids[place]]))


def pair(one: Sequence[Said], other: Sequence[Said], logits: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """How far two agree."""
    differ = [frame for frame, (a, b) in enumerate(zip(one, other, strict=True)) if a.ids != b.ids]
    return {
        "frames": len(one),
        "equal actions": sum(a.action == b.action for a, b in zip(one, other, strict=True)),
        "equal tokens": len(one) - len(differ),
        "margins where they differ": [margin_between(one[frame], other[frame], logits[frame]) for frame in differ],
    }


def measure(base: Path, adapter: Path, lines: Path, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """What each says to each frame, and how far they agree."""
    from app.engines import why_not
    from benchmarks import engine_contract as contract
    from benchmarks.contract_reference import Reference

    told = [json.loads(line)["messages"] for line in lines.read_text(encoding="utf-8").splitlines()]
    asked, expert = [messages[:-1] for messages in told], [messages[-1]["content"] for messages in told]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)  # peft asks by the older name
        reference = Reference(str(base), {NAME: str(adapter)})
    read = reader(reference.tokenizer)
    replies, logits = by_peft(reference, asked)
    said = {PEFT: [read(ids) for ids in replies]}
    rank = json.loads((adapter / "adapter_config.json").read_text())["r"]
    options = {**contract.OPTIONS, "max_lora_rank": next(most for most in RANKS if most >= rank)}
    for name in given.engines.split(","):
        if missing := why_not(name):
            print(f"without {name}: {missing}")
            continue
        began = time.monotonic()
        log = folder / f"{name}.log"
        with contract.serving(name, str(base), {NAME: str(adapter)}, reference, log, options=options) as subject:
            print(f"{name} is ready after {time.monotonic() - began:.0f} s", flush=True)
            said[name] = [read(ids) for ids in by_engine(subject, asked)]
    least = sorted(map(margins, replies, logits))
    return {
        "margins": {"least": least[0], "median": least[len(least) // 2]},
        "models": {name: _about(answers, expert) for name, answers in said.items()},
        "pairs": {f"{one}, {other}": pair(said[one], said[other], logits) for one, other in itertools.combinations(said, 2)},
    }


def _about(answers: Sequence[Said], expert: Sequence[str]) -> dict[str, Any]:
    """How varied, and how right, so that agreement means something."""
    right = sum(one.action == wanted for one, wanted in zip(answers, expert, strict=True))
    return {"different actions": len({one.action for one in answers}), "as the expert": right}


def tell(found: Mapping[str, Any], frames: int) -> None:
    """Print the tables."""
    print(f"\n| of {frames} frames | different actions | as the expert |\n| --- | --- | --- |")
    for name, about in found["models"].items():
        print(f"| {name} | {about['different actions']} | {about['as the expert']} |")
    print("\n| pair | equal actions | equal tokens | margin where they differ, logits |\n| --- | --- | --- | --- |")
    for name, one in found["pairs"].items():
        apart = ", ".join(f"{each:.1e}" for each in one["margins where they differ"]) or "they do not"
        print(f"| {name} | {one['equal actions']} of {frames} | {one['equal tokens']} of {frames} | {apart} |")
    print(f"\nmargin of peft's own tokens: {found['margins']['least']:.1e} at the least, {found['margins']['median']:.2g} median")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="a folder; default: a new tiny model")
    parser.add_argument("--adapter", type=Path, help="a folder; default: one is trained")
    parser.add_argument("--engines", default="transformers,vllm", help="a comma list (%(default)s)")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--seeds", default="21000-21003", help="that the frames are from (%(default)s)")
    parser.add_argument("--learnt-seeds", default="20000-20031", help="that are learnt from (%(default)s)")
    parser.add_argument("--lines", type=int, default=4096, help="that are learnt from (%(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="with every weight, and then with the adapter (%(default)s)")
    parser.add_argument("--batch", type=int, default=64)
    given = parser.parse_args()
    if given.adapter and not given.base:
        parser.error("--adapter wants --base, the model that it is on")
    print(machine())
    with tiny(given.base) as base, scratch() as folder, store(folder / "home"):
        lines = expert_lines(folder / "asked.jsonl", given.seeds, given.frames)
        found = measure(*taught(base, folder, given), lines, folder, given)
    tell(found, given.frames)
    save("greedy", {"machine": machine(), "frames": given.frames, **found})


if __name__ == "__main__":
    main()
