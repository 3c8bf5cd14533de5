"""What the arms of a comparison are called: as short as they can be and still be told apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from app.specs.policies import MODEL, OPENAI, policy_name

LONGEST: Final = 28
"""Letters of a label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What an arm may be called by."""

    job: str
    name: str | None
    policy: str
    iteration: int | None = None


def labels(arms: Sequence[Named]) -> list[str]:
    """A label for each arm, in order, no two alike: the job alone where it has one arm, the policy alone where there is one job,
    else both."""
    policies, jobs = [short_policy(arm.policy) for arm in arms], _job_names(arms)
    of_a_job = Counter((arm.job, arm.iteration) for arm in arms)
    if len({arm.job for arm in arms}) == 1 and len(set(policies)) == len(arms):
        return _numbered([_cut(policy) for policy in policies])
    told = [
        _cut(job if of_a_job[arm.job, arm.iteration] == 1 else f"{job} {policy}")
        for arm, job, policy in zip(arms, jobs, policies, strict=True)
    ]
    return _numbered(told)


def _job_names(arms: Sequence[Named]) -> list[str]:
    """The job's name where no other job here has it, else the start of its id; with the iteration of an rl job."""
    shared = Counter(name for _, name in {(arm.job, arm.name) for arm in arms})
    plain = [arm.name if arm.name and shared[arm.name] == 1 else arm.job[:8] for arm in arms]
    return [job if arm.iteration is None else f"{job}@{arm.iteration}" for job, arm in zip(plain, arms, strict=True)]


def short_policy(label: str) -> str:
    """``tiny`` for ``model:/models/tiny``, ``gpt-5`` for ``openai:gpt-5``; other labels as they are."""
    name, variant = policy_name(label)
    if name not in (MODEL, OPENAI) or not variant:
        return label
    return PurePosixPath(variant).name or label


def _cut(label: str) -> str:
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 9]}…{label[-8:]}"


def _numbered(found: Sequence[str]) -> list[str]:
    """Those that come again get a number."""
    seen: Counter[str] = Counter()
    numbered = []
    for label in found:
        seen[label] += 1
        numbered.append(label if seen[label] == 1 else f"{label[: LONGEST - 4]} #{seen[label]}")
    return numbered
