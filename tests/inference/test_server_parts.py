"""The server's parts on their own: how replies are told, how an engine that died is, and what crosses between threads."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_kit import asked

pytest.importorskip("torch")
pytest.importorskip("transformers")

from workers.inference.core.request import Generated, Sampling
from workers.inference.server import options
from workers.inference.server.answer import Teller
from workers.inference.server.app import create_app
from workers.inference.server.ask import Ask
from workers.inference.server.edge import Edge
from workers.inference.server.mailbox import Mailbox
from workers.inference.server.resident import Resident
from workers.inference.server.wire import encode
from workers.model.types import Prompt

pytestmark = pytest.mark.vision


# -- answers ---------------------------------------------------------------------------------------------------------------


def told(loaded: Any, text: str, *, calls: bool, finish: str = "stop", **sampling: Any) -> dict[str, Any]:
    """The choice of an answer with this text."""
    tokenizer = loaded.tokenizer.backend_tokenizer
    ids = tuple(tokenizer.encode(text, add_special_tokens=False).ids)
    ask = Ask(
        model="m",
        prompt=Prompt(ids=(1, 2, 3)),
        sampling=Sampling(max_tokens=100, **sampling),
        calls=calls,
        logprobs=True,
        token_ids=True,
        processor_ms=1.0,
    )
    reply = Generated(ids=ids, logprobs=(-0.5,) * len(ids), text=text, finish=finish, version="v")  # type: ignore[arg-type]
    choice: dict[str, Any] = json.loads(encode(Teller(tokenizer, merge=loaded.merge).tell(ask, reply)))["choices"][0]
    return choice


CALL = '<tool_call>\n{"name": "act", "arguments": {"actions": ["noop"]}}\n</tool_call>'


def test_calls_are_read_out_of_a_reply_when_they_are_asked_for(loaded: Any) -> None:
    choice = told(loaded, f"I wait.\n{CALL}", calls=True)
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "act", "arguments": '{"actions": ["noop"]}'}
    assert choice["message"]["content"] == "I wait."
    assert choice["finish_reason"] == "tool_calls"
    first, second = (told(loaded, CALL, calls=True)["message"] for _ in range(2))
    assert first["content"] is None
    assert first["tool_calls"][0]["id"] != second["tool_calls"][0]["id"]


def test_calls_stay_text_when_they_are_not_asked_for(loaded: Any) -> None:
    choice = told(loaded, CALL, calls=False)
    assert choice["message"] == {"role": "assistant", "content": CALL}
    assert choice["finish_reason"] == "stop"


def test_half_a_call_stays_text_and_its_length_is_why_it_ended(loaded: Any) -> None:
    choice = told(loaded, CALL[:30], calls=True, finish="length")
    assert choice["message"] == {"role": "assistant", "content": CALL[:30]}
    assert choice["finish_reason"] == "length"


def test_the_text_of_stop_that_was_complete_first_is_named(loaded: Any) -> None:
    assert told(loaded, "move left now", calls=False, stop=("left now", "left", "never"))["stop_reason"] == "left"
    assert told(loaded, "move left now", calls=False)["stop_reason"] is None


def test_control_tokens_are_told_by_name(loaded: Any) -> None:
    choice = told(loaded, "<|image_pad|>x", calls=False)
    assert choice["logprobs"]["content"][0]["token"] == "<|image_pad|>"
    assert bytes(choice["logprobs"]["content"][0]["bytes"]) == b"<|image_pad|>"


def test_half_a_surrogate_pair_is_written_out() -> None:
    assert encode({"a": "\ud800", "b": "é"}) == b'{"a":"\\ud800","b":"\\u00e9"}'
    assert encode({"b": "é"}) == '{"b":"é"}'.encode()


# -- threads ---------------------------------------------------------------------------------------------------------------


def test_what_is_posted_comes_once_and_in_order_from_any_thread() -> None:
    got: list[tuple[int, int]] = []
    each, posters = 2000, 4

    async def collect() -> None:
        mailbox: Mailbox[tuple[int, int]] = Mailbox(asyncio.get_running_loop())
        threads = [
            threading.Thread(target=lambda me=me: [mailbox.post(got.append, (me, n)) for n in range(each)])
            for me in range(posters)
        ]
        for thread in threads:
            thread.start()
        async with asyncio.timeout(20):
            while len(got) < each * posters:
                await asyncio.sleep(0)
        for thread in threads:
            thread.join()

    asyncio.run(collect())
    for me in range(posters):
        assert [n for who, n in got if who == me] == list(range(each))


# -- an engine that died -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def living(model: Path) -> AsyncIterator[tuple[Resident, httpx.AsyncClient]]:
    """The server in this process, once its model is there."""
    ready, failed = asyncio.Event(), list[Exception]()

    def fail(error: Exception) -> None:
        failed.append(error)
        ready.set()

    resident = Resident(options.parse(["--model", str(model)]), ready=ready.set, failed=fail)
    app: Edge = create_app(resident, key="k")
    transport = httpx.ASGITransport(app)
    headers = {"Authorization": "Bearer k"}
    async with (
        resident.lifespan(app),
        httpx.AsyncClient(transport=transport, base_url="http://engine", headers=headers) as http,
    ):
        await ready.wait()
        assert not failed
        yield resident, http


def test_an_engine_that_died_says_so_and_takes_nothing(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def die() -> None:
        async with living(tiny_model) as (resident, http):
            assert (await http.get("/health")).status_code == 200
            core = resident.service.core
            monkeypatch.setattr(core._steps, "step", lambda: [][0])
            body = {"model": str(tiny_model), **asked()}
            answer = await http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 503
            assert "stopped" in answer.json()["error"]["message"]
            health = await http.get("/health")
            assert (health.status_code, health.json()["status"]) == (500, "dead")
            assert health.json()["error"] == "IndexError: list index out of range"
            batch = await http.post("/v1/batch", json={"requests": [body]})
            assert json.loads(batch.text)["status"] == 503

    asyncio.run(die())


def test_what_nobody_foresaw_is_500_without_a_trace(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def break_it() -> None:
        async with living(tiny_model) as (resident, http):
            reader = resident.service._reader
            monkeypatch.setattr(reader, "_inputs", None)
            body = {"model": str(tiny_model), **asked()}
            answer = await http.post("/v1/chat/completions", json=body)
            said = "the engine met an error that it did not expect; its log tells more"
            assert (answer.status_code, answer.json()["error"]["message"]) == (500, said)
            line = json.loads((await http.post("/v1/batch", json={"requests": [body]})).text)
            assert (line["status"], line["body"]["error"]["message"]) == (500, said)

    asyncio.run(break_it())
