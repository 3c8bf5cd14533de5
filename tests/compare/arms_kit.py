"""Arms of the tests: a few seeds, with achievements by draws that a seed keeps."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from app.compare import Arm, Play

NAMES = ("collect_wood", "place_table", "wake_up", "collect_iron")
CONDITIONS = {"env": "crafter", "max_turns": 100}


def plays(seeds: Sequence[int], chance: float, *, key: int = 0, per_seed: int = 1) -> tuple[Play, ...]:
    """Episodes that unlock each achievement with this chance."""
    drawn = random.Random(f"{key}/{chance}")
    found = []
    for seed in seeds:
        for _ in range(per_seed):
            got = frozenset(name for name in NAMES if drawn.random() < chance)
            turns = drawn.randrange(20, 40)
            found.append(
                Play(
                    seed=seed,
                    achievements=got,
                    return_=len(got) - 0.1,
                    length=turns,
                    turns=turns,
                    outcomes={"ok": turns},
                    ended="died",
                )
            )
    return tuple(found)


def arm(label: str, played: Sequence[Play], *, seeds: Sequence[int] | None = None, **more: Any) -> Arm:
    """An arm that was asked to play these seeds, by default those that it has played."""
    given: dict[str, Any] = {
        "job": f"job_{label}",
        "name": label,
        "kind": "eval",
        "state": "succeeded",
        "policy": "random",
        "conditions": CONDITIONS,
        "seeds": frozenset(seeds if seeds is not None else (play.seed for play in played)),
        "per_seed": 1,
    }
    return Arm(label=label, plays=tuple(played), **{**given, **more})
