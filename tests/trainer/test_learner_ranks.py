"""Two processes that train one model together are one that trains it alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from learner_kit import CHOICES, train_together  # noqa: E402

HERE = Path(__file__).parent
WAIT_S = 120.0


@pytest.mark.parametrize("mode", list(CHOICES))
def test_two_processes_learn_what_one_does(tiny_model: Path, tmp_path: Path, mode: str) -> None:
    torch.set_num_threads(1)
    alone = train_together(tiny_model, mode, tmp_path / "alone")
    first, second = _two(tiny_model, mode, tmp_path / "both")
    assert first == second
    assert first["steps"] == alone["steps"] == 3
    for mine, theirs in zip(alone["tallies"], first["tallies"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-4)
    for mine, theirs in zip(alone["told"], first["told"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-3)
    for mine, theirs in zip(alone["logprobs"], first["logprobs"], strict=True):
        assert theirs == pytest.approx(mine, abs=2e-3)
    assert alone["error"] == first["error"]


def _two(base: Path, mode: str, folder: Path) -> list[dict[str, Any]]:
    """What each of two processes tells, that speak over gloo."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    env = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), str(HERE.parent.parent)]),
    }
    command = [sys.executable, str(HERE / "learner_kit.py"), str(base), mode, str(folder)]
    running = [
        subprocess.Popen(command, env=env | {"RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=WAIT_S) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    for process, (_, errors) in zip(running, said, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(out.splitlines()[-1]) for out, _ in said]
