"""What tests of the task app share: bodies, games played beside it, and the real process on a free port."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from app.records import Frame, Turn
from workers.rollout import policies
from workers.rollout.play import Game, PlayOptions
from workers.rollout.task_app import answer, ask, rollout


def nested(seed: int = 1, *, policy: str | None = "random", turns: int = 6, **more: Any) -> dict[str, Any]:
    """A body as the contract writes it."""
    config = more.pop("config", {})
    return {
        "run_id": "run-1",
        "env": {"env_name": "crafter", "seed": seed, "config": more.pop("env_config", {})},
        "policy": {"policy_name": policy, "config": config},
        "ops": ["agent", "env"] * turns,
        "mode": "eval",
        **more,
    }


def flat(seed: int = 1, **more: Any) -> dict[str, Any]:
    """A body in one table."""
    return {"env_name": "crafter", "seed": seed, "policy_name": "random", "max_turns": 6, **more}


def read(body: Mapping[str, Any]) -> ask.Ask:
    """What a body asks for."""
    return ask.read(json.dumps(body).encode())


def played(body: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a body, played in this process."""
    told: dict[str, Any] = json.loads(answer.encode(asyncio.run(rollout.play(read(body)))))
    return told


def locally(body: Mapping[str, Any]) -> tuple[list[Turn], list[Frame], dict[str, Any]]:
    """The same episode as a worker plays it: turns, frames (the last one too) and figures."""
    asked = read(body)
    options = replace(PlayOptions.of(asked.spec), max_turns=asked.max_turns)

    async def play() -> tuple[list[Turn], list[Frame], dict[str, Any]]:
        game = Game.begin(options, policies.make(asked.label, asked.spec.eval.options_of(asked.label)), asked.key)
        turns, frames = [], []
        while not game.ended:
            turn, frame = await game.turn()
            turns.append(turn)
            frames.append(frame)
        return turns, [frame for frame in (*frames, game.frame()) if frame], game.figures()

    return asyncio.run(play())


class Running:
    """The task app as a process of its own."""

    def __init__(self, home: Path, **env: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SYNTHQ_", "ENVIRONMENT_API_KEY"))}
        given = {"SYNTHQ_HOME": str(home), "SYNTHQ_TASK_APP_PORT": "0", **env}
        self._log = (home / "task-app.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "workers.rollout.task_app"],
            env=clean | given,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http://127.0.0.1:"), (home / "task-app.log").read_text()
        self.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def rollout(self, body: Mapping[str, Any], **more: Any) -> httpx.Response:
        """``POST /rollout``."""
        return self.http.post("/rollout", json=body, **more)

    def players(self) -> list[int]:
        """Pids of the processes that play."""
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        return [int(pid) for pid, parent in map(str.split, listed.splitlines()) if int(parent) == self.process.pid]

    def end(self, number: int = signal.SIGTERM) -> int:
        """End it; its exit status."""
        self.http.close()
        self.process.send_signal(number)
        try:
            return self.process.wait(15)
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self._log.close()
