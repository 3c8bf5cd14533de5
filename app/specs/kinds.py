"""The kinds of job, and which of them a file means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.errors import NotHere, UnknownKind
from app.specs.base import Spec
from app.specs.eval import EvalSpec
from app.specs.filter import FilterSpec

AnySpec = EvalSpec | FilterSpec
KINDS: dict[str, type[EvalSpec] | type[FilterSpec]] = {"eval": EvalSpec, "filter": FilterSpec}

COMING: dict[str, tuple[str, ...]] = {
    "sft": ("sft", "job", "hyperparameters"),
    "rl": ("rl", "rollout", "services"),
}
"""Kinds that synthq is designed for and this release does not have, with the tables by which their files are known."""


def spec_class(kind: str) -> type[EvalSpec] | type[FilterSpec]:
    """The Spec of a kind. Raises NotHere for a kind that this release does not have, UnknownKind for any other name."""
    if kind in COMING:
        raise NotHere(f"this release has no {kind} jobs yet; it has {' and '.join(KINDS)}")
    if kind not in KINDS:
        raise UnknownKind(kind, KINDS)
    return KINDS[kind]


def kinds_in(tables: Mapping[str, Any]) -> list[str]:
    """The kinds whose own tables are there, those of this release first."""
    here = [kind for kind in KINDS if kind in tables]
    return here or [kind for kind, names in COMING.items() if any(name in tables for name in names)]


__all__ = ["COMING", "KINDS", "AnySpec", "Spec", "kinds_in", "spec_class"]
