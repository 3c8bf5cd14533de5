"""The client of a task app: waits until it is awake, asks for episodes, and says in a sentence what went wrong."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from typing import Any

import httpx

from app.errors import TaskAppFailed, TaskAppRefused, cut

WARMUP_VARIABLE = "TASK_APP_WARMUP_TIMEOUT"
WARMUP_S = 300.0
"""How long a task app may take to wake up, unless the variable says otherwise."""
KEY_VARIABLE = "ENVIRONMENT_API_KEY"
"""Where the key of the task app is, for the workers that ask it. It is never stored and never told."""
LOOK_S = 1.0
"""Between two looks whether it is awake."""
MARGIN_S = 60.0
"""What a rollout may take beyond its own limit of time before it is given up."""
ATTEMPTS = 3
"""Times that a rollout is asked for, when the app goes away in between; an episode that is played twice comes out the same."""
REFUSALS = (401, 403)
MISFITS = (400, 404, 405, 413, 422)
"""What the next episode would be answered as well."""
ASLEEP = (502, 503, 504)


class TaskApp:
    """One task app, over one pooled client."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        key = os.environ.get(KEY_VARIABLE, "")
        headers = {"X-API-Key": key, "Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.AsyncClient(headers=headers, timeout=httpx.Timeout(10.0))
        self._awake = False

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    async def warm_up(self) -> None:
        """Wait until ``GET /health`` answers well. Raises TaskAppRefused for a key that does not fit, or when it never wakes."""
        limit = warmup_s()
        begun = asyncio.get_running_loop().time()
        while not self._awake:
            said = await self._health()
            if said is None:
                self._awake = True
            elif asyncio.get_running_loop().time() - begun > limit:
                raise TaskAppRefused(
                    f"the task app at {self.url} did not wake up within {limit:g} s ({said}); "
                    f"start it, or set {WARMUP_VARIABLE} higher"
                )
            else:
                await asyncio.sleep(LOOK_S)

    async def _health(self) -> str | None:
        """None when it is awake; else what it said."""
        try:
            answer = await self._http.get(f"{self.url}/health")
        except httpx.HTTPError as error:
            return _why(error)
        self._refuse(answer)
        if answer.status_code in MISFITS:
            raise TaskAppRefused(f"what answers at {self.url} is no task app: it answered /health with {answer.status_code}")
        return None if answer.status_code == 200 else f"status {answer.status_code}"

    async def rollout(self, body: Mapping[str, Any], *, limit_s: float) -> dict[str, Any]:
        """The answer to ``POST /rollout``.

        Raises TaskAppRefused for what every other episode would get as well, TaskAppFailed for what ends this one.
        """
        for attempt in range(ATTEMPTS):
            await self.warm_up()
            answer = await self._posted(body, limit_s, last=attempt == ATTEMPTS - 1)
            if answer is not None:
                break
        assert answer is not None, "the last attempt gives an answer or raises"
        if answer.status_code >= 400:
            kind = TaskAppRefused if answer.status_code in MISFITS else TaskAppFailed
            raise kind(f"the task app at {self.url} answered /rollout with {answer.status_code}: {_said(answer)}")
        try:
            value = answer.json()
        except ValueError:
            raise TaskAppFailed(
                f"the task app at {self.url} answered /rollout with what is no JSON: {cut(answer.text)}"
            ) from None
        if not isinstance(value, dict):
            raise TaskAppFailed(f"the task app at {self.url} answered /rollout with {type(value).__name__}, not an object")
        return value

    async def _posted(self, body: Mapping[str, Any], limit_s: float, *, last: bool) -> httpx.Response | None:
        """The answer; None when the app fell asleep, or went away, and this was not the last attempt."""
        try:
            answer = await self._http.post(f"{self.url}/rollout", json=body, timeout=limit_s + MARGIN_S)
        except httpx.HTTPError as error:
            self._awake = False
            if last or isinstance(error, httpx.TimeoutException):
                raise TaskAppFailed(f"the task app at {self.url} gave no answer to /rollout: {_why(error)}") from None
            return None
        self._refuse(answer)
        self._awake = answer.status_code not in ASLEEP
        return answer if self._awake or last else None

    def _refuse(self, answer: httpx.Response) -> None:
        if answer.status_code in REFUSALS:
            given = "a key that does not fit" if "X-API-Key" in self._http.headers else "no key"
            raise TaskAppRefused(
                f"the task app at {self.url} answered {answer.status_code}: it was sent {given}; "
                f"set {KEY_VARIABLE} where the workers run"
            )


def warmup_s() -> float:
    """How long to wait for a task app. Raises TaskAppRefused for a variable that is no number of seconds."""
    text = os.environ.get(WARMUP_VARIABLE, "").strip()
    try:
        seconds = float(text) if text else WARMUP_S
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise TaskAppRefused(f"{WARMUP_VARIABLE}={text} must be a number of seconds, 0 to 86400")
    return seconds


def _why(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "it took too long"
    return cut(str(error)) if str(error) else type(error).__name__


def _said(answer: httpx.Response) -> str:
    """The message in an error's body, whatever its shape."""
    try:
        value: Any = answer.json()
    except ValueError:
        return cut(answer.text.strip())
    while isinstance(value, dict) and (inner := next((value[k] for k in ("detail", "error", "message") if k in value), None)):
        value = inner
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 500 else f"{text[:500]}..."
