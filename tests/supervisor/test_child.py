from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from supervisor.conftest import until

from app.supervisor import child as child_module
from app.supervisor.child import Child, LogFile, describe, tail
from app.supervisor.state import identity


def run(
    code: str, during: Callable[[Child, list[str]], Awaitable[None]], tmp_path: Path, *, is_worker: bool = False
) -> tuple[Child, list[str], list[str | None]]:
    """Run a child of Python ``code`` while ``during`` runs; it, its lines, and the worker ids that ended by themselves."""
    lines: list[str] = []
    lost: list[str | None] = []

    async def ended(child: Child) -> None:
        lost.append(child.state.worker_id)

    async def whole() -> Child:
        child = Child(
            "one",
            [sys.executable, "-c", code],
            env=dict(os.environ),
            log=tmp_path / "one.log",
            say=lambda name, line: lines.append(line),
            changed=lambda: None,
            ended=ended,
            is_worker=is_worker,
        )
        await child.start()
        try:
            await asyncio.wait_for(during(child, lines), 20)
        finally:
            await child.stop(0.5)
        return child

    return asyncio.run(whole()), lines, lost


async def lines_come(lines: list[str], text: str, count: int = 1) -> None:
    while sum(text in line for line in lines) < count:
        await asyncio.sleep(0.01)


def test_waits_between_restarts_double_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(child_module, "LONGEST_DELAY_S", 0.04)

    async def five_ends(child: Child, lines: list[str]) -> None:
        await lines_come(lines, "ended by itself", 5)

    child, lines, lost = run("raise SystemExit(3)", five_ends, tmp_path)

    delays = [line.rpartition(" in ")[2] for line in lines if "ended by itself, exit status 3" in line]
    assert delays[:5] == ["0.01 s", "0.02 s", "0.04 s", "0.04 s", "0.04 s"]
    assert child.state.restarts >= 4
    assert len(lost) >= 5


def test_a_process_that_ran_long_starts_again_with_the_shortest_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(child_module, "STEADY_S", 0.0)

    async def four_ends(child: Child, lines: list[str]) -> None:
        await lines_come(lines, "ended by itself", 4)

    _, lines, _ = run("pass", four_ends, tmp_path)

    assert {line.rpartition(" in ")[2] for line in lines if "ended by itself" in line} == {"0.01 s"}


def test_a_worker_gets_a_new_id_with_each_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "FIRST_DELAY_S", 0.01)

    async def three_starts(child: Child, lines: list[str]) -> None:
        await lines_come(lines, "I am", 3)

    _, lines, lost = run("import os; print('I am', os.environ['SYNTHQ_WORKER_ID'])", three_starts, tmp_path, is_worker=True)

    told = [line.removeprefix("I am ") for line in lines if line.startswith("I am")]
    assert len(set(told)) == len(told) >= 3
    assert told[:2] == lost[:2]


def test_what_ignores_a_polite_request_is_killed_with_its_children(tmp_path: Path) -> None:
    code = (
        "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "own = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print('child', own.pid, flush=True);"
        "own.wait()"
    )

    async def started(child: Child, lines: list[str]) -> None:
        await lines_come(lines, "child")

    child, lines, _ = run(code, started, tmp_path)

    assert child.state.last_exit == -9
    grandchild = int(next(line for line in lines if line.startswith("child")).split()[1])
    until(lambda: identity(grandchild) is None, "the child's own child is gone", timeout_s=5)


def test_a_line_longer_than_the_buffer_reaches_the_log_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "LINE_LIMIT", 1000)

    async def all_came(child: Child, lines: list[str]) -> None:
        await lines_come(lines, "the end")

    run("print('x' * 50_000); print('the end'); import time; time.sleep(60)", all_came, tmp_path)

    assert "x" * 50_000 in (tmp_path / "one.log").read_text()


def test_a_full_log_begins_a_new_file_and_keeps_three(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "one.log", limit=10)
    for number in range(12):
        log.write(f"line {number:02}\n".encode())
    log.close()

    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.log", "one.log.1", "one.log.2", "one.log.3"]
    assert tail(tmp_path / "one.log") == ["line 11"]
    assert tail(tmp_path / "one.log.3") == ["line 08"]


def test_an_end_is_told_in_words() -> None:
    assert [describe(code) for code in (0, 3, -9, -15)] == ["exit status 0", "exit status 3", "SIGKILL", "SIGTERM"]
