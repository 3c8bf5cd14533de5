"""Completion of a JOB in the shell: ids and names of the newest jobs, and nothing at all when the server takes its time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

NEWEST: Final = 50
TIME_S: Final = 0.3
"""A shell that waits longer than this for a Tab feels broken."""


def jobs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Jobs whose id or name begins with what was typed, and @last."""
    from click.shell_completion import CompletionItem

    found = [CompletionItem("@last", help="the newest job")]
    for job in _newest():
        about = f"{job.get('kind')} {job.get('state')}"
        found += [CompletionItem(str(word), help=about) for word in (job.get("id"), job.get("name")) if word]
    return [item for item in found if item.value.startswith(incomplete)]


def _newest() -> list[dict[str, object]]:
    """The newest jobs; none when the server cannot be asked in time."""
    import httpx

    from app.errors import SynthqError
    from cli.client import Client

    try:
        with Client(timeout=httpx.Timeout(TIME_S)) as client:
            return client.rows("/jobs", limit=NEWEST)
    except SynthqError:
        return []
