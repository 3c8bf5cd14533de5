"""What an engine is: a program that serves one model over the wire of ``workers.transport.generate``, and how to start it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

Options = Mapping[str, Any]
"""The spec's table ``[vllm]``, resolved: the keys of ``app.specs.engine.VllmTable``."""


class Engine(Protocol):
    """A kind of server. It is started as a process of its own, which binds ``host`` and ``port`` and serves until SIGTERM.

    Its server answers ``GET /health`` with 200 once it serves, and chat completions from then on; it takes adapters at
    ``POST /v1/load_lora_adapter`` and gives them up at ``POST /v1/unload_lora_adapter``.
    """

    name: str
    """What specs and endpoints call it."""

    def command(self, base: str, options: Options, *, host: str, port: int) -> list[str]:
        """The command that serves ``base``, a folder or a hub id, under that name. Raises NotHere where it cannot be run."""
        ...

    def environment(self, base: str, options: Options) -> dict[str, str]:
        """Variables that its process needs beside those of this one."""
        ...
