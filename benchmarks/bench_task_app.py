"""Rollouts and turns per second of the task app, and how long /health takes meanwhile.

    python -m benchmarks.bench_task_app [--rollouts 32] [--turns 50] [--rounds 3] [--at-once 8]

The real process on a free port; the scripted player, so that nothing but play and HTTP is measured. Answers are read to the
end and not parsed. Start states are cached. The last row plays in threads of the serving process, not in processes of its own,
by the same code: it is what the processes are compared with.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.system import machine, percentile, save, scratch, spread

SERVE_IN_THREADS = "serve-in-threads"
HEALTH_EVERY_S = 0.01


def serve_in_threads() -> None:
    """Serve the task app, but play in threads of its own process."""
    from workers.rollout.task_app import __main__, app, wire
    from workers.rollout.task_app.player import answer_to

    class Threads:
        def __init__(self, size: int) -> None:
            self._threads = ThreadPoolExecutor(32)

        async def ask(self, code: int, body: bytes) -> wire.Packet:
            loop = asyncio.get_running_loop()
            status, said = await loop.run_in_executor(self._threads, lambda: asyncio.run(answer_to(wire.Packet(1, code, body))))
            return wire.Packet(1, status, said)

        def stop(self, within_s: float) -> None:
            """Nothing is under way when the benchmark ends it."""

        async def close(self) -> None:
            self._threads.shutdown(wait=False)

    app.Pool = Threads  # type: ignore[misc,assignment]
    sys.exit(__main__.main())


@contextmanager
def serving(home: Path, *line: str) -> Iterator[str]:
    """A task app on a free port; its address."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SYNTHQ_", "ENVIRONMENT_API_KEY"))}
    env |= {"SYNTHQ_HOME": str(home), "SYNTHQ_TASK_APP_PORT": "0"}
    process = subprocess.Popen([sys.executable, "-m", *line], env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(20)


class Looks:
    """Asks for /health again and again, on a connection and in a thread of its own, and keeps how long each answer took."""

    def __init__(self, url: str) -> None:
        self.took_ms: list[float] = []
        self._url, self._over = url, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Looks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60, trust_env=False) as client:
            while not self._over.wait(HEALTH_EVERY_S):
                began = time.perf_counter()
                client.get("/health").raise_for_status()
                self.took_ms.append((time.perf_counter() - began) * 1e3)


def body(seed: int, *, turns: int, trace: bool, vision: bool) -> dict[str, Any]:
    """A rollout of the scripted player."""
    return {
        "run_id": f"bench-{seed}",
        "env": {"env_name": "crafter", "seed": seed},
        "policy": {"policy_name": "scripted", "config": {"use_vision": vision}},
        "ops": ["agent", "env"] * turns,
        "record": {"return_trace": trace},
    }


def one_round(url: str, given: argparse.Namespace, *, trace: bool, vision: bool) -> tuple[float, list[float], int]:
    """Seconds of one round of rollouts, milliseconds of each look at /health, bytes of all answers."""
    with httpx.Client(base_url=url, timeout=600, trust_env=False) as client, ThreadPoolExecutor(given.at_once) as pool:

        def play(seed: int) -> int:
            asked = body(seed, turns=given.turns, trace=trace, vision=vision)
            answer = client.post("/rollout", json=asked)
            answer.raise_for_status()
            return len(answer.content)

        with Looks(url) as looks:
            began = time.perf_counter()
            sizes = list(pool.map(play, range(given.rollouts)))
            took = time.perf_counter() - began
    return took, looks.took_ms, sum(sizes)


def main() -> None:
    """Run and print."""
    if sys.argv[1:] == [SERVE_IN_THREADS]:
        serve_in_threads()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=32, help="rollouts a round, each of a seed of its own")
    parser.add_argument("--turns", type=int, default=50, help="turns of a rollout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=8)
    given = parser.parse_args()
    print(machine())
    print(f"{given.rollouts} rollouts of {given.turns} turns, {given.at_once} at once, {given.rounds} rounds, median (range)\n")
    print("play in    vision  trace   rollouts/s               turns/s                  MB an answer   /health ms p50, p95, max")
    cases: list[tuple[str, bool, bool]] = [("processes", *each) for each in itertools.product((True, False), (False, True))]
    figures: list[dict[str, Any]] = []
    with scratch() as home:
        for where, vision, trace in [*cases, ("threads", True, False)]:
            line = ["benchmarks.bench_task_app", SERVE_IN_THREADS] if where == "threads" else ["workers.rollout.task_app"]
            with serving(home, *line) as url:
                one_round(url, given, trace=trace, vision=vision)  # starts the processes, fills the cache of start states
                rounds = [one_round(url, given, trace=trace, vision=vision) for _ in range(given.rounds)]
            rates = [given.rollouts / took for took, _, _ in rounds]
            looks = [ms for _, each, _ in rounds for ms in each]
            health = [percentile(looks, 0.5), percentile(looks, 0.95), max(looks)]
            size = rounds[-1][2] / given.rollouts / 1e6
            turns = spread([rate * given.turns for rate in rates], 0)
            waits = ", ".join(f"{ms:.1f}" for ms in health)
            print(
                f"{where:<10} {vision!s:<7} {trace!s:<7} {spread(rates):<24} {turns:<24} {size:<14.3f} {waits} (n={len(looks)})"
            )
            figures.append(
                {
                    "where": where,
                    "vision": vision,
                    "trace": trace,
                    "rollouts_a_s": rates,
                    "health_ms": health,
                    "mb_an_answer": size,
                }
            )
    save("task_app", {"rollouts": given.rollouts, "turns": given.turns, "at_once": given.at_once, "cases": figures})


if __name__ == "__main__":
    main()
