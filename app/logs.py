"""How the processes of synthq log: one line an event on stderr, UTC, and never a picture or a key in it."""

from __future__ import annotations

import logging
import re
import time

from app.settings import get_settings

DATA_URL = re.compile(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]{32,}")
SECRET = re.compile(r"(sq_[0-9a-z]{8}_)[A-Za-z0-9_-]{20,}|((?:Bearer|api[_-]?key[=:])\s*)\S+", re.IGNORECASE)


class _Redacted(logging.Formatter):
    """Cuts pictures and keys out of what is logged."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def redacted(text: str) -> str:
    """A text without the pictures and keys that it held."""
    return SECRET.sub(lambda match: f"{match.group(1) or match.group(2)}***", DATA_URL.sub("data:image/...", text))


def set_up_logging() -> None:
    """Send this process's log lines to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Redacted("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("synthq").setLevel(get_settings().log_level.upper())
