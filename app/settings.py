"""Addresses, paths and clocks of this process, from SYNTHQ_* variables. Read here and nowhere else, but for Flower's own."""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.errors import BadFlag

SOCKET_PATH_LIMIT = 100
"""A unix socket's path may hold 107 bytes on Linux, 103 on macOS."""

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class Settings(BaseSettings):
    """One process's settings. Every field can be set as ``SYNTHQ_<NAME>``; an empty variable is one that is not set."""

    model_config = SettingsConfigDict(env_prefix="SYNTHQ_", extra="ignore", env_ignore_empty=True)

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
    upload_bytes: int = Field(4_000_000_000, ge=1)
    """Largest file of lines that the API takes."""

    task_app_host: str = "127.0.0.1"
    task_app_port: int = Field(8001, ge=0, le=65535)
    """Where the task app listens; 0 leaves it out of ``synthq up``, and is any free port where it is started by itself."""
    task_app_keys: str = ""
    """Comma list of keys that the task app accepts, beside the two below. None anywhere: loopback only."""
    environment_api_key: str = Field("", validation_alias="ENVIRONMENT_API_KEY")
    """The task app's key, under the name that other makers' tools know."""
    environment_api_key_aliases: str = Field("", validation_alias="ENVIRONMENT_API_KEY_ALIASES")
    """Comma list of further keys of the task app, likewise."""
    task_app_model_keys: str = ""
    """Comma list of variables with keys of model endpoints that a request to the task app may name."""
    task_app_processes: int = Field(0, ge=0, le=256)
    """Processes in which the task app plays; 0: one for each core."""

    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """The engine that inference workers start; auto: vllm where there is an NVIDIA GPU and an environment with vLLM."""
    engine_host: str = "127.0.0.1"
    """Where engines listen; workers on other hosts ask there. Beyond loopback it wants ``engine_key``."""
    engine_key: str = ""
    """Key that engines want and rollout workers send; none: loopback only."""
    engine_idle_s: float = Field(600.0, ge=0)
    """How long a model stays loaded when no job needs it."""
    vllm_python: str = ""
    """The Python of an environment with vLLM; empty: the one of ``make vllm-env``, if it was made."""

    trainer_devices: int = Field(1, ge=1, le=64)
    """Processes that train together in one trainer worker, one for each GPU (on a machine without GPUs, of the CPU)."""
    trainer_idle_s: float = Field(600.0, ge=0)
    """How long a trainer keeps its model loaded when no step needs it."""

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
    endpoint_heartbeat_s: float = Field(1.0, gt=0)
    """How often an inference worker says what it serves; nobody asks its engine any more after six of them went missing."""
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
    keep_jobs_days: float = Field(0.0, ge=0)
    """Days after its end for which a job is kept; 0 is for ever. The label ``keep=true`` keeps one whatever this says."""
    keep_frames_days: float = Field(0.0, ge=0)
    """Days after its end for which a job's frames are kept; 0 is for ever."""
    log_level: str = "INFO"

    @field_validator("database_url")
    @classmethod
    def _database_is_known(cls, url: str) -> str:
        if url and not re.match(r"(sqlite|postgresql)(\+[a-z0-9]+)?://", url):
            raise ValueError("is no database that synthq can use; it takes sqlite:///FILE or postgresql+psycopg://...")
        return url

    @field_validator("redis_url")
    @classmethod
    def _broker_is_known(cls, url: str) -> str:
        if url and not re.match(r"(rediss?|redis\+socket|unix)://", url):
            raise ValueError(
                "is no broker that synthq can use; it takes redis://HOST:PORT/0, rediss://... or redis+socket://PATH"
            )
        return url

    @field_validator("log_level")
    @classmethod
    def _level_is_known(cls, level: str) -> str:
        if level.upper() not in LOG_LEVELS:
            raise ValueError(f"is no level; it takes one of {', '.join(LOG_LEVELS)}")
        return level.upper()

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
    def runs(self) -> Path:
        """A folder for each job that trains, with what it needs to go on: ``runs/<job id>/``."""
        return self.home / "runs"

    @property
    def accepted_by_task_app(self) -> tuple[str, ...]:
        """Every key that the task app accepts."""
        given = (self.task_app_keys, self.environment_api_key_aliases)
        return tuple(key for key in (*_listed(*given), self.environment_api_key.strip()) if key)

    @property
    def sent_by_task_app(self) -> tuple[str, ...]:
        """Variables whose keys a request may have the task app send to a model endpoint."""
        return _listed(self.task_app_model_keys)

    @property
    def logs_dir(self) -> Path:
        """One log file for each process that ``synthq up`` runs."""
        return self.home / "logs"


def _listed(*texts: str) -> tuple[str, ...]:
    """The parts of comma lists."""
    return tuple(part.strip() for text in texts for part in text.split(",") if part.strip())


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once. Raises BadFlag. Tests call ``get_settings.cache_clear()``."""
    return read(Settings)


S = TypeVar("S", bound=BaseSettings)


def read(kind: type[S]) -> S:
    """Settings from the environment. Raises BadFlag with every variable that cannot be right."""
    try:
        return kind()
    except ValidationError as error:
        prefix = str(kind.model_config.get("env_prefix"))
        raise BadFlag("; ".join(_fault(prefix, each) for each in error.errors())) from None


def _fault(prefix: str, error: ErrorDetails) -> str:
    """What is wrong with one variable. The value of one that may hold a password is not told."""
    name = f"{prefix}{error['loc'][0]}".upper()
    value = "" if name.endswith(("_URL", "_KEYS", "PASSWORD")) else f"={error['input']}"
    if error["type"] == "value_error":
        return f"{name}{value} {error['ctx']['error']}"
    said = error["msg"].removeprefix("Input should be ").partition(", unable")[0]
    return f"{name}{value} must be {said}"
