"""The kinds of job, and which of them a file means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.errors import NotHere, UnknownKind
from app.specs.base import Spec
from app.specs.eval import EvalSpec
from app.specs.filter import FilterSpec
from app.specs.sft import SftSpec

AnySpec = EvalSpec | FilterSpec | SftSpec
KINDS: dict[str, type[EvalSpec] | type[FilterSpec] | type[SftSpec]] = {"eval": EvalSpec, "filter": FilterSpec, "sft": SftSpec}

MARKS: dict[str, tuple[str, ...]] = {"sft": ("job", "hyperparameters")}
"""Tables of the followed project by which files are known that have no table of a kind's own name."""
COMING: dict[str, tuple[str, ...]] = {"rl": ("rl", "rollout", "services")}
"""Kinds that synthq is designed for and this release does not have, with the tables by which their files are known."""


def spec_class(kind: str) -> type[EvalSpec] | type[FilterSpec] | type[SftSpec]:
    """The Spec of a kind. Raises NotHere for a kind that this release does not have, UnknownKind for any other name."""
    if kind in COMING:
        raise NotHere(f"this release has no {kind} jobs yet; it has {' and '.join(KINDS)}")
    if kind not in KINDS:
        raise UnknownKind(kind, KINDS)
    return KINDS[kind]


def kinds_in(tables: Mapping[str, Any]) -> list[str]:
    """The kinds whose own tables are there, or else those whose other tables are."""
    here = [kind for kind in KINDS if kind in tables]
    if "filter" in here and "sft" in here:
        here.remove("sft")  # a filter's file of the followed project says there how its lines shall be
    return here or [kind for kind, names in (MARKS | COMING).items() if any(name in tables for name in names)]


__all__ = ["COMING", "KINDS", "AnySpec", "Spec", "kinds_in", "spec_class"]
