"""One line of training data against the rules: what is wrong, where, and what would be right."""

from __future__ import annotations

from typing import Any, Final

from app.dataset import calls, messages
from app.dataset.look import Look
from app.dataset.messages import DEPRECATED
from app.dataset.source import kind, shown
from app.dataset.summary import count
from app.errors import did_you_mean
from app.records import Outcome

MOST_IMAGES: Final = 10
"""Images in one example, by OpenAI's rules."""
KEYS: Final = ("messages", "tools", "parallel_tool_calls", "metadata")
OTHER_DATA: Final = {
    "prompt": "a prompt with its completion",
    "completion": "a prompt with its completion",
    "conversations": "the ShareGPT form",
    "instruction": "the Alpaca form",
    "preferred_output": "a preference",
    "chosen": "a preference",
    "dialogue": "a dialogue",
    "custom_id": "a request of a batch",
}
"""Keys that tell what a line is instead of a chat."""
METADATA: Final[dict[str, tuple[type | tuple[type, ...], str]]] = {
    "job": (str, "a text"),
    "episode": (str, "a text"),
    "seed": (int, "a whole number"),
    "member": (int, "a whole number"),
    "turn": (int, "a whole number"),
    "policy": (str, "a text"),
    "model": (str, "a text"),
    "split": (str, "a text"),
    "task_id": (str, "a text"),
    "reward": ((int, float), "a number"),
    "return_to_go": ((int, float), "a number"),
    "unlocked": (str, "a text: achievements, with blanks between them"),
    "achievements_total": (int, "a whole number"),
    "outcome": (str, "a text"),
    "relabelled_by": (str, "a text"),
    "original_actions": (str, "a text: actions, with blanks between them"),
}
"""The keys that the filter writes, and what they hold where they are not null. Others may be there."""


def check(look: Look, value: Any) -> None:
    """Look at the whole line."""
    if not isinstance(value, dict):
        look.bad("", f"the line is {kind(value)}; it must be an object with the key 'messages'")
        return
    try:
        _check(look, value)
    except RecursionError:
        look.bad("", "the line is nested too deep to be a chat")


def _check(look: Look, line: dict[str, Any]) -> None:
    _line_keys(look, line)
    calls.offered(look, line.get("tools"))
    parallel = line.get("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        look.bad("parallel_tool_calls", f"is {shown(parallel)}; it must be true or false")
    if line.get("metadata") is not None:
        _metadata(look, line["metadata"])
    if "messages" in line:
        messages.conversation(look, line["messages"], one_call=parallel is False)
    if look.images:
        look.counts.image_lines += 1
        if look.images > MOST_IMAGES:
            look.bad("messages", f"holds {look.images} images; an example may have {MOST_IMAGES}")


def _line_keys(look: Look, line: dict[str, Any]) -> None:
    if "messages" not in line:
        other = next((f", and {key!r} makes it look like {what}" for key, what in OTHER_DATA.items() if key in line), "")
        look.bad("", f"the line has no key 'messages'{other}; a line is {{'messages': [...]}}")
    for key in [key for key, value in line.items() if value is not None]:
        if key in DEPRECATED:
            look.bad(key, f"is deprecated by OpenAI and not read here; use {DEPRECATED[key]!r}")
        elif key not in KEYS and not ("messages" not in line and key in OTHER_DATA):
            look.bad(key[:60], f"is no key of a line{did_you_mean(key[:60], KEYS)} (known: {', '.join(KEYS)})")
    if not look.strict and line.get("metadata") is not None:
        look.counts.undocumented["metadata"] += 1


def _metadata(look: Look, metadata: Any) -> None:
    if not isinstance(metadata, dict):
        look.bad("metadata", f"is {kind(metadata)}; it must be an object, or left out")
        return
    outcome = metadata.get("outcome")
    if isinstance(outcome, str):
        count(look.counts.outcomes, outcome[:60])
    if not look.strict:
        return
    for key, (types, wanted) in METADATA.items():
        value = metadata.get(key)
        if value is not None and (not isinstance(value, types) or isinstance(value, bool)):
            look.bad(f"metadata.{key}", f"is {shown(value)}; it must be {wanted}")
    if isinstance(outcome, str) and outcome not in list(Outcome):
        known = [each.value for each in Outcome]
        look.bad(
            "metadata.outcome",
            f"is {shown(outcome)}, which is no outcome{did_you_mean(outcome[:60], known)} (known: {', '.join(known)})",
        )
