"""What a training from data came to, for people. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cli import show

Json = Mapping[str, Any]


def told(summary: Json) -> list[str]:
    """The summary of an sft job, as lines."""
    return show.fields(_rows(summary))


def _rows(summary: Json) -> Iterator[tuple[str, str]]:
    yield str(summary.get("kind") or "artifact"), f"{show.clean(summary.get('artifact'))}, {show.size(summary.get('bytes'))}"
    steps, planned = summary.get("steps"), summary.get("steps_planned")
    early = ", stopped early" if summary.get("stopped_early") else ""
    best = f"; the model is that of step {summary.get('of_step')}" if summary.get("of_step") != steps else ""
    yield "steps", f"{steps} of {planned}{early}{best}"
    loss = _within(summary, "loss")
    yield "loss", f"{_number(loss.get('first'))} at first, {_number(loss.get('last'))} at last"
    if tried := _within(summary, "validation"):
        found = _within(tried, "best")
        yield (
            "validation",
            f"loss {_number(found.get('loss'))}, {_number(found.get('accuracy'), percent=True)} of tokens right, at step "
            f"{found.get('step')}, on {_count(tried.get('samples'))} samples",
        )
    left_out = summary.get("samples_left_out")
    yield (
        "samples",
        f"{_count(summary.get('samples'))}, {_number(summary.get('epochs'))} times"
        + (f"; {_count(left_out)} too long ones were left out" if left_out else ""),
    )
    yield "trained", f"{_count(summary.get('trained_parameters'))} parameters ({show.clean(summary.get('trainer_mode'))})"
    yield (
        "speed",
        f"{_number(summary.get('samples_per_s'))} samples/s, {_count(summary.get('tokens_per_s'))} tokens/s on "
        f"{show.clean(summary.get('device'))}",
    )
    yield "memory", show.size(summary.get("memory_bytes"))


def _within(value: Json, key: str) -> Json:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _number(value: object, *, percent: bool = False) -> str:
    if not isinstance(value, int | float):
        return "-"
    return f"{100 * value:.1f} %" if percent else f"{value:.4g}"


def _count(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else "?"
