"""What HTTP costs in front of the `transformers` engine: one request a body, many in one body, and the engine without a server.

    python -m benchmarks.bench_server [--rounds 5] [--requests 96] [--reply 3] [--rules none] [--threads 1]

A tiny model and prompts as play makes them, each with a picture of its own, so that no picture is found in a cache; what prompts
begin with in common is kept. The three ways take turns in every round: ``engine`` in this process, its prompts made within
the measured time; ``single`` with as many connections as there are requests at once; ``batch`` with as many requests in one body.
The client is httpx, as in play, and its time counts. The server's own figures tell where its time went.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.system import machine, save, scratch, spread

AT_ONCE = (1, 8, 32)
SIDE = 63
PHASES = ("processor", "queue", "prefill", "decode", "answer")

Body = dict[str, Any]


def bodies(model: str, rules: str, reply: int) -> Iterator[Body]:
    """Requests as a rollout worker sends them, every one with another picture. Without end."""
    from workers.rollout import envs, prompts
    from workers.transport.pixels import encode_png

    env = envs.make("crafter")
    options = prompts.PromptOptions(rules=rules, reply_format="text", image_only_mode=True, max_actions=1)  # type: ignore[arg-type]
    told = prompts.build(None if rules == "none" else env.rules(rules), None, "0" * 64, (), options, env.actions)
    draws = np.random.default_rng(0)
    seed = 0
    while True:
        seed += 1
        png = encode_png(draws.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
        yield {
            "model": model,
            "messages": prompts.to_openai(told, {"0" * 64: png}.__getitem__),
            "max_tokens": reply,
            "ignore_eos": True,
            "temperature": 1.0,
            "seed": seed,
            "logprobs": True,
            "top_logprobs": 0,
            "return_token_ids": True,
            "skip_special_tokens": False,
            "stream": False,
        }


class Engine:
    """The engine in this process."""

    def __init__(self, model: str) -> None:
        from workers.inference.server import options
        from workers.inference.server.build import build

        self.built = build(options.parse(["--model", model]))

    def __call__(self, asked: list[Body], at_once: int) -> float:
        """Seconds for all of them, ``at_once`` under way at a time."""
        left, done, free = len(asked), threading.Event(), threading.Semaphore(at_once)

        def one(result: Any) -> None:
            nonlocal left
            if isinstance(result, Exception):
                raise result
            left -= 1
            free.release()
            if not left:
                done.set()

        began = time.perf_counter()
        for body in asked:
            free.acquire()
            ask = self.built.reader.read(body)
            self.built.core.submit(ask.prompt, ask.sampling, ask.model, one)
        done.wait()
        return time.perf_counter() - began


class Served:
    """The engine behind its server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def single(self, asked: list[Body], at_once: int) -> float:
        """Seconds for all of them, one in each body."""

        async def one(http: httpx.AsyncClient, mine: list[Body]) -> None:
            for body in mine:
                response = await http.post("/v1/chat/completions", json=body)
                assert response.json()["choices"][0]["token_ids"], response.text

        return asyncio.run(self._timed(lambda http: [one(http, asked[i::at_once]) for i in range(at_once)]))

    def batch(self, asked: list[Body], at_once: int) -> float:
        """Seconds for all of them, ``at_once`` in each body."""

        async def some(http: httpx.AsyncClient) -> None:
            for i in range(0, len(asked), at_once):
                whole = {"requests": asked[i : i + at_once]}
                async with http.stream("POST", "/v1/batch", json=whole) as response:
                    lines = [json.loads(line) async for line in response.aiter_lines()]
                assert [line["status"] for line in lines] == [200] * len(whole["requests"])

        return asyncio.run(self._timed(lambda http: [some(http)]))

    async def _timed(self, work: Any) -> float:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(base_url=self.url, limits=limits, timeout=120, trust_env=False) as http:
            await http.get("/health")
            began = time.perf_counter()
            await asyncio.gather(*work(http))
            return time.perf_counter() - began

    def figures(self) -> dict[str, float]:
        """Sums of the server's figures since it began: milliseconds of each phase, and requests."""
        text = httpx.get(f"{self.url}/metrics", trust_env=False).text
        series = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        told = {phase: 1000 * float(series[f'synthq_engine_phase_seconds_sum{{phase="{phase}"}}']) for phase in PHASES}
        told |= {name: float(series[f"synthq_engine_inputs_{name}_ms"]) for name in ("render", "tokenize", "pictures")}
        told["whole"] = 1000 * float(series["synthq_engine_request_seconds_sum"])
        told["requests"] = float(series["synthq_engine_request_seconds_count"])
        return told


@contextmanager
def served(model: str) -> Iterator[Served]:
    """The server as a process of its own, for a while."""
    argv = [sys.executable, "-m", "workers.inference.server", "--model", model]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Served(json.loads(process.stdout.readline())["listening"])
        finally:
            process.terminate()


def tiny(folder: Path) -> str:
    """A tiny model, as `synthq models init-tiny` makes it from less text."""
    from workers.init_tiny import texts, words
    from workers.model.tiny import init_tiny

    init_tiny(folder, texts(seeds=1, turns=3), words=words())
    return str(folder)


def measure(given: argparse.Namespace, model: str) -> dict[str, Any]:
    """All rounds; prints a table for each number of requests at once."""
    engine, figures = Engine(model), {}
    asked = bodies(model, given.rules, given.reply)
    prompt = len(engine.built.reader.read(next(asked)).prompt.ids)
    print(f"prompt of {prompt} tokens with a picture of {SIDE} x {SIDE}; reply of {given.reply}; torch threads: {given.threads}")
    with served(model) as server:
        ways = {"engine": engine, "single": server.single, "batch": server.batch}
        for at_once in AT_ONCE:
            ms: dict[str, list[float]] = {way: [] for way in ways}
            parts: dict[str, list[dict[str, float]]] = {"single": [], "batch": []}
            for way in ways.values():
                way(list(islice(asked, at_once)), at_once)
            for _ in range(given.rounds):
                for name, way in ways.items():
                    before = server.figures()
                    ms[name].append(1000 * way(list(islice(asked, given.requests)), at_once) / given.requests)
                    if name in parts:
                        after = server.figures()
                        count = after["requests"] - before["requests"]
                        parts[name].append({key: (after[key] - before[key]) / count for key in after if key != "requests"})
            show(at_once, ms, parts, given)
            figures[str(at_once)] = {"ms": ms, "parts": parts}
    engine.built.core.stop()
    return figures


def show(at_once: int, ms: dict[str, list[float]], parts: dict[str, list[dict[str, float]]], given: argparse.Namespace) -> None:
    """Print what was measured with one number of requests at once."""
    print(f"\n{at_once} at once, {given.rounds} paired rounds of {given.requests} requests: wall ms a request, median (range)")
    for name, values in ms.items():
        over = (
            "" if name == "engine" else f"   over the engine {spread([a - b for a, b in zip(values, ms['engine'], strict=True)])}"
        )
        print(f"  {name:8}{spread(values)}   {1000 / statistics.median(values):.0f} requests/s{over}")
    for name, rounds in parts.items():
        told = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        inside = ", ".join(f"{key} {told[key]:.3f}" for key in ("render", "tokenize", "pictures"))
        print(f"  {name}, ms in the life of a request: " + ", ".join(f"{key} {told[key]:.2f}" for key in (*PHASES, "whole")))
        print(f"    of processor: {inside}")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=96, help="in each round")
    parser.add_argument("--reply", type=int, default=3, help="tokens of a reply")
    parser.add_argument("--rules", default="none", help="how much of the rules prompts tell: none, short or full")
    parser.add_argument("--threads", default="1", help="threads of torch, here and in the server")
    parser.add_argument("--model", help="a folder; without it a tiny model is made")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = given.threads
    print(machine())
    with scratch() as folder:
        figures = measure(given, given.model or tiny(folder / "tiny"))
    save("server", {"arguments": vars(given), "at_once": figures})


if __name__ == "__main__":
    main()
