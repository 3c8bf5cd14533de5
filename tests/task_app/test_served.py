"""The task app as a process: keys, many at once, callers who leave, players that die, and the end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from core.kit import until
from core.openapi import judge
from play.stand_in import StandIn, calls
from task_app_kit import Running, flat, nested

from app.supervisor.state import identity
from workers.rollout.envs.crafter import Crafter
from workers.transport import trace

pytestmark = pytest.mark.integration

KEY, ALIAS, OWN = "env-key-11112222", "alias-33334444", "own-key-55556666"
Headers = dict[str, str]
RIGHT: list[Headers] = [
    {"X-API-Key": KEY},
    {"X-API-Key": OWN},
    {"X-API-Keys": f"wrong, {ALIAS}"},
    {"Authorization": f"Bearer {ALIAS}"},
    {"X-API-Key": "wrong", "Authorization": f"Bearer {KEY}"},
]
WRONG: list[Headers] = [
    {},
    {"X-API-Key": "wrong-77778888"},
    {"X-API-Key": KEY[:-1]},
    {"X-API-Key": f"{KEY},{OWN}"},
    {"X-API-Keys": "wrong-77778888, more"},
    {"X-API-Keys": ","},
    {"Authorization": "Bearer wrong-77778888"},
    {"Authorization": f"Basic {KEY}"},
    {"Authorization": KEY},
]


@pytest.fixture(scope="module")
def open_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A task app without keys."""
    running = Running(tmp_path_factory.mktemp("open"))
    yield running
    running.end()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A task app with keys of all three kinds."""
    names = {"ENVIRONMENT_API_KEY": KEY, "ENVIRONMENT_API_KEY_ALIASES": f"{ALIAS}, other", "SYNTHQ_TASK_APP_KEYS": OWN}
    running = Running(tmp_path_factory.mktemp("guarded"), **names)
    yield running
    running.end()


@pytest.fixture
def own_app(own_home: Path) -> Iterator[Running]:
    """A task app that a test may harm, with one process that plays."""
    running = Running(own_home, SYNTHQ_TASK_APP_PROCESSES="1")
    yield running
    if running.process.poll() is None:
        running.end()


# -- who may call ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", RIGHT, ids=range(len(RIGHT)))
def test_a_right_key_in_any_header_will_do(guarded: Running, headers: Headers) -> None:
    for path in ("/info", "/task_info", "/health", "/api/health"):
        assert guarded.http.get(path, headers=headers).status_code == 200
    assert guarded.http.post("/done", headers=headers).json() == {"ok": True, "service": "synthq-task-app"}
    assert guarded.rollout(flat(), headers=headers).status_code == 200


@pytest.mark.parametrize("headers", WRONG, ids=range(len(WRONG)))
def test_a_wrong_key_is_refused_and_no_part_of_any_key_is_told(guarded: Running, headers: Headers) -> None:
    answers = [guarded.http.get(path, headers=headers) for path in ("/info", "/task_info", "/task_info?seed=1")]
    answers += [guarded.http.post(path, headers=headers, json={}) for path in ("/rollout", "/done")]
    for answer in answers:
        assert answer.status_code == 401
        assert set(answer.json()["detail"]["error"]) == {"code", "message"}
        told = answer.text + str(answer.headers)
        assert not any(key[at : at + 4] in told for key in (KEY, ALIAS, OWN, "77778888") for at in range(0, len(key) - 3))


def test_health_needs_no_key_but_tells_of_a_wrong_one(guarded: Running, open_app: Running) -> None:
    for path in ("/health", "/api/health"):
        assert guarded.http.get(path).json() == {"healthy": True, "auth": {"required": True}}
        assert guarded.http.get(path, headers={"X-API-Key": "wrong"}).status_code == 401
        assert open_app.http.get(path, headers={"X-API-Key": "any"}).json() == {"healthy": True, "auth": {"required": False}}
    assert guarded.http.get("/").json() == {"status": "ok", "service": "synthq-task-app"}
    head = guarded.http.head("/")
    assert (head.status_code, head.content) == (200, b"")


def test_without_keys_this_machine_alone_is_answered_and_no_page_of_another_site(open_app: Running) -> None:
    assert open_app.rollout(flat()).status_code == 200
    for headers in ({"Host": "rebound.example"}, {"Origin": "https://evil.example"}):
        answer = open_app.rollout(flat(), headers=headers)
        assert answer.status_code == 403
        assert "SYNTHQ_TASK_APP_KEYS" in answer.json()["detail"]["error"]["message"]


# -- what there is ---------------------------------------------------------------------------------------------------------


def test_tasks_tell_of_the_real_world_of_their_seeds(open_app: Running) -> None:
    assert open_app.http.get("/task_info").json()["taskset"]["seed_range"] == [0, 2**31 - 1]
    one = open_app.http.get("/task_info?seed=7").json()
    both = open_app.http.get("/task_info?seed=7&seeds=8").json()
    game = Crafter()
    game.reset(7)
    cows = [thing for thing in game.world.objects if thing.name == "cow"]

    assert one["observation"]["traits"]["cows"] == len(cows) > 0
    assert one["observation"]["text"] == game.describe(game.status())
    assert one["action_space"]["actions"] == list(Crafter.actions)
    assert both[0] == one
    assert both[1]["dataset"]["seed"] == 8
    assert both[1]["observation"]["traits"] != one["observation"]["traits"]
    assert "scripted" in open_app.http.get("/info").json()["policies"]


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/task_info?seed=-1", 422, "seed"),
        (f"/task_info?seed={10**40}", 422, "seed"),
        ("/task_info?seed=x", 422, "seed"),
        ("/task_info?" + "&".join(f"seed={i}" for i in range(101)), 422, "100"),
        ("/task_info?sed=1", 422, "did you mean 'seed'?"),
        ("/rolout", 404, "did you mean '/rollout'?"),
        ("/rollout", 405, "POST"),
    ],
)
def test_what_is_not_there_is_said(open_app: Running, path: str, status: int, sentence: str) -> None:
    answer = open_app.http.get(path)

    assert answer.status_code == status
    assert sentence in answer.json()["detail"]["error"]["message"]


# -- rollouts --------------------------------------------------------------------------------------------------------------


def test_the_flat_body_of_the_first_users_is_answered_with_a_trajectory_and_metadata(open_app: Running) -> None:
    body = {
        "env_name": "crafter",
        "seed": 0,
        "max_turns": 2,
        "policy_name": "scripted",
        "policy_config": {"use_vision": True, "image_only_mode": True, "temperature": 0.6, "max_tokens": 512},
    }
    answer = open_app.rollout(body)

    assert answer.status_code == 200
    assert {"trajectory", "metadata"} <= set(answer.json())
    assert len(answer.json()["trajectory"]["steps"]) == 2
    refused = open_app.rollout({**body, "inference_url": "test://dummy"})
    assert refused.status_code == 422
    assert "http://" in refused.json()["detail"]["error"]["message"]


def test_rollouts_of_one_seed_are_alike_and_health_answers_meanwhile(open_app: Running) -> None:
    body = nested(5, policy="scripted", turns=60, record={"return_trace": True})
    with ThreadPoolExecutor(8) as pool:
        playing = [pool.submit(open_app.rollout, {**body, "run_id": f"run-{i}"}) for i in range(8)]
        took = []
        while not all(future.done() for future in playing):
            began = time.perf_counter()
            assert open_app.http.get("/health").status_code == 200
            took.append(time.perf_counter() - began)
        answers = [future.result().json() for future in playing]

    assert {answer["run_id"] for answer in answers} == {f"run-{i}" for i in range(8)}
    traces = [trace.unpack(answer["trace"]) for answer in answers]
    assert len({each.episode["sha256"] for each in traces}) == 1
    assert len({tuple(frame.sha256 for frame in each.frames) for each in traces}) == 1
    assert len(took) > 3
    assert sorted(took)[len(took) // 2] < 0.5
    assert 1 <= len(open_app.players()) <= (os.cpu_count() or 1)


def raw(app: Running, body: bytes, *more: str) -> int:
    """The status that bytes get."""
    return app.http.post("/rollout", content=body, headers={"Content-Type": "application/json"}).status_code


def test_bodies_that_are_too_much_are_refused_and_harm_nothing(open_app: Running) -> None:
    assert raw(open_app, b'{"seed": 1, "run_id": "' + b"a" * 5_000_000 + b'"}') == 413
    assert raw(open_app, b"[" * 1_000_000) == 422
    assert raw(open_app, b'{"seed": ' + b"1" * 1_000_000 + b"}") == 422
    chunks = (b" " * 1_000_000 for _ in range(6))
    assert open_app.http.post("/rollout", content=chunks).status_code == 413
    assert open_app.rollout(flat()).status_code == 200


def test_a_caller_who_leaves_ends_the_rollout(open_app: Running) -> None:
    with StandIn(key=None) as server:
        server.always = calls("noop", after_s=0.1)
        body = flat(
            policy_name="crafter-react", max_turns=10_000, policy_config={"model": "teacher", "inference_url": server.url}
        )
        with pytest.raises(httpx.ReadTimeout):
            open_app.rollout(body, timeout=1.5)
        asked = len(server.asked)
        assert asked > 0
        time.sleep(1.0)  # ten more would have come
        assert len(server.asked) <= asked + 2


def test_a_player_that_dies_is_told_to_its_callers_and_replaced(own_app: Running) -> None:
    assert own_app.rollout(flat()).status_code == 200
    (player,) = own_app.players()
    with ThreadPoolExecutor(1) as pool, StandIn(key=None) as server:
        server.always = calls("noop", after_s=30)
        body = flat(policy_name="crafter-react", policy_config={"model": "teacher", "inference_url": server.url})
        playing = pool.submit(own_app.rollout, body)
        until(lambda: server.asked, 20, "the model is asked")
        os.kill(player, signal.SIGKILL)
        answer = playing.result(20)

    assert answer.status_code == 503
    assert "may be sent again" in answer.json()["detail"]["error"]["message"]
    assert own_app.rollout(flat()).status_code == 200
    assert own_app.players() != [player]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_its_players_end_with_it(own_app: Running, number: int) -> None:
    assert own_app.rollout(flat()).status_code == 200
    players = {pid: identity(pid) for pid in own_app.players()}
    assert players

    own_app.end(number)
    until(lambda: all(identity(pid) != who for pid, who in players.items()), 20, "the players are gone")


def test_rollouts_that_are_under_way_at_the_end_are_told_so(own_app: Running) -> None:
    with ThreadPoolExecutor(1) as pool, StandIn(key=None) as server:
        server.always = calls("noop", after_s=30)
        body = flat(policy_name="crafter-react", policy_config={"model": "teacher", "inference_url": server.url})
        playing = pool.submit(httpx.post, f"{own_app.url}/rollout", json=body, timeout=30, trust_env=False)
        until(lambda: server.asked, 20, "the model is asked")
        own_app.end()
        answer = playing.result(20)

    assert answer.status_code == 503
    assert "is being stopped" in answer.json()["detail"]["error"]["message"]


def test_a_port_that_is_taken_and_an_open_address_without_a_key_are_said(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENVIRONMENT_API_KEY", raising=False)

    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {f"SYNTHQ_TASK_APP_{name}": value for name, value in variables.items()}
        line = [sys.executable, "-m", "workers.rollout.task_app"]
        return subprocess.run(line, env=env, capture_output=True, text=True, timeout=30, check=False)

    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = run(PORT=str(other.getsockname()[1]))
    opened = run(HOST="0.0.0.0", PORT="0")

    assert (taken.returncode, opened.returncode) == (5, 2)
    assert "SYNTHQ_TASK_APP_PORT gives the task app another one" in taken.stderr
    assert "is open to others and the task app has no key" in opened.stderr
    assert "Traceback" not in taken.stderr + opened.stderr


# -- the document ----------------------------------------------------------------------------------------------------------


def test_every_route_answers_as_its_document_says(guarded: Running) -> None:
    def document(config: schemathesis.config.SchemathesisConfig) -> Any:
        return schemathesis.openapi.from_url(f"{guarded.url}/openapi.json", config=config)

    judge(document, headers={"X-API-Key": KEY}, examples=25, least=100)


def test_bodies_near_right_ones_never_crash_it(open_app: Running) -> None:
    """Right bodies with one value replaced by each of many odd ones."""
    odd = [None, True, -1, 0, 2**63, 10**30, 1e308, "", "\u0000", "x" * 300, [], {}, [[]], {"": {}}, "http://", "..", "${HOME}"]
    statuses: Counter[int] = Counter()
    for base in (nested(2, turns=2), flat(2, max_turns=2, safety={"max_ops": 4}, record={}, run_id="r", policy_config={})):
        for path in paths(base):
            for value in odd:
                body = json.loads(json.dumps(base))
                put(body, path, value)
                answer = open_app.rollout(body)
                statuses[answer.status_code] += 1
                assert answer.status_code in (200, 422), (path, value, answer.text[:300])
                if answer.status_code == 422:
                    assert answer.json()["detail"]["error"]["message"]
    assert statuses[200] > 10
    assert statuses[422] > 200


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a tree of tables; the first items of a list."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    return [found for key, each in inner for found in ((*path, key), *paths(each, (*path, key)))]


def put(value: Any, path: tuple[Any, ...], new: Any) -> None:
    for part in path[:-1]:
        value = value[part]
    value[path[-1]] = new
