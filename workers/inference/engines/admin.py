"""What a supervisor asks of a running engine: whether it serves, what, how busy it is; and which adapters it is to serve."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal

import httpx

from app.errors import Conflict, EngineFailed, InvalidInput, NotAllowed, NotFound, SynthqError, Unavailable
from workers.transport.generate import CHAT

Health = Literal["ready", "coming", "broken"]

ASK_S: Final = 10.0
"""Longest wait for a small answer."""
LOAD_S: Final = 300.0
"""Longest wait for an adapter to be loaded."""
LONGEST_SAID: Final = 600
"""Characters of what an engine says that a sentence shows."""
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
SAMPLE: Final = re.compile(r"^(?P<name>[A-Za-z_:][A-Za-z0-9_:]*)(?:\{.*\})? (?P<value>\S+)")
"""A line of Prometheus' text format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A name that an engine answers to."""

    name: str
    path: str
    """Where it was loaded from; empty when the engine does not tell."""
    adapter: bool
    sha256: str
    """Of its weights; empty when the engine does not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How busy an engine is, in requests."""

    running: int
    waiting: int
    capacity: int | None = None
    """How many it computes at once; None where it does not tell."""


class Admin:
    """Speaks to one engine. A refusal is raised as an error that says what the engine said.

    Unavailable: no answer, or not now; NotAllowed: a wrong key; InvalidInput, NotFound and Conflict as the engine says;
    EngineFailed: an answer that no engine of synthq's gives.
    """

    def __init__(self, url: str, *, key: str = "") -> None:
        """``url``: scheme, host and port. ``key`` empty: none is sent."""
        self.url = url
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=ASK_S, trust_env=False)

    def __enter__(self) -> Admin:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def health(self) -> Health:
        """``coming`` while it loads or does not listen yet; ``broken`` when it listens and can serve no more."""
        try:
            status = self._http.get("/health").status_code
        except httpx.TransportError:
            return "coming"
        return "ready" if status == 200 else "coming" if status == 503 else "broken"

    def models(self) -> list[ServedModel]:
        """Every name that it answers to."""
        data = self._json("GET", "/v1/models").get("data")
        try:
            return [
                ServedModel(
                    name=each["id"],
                    path=each.get("root") or "",
                    adapter=bool(each.get("parent")),
                    sha256=each.get("sha256") or "",
                )
                for each in data or []
            ]
        except (KeyError, TypeError, AttributeError):
            raise self._strange("/v1/models", data) from None

    def load_adapter(self, name: str, path: str) -> None:
        """Serve the adapter in a folder under a name that is not taken; once this returns, requests may name it.

        Served from there under this name already, it is kept. Raises InvalidInput for one that the engine cannot serve.
        """
        answer = self._send("POST", LOAD, {"lora_name": name, "lora_path": path}, timeout_s=LOAD_S)
        if answer.status_code == 400 and self._serves(name, path):
            return
        if answer.status_code >= 400:  # 500 is how vLLM says that the rank is too high, or that the shapes are another base's
            status = 400 if answer.status_code == 500 else answer.status_code
            raise refusal(status, f"the engine refused the adapter: {said(answer.text)}")

    def unload_adapter(self, name: str) -> None:
        """Serve an adapter no more. One that is not served is no error.

        Raises Conflict while requests use it, where the engine minds; vLLM does not, and they end as they began.
        """
        answer = self._send("POST", UNLOAD, {"lora_name": name})
        if answer.status_code != 404:
            self._check(UNLOAD, answer)

    def load(self) -> Load:
        """How busy it is."""
        told = self._json("GET", "/load")
        try:
            if "running" in told:
                return Load(running=int(told["running"]), waiting=int(told["waiting"]), capacity=int(told["capacity"]))
            answer = self._send("GET", "/metrics")
            self._check("/metrics", answer)
            return read_load(answer.text)
        except (KeyError, TypeError, ValueError):
            raise self._strange("/load", told) from None

    def complete(self, body: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """The answer to a chat completion."""
        return self._json("POST", CHAT, body, timeout_s=timeout_s)

    def _serves(self, name: str, path: str) -> bool:
        return any(each.name == name and each.path == path and each.adapter for each in self.models())

    def _json(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float = ASK_S) -> dict[str, Any]:
        answer = self._send(method, path, body, timeout_s=timeout_s)
        self._check(path, answer)
        try:
            value = answer.json()
        except ValueError:
            raise self._strange(path, answer.text) from None
        if not isinstance(value, dict):
            raise self._strange(path, value)
        return value

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, timeout_s: float = ASK_S) -> httpx.Response:
        try:
            return self._http.request(method, path, json=body, timeout=timeout_s)
        except httpx.TimeoutException:
            raise Unavailable(f"the engine at {self.url} did not answer {path} within {timeout_s:g} s") from None
        except httpx.TransportError as error:
            raise Unavailable(f"the engine at {self.url} gave no answer to {path} ({type(error).__name__})") from None

    def _check(self, path: str, answer: httpx.Response) -> None:
        if answer.status_code >= 400:
            raise refusal(answer.status_code, self._refused(path, answer))

    def _refused(self, path: str, answer: httpx.Response) -> str:
        return f"the engine at {self.url} refused {path}: {said(answer.text)}"

    def _strange(self, path: str, value: object) -> EngineFailed:
        return EngineFailed(f"the engine at {self.url} answered {path} with {str(value)[:200]!r}; is it an engine of synthq's?")


def refusal(status: int, sentence: str) -> SynthqError:
    """An engine's refusal as the error that says the same here."""
    if status in (401, 403):
        return NotAllowed(f"{sentence} (SYNTHQ_ENGINE_KEY)")
    kinds: dict[int, type[SynthqError]] = {404: NotFound, 409: Conflict}
    return kinds.get(status, InvalidInput if status < 500 else Unavailable)(sentence)


def said(text: str) -> str:
    """What an engine says in the body of an error; the body itself when it is of no known form."""
    try:
        value = json.loads(text)
        found = value["error"]["message"]
    except (ValueError, KeyError, TypeError):
        found = text
    return str(found).strip()[:LONGEST_SAID] or "it gave no reason"


def read_load(metrics: str) -> Load:
    """How busy vLLM is, from its metrics; several engine cores are added up."""
    counts = {RUNNING: 0.0, WAITING: 0.0}
    for line in metrics.splitlines():
        found = SAMPLE.match(line)
        if found and found["name"] in counts:
            counts[found["name"]] += float(found["value"])
    return Load(running=int(counts[RUNNING]), waiting=int(counts[WAITING]))
