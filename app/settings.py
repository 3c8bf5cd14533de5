"""Addresses, paths and clocks of this process, from SYNTHQ_* variables. Read here and nowhere else, but for Flower's own."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

SOCKET_PATH_LIMIT = 100
"""A unix socket's path may hold 107 bytes on Linux, 103 on macOS."""


class Settings(BaseSettings):
    """One process's settings. Every field can be set as ``SYNTHQ_<NAME>``."""

    model_config = SettingsConfigDict(env_prefix="SYNTHQ_", extra="ignore")

    home: Path = Field(default_factory=lambda: Path.home() / ".synthq")
    """Where state lives: database, artifacts, broker data, logs."""
    database_url: str = ""
    """SQLAlchemy URL; empty means SQLite in ``home``. Postgres: ``postgresql+psycopg://...``."""
    redis_url: str = ""
    """Broker URL; empty means the embedded one over a unix socket under ``home``."""
    redis_prefix: str = "synthq:"
    """Goes before every key in Redis, so that several systems can share one server."""
    artifacts_url: str = ""
    """Where artifacts live (any fsspec URL); empty means ``home``/artifacts."""

    api_host: str = "127.0.0.1"
    api_port: int = Field(8484, ge=0, le=65535)
    api_keys: str = ""
    """Comma list of API keys that are accepted beside those in the store. None anywhere: loopback only."""

    lease_s: float = Field(60.0, gt=0)
    """How long a claimed step stays with its worker without a sign of life."""
    renew_s: float = Field(20.0, gt=0)
    """How often a lease is renewed; well below ``lease_s``."""
    watch_s: float = Field(1.0, gt=0)
    """How often a running step looks whether its job was cancelled or its hold was taken back."""
    progress_deadline_s: float = Field(600.0, gt=0)
    """A step that reports no progress for this long is ended and tried again."""
    reconcile_s: float = Field(10.0, gt=0)
    """How often the scheduler looks for expired leases, lost hints and finished iterations."""
    poll_s: float = Field(1.0, gt=0)
    """How long the scheduler sleeps when no nudge comes."""
    heartbeat_s: float = Field(10.0, gt=0)
    """How often a worker says that it is alive; it counts as gone after three of them."""
    cancel_grace_s: float = Field(30.0, ge=0)
    """How long a running step may take to stop after a cancel before its hold is taken away."""
    backoff_s: float = Field(2.0, ge=0)
    """Wait before the second attempt of a step; doubles with each further one."""
    max_attempts: int = Field(3, ge=1)
    """Attempts of a step before it fails for good."""
    hint_margin: int = Field(4, ge=0)
    """Hints kept in a queue beyond the free slots of its workers."""
    segment_s: float = Field(60.0, gt=0)
    """Longest play between two snapshots of a running episode."""
    step_budget_s: float = Field(300.0, gt=0)
    """A play step that has run this long hands the rest back to the queue."""
    log_level: str = "INFO"

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in use."""
        return self.database_url or f"sqlite:///{self.home / 'synthq.db'}"

    @property
    def run_dir(self) -> Path:
        """Sockets and pid files of this home. Short enough for a unix socket, whatever ``home`` is."""
        preferred = self.home / "run"
        if len(str(preferred / "broker.sock")) <= SOCKET_PATH_LIMIT:
            return preferred
        digest = hashlib.sha256(str(self.home.absolute()).encode()).hexdigest()[:12]
        return Path("/tmp") / f"synthq-{os.getuid()}-{digest}"

    @property
    def broker_socket(self) -> Path:
        """Unix socket of the embedded broker."""
        return self.run_dir / "broker.sock"

    @property
    def broker(self) -> str:
        """The broker URL in use, in Celery's spelling."""
        return self.redis_url or f"redis+socket://{self.broker_socket}"

    @property
    def artifacts(self) -> str:
        """Where artifacts live."""
        return self.artifacts_url or str(self.home / "artifacts")

    @property
    def logs_dir(self) -> Path:
        """One log file for each process that ``synthq up`` runs."""
        return self.home / "logs"


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once. Tests call ``get_settings.cache_clear()``."""
    return Settings()
