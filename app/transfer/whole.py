"""Whether an episode of another store is whole: no turn missing, none changed, and no figure that its turns do not give."""

from __future__ import annotations

from collections.abc import Iterable

from app.fsck.figures import Figures, wrong
from app.fsck.findings import Check
from app.fsck.values import opened
from app.store.turns import chained
from app.transfer.tables import Row


def fault(episode: Row, turns: Iterable[Row]) -> str | None:
    """Why an episode that was played to its end is damaged, as one sentence; None when it is whole. Its turns come in order."""
    name = f"episode {episode['id']} of job {episode['job_id']}"
    read, figures = Check(name="episodes"), Figures()
    count, chain, start = 0, "", episode.get("start") or ""
    for turn in turns:
        if turn["index"] != count:
            return f"{name} lacks its turn {count}"
        held = opened(read, "turn", turn, subject=episode["id"], name=f"turn {count} of {name}")
        if read.problems:
            return read.problems[0].sentence
        figures.add(held)
        chain, count = chained(chain or start, turn), count + 1
    row = opened(read, "episode", episode, subject=episode["id"], name=name)
    if read.problems:
        return read.problems[0].sentence
    if count != row["turns"]:
        return f"{name} is to have {row['turns']} turns, and its store holds {count}"
    if chain != (row["sha256"] or ""):
        return f"{name} has the hash {row['sha256']}, and its turns give {chain or 'none'}: one of them was changed"
    return next((f"{name} {what}" for what in wrong(row, figures)), None)
