"""The real engine with the tiny model, asked by the real step: alone or among many it samples alike, and a kill loses nothing."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from core.kit import Process, job, python, until, use_settings
from core.kit import submit as submit_job
from play_kit import episodes, finish, turn_rows, work

from app import endpoints, specs
from app.models import TurnRow

pytestmark = [pytest.mark.usefixtures("sqlite_store", "quick"), pytest.mark.vision]

SAME = {"frame", "system", "messages", "outcome", "actions", "dropped", "rewards", "unlocked", "prompt_ids", "output_ids"}
"""What of a turn must not depend on what else was computed with it."""
NOISE = 1e-4
"""Most that a log-probability may differ by what else was computed with it."""
SHORT = {"rules": "none", "max_actions": 1, "max_tokens": 4, "image_only_mode": True}


@pytest.fixture
def quick(own_home: Path) -> Iterator[None]:
    with use_settings(SYNTHQ_BACKOFF_S="0", SYNTHQ_WATCH_S="0.05", SYNTHQ_ENDPOINT_HEARTBEAT_S="1000"):
        yield


@dataclass
class Server:
    """A real server of the tiny model."""

    process: Process
    url: str
    base: str

    def report(self) -> Server:
        """Write in this test's store that it is an endpoint."""
        id = endpoints.register(f"worker-at-{self.url}", engines=["transformers"])
        endpoints.report(id, state="ready", url=self.url, engine="transformers", base=self.base, adapters={}, capacity=32)
        return self


Serve = Callable[..., Server]


def start(model: Path, folder: Path, *flags: str) -> Server:
    """Start a server and wait until it has loaded."""
    port = folder / f"port-{len(list(folder.glob('port-*')))}"
    words = ["-m", "workers.inference.server", "--model", str(model), "--port", "0", "--port-file", str(port), *flags]
    process = python(*words, log=port.with_suffix(".log"), OMP_NUM_THREADS="1")
    until(lambda: port.is_file() or not process.running, 120, "the server is ready")
    assert port.is_file(), process.said()
    return Server(process, f"http://127.0.0.1:{port.read_text().strip()}", str(model))


@pytest.fixture(scope="module")
def lasting(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for all tests that do it no harm."""
    server = start(tiny_model, tmp_path_factory.mktemp("lasting"))
    yield server
    server.process.end()


@pytest.fixture
def server(lasting: Server, sqlite_store: str, quick: None) -> Server:
    """That server, an endpoint of this test's store."""
    return lasting.report()


@pytest.fixture
def serve(tiny_model: Path, own_home: Path, sqlite_store: str, quick: None) -> Iterator[Serve]:
    """Starts servers of a test's own, endpoints of its store."""
    started: list[Server] = []

    def serve(*flags: str) -> Server:
        started.append(start(tiny_model, own_home, *flags).report())
        return started[-1]

    yield serve
    for each in started:
        each.process.end()


@pytest.fixture
def submit(tiny_model: Path) -> Callable[..., str]:
    """Submits an eval of the tiny model: eight episodes of twelve turns."""

    def submit(**table: Any) -> str:
        label = f"model:{tiny_model}"
        config = SHORT | table.pop("policy_config", {})
        given = {"seeds": "0-7", "policies": [label], "max_turns": 12, "episodes_per_step": 8, "reply_format": "text"}
        given |= {"env_config": {"image_size": 63}, "policy_config": config} | table
        spec = specs.resolved(specs.build({"kind": "eval", "eval": given}))
        use = {"label": label, "base": str(tiny_model), "adapter": "", "sha256": "", "line": ""}
        return submit_job("eval", spec, uses=[use]).id

    return submit


def played(job_id: str) -> dict[int, list[TurnRow]]:
    """Seed -> its turns, of a job that must end well."""
    ended = finish(job_id)
    assert (ended.state, ended.reason) == ("succeeded", None)
    return {seed: turn_rows(row.id) for (seed, _), row in episodes(job_id).items()}


def alike(one: dict[int, list[TurnRow]], other: dict[int, list[TurnRow]]) -> float:
    """Hold two plays to each other; the largest difference of a log-probability."""
    assert one.keys() == other.keys()
    most = 0.0
    for seed, turns in one.items():
        for a, b in zip(turns, other[seed], strict=True):
            assert a.model_dump(include=SAME) == b.model_dump(include=SAME), f"seed {seed}, turn {a.index}"
            most = max([most, *(abs(x - y) for x, y in zip(a.logprobs or (), b.logprobs or (), strict=True))])
    return most


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.usefixtures("server")
def test_what_is_played_does_not_depend_on_how_many_play(submit: Callable[..., str], temperature: float) -> None:
    alone = played(submit(episodes_in_flight=1, temperature=temperature))
    many = played(submit(episodes_in_flight=16, temperature=temperature))
    assert alike(alone, many) < NOISE
    turns = [turn for rows in alone.values() for turn in rows]
    assert len(turns) == 8 * 12
    assert all(len(turn.output_ids or ()) == len(turn.logprobs or ()) > 0 for turn in turns)
    assert all(max(turn.logprobs or ()) <= 0.0 for turn in turns)
    if temperature:
        assert len({json.dumps(turn.output_ids) for turn in turns}) > len(turns) // 2, "draws differ from turn to turn"


@pytest.mark.parametrize(
    "mode", [{"use_vision": False, "image_only_mode": False}, {"image_only_mode": False}, {"rules": "short"}]
)
@pytest.mark.parametrize("reply_format", ["tool_call", "text"])
@pytest.mark.usefixtures("server")
def test_every_kind_of_prompt_is_answered(submit: Callable[..., str], mode: dict[str, Any], reply_format: str) -> None:
    turns = [
        turn for rows in played(submit(policy_config=mode, reply_format=reply_format, max_turns=3)).values() for turn in rows
    ]
    notes = [turn.reply["notes"] for turn in turns]
    assert {note["usage"]["image_tokens"] for note in notes} == {9 if mode.get("use_vision", True) else 0}
    assert all(note["usage"]["input_tokens"] == len(turn.prompt_ids or ()) for note, turn in zip(notes, turns, strict=True))
    parts = {"http", "queue", "processor", "prefill", "decode"}
    assert all(parts <= set(turn.timings) for turn in turns)


def test_when_one_of_two_engines_is_killed_no_turn_is_lost(server: Server, serve: Serve, submit: Callable[..., str]) -> None:
    one = serve()
    calm = played(submit(temperature=0.0, max_turns=30))
    job_id = submit(temperature=0.0, max_turns=30)
    with ThreadPoolExecutor(1) as pool, use_settings(SYNTHQ_SEGMENT_S="0.05"):
        working = pool.submit(work)
        until(lambda: sum(row.turns for row in episodes(job_id).values()) > 40, 60, "a part of it is stored")
        one.process.send(signal.SIGKILL)
        working.result(120)
    assert job(job_id).state == "succeeded"
    after = played(job_id)
    assert alike(calm, after) < NOISE
    assert all([turn.index for turn in turns] == list(range(30)) for turns in after.values())
    moved = [turns for turns in after.values() if len({turn.reply["notes"]["endpoint"] for turn in turns}) == 2]
    assert moved, "some episode was there"


def test_a_prompt_that_has_no_room_ends_the_job_with_the_engines_numbers(serve: Serve, submit: Callable[..., str]) -> None:
    serve("--max-model-len", "96")
    job_id = submit(policy_config={"image_only_mode": False, "rules": "full"}, max_turns=2)
    ended = finish(job_id)
    assert ended.state == "failed"
    assert str(ended.reason).startswith("8 of 8 episodes failed: ")
    assert "have room for 96 (--max-model-len)" in str(ended.reason)
