"""Requests per second of synthq's engine, of vLLM on the same CPU, and of plain ``generate``: paired, image prompts.

    python -m benchmarks.bench_engines [--rounds 5] [--reply 8] [--prefix-caching] [--no-vllm] [--vllm-alone]

A tiny Qwen3-VL (1 M parameters, float32), frames of 63 px from real play, 9 image tokens each, every request another frame; its
prompt has about 40 or about 300 tokens in all; replies of ``--reply`` tokens exactly, T = 1. The engines are processes of their
own, asked over HTTP by one client process on the same cores, which is why the client's part is in every figure but generate's;
"batch" asks synthq's engine by POST /v1/batch. ``generate`` runs alone in this process, as many threads as cores: one prompt
after another, and all of a round at once, with the inputs made ready before ("ready") or from PNG within the time ("from PNG").
In each round every contender answers requests of one kind; the order turns. Ratios are of figures of one round. While one
answers, the processes of the others are stopped (SIGSTOP), so that none's waiting threads take cores from another. vLLM minds
that more than the rest, so ``--vllm-alone`` tells what it answers with no other engine on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from app.specs.engine import VllmTable
from benchmarks.system import free_port, machine, save, scratch, spread
from workers.transport.generate import BATCH

PROMPTS = (40, 300)
AT_ONCE = (1, 8, 32)
WARM = 2
"""Rounds before those that count."""

Messages = list[dict[str, Any]]
Body = dict[str, Any]


def frames(count: int) -> list[bytes]:
    """PNGs of a game of random actions, 63 px."""
    from workers.rollout import envs
    from workers.transport.pixels import encode_png

    env = envs.make("crafter", {"image_size": 63, "length": 10_000})
    env.reset(7)
    found = []
    for i in range(count):
        found.append(encode_png(env.frame()))
        env.step(env.actions[1 + i % 4])
        if env.ended:
            env.reset(8 + i)
    return found


def fitted(loaded: Any, tokens: int) -> str:
    """The rules of the game, cut where the whole prompt has ``tokens`` tokens, or a little less."""
    from workers.rollout import envs
    from workers.transport import chat

    words = " ".join([envs.make("crafter").rules("full")] * 3).split(" ")

    def length(count: int) -> int:
        text = chat.render(messages(" ".join(words[:count]), b""), add_generation_prompt=True)
        return len(loaded.tokenizer(text)["input_ids"]) + 8  # one place for the picture, which has 9 tokens

    count = next(n for n in range(len(words), -1, -1) if length(n) <= tokens)
    return " ".join(words[:count])


def messages(text: str, png: bytes) -> Messages:
    """A system text, if any, and a picture."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(png).decode()}}
    system = [{"role": "system", "content": text}] if text else []
    return [*system, {"role": "user", "content": [picture]}]


class Requests:
    """The requests of one kind: prompts of about so many tokens, each with another picture."""

    def __init__(self, loaded: Any, pictures: Sequence[bytes], tokens: int, reply: int) -> None:
        self.reply = reply
        self._text, self._pictures, self._next = fitted(loaded, tokens), pictures, 0

    def take(self, count: int) -> list[Messages]:
        """The next so many; the pictures begin again when all were shown."""
        first, self._next = self._next, self._next + count
        return [messages(self._text, self._pictures[i % len(self._pictures)]) for i in range(first, first + count)]

    def bodies(self, model: str, many: Sequence[Messages]) -> list[Body]:
        """As both engines take them."""
        asked = {"max_tokens": self.reply, "ignore_eos": True, "temperature": 1.0, "logprobs": True, "return_token_ids": True}
        return [{"model": model, "messages": each, "seed": i, **asked} for i, each in enumerate(many)]


@dataclass(frozen=True, slots=True)
class Engine:
    """A server that can be stopped for a while."""

    url: str
    pid: int

    def stand(self, still: bool) -> None:
        """Stop its processes, or let them go on."""
        os.killpg(self.pid, signal.SIGSTOP if still else signal.SIGCONT)


@contextmanager
def serving(name: str, model: Path, options: Mapping[str, Any], log: Path) -> Iterator[Engine]:
    """An engine that answers."""
    from workers.inference import engines
    from workers.inference.engines.admin import Admin
    from workers.inference.engines.child import EngineChild
    from workers.inference.engines.probe import probe

    engine, port = engines.make(name), free_port()
    url = f"http://127.0.0.1:{port}"
    child = EngineChild(engine, str(model), options, host="127.0.0.1", port=port, log_file=log)
    try:
        until_healthy(url, child)
        with Admin(url) as admin:
            probe(admin, str(model))
        yield Engine(url, child.pid)
    finally:
        os.killpg(child.pid, signal.SIGCONT)
        child.stop(10)


def until_healthy(url: str, child: Any) -> None:
    """Wait until it serves. Raises its own sentence when it ends first."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if not child.running:
            raise child.failure()
        try:
            if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise TimeoutError(f"{url} is not healthy after 300 s")


async def singly(client: httpx.AsyncClient, url: str, bodies: Sequence[Body], at_once: int) -> None:
    """Each request by itself, so many under way at once."""
    gate = asyncio.Semaphore(at_once)

    async def one(body: Body) -> None:
        async with gate:
            answer = await client.post(f"{url}/v1/chat/completions", json=body)
            check(answer.status_code, answer.json())

    await asyncio.gather(*(one(body) for body in bodies))


async def batched(client: httpx.AsyncClient, url: str, bodies: Sequence[Body], at_once: int) -> None:
    """So many requests in each body, one body after another."""
    for first in range(0, len(bodies), at_once):
        async with client.stream("POST", url + BATCH, json={"requests": bodies[first : first + at_once]}) as answer:
            lines = [json.loads(line) async for line in answer.aiter_lines() if line]
        assert len(lines) == len(bodies[first : first + at_once])
        for line in lines:
            check(line["status"], line["body"])


def check(status: int, answer: Any) -> None:
    """Nothing that was not answered counts."""
    if status != 200:
        raise SystemExit(f"an engine answered {status}: {answer}")


class Plain:
    """transformers' own ``generate``."""

    def __init__(self, loaded: Any, reply: int) -> None:
        from workers.model.inputs import Inputs

        self.loaded, self.reply, self._inputs = loaded, reply, Inputs(loaded)

    def ready(self, many: Sequence[Messages]) -> dict[str, Any]:
        """The inputs of a batch of prompts of one length."""
        import numpy as np
        import torch

        prompts = [self._inputs.prompt(each) for each in many]
        ids = torch.tensor([prompt.ids for prompt in prompts])
        pictures = [picture for prompt in prompts for picture in prompt.pictures]
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == self.loaded.image_id).int(),
            "pixel_values": torch.from_numpy(np.concatenate([picture.patches for picture in pictures])),
            "image_grid_thw": torch.tensor([picture.grid for picture in pictures]),
        }

    def generate(self, inputs: dict[str, Any]) -> None:
        """Replies of the length that is asked for."""
        import torch

        with torch.inference_mode():
            out = self.loaded.model.generate(
                **inputs, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=self.reply, min_new_tokens=self.reply
            )
        assert out.shape[1] == inputs["input_ids"].shape[1] + self.reply


Contender = Callable[[list[Messages], int], Awaitable[float]]
"""Answers the requests, so many at once; gives the seconds that it took."""


@contextmanager
def alone(engine: Engine | None, engines: Mapping[str, Engine]) -> Iterator[None]:
    """Nobody else computes meanwhile; None: no engine does."""
    for each in engines.values():
        each.stand(each is not engine)
    try:
        yield
    finally:
        for each in engines.values():
            each.stand(False)


def contenders(
    requests: Requests, plain: Plain, engines: Mapping[str, Engine], model: str, client: httpx.AsyncClient
) -> dict[str, Contender]:
    """Everything that is compared."""

    def over_http(engine: Engine, ask: Any) -> Contender:
        async def run(many: list[Messages], at_once: int) -> float:
            bodies = requests.bodies(model, many)
            first = requests.bodies(model, requests.take(at_once))
            with alone(engine, engines):
                await ask(client, engine.url, first, at_once)  # not counted: its processes wake up, and connections open
                began = time.perf_counter()
                await ask(client, engine.url, bodies, at_once)
                return time.perf_counter() - began

        return run

    def by_generate(from_png: bool) -> Contender:
        async def run(many: list[Messages], at_once: int) -> float:
            parts = [many[i : i + at_once] for i in range(0, len(many), at_once)]
            with alone(None, engines):
                ready = None if from_png else [plain.ready(part) for part in parts]
                began = time.perf_counter()
                for i, part in enumerate(parts):
                    plain.generate(ready[i] if ready else plain.ready(part))
                return time.perf_counter() - began

        return run

    if "transformers" not in engines:
        return {"vllm": over_http(engines["vllm"], singly)}
    ours = engines["transformers"]
    found = {"synthq": over_http(ours, singly), "synthq batch": over_http(ours, batched)}
    if "vllm" in engines:
        found["vllm"] = over_http(engines["vllm"], singly)
    return {**found, "generate, ready": by_generate(False), "generate, from PNG": by_generate(True)}


async def measure(
    all_requests: Mapping[int, Requests], plain: Plain, engines: Mapping[str, Engine], model: str, rounds: int
) -> dict[str, Any]:
    """Requests per second of every contender at every prompt length and number at once, by round."""
    figures: dict[str, Any] = {}
    # A server that was stopped closes what was idle meanwhile just when it is asked again: nothing idle is kept that long.
    limits = httpx.Limits(max_connections=64, keepalive_expiry=1.0)
    async with httpx.AsyncClient(timeout=300, limits=limits, trust_env=False) as client:
        for tokens, requests in all_requests.items():
            named = contenders(requests, plain, engines, model, client)
            for at_once in AT_ONCE:
                count = max(16, 2 * at_once)
                rates: dict[str, list[float]] = {name: [] for name in named}
                for i in range(-WARM, rounds):
                    order = list(named) if i % 2 else list(named)[::-1]
                    for name in order:
                        took = await named[name](requests.take(count), at_once)
                        if i >= 0:
                            rates[name].append(count / took)
                figures[f"{tokens} tokens, {at_once} at once"] = rates
                tell(f"{tokens} tokens, {at_once} at once", rates)
    return figures


def tell(kind: str, rates: Mapping[str, list[float]]) -> None:
    """Print one line for each contender, with ours in terms of it."""
    for name, values in rates.items():
        shares = [ours / other for ours, other in zip(rates.get("synthq batch", values), values, strict=True)]
        print(f"| {kind} | {name} | {spread(values, 1)} | {spread(shares)} |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reply", type=int, default=8)
    parser.add_argument("--prefix-caching", action="store_true", help="let both engines reuse what prompts have in common")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--no-vllm", action="store_true")
    which.add_argument("--vllm-alone", action="store_true")
    given = parser.parse_args()

    import torch

    from workers.init_tiny import texts, words
    from workers.model.loading import load
    from workers.model.tiny import init_tiny

    cores = os.cpu_count() or 1
    torch.set_num_threads(cores)
    with scratch() as folder:
        model = folder / "tiny"
        init_tiny(model, texts(seeds=1, turns=10), words=words())
        loaded = load(model)
        pictures = frames(512)
        table = VllmTable(max_model_len=1024, enable_prefix_caching=given.prefix_caching, max_num_seqs=32).model_dump()
        print(f"{machine()}; torch {torch.__version__}, replies of {given.reply} tokens, prefix caching {given.prefix_caching}")
        names = ["vllm"] if given.vllm_alone else ["transformers"] if given.no_vllm else ["transformers", "vllm"]
        with ExitStack() as up:
            engines = {name: up.enter_context(serving(name, model, table, folder / f"{name}.log")) for name in names}
            figures = run(loaded, pictures, engines, given)
        save("engines", {"machine": machine(), "reply": given.reply, "prefix_caching": given.prefix_caching, **figures})


def run(loaded: Any, pictures: Sequence[bytes], engines: Mapping[str, Engine], given: argparse.Namespace) -> dict[str, Any]:
    """Make the requests ready, tell their lengths, measure."""
    all_requests = {tokens: Requests(loaded, pictures, tokens, given.reply) for tokens in PROMPTS}
    plain = Plain(loaded, given.reply)
    lengths = {tokens: plain.ready(requests.take(1))["input_ids"].shape[1] for tokens, requests in all_requests.items()}
    print(f"prompt tokens, those of the picture included: {', '.join(map(str, lengths.values()))}; {given.rounds} rounds")
    print("| prompts | who | requests/s, median (lowest to highest) | synthq batch in terms of it |\n| --- | --- | --- | --- |")
    return asyncio.run(measure(all_requests, plain, engines, loaded.ref, given.rounds))


if __name__ == "__main__":
    main()
