"""What a server says when it does not answer the question: one form of the several that there are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

MOST_CHARS: Final = 300
"""Of a server's own words, as much as a sentence carries."""
RETRIED: Final = frozenset({408, 409, 425, 429})
"""Statuses below 500 after which the same request may succeed."""
NO_CREDIT: Final = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
FILTERED: Final = ("content_filter", "content_policy_violation")
BLOCKING: Final = frozenset({401, 402, 403, 404})
"""Statuses that every other request of the job would get as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A server's refusal of one request, its words free of the key and cut."""

    status: int
    code: str = ""
    param: str = ""
    message: str = ""

    @property
    def blocks(self) -> bool:
        """No other request will fare better: key, model, address or credit are at fault."""
        return self.status in BLOCKING or self.code in NO_CREDIT or 300 <= self.status < 400

    @property
    def passes(self) -> bool:
        """The same request may succeed later."""
        return not self.blocks and (self.status in RETRIED or self.status >= 500)

    @property
    def filtered(self) -> bool:
        """The endpoint's content filter took offence at this prompt."""
        return self.code in FILTERED

    def __str__(self) -> str:
        return f"HTTP {self.status}" + (f" {self.message!r}" if self.message else "")

    @classmethod
    def of(cls, status: int, value: Any, text: str, words: Callable[[str], str]) -> Refusal:
        """The refusal in a body: its JSON if it is JSON, else its text. ``words`` takes what is left of the key out of it."""
        found: dict[str, Any] = value if isinstance(value, dict) else {}
        inner = found.get("error", found)
        if isinstance(inner, str):
            inner = {"message": inner}
        if not isinstance(inner, dict):
            inner = {}
        message = inner.get("message") or _details(found.get("detail")) or text
        code = inner.get("code") if isinstance(inner.get("code"), str) else inner.get("type")
        return cls(
            status=status,
            code=code if isinstance(code, str) else "",
            param=inner["param"] if isinstance(inner.get("param"), str) else "",
            message=plain(words(message if isinstance(message, str) else json.dumps(message))),
        )


def _details(detail: Any) -> str:
    """The words of a validation error: a text, or a list of places with what is wrong there."""
    if isinstance(detail, str):
        return detail
    rows = [each for each in detail if isinstance(each, dict)] if isinstance(detail, list) else []
    return "; ".join(f"{'.'.join(map(str, each.get('loc', ())))}: {each.get('msg', '')}" for each in rows)


def plain(text: str) -> str:
    """A server's words on one line, without control characters, and cut."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= MOST_CHARS else f"{line[:MOST_CHARS]}..."
