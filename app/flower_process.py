"""Flower, Celery's dashboard, for this home: loopback only, behind a password, and unable to change anything.

``python -m app.flower_process`` runs it. It shows workers and wake-ups; jobs, steps and scores are in synthq's own pages.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys
from pathlib import Path
from typing import Final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.settings import Settings, get_settings

MISSING: Final = "the package flower is not installed; `pip install -e '.[flower]'` in synthq's folder brings it"


class FlowerSettings(BaseSettings):
    """Flower's own settings, ``SYNTHQ_FLOWER_<NAME>``."""

    model_config = SettingsConfigDict(env_prefix="SYNTHQ_FLOWER_", extra="ignore", env_ignore_empty=True)

    port: int = Field(5555, ge=0, le=65535)
    """Where it listens on loopback; 0 switches it off in ``synthq up``."""
    address: str = "127.0.0.1"
    """What it binds; another one only inside a container whose port is published on loopback."""
    user: str = "synthq"
    password: str = ""
    """Empty: one is made and kept in ``home``/flower-password, which only its owner may read."""


def password_file(settings: Settings) -> Path:
    """Where a password that was made is kept."""
    return settings.home / "flower-password"


def password(settings: Settings, flower: FlowerSettings) -> str:
    """The password: the one that was set, else the one of this home, made on first use."""
    if flower.password:
        return flower.password
    path = password_file(settings)
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text(encoding="ascii").strip()
    with os.fdopen(handle, "w", encoding="ascii") as file:
        made = secrets.token_urlsafe(18)
        file.write(made + "\n")
    return made


def arguments(settings: Settings, flower: FlowerSettings) -> list[str]:
    """Flower's command line. It is handed over inside this process: a list of processes never shows the password."""
    return [
        "flower",
        f"--address={flower.address}",
        f"--port={flower.port}",
        f"--basic-auth={flower.user}:{password(settings, flower)}",
        "--read-only",
        "--persistent=True",
        f"--db={settings.home / 'flower.db'}",
        "--state-save-interval=60000",
        "--purge-offline-workers=3600",
        "--logging=error",
    ]


def main() -> None:
    """Run Flower until it is stopped."""
    flower = FlowerSettings()
    if importlib.util.find_spec("flower") is None:
        sys.exit(f"Error: {MISSING}")
    if not flower.port:
        sys.exit("Error: SYNTHQ_FLOWER_PORT=0 switches Flower off; give it a port")
    from app.broker import celery  # here, so that the supervisor reads the settings above without loading Celery

    celery.start(argv=arguments(get_settings(), flower))


if __name__ == "__main__":
    main()
