"""One address over HTTP: the connection, the key, and nothing of the key in anything that leaves this file.

TLS is verified, redirects are not followed, and an answer longer than ``MOST_BYTES`` is not read to its end.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

import httpx

from app.errors import EngineRefused

logging.getLogger("httpcore").setLevel(logging.INFO)  # at DEBUG it writes down every header that a server sends back

CHAT: Final = "/chat/completions"
MOST_BYTES: Final = 8 * 1024 * 1024
"""Longest answer that is read."""
CONNECT_S: Final = 10.0
"""Longest wait for a connection, for room in the pool, and for a piece of the request to leave."""
HIDDEN: Final = "***"
_PART_CHARS: Final = 4
"""Servers repeat keys with their middle starred out; a word with this many first characters of the key is hidden whole."""
_STARRED: Final = re.compile(r"\S*\*{2,}\S*")


class NotSent(Exception):
    """The request did not reach the server. Stays inside this package."""


class Broken(Exception):
    """The line broke after the request may have reached the server. Stays inside this package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An HTTP answer, the key taken out of all of it."""

    status: int
    headers: Mapping[str, str]
    value: Any
    """What its JSON says; None when it is not JSON."""
    text: str


class Endpoint:
    """An OpenAI-compatible server."""

    def __init__(self, base: str, key_variable: str | None) -> None:
        self._url = _chat_url(base)
        self._key = _read_key(key_variable, self.host)
        self._http: httpx.AsyncClient | None = None

    @property
    def host(self) -> str:
        """Its name, and its port if that is not the usual one: how sentences name it."""
        return self._url.netloc.decode("ascii").rpartition("@")[2]

    async def post(self, body: Mapping[str, Any], *, timeout_s: float) -> Answered:
        """Ask once. Raises NotSent, Broken, or EngineRefused for a certificate that cannot be trusted."""
        limits = httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s), pool=CONNECT_S, write=CONNECT_S)
        try:
            async with self._client().stream("POST", self._url, json=body, timeout=limits) as response:
                raw = await _limited(response)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
            if _is_untrusted(error):
                raise EngineRefused(f"the certificate of {self.host} cannot be trusted: {self._told(error)}") from None
            raise NotSent(self._told(error)) from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise Broken(self._told(error)) from None
        text = raw.decode("utf-8", errors="replace")
        headers = {name.lower(): self._hide(value) for name, value in response.headers.items()}
        return Answered(status=response.status_code, headers=headers, value=self._read(text), text=self.words(text))

    def words(self, text: str) -> str:
        """A server's words without the key, also where only parts of it are left."""
        if self._key is None:
            return text
        part = rf"{re.escape(self._key[:_PART_CHARS])}\S*" if len(self._key) > 2 * _PART_CHARS else r"(?!)"
        return _STARRED.sub(HIDDEN, re.sub(part, HIDDEN, self._hide(text)))

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            headers = {"User-Agent": "synthq"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
            # A proxy of the surroundings is for the world outside, not for this machine.
            self._http = httpx.AsyncClient(
                headers=headers, verify=_trusted(), follow_redirects=False, trust_env=not _is_local(self._url.host)
            )
        return self._http

    def _hide(self, text: str) -> str:
        for form in {self._key, quote(self._key, safe="")} if self._key else ():
            text = text.replace(form, HIDDEN)
        return text

    def _read(self, text: str) -> Any:
        """What a JSON text says, without the key; None when it is not JSON, or nested deeper than can be read."""
        try:
            return self._scrub(json.loads(text))
        except (ValueError, RecursionError):
            return None

    def _scrub(self, value: Any) -> Any:
        """A JSON value without the key in any of its texts."""
        if isinstance(value, str):
            return self._hide(value)
        if isinstance(value, list):
            return [self._scrub(each) for each in value]
        if isinstance(value, dict):
            return {self._hide(name): self._scrub(each) for name, each in value.items()}
        return value

    def _told(self, error: Exception) -> str:
        name = re.sub(r"(?<!^)(?=[A-Z])", " ", type(error).__name__).lower()
        said = self.words(str(error))
        return f"{name}: {said}" if said else name


def _chat_url(base: str) -> httpx.URL:
    url = httpx.URL(base)
    path = url.path.rstrip("/")
    return url.copy_with(path=path if path.endswith(CHAT) else path + CHAT, fragment=None)


def _read_key(variable: str | None, host: str) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise EngineRefused(
            f"the variable {variable} with the key for {host} is not set where this worker runs; set it there and start "
            "the worker again, or name another one in policy_config.api_key_env"
        )
    if not all("!" <= c <= "~" for c in key):
        raise EngineRefused(f"the variable {variable} holds characters that no key has; it must be the key for {host} alone")
    return key


@lru_cache(maxsize=1)
def _trusted() -> ssl.SSLContext:
    """The certificates that are trusted; read once, for it takes longer than many a request."""
    return httpx.create_ssl_context()


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _is_untrusted(error: BaseException | None) -> bool:
    """Whether a certificate is behind an error; httpx wraps it more than once."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


async def _limited(response: httpx.Response) -> bytes:
    raw = bytearray()
    async for piece in response.aiter_bytes():
        raw += piece
        if len(raw) > MOST_BYTES:
            raise httpx.ReadError(f"the answer is longer than {MOST_BYTES} bytes, the most that is read")
    return bytes(raw)
