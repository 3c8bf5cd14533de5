"""Which environments and policies are installed beside this server: synthq's own, and those that other packages register.

Names only: nothing of them is imported here. A job that names another is refused at submit, for no worker could play it. So a
package with an environment or a policy is installed where the server runs as well as where the workers do.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points

from app.errors import Problem, SpecProblems, did_you_mean
from app.specs import AnySpec, EvalSpec, RlSpec, crafter
from app.specs.policies import POLICIES, policy_name

ENVIRONMENTS = "synthq.environments"
POLICY_PLUGINS = "synthq.policies"
"""Groups of entry points."""


def environments() -> frozenset[str]:
    """Names of the environments."""
    return frozenset({crafter.NAMES[0], *entry_points(group=ENVIRONMENTS).names})


def policies() -> frozenset[str]:
    """Names of the policies."""
    return frozenset({*POLICIES, *entry_points(group=POLICY_PLUGINS).names})


def check(spec: AnySpec) -> None:
    """Raise SpecProblems for names that nothing here goes by."""
    problems = [_unknown(key, what, name, known) for key, what, name, known in _named(spec) if name not in known]
    if problems:
        raise SpecProblems(problems)


def _named(spec: AnySpec) -> Iterator[tuple[str, str, str, frozenset[str]]]:
    """Key, what it names, the name, and the names that there are."""
    if isinstance(spec, EvalSpec):
        yield "eval.env", "environment", spec.eval.env, environments()
        for label in spec.eval.policies:
            yield "eval.policies", "policy", policy_name(label)[0], policies()
    elif isinstance(spec, RlSpec):
        yield "rollout.env", "environment", spec.rollout.env, environments()


def _unknown(key: str, what: str, name: str, known: frozenset[str]) -> Problem:
    listed = ", ".join(sorted(known))
    sentence = f"no {what} named {name!r} is installed where the server runs{did_you_mean(name, known)} (known: {listed})"
    return Problem(key=key, message=sentence)
