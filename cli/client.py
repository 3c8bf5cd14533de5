"""The way to the server: one HTTP client, and every way in which an answer can fail to come, as a sentence.

What the server refuses comes back as an error with the server's own words and the exit code of the error that it named. What is
no answer of a synthq server (nobody there, half a connection, a proxy's page) becomes ServerUnreachable.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Literal
from urllib.parse import quote

import httpx

from app.errors import (
    BadFlag,
    Conflict,
    InvalidInput,
    JobNotFound,
    NotAllowed,
    NotFound,
    ServerUnreachable,
    SynthqError,
    TraceNotFound,
    Unavailable,
)

Json = dict[str, Any]
Method = Literal["GET", "POST", "DELETE"]

DEFAULT_PORT: Final = 8484
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)
PAGE: Final = 200
"""Rows asked for at once where everything is wanted."""
SHOWN_BODY: Final = 120
"""Characters of a stranger's answer that an error quotes."""

BY_EXIT_CODE: Final[dict[int, type[SynthqError]]] = {
    1: SynthqError,
    2: InvalidInput,
    3: NotFound,
    4: NotAllowed,
    5: Conflict,
    6: Unavailable,
}
BY_STATUS: Final = {400: 2, 401: 4, 403: 4, 404: 3, 405: 1, 409: 5, 410: 3, 413: 2, 415: 2, 422: 2, 429: 6, 501: 2}
BY_CODE: Final = {"ambiguous_name": 3, "key_reused": 5}
"""Codes whose status alone would give another exit code than the error has in app/errors.py."""


def server_url() -> str:
    """The address of the server: SYNTHQ_URL, else this machine at SYNTHQ_API_PORT, else port 8484."""
    if url := os.environ.get("SYNTHQ_URL", "").strip():
        return _checked_url(url)
    port = os.environ.get("SYNTHQ_API_PORT", "").strip() or str(DEFAULT_PORT)
    if not port.isascii() or not port.isdigit() or not 0 < int(port) <= 65535:
        raise BadFlag(f"SYNTHQ_API_PORT={port} is no port; it takes a number from 1 to 65535")
    return f"http://127.0.0.1:{port}"


def _checked_url(url: str) -> str:
    wrong = BadFlag(f"SYNTHQ_URL={url} is no address of a server; it takes http://HOST:PORT or https://HOST")
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise wrong from None
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment or (parsed.port or 1) > 65535:
        raise wrong
    if parsed.userinfo:
        raise BadFlag("SYNTHQ_URL holds a user or password; a key goes in SYNTHQ_API_KEY")
    return url.rstrip("/").removesuffix("/v1")


def _headers() -> dict[str, str]:
    key = os.environ.get("SYNTHQ_API_KEY", "").strip()
    if not key:
        return {}
    if not key.isascii() or not key.isprintable() or " " in key:
        raise NotAllowed("SYNTHQ_API_KEY holds characters that no key has; copy it again, on one line")
    return {"Authorization": f"Bearer {key}"}


class Client:
    """A connection to one server. Use as a context manager."""

    def __init__(self, url: str | None = None, *, timeout: httpx.Timeout | None = None) -> None:
        self.url = url or server_url()
        self.local = httpx.URL(self.url).host in LOOPBACK
        """Whether the server is on this machine."""
        self._http = httpx.Client(
            headers={"Accept": "application/json", **_headers()},
            timeout=timeout or TIMEOUT,
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            if self.url.startswith("http:")
            else True,  # reading the roots takes 40 ms
            trust_env=not self.local,  # a proxy of the environment cannot reach this machine's loopback
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **params: Any) -> Any:
        """The JSON at a path below /v1. Parameters that are None are left out."""
        return self.call("GET", path, params=params)

    def call(
        self,
        method: Method,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Json | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Send one request, read its JSON (None for an empty answer). Raises the error that the answer stands for.

        A connection that breaks is tried once more where that is safe: for reads, and for what carries an Idempotency-Key.
        """
        again = method == "GET" or "Idempotency-Key" in (headers or {})
        request = {"params": _given(params), "json": body, "headers": dict(headers or {})}
        try:
            with self._spoken():
                response = self._http.request(method, f"{self.url}/v1{path}", **request)  # type: ignore[arg-type]
        except Broken:
            if not again:
                raise
            with self._spoken():
                response = self._http.request(method, f"{self.url}/v1{path}", **request)  # type: ignore[arg-type]
        return self._read(response)

    def health(self) -> Json:
        """What the server says of itself, to anybody."""
        with self._spoken():
            response = self._http.get(f"{self.url}/health")
        return self._object(self._read(response))

    def ready(self) -> dict[str, Json]:
        """The parts that the server needs, and how each is. An answer of 503 says that one is not ready, and which."""
        with self._spoken():
            response = self._http.get(f"{self.url}/readyz")
        try:
            parts = response.json()["parts"]
        except (ValueError, KeyError, TypeError):
            raise self._stranger(f"answered {response.status_code} with {_quoted(response)}") from None
        return {str(name): self._object(part) for name, part in self._object(parts).items()}

    @contextmanager
    def stream(self, path: str, **params: Any) -> Iterator[Iterator[bytes]]:
        """The bytes at a path below /v1, piece by piece."""
        with self._spoken(), self._http.stream("GET", f"{self.url}/v1{path}", params=_given(params)) as response:
            if response.status_code != 200:
                response.read()
                self._refuse(response)
            yield response.iter_bytes()

    def pages(self, path: str, *, limit: int | None = None, **params: Any) -> Iterator[Json]:
        """Rows of a list, over as many pages as there are or ``limit`` needs."""
        after, left = None, limit
        while left is None or left > 0:
            page = self.get(path, after=after, limit=PAGE if left is None else min(left, PAGE), **params)
            rows = self._rows(page)
            yield from rows
            left = None if left is None else left - len(rows)
            after = page.get("next_cursor") if isinstance(page, dict) else None
            if not rows or after is None:
                return

    def job(self, ref: str) -> Json:
        """The job that an id, a prefix, a name or @last means."""
        return self._object(self.get(f"/jobs/{_segment(ref, JobNotFound(ref))}"))

    def trace(self, ref: str) -> Json:
        """The episode with this id."""
        return self._object(self.get(f"/traces/{_segment(ref, TraceNotFound(ref))}"))

    def rows(self, path: str, **params: Any) -> list[Json]:
        """A list that comes as one page."""
        return self._rows(self.get(path, **params))

    def post(self, path: str, body: Json | None = None, **headers: str) -> Json:
        """POST, and the object that comes back."""
        return self._object(self.call("POST", path, body=body, headers=headers))

    def send(self, path: str, content: bytes, **params: Any) -> Json:
        """POST bytes that may come twice, and the object that comes back. A connection that breaks is tried once more."""
        try:
            return self._send(path, content, params)
        except Broken:
            return self._send(path, content, params)

    def _send(self, path: str, content: bytes, params: Mapping[str, Any]) -> Json:
        headers = {"Content-Type": "application/octet-stream"}
        with self._spoken():
            response = self._http.post(f"{self.url}/v1{path}", params=_given(params), content=content, headers=headers)
        return self._object(self._read(response))

    def delete(self, path: str) -> None:
        """DELETE a thing."""
        self.call("DELETE", path)

    def _object(self, value: Any) -> Json:
        if not isinstance(value, dict):
            raise self._stranger("answered with something else than a JSON object")
        return value

    def _rows(self, value: Any) -> list[Json]:
        rows = value.get("data") if isinstance(value, dict) else value
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self._stranger("answered with something else than a list")
        return rows

    def _read(self, response: httpx.Response) -> Any:
        if not response.is_success:
            self._refuse(response)
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError:
            raise self._stranger(f"answered {response.status_code} with {_quoted(response)}") from None

    def _refuse(self, response: httpx.Response) -> None:
        """Raise what an answer that is no success stands for."""
        if response.is_redirect:
            target = response.headers.get("location", "another address")
            raise self._stranger(f"sends on to {target}")
        try:
            problem = response.json()
        except ValueError:
            problem = None
        if not isinstance(problem, dict) or not ("detail" in problem or "title" in problem):
            raise self._stranger(f"answered {response.status_code} with {_quoted(response)}")
        if problem.get("code") == "no_such_path":
            raise self._stranger(f"has {problem.get('detail')}")
        raise _refusal(response, problem)

    def _stranger(self, what: str) -> ServerUnreachable:
        return ServerUnreachable(f"{self.url} {what}; is that the address of a synthq server? SYNTHQ_URL names it")

    @contextmanager
    def _spoken(self) -> Iterator[None]:
        """Turn what can go wrong on the wire into sentences."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise self._nobody(error) from error
        except httpx.TimeoutException as error:
            raise ServerUnreachable(f"the server at {self.url} did not answer within {self._http.timeout.read:g} s") from error
        except (httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.RemoteProtocolError) as error:
            raise Broken(f"the connection to {self.url} broke off before the answer was complete") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServerUnreachable(f"the server at {self.url} cannot be asked: {error or type(error).__name__}") from error

    def _nobody(self, error: Exception) -> ServerUnreachable:
        why = str(error)
        if "CERTIFICATE" in why.upper():
            return ServerUnreachable(f"the certificate of {self.url} cannot be trusted: {why}")
        if "SSL" in why.upper():
            return ServerUnreachable(f"what answers at {self.url} does not speak TLS; an address without it begins with http://")
        return ServerUnreachable(f"no synthq server answers at {self.url}; start one here with `synthq up`, or set SYNTHQ_URL")


class Broken(ServerUnreachable):
    """A connection ended in the middle of an answer."""

    @property
    def code(self) -> str:
        return "server_unreachable"


def _given(params: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (params or {}).items() if value is not None and value != ()}


def _segment(ref: str, unknown: SynthqError) -> str:
    """A reference as one segment of a path; what cannot be one cannot be found either."""
    if not ref.strip(". ") or "\0" in ref or "/" in ref:
        raise unknown
    return quote(ref, safe="@", errors="replace")


def _quoted(response: httpx.Response) -> str:
    """What an answer that is not ours looks like, in a few words."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip() or "no content type"
    text = " ".join(response.text[: 4 * SHOWN_BODY].split())
    shown = "".join(c for c in text if c.isprintable())[:SHOWN_BODY]
    return f"{kind} ({shown})" if shown and kind != "text/html" else f"{kind}, which is no answer of synthq"


def _refusal(response: httpx.Response, problem: Json) -> SynthqError:
    """The error that a problem+json stands for: the server's words, and the exit code of the error that it names."""
    status = response.status_code
    code = BY_CODE.get(str(problem.get("code")), BY_STATUS.get(status, 6 if status >= 500 and status != 500 else 1))
    text = str(problem.get("detail") or problem.get("title"))
    errors = problem.get("errors")
    more = [line for each in errors if (line := _one(each)) and line not in text] if isinstance(errors, list) else []
    if wait := response.headers.get("retry-after"):
        more.append(f"try again in {wait} s")
    if status == 401 and "SYNTHQ_API_KEY" not in text:
        more.append("SYNTHQ_API_KEY holds the key that is sent")
    return BY_EXIT_CODE[code]("\n  ".join([text, *more]))


def _one(problem: Any) -> str:
    if not isinstance(problem, dict):
        return ""
    key, message = problem.get("key"), problem.get("message")
    return f"{key}: {message}" if key else str(message or "")
