"""An inference worker's supervisor with the real engine: what is desired of an endpoint, and what becomes of it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from core.kit import Broker, Process, live_workers, python, until
from inference.folder_kit import replace_weights
from inference.server_kit import asked, endless, write_adapter

from app import db, endpoints, engines, weights
from app.errors import BadFlag, NotHere
from app.model_folder import adapter_sha256
from app.models import Endpoint, EndpointState
from app.settings import get_settings
from workers.inference import backoff, files, supervisor
from workers.inference.backoff import Backoff
from workers.inference.served import address

WORKER = "inference-of-the-test"
UP_S = 60.0
"""Longest start of an engine on a busy machine; it takes about five seconds."""


def live() -> list[Endpoint]:
    """The endpoints that are alive now."""
    with db.reading() as session:
        rows = endpoints.live(session)
        session.expunge_all()
        return rows


class Desk:
    """What a scheduler writes of one endpoint, what it reads, and what a player asks it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.http = httpx.Client(timeout=60, trust_env=False)

    @property
    def row(self) -> Endpoint:
        return live()[0]

    def want(
        self, base: Path | None, adapters: Mapping[str, Path] | None = None, *, engine: str = "auto", **options: Any
    ) -> None:
        """Write the desired state."""
        names = {name: str(path) for name, path in (adapters or {}).items()}
        desired = {"engine": engine, "base": str(base), "options": options, "adapters": names} if base else {}
        with db.writing() as session:
            row = session.get_one(Endpoint, self.row.id)
            row.desired = desired
            session.add(row)

    def wait(self, state: EndpointState, base: Path | None) -> Endpoint:
        """The row, once it is in a state with a base."""
        wanted = (state, str(base or ""))
        until(lambda: (self.row.state, self.row.base) == wanted, UP_S, f"the endpoint is {wanted}; it is {self.row}")
        return self.row

    def ask(self, body: Mapping[str, Any]) -> httpx.Response:
        row = self.row
        return self.http.post(f"{row.url}/v1/chat/completions", json={"model": row.base, **body})

    def asking(self, body: Mapping[str, Any]) -> Asking:
        """A request that is under way."""
        asking = Asking(self, body)
        asking.start()
        url = self.row.url
        until(lambda: asking.answer or self.http.get(f"{url}/load").json()["running"], 20, "the request is under way")
        return asking


class Asking(threading.Thread):
    """A request in a thread of its own."""

    def __init__(self, desk: Desk, body: Mapping[str, Any]) -> None:
        super().__init__(daemon=True)
        self._desk, self._body = desk, body
        self.answer: httpx.Response | None = None

    def run(self) -> None:
        self.answer = self._desk.ask(self._body)

    def status(self) -> int:
        """The status of its answer, waited for."""
        self.join(60)
        assert self.answer is not None, "it has no answer"
        return self.answer.status_code


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines of these tests leave the machine's other cores to other tests."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def looked_after(sqlite_store: str) -> Iterator[supervisor.Supervisor]:
    """A supervisor at work, which ends with the test."""
    made = supervisor.make(WORKER)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def desk(looked_after: supervisor.Supervisor, tmp_path: Path) -> Iterator[Desk]:
    """The endpoint, registered."""
    made = Desk(tmp_path)
    until(lambda: live(), 10, "the endpoint registers")
    yield made
    made.http.close()


@pytest.fixture(scope="module")
def tiny_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in a folder of this file's own, so that its engines are told from those that other files keep up."""
    return shutil.copytree(tiny_model, tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters of the tiny model."""
    folder = tmp_path_factory.mktemp("adapters")
    return [write_adapter(tiny_model, folder / f"a{seed}", seed=seed) for seed in (1, 2)]


def engines_of(model: Path) -> set[int]:
    """Processes of engines that serve a model, whoever's they are; what holds the leash of one is of them."""
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 1) for line in listed.splitlines()]
    return {int(pid) for pid, args in rows if "workers.inference.server" in args and str(model) in args.split()}


def served_by(desk: Desk, adapter: str | None = None) -> str:
    """The version that a reply is of."""
    answer = desk.ask(asked(**({"model": adapter} if adapter else {})))
    assert answer.status_code == 200, answer.text
    version: str = answer.json()["synthq"]["version"]
    return version


@pytest.mark.vision
@pytest.mark.integration
def test_it_serves_what_is_desired_follows_when_that_changes_and_ends_when_nothing_is(
    desk: Desk, tiny_model: Path, adapters: list[Path]
) -> None:
    assert (desk.row.state, desk.row.base, desk.row.engines[0]) == (EndpointState.STARTING, "", "transformers")

    desk.want(tiny_model, {"one": adapters[0]}, max_num_seqs=8)
    row = desk.wait(EndpointState.READY, tiny_model)
    assert (row.engine, row.capacity, row.error) == ("transformers", 8, None)
    until(lambda: desk.row.adapters, 20, "its adapter is loaded")
    assert desk.row.adapters == {"one": {"path": str(adapters[0]), "sha256": adapter_sha256(adapters[0])}}
    assert served_by(desk, "one") == adapter_sha256(adapters[0]) != served_by(desk)

    pids = engines_of(tiny_model)
    desk.want(tiny_model, {"two": adapters[1]}, max_num_seqs=8)
    until(lambda: list(desk.row.adapters) == ["two"], 20, "the one adapter is in the other's place")
    assert served_by(desk, "two") == adapter_sha256(adapters[1])
    assert desk.ask(asked(model="one")).status_code == 404
    assert engines_of(tiny_model) == pids

    desk.want(None)
    row = desk.wait(EndpointState.STARTING, None)
    assert (row.url, row.engine, row.adapters) == ("", "", {})
    until(lambda: not engines_of(tiny_model), 20, "the engine has ended")


@pytest.mark.vision
@pytest.mark.integration
def test_an_engine_that_is_killed_comes_back_with_its_adapters_and_its_end_is_told(
    desk: Desk, tiny_model: Path, adapters: list[Path]
) -> None:
    desk.want(tiny_model, {"one": adapters[0]})
    desk.wait(EndpointState.READY, tiny_model)
    before, url = engines_of(tiny_model), desk.row.url

    os.kill(max(before), signal.SIGKILL)  # the engine itself: what holds its leash is older

    row = desk.wait(EndpointState.STARTING, tiny_model)
    assert row.url == ""
    assert "engine transformers ended" in (row.error or "")
    assert row.failures[str(tiny_model)]["tries"] == 1
    row = desk.wait(EndpointState.READY, tiny_model)
    until(lambda: desk.row.adapters, 20, "its adapter is loaded again")
    assert row.error is None
    assert row.failures[str(tiny_model)]["tries"] == 1, "the count begins anew after a minute of good running"
    assert row.url != url
    assert not engines_of(tiny_model) & before
    assert served_by(desk, "one") == adapter_sha256(adapters[0])


@pytest.mark.vision
@pytest.mark.integration
def test_a_base_that_is_replaced_on_disk_is_loaded_anew_and_counts_as_no_failure(
    desk: Desk, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SETTLED_S", 0.2)
    folder = shutil.copytree(tiny_model, desk.folder / "base")
    desk.want(folder)
    row = desk.wait(EndpointState.READY, folder)
    before = weights.sha256(folder)
    assert served_by(desk) == row.sha256 == before

    replace_weights(folder)

    until(lambda: desk.row.sha256 not in ("", before), UP_S, "the endpoint serves others")
    assert served_by(desk) == desk.row.sha256 == weights.sha256(folder)
    assert (desk.row.failures, desk.row.error) == ({}, None)


@pytest.mark.vision
@pytest.mark.integration
def test_what_cannot_be_served_is_told_by_name_and_holds_up_nothing_else(
    desk: Desk, tiny_model: Path, adapters: list[Path]
) -> None:
    half = desk.folder / "half"
    shutil.copytree(tiny_model, half)
    (half / "model.safetensors").write_bytes(b"not weights")
    desk.want(half)
    row = desk.wait(EndpointState.FAILED, half)
    assert str(half) in (row.error or "")
    assert row.failures[str(half)]["lasting"] is True

    changed = desk.folder / "changed"
    shutil.copytree(adapters[0], changed)
    was = f"adapter-{adapter_sha256(adapters[1])[:16]}"
    desk.want(tiny_model, {"gone": desk.folder / "gone", was: changed, "good": adapters[0]})
    row = desk.wait(EndpointState.READY, tiny_model)
    until(lambda: {"gone", was} <= set(desk.row.failures), 20, "both that cannot be loaded are told")
    until(lambda: desk.row.adapters, 20, "the one that can be is loaded")
    failures = desk.row.failures
    assert list(desk.row.adapters) == ["good"]
    assert str(desk.folder / "gone") in failures["gone"]["reason"]
    assert "was changed after its job was submitted" in failures[was]["reason"]
    assert (failures["gone"]["lasting"], failures[was]["lasting"]) == (True, True)
    assert desk.row.state == EndpointState.READY


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests may take longer than usual, for other tests run beside them."""
    monkeypatch.setattr(supervisor, "LEAVE_S", 60.0)


@pytest.mark.vision
@pytest.mark.integration
@pytest.mark.usefixtures("patient")
def test_no_request_is_cut_off_by_an_adapter_that_goes_or_by_another_model(
    desk: Desk, tiny_model: Path, adapters: list[Path]
) -> None:
    desk.want(tiny_model, {"one": adapters[0]}, max_num_seqs=4)
    desk.wait(EndpointState.READY, tiny_model)
    until(lambda: desk.row.adapters, 20, "its adapter is loaded")
    first = desk.asking(endless(150, model="one"))
    desk.want(tiny_model, max_num_seqs=4)
    until(lambda: not desk.row.adapters, 60, "the adapter is unloaded")
    assert first.status() == 200

    second, before = desk.asking(endless(150)), engines_of(tiny_model)
    desk.want(tiny_model, max_num_seqs=2)
    until(lambda: desk.row.state == EndpointState.STARTING, 10, "nobody is sent there any more")
    assert second.status() == 200
    until(lambda: engines_of(tiny_model) - before, 20, "another engine comes up")
    assert not engines_of(tiny_model) & before


@pytest.mark.vision
@pytest.mark.integration
def test_an_adapter_for_which_there_is_no_room_yet_waits_and_has_no_fault(
    desk: Desk, tiny_model: Path, adapters: list[Path]
) -> None:
    desk.want(tiny_model, {"one": adapters[0]}, max_num_seqs=4, max_loras=1)
    desk.wait(EndpointState.READY, tiny_model)
    until(lambda: desk.row.adapters, 20, "its adapter is loaded")
    first = desk.asking(endless(900, model="one"))
    faults: set[str] = set()
    desk.want(tiny_model, {"two": adapters[1]}, max_num_seqs=4, max_loras=1)

    def other_is_there() -> bool:
        faults.update(desk.row.failures)
        return list(desk.row.adapters) == ["two"]

    until(other_is_there, 60, "the other adapter is loaded")
    assert first.answer is not None
    assert first.status() == 200
    assert not faults


@pytest.mark.vision
@pytest.mark.integration
@pytest.mark.usefixtures("patient")
def test_at_the_end_it_is_out_of_use_at_once_and_answers_what_it_was_asked(
    desk: Desk, looked_after: supervisor.Supervisor, tiny_model: Path
) -> None:
    desk.want(tiny_model)
    url = desk.wait(EndpointState.READY, tiny_model).url
    asking = desk.asking(endless(150))

    looked_after.drain()

    until(lambda: not live(), 10, "it is out of use")
    assert asking.status() == 200
    looked_after.stop()
    assert not engines_of(tiny_model)
    with pytest.raises(httpx.TransportError):
        desk.http.get(f"{url}/health")


def test_an_engine_that_cannot_be_started_here_is_told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "vllm_python", lambda: None)

    desk.want(desk.folder, engine="vllm")

    row = desk.wait(EndpointState.FAILED, desk.folder)
    assert "engine vllm cannot be started here" in (row.error or "")


def test_a_folder_that_cannot_be_looked_at_is_told_and_the_worker_goes_on(
    desk: Desk, looked_after: supervisor.Supervisor
) -> None:
    long = Path("/" + "a" * 300)  # longer than a name may be

    desk.want(long)

    until(lambda: str(long) in desk.row.failures, 10, "the failure is told")
    failure = desk.row.failures[str(long)]
    assert (failure["lasting"], failure["reason"]) == (False, f"no engine starts: File name too long ({long})")
    assert looked_after._thread.is_alive()


def test_an_engine_whose_log_cannot_be_written_is_told_and_the_worker_goes_on(
    desk: Desk, looked_after: supervisor.Supervisor, tiny_model: Path
) -> None:
    logs = get_settings().logs_dir
    logs.parent.mkdir(parents=True, exist_ok=True)
    logs.write_text("no folder")

    desk.want(tiny_model)

    until(lambda: desk.row.failures, 10, "the failure is told")
    assert "File exists" in desk.row.failures[str(tiny_model)]["reason"]
    assert looked_after._thread.is_alive()


def test_an_endpoint_whose_row_was_taken_away_registers_anew(desk: Desk) -> None:
    before = desk.row.id
    with db.writing() as session:
        session.delete(session.get_one(Endpoint, before))

    until(lambda: [row.id for row in live()] not in ([], [before]), 10, "there is another row")


@pytest.fixture
def worker(broker: Broker, sqlite_store: str, tmp_path: Path) -> Iterator[Callable[[], Process]]:
    """Starts an inference worker as a process, and waits until its endpoint is there."""
    started: list[Process] = []

    def start() -> Process:
        process = python("-m", "workers.main", "inference", log=tmp_path / "worker.log", SYNTHQ_WORKER_ID=f"w{len(started)}")
        started.append(process)
        until(lambda: live(), 30, f"its endpoint registers; it said: {process.said()}")
        return process

    yield start
    for process in started:
        process.end()


@pytest.mark.vision
@pytest.mark.integration
def test_a_worker_is_seen_by_its_role_and_leaves_nothing_behind_however_it_ends(
    worker: Callable[[], Process], tiny_model: Path, tmp_path: Path
) -> None:
    running = worker()
    assert [(row.role, row.queues, row.slots) for row in live_workers()] == [("inference", ["inference"], 1)]
    assert not running.children()  # while nothing is wanted of it
    desk = Desk(tmp_path)
    desk.want(tiny_model)
    desk.wait(EndpointState.READY, tiny_model)
    assert served_by(desk)

    running.send(signal.SIGTERM)

    assert running.wait(20) == 0, running.said()
    assert not engines_of(tiny_model)
    assert not live_workers()
    assert not live()

    running = worker()
    desk.want(tiny_model)
    until(lambda: engines_of(tiny_model), 20, "an engine comes up")

    running.kill()

    until(lambda: not engines_of(tiny_model), 10, "the engine ends with its worker")
    desk.http.close()


def test_a_worker_without_an_engine_says_what_would_bring_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "why_not", lambda name: f"no {name} here")

    with pytest.raises(NotHere, match="no engine can be started here: no transformers here; no vllm here"):
        supervisor.make(WORKER)


def test_an_engine_open_to_others_wants_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="an engine needs the extra 'model'")
    monkeypatch.setenv("SYNTHQ_ENGINE_HOST", "0.0.0.0")
    get_settings.cache_clear()
    with pytest.raises(BadFlag, match="set SYNTHQ_ENGINE_KEY"):
        supervisor.make(WORKER)

    monkeypatch.setenv("SYNTHQ_ENGINE_KEY", "of the test")
    get_settings.cache_clear()
    supervisor.make(WORKER)


def test_a_worker_loads_no_torch_itself() -> None:
    heavy = "{'torch', 'transformers', 'peft', 'vllm', 'fastapi'}"
    probe = f"import sys, workers.main, workers.tasks, workers.inference.supervisor; print(*({heavy} & set(sys.modules)))"

    ran = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)

    assert ran.stdout.split() == []


def test_an_inference_worker_has_one_slot(tmp_path: Path) -> None:
    ran = python("-m", "workers.main", "inference", "--concurrency", "2", log=tmp_path / "log")

    assert ran.wait(30) == 2
    assert "start 2 of them instead" in ran.said()


@pytest.mark.parametrize(("host", "name"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("0.0.0.0", socket.gethostname())])
def test_an_engine_is_asked_by_a_name_that_others_can_reach(host: str, name: str) -> None:
    assert address(host, 8000) == f"http://{name}:8000"


class TestBackoff:
    """When what failed is tried again."""

    @pytest.fixture(autouse=True)
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(backoff.time, "monotonic", lambda: self.now)

    def wait_of(self, kept: Backoff) -> float:
        """Seconds until it may be tried again."""
        began = self.now
        while not kept.due:
            self.now += 0.25
        return self.now - began

    def test_each_failure_doubles_the_wait_and_the_third_counts_as_failed(self) -> None:
        kept = Backoff()
        waits = []
        for _ in range(3):
            assert not kept.hopeless
            kept.failed("why")
            waits.append(self.wait_of(kept))

        assert waits == [0.5, 1.0, backoff.SLOW_S]
        assert kept.hopeless

    def test_what_fails_for_good_counts_as_failed_at_once(self) -> None:
        kept = Backoff()
        kept.failed("why", lasting=True)

        assert kept.hopeless
        assert self.wait_of(kept) == backoff.SLOW_S

    def test_what_went_well_for_a_minute_begins_anew(self) -> None:
        kept = Backoff()
        for _ in range(2):
            kept.failed("why")
        kept.failed("why", well_for_s=backoff.STEADY_S)

        assert not kept.hopeless
        assert self.wait_of(kept) == 0.5
