"""What a training would come to, as the server knows it: for a dry run asked for, for a job that was made told with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from app.errors import SynthqError, Unavailable
from cli import show

if TYPE_CHECKING:
    from cli.sft import Lines

Json = dict[str, Any]
KINDS: Final = ("sft", "rl")
IN_SHORT: Final = ("memory of the trainer", "time")
"""Beginnings of the sentences that are told with a job."""
PARTS: Final = " itself: "
"""After this a sentence about memory tells its parts, which a dry run shows."""


def asked(request: Json, lines: Lines | None) -> Json | None:
    """The estimate of a checked spec; None, said on stderr, where there is nobody to ask. ``lines`` would be sent with it."""
    from cli.client import Client

    given = {} if lines is None else {"lines": lines.lines, "images": lines.images}
    try:
        with Client() as client:
            return client.call("POST", "/estimate", body={"kind": request["kind"], "spec": request["spec"], **given})
    except Unavailable:
        show.say("memory and time: the server tells them, and none answers; start one with `synthq up`")
    except SynthqError as error:
        show.say(f"memory and time: not estimated: {error}")
    return None


def tell(estimate: Mapping[str, Any], *, cautions: bool = True, short: bool = False) -> None:
    """Say it on stderr; ``short``: the few sentences that go with a job that was made."""
    for caution in (estimate.get("cautions") or []) if cautions else []:
        show.say(f"warning: {show.clean(caution)}")
    for sentence in estimate.get("said") or []:
        if not short:
            show.say(show.clean(sentence))
        elif str(sentence).startswith(IN_SHORT):
            whole, parts, _ = show.clean(sentence).partition(PARTS)
            show.say(f"{whole}{parts.rstrip().removesuffix(':')}")
