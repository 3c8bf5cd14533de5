"""The kinds of job, and which of them a file means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.errors import UnknownKind
from app.specs.base import Spec
from app.specs.eval import EvalSpec
from app.specs.filter import FilterSpec
from app.specs.rl import RlSpec
from app.specs.sft import SftSpec

AnySpec = EvalSpec | FilterSpec | SftSpec | RlSpec
PlayedSpec = EvalSpec | RlSpec
"""The kinds whose jobs play episodes; each says with ``play`` how."""
AnyClass = type[EvalSpec] | type[FilterSpec] | type[SftSpec] | type[RlSpec]
KINDS: dict[str, AnyClass] = {"eval": EvalSpec, "filter": FilterSpec, "sft": SftSpec, "rl": RlSpec}

MARKS: dict[str, tuple[str, ...]] = {"sft": ("job", "hyperparameters"), "rl": ("rollout", "services")}
"""Tables by which files are known that have no table of a kind's own name."""


def spec_class(kind: str) -> AnyClass:
    """The Spec of a kind. Raises UnknownKind."""
    if kind not in KINDS:
        raise UnknownKind(kind, KINDS)
    return KINDS[kind]


def kinds_in(tables: Mapping[str, Any]) -> list[str]:
    """The kinds whose own tables are there, or else those whose other tables are."""
    here = [kind for kind in KINDS if kind in tables]
    if "filter" in here and "sft" in here:
        here.remove("sft")  # a filter's file of the followed project says there how its lines shall be
    return here or [kind for kind, names in MARKS.items() if any(name in tables for name in names)]


__all__ = ["KINDS", "AnySpec", "PlayedSpec", "Spec", "kinds_in", "spec_class"]
