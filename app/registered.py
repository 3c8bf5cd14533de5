"""Which environments and policies are installed beside this server: synthq's own, and those that other packages register.

Names only: nothing of them is imported here. A job that names another is refused at submit, for no worker could play it. So a
package with an environment or a policy is installed where the server runs as well as where the workers do.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from app.errors import Problem, SpecProblems, did_you_mean
from app.specs import AnySpec, crafter
from app.specs.eval import EvalSpec
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
    if not isinstance(spec, EvalSpec):
        return
    problems = [
        _unknown(key, what, name, known)
        for key, what, name, known in [
            ("eval.env", "environment", spec.eval.env, environments()),
            *(("eval.policies", "policy", policy_name(label)[0], policies()) for label in spec.eval.policies),
        ]
        if name not in known
    ]
    if problems:
        raise SpecProblems(problems)


def _unknown(key: str, what: str, name: str, known: frozenset[str]) -> Problem:
    listed = ", ".join(sorted(known))
    sentence = f"no {what} named {name!r} is installed where the server runs{did_you_mean(name, known)} (known: {listed})"
    return Problem(key=key, message=sentence)
