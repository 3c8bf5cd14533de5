"""Which seeds are kept apart for validation. All lines of a seed fall on the same side. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from app.errors import StepFailed
from app.specs import FilterTable
from app.specs.filter import SplitTable
from workers.rollout.export.columns import Draw, uniform
from workers.rollout.selection import Candidate


def apart(used: Sequence[Candidate], table: SplitTable) -> frozenset[int]:
    """The seeds of the validation file, of those of these episodes: as near to ``val_fraction`` of them as can be, with one on
    either side at the least.

    The seeds are put in order by what should be alike on both sides, those that are alike by chance, and every k-th is taken:
    so each stretch of that order gives its share. Raises StepFailed for less than two seeds.
    """
    episodes: dict[int, list[Candidate]] = {}
    for episode in used:
        episodes.setdefault(episode.seed, []).append(episode)
    if len(episodes) < 2:
        raise StepFailed(
            f"split.enabled keeps seeds apart, and every line is of seed {next(iter(episodes))}; two seeds are the least"
        )
    number = min(len(episodes) - 1, max(1, round(table.val_fraction * len(episodes))))
    draws = uniform(table.seed, Draw.SPLIT, len(episodes) + 1)
    chance = dict(zip(sorted(episodes), draws[1:].tolist(), strict=True))
    ordered = sorted(episodes, key=lambda seed: (_stratum(episodes[seed], table), chance[seed]))
    start, stride = float(draws[0]), len(episodes) / number
    return frozenset(ordered[int((i + start) * stride)] for i in range(number))


def _stratum(episodes: Sequence[Candidate], table: SplitTable) -> Any:
    if table.stratify_by == "achievements":
        return fmean(episode.unlocked for episode in episodes)
    return tuple(sorted({episode.policy for episode in episodes})) if table.stratify_by == "policy" else 0


def files(table: FilterTable, stem: str) -> Mapping[str | None, str]:
    """The names of the files of lines, by side: train and val, or None for all."""
    if table.split.enabled:
        return {"train": table.split.train_file, "val": table.split.val_file}
    return {None: f"{stem}.jsonl"}
