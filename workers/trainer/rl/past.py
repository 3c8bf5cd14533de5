"""The play that values are fitted to, kept with a checkpoint for the updates that come after it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from workers.trainer.objective.values import Past

NAME: Final = "values.npz"
"""The file, in the folder of a learner's checkpoint."""


def read(state: Path, discount: float) -> list[Past]:
    """What the checkpoint in the folder ``state`` keeps, oldest first; nothing where rewards were discounted otherwise."""
    path = state / NAME
    if not path.is_file():
        return []
    with np.load(path, allow_pickle=False) as kept:
        if float(kept["discount"]) != discount:
            return []
        return [
            Past(
                states=kept[f"{number}.states"],
                turns=kept[f"{number}.turns"],
                had=dict(zip(kept[f"{number}.had_names"].tolist(), kept[f"{number}.had"], strict=True)),
                togo=dict(zip(kept[f"{number}.togo_names"].tolist(), kept[f"{number}.togo"], strict=True)),
            )
            for number in range(int(kept["updates"]))
        ]


def copy(state: Path | str, other: Path) -> None:
    """Have the checkpoint in the folder ``other`` keep what that in ``state`` keeps; empty for none."""
    if state and (path := Path(state) / NAME).is_file():
        shutil.copyfile(path, other / NAME)


def write(state: Path, parts: Sequence[Past], discount: float) -> None:
    """Keep the play of so many updates, oldest first."""
    arrays: dict[str, NDArray[Any]] = {"discount": np.array(discount), "updates": np.array(len(parts))}
    for number, part in enumerate(parts):
        for name, table in (("had", part.had), ("togo", part.togo)):
            arrays[f"{number}.{name}_names"] = np.array(list(table), np.str_)
            arrays[f"{number}.{name}"] = np.array(list(table.values()))
        arrays |= {f"{number}.states": part.states, f"{number}.turns": part.turns}
    np.savez(state / NAME, allow_pickle=False, **arrays)
