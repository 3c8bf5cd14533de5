"""The policies there are, found by name: those of this package and those that other packages register.

A policy is asked for by label: ``name``, or ``name:variant``, such as ``scripted:reactive`` or ``openai:gpt-4o``. Another package
adds one with an entry point in the group ``synthq.policies`` whose value is a class (or a function) that takes the keys of
``eval.policy_options.NAME`` as keyword arguments, and ``variant`` if it has variants, and gives a ``Policy``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from app.errors import InvalidInput, UnknownName, UnknownPolicy
from app.specs.policies import policy_name
from workers.rollout.policies.base import Policy, Request

__all__ = ["GROUP", "POLICIES", "Policy", "Request", "known", "make"]

POLICIES = {
    "random": "workers.rollout.policies.random:Random",
    "scripted": "workers.rollout.policies.scripted:Scripted",
    "openai": "workers.rollout.policies.openai:OpenAI",
    "model": "workers.rollout.policies.engine:Model",
}
"""Names are strings, so that a policy's libraries are imported only when it is asked for."""
GROUP = "synthq.policies"


@lru_cache(maxsize=1)
def _registered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def known() -> tuple[str, ...]:
    """Every name that ``make`` takes."""
    return tuple(sorted({*POLICIES, *_registered()}))


def make(label: str, options: Mapping[str, Any] | None = None) -> Policy:
    """A new policy, for one episode at a time.

    Raises UnknownPolicy; UnknownName for a key of ``options`` that the policy does not take; InvalidInput for a variant of a
    policy that has none, and what the policy itself raises for a value that cannot be right.
    """
    name, variant = policy_name(label)
    build = _builder(name)
    given = dict(options or {})
    taken = inspect.signature(build).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    if variant is not None:
        if "variant" not in taken and not anything:
            raise InvalidInput(f"the policy {name!r} has no variants, so not {label!r}; write {name!r}")
        given["variant"] = variant
    for key in given:
        if key not in taken and not anything:
            raise UnknownName(f"option of the policy {name!r}", key, set(taken) - {"variant"})
    return build(**given)


def _builder(name: str) -> Callable[..., Policy]:
    if name in POLICIES:
        module, _, attribute = POLICIES[name].partition(":")
        found: Callable[..., Policy] = getattr(import_module(module), attribute)
        return found
    if name in _registered():
        loaded: Callable[..., Policy] = _registered()[name].load()
        return loaded
    raise UnknownPolicy(name, known())
