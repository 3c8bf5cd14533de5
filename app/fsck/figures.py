"""What an episode's row must say, worked out from its turns and from the spec of its job. Only what can be known is worked out.

Episodes come from three places. Those that were played by synthq, here or in its own task app, are known wholly. Of another task
app's the actions are what was seen of them. Of a tracing v3 session the source tells the game steps, all achievements and a total
by itself, so the turns decide less.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.plots.eval import policy_of
from app.store.foreign import OF_THE_SESSION, REPORTED, SESSION
from app.transfer.tables import Row


@dataclass(slots=True, kw_only=True)
class Figures:
    """Sums over an episode's turns, added up in their order as play adds them."""

    known: bool = True
    """False once a turn could not be read."""
    returns: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    length: int = 0
    """Actions that were carried out."""
    unlocked: list[tuple[str, int, int]] = field(default_factory=list)
    """Achievement, and the actions before and after the turn that unlocked it."""
    terminated: bool = False
    truncated: bool = False
    rewards: list[tuple[int, float, Mapping[str, float]]] = field(default_factory=list)
    """Index, the reward that counts, and all rewards, of turns for which they are not one and the same number."""

    def add(self, turn: Row) -> None:
        """Count a turn whose columns were read."""
        self.returns.update(turn["rewards"])
        self.outcomes[turn["outcome"]] += 1
        before = self.length
        self.length += len(turn["actions"])
        self.unlocked += [(name, before, self.length) for name in turn["unlocked"]]
        self.terminated, self.truncated = turn["terminated"], turn["truncated"]
        if set(turn["rewards"].values()) != {turn["reward"]}:
            self.rewards.append((turn["index"], turn["reward"], turn["rewards"]))


def wrong(row: Row, found: Figures) -> Iterator[str]:
    """What an episode's row says and its turns do not, as ends of a sentence. Columns that could not be read are left out."""
    session = row.get("env_version") == SESSION
    told: dict[str, Any] = {
        "returns": dict(found.returns),
        "outcomes": dict(found.outcomes),
        "terminated": found.terminated,
        "truncated": found.truncated,
        **({} if session else {"length": found.length}),
    }
    for name, worked_out in told.items():
        if name in row and not _same(_without_total(row[name], session), worked_out):
            yield f"has {name} {_shown(row[name])}, and its turns give {_shown(worked_out)}"
    if "achievements" in row:
        yield from _achievements(row, found, session)


def _same(said: Any, worked_out: Any) -> bool:
    """Equal; a sum that is no number is equal to another."""
    if isinstance(said, dict) and isinstance(worked_out, dict):
        return said.keys() == worked_out.keys() and all(_same(said[name], worked_out[name]) for name in said)
    return bool(said == worked_out or (said != said and worked_out != worked_out))


def _without_total(value: Any, session: bool) -> Any:
    if session and isinstance(value, dict):
        return {name: each for name, each in value.items() if name != OF_THE_SESSION}
    return value


def _achievements(row: Row, found: Figures, session: bool) -> Iterator[str]:
    """A session may count achievements without naming any, name some that no turn tells of, and never says when."""
    named, by_turns = row["achievements"], {name for name, _, _ in found.unlocked}
    fits = by_turns <= named.keys() if session else by_turns == named.keys()
    if not fits:
        yield f"names the achievements {_shown(sorted(named))}, and its turns unlock {_shown(sorted(by_turns))}"
    counted = row.get("unlocked", len(named))
    if counted != len(named) and (named or not session):
        yield f"counts {counted} achievements, and names {len(named)}"
    first: dict[str, tuple[int, int]] = {}
    for name, before, after in found.unlocked:
        first.setdefault(name, (before, after))
    for name, step in named.items():
        before, after = (0, 0) if session else first.get(name, (step - 1, step))
        if not (before < step <= after or step == after):
            where = "0" if session else f"{before + 1} to {after}"
            yield f"unlocked {name} in game step {step}, and its turns give {where}"


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a job's spec its episodes are held against."""

    spec: dict[str, Any]
    seeds: frozenset[int]

    @classmethod
    def by(cls, spec: Any) -> Asked | None:
        """Of a spec as it is stored; None where it is not that of an eval, or lacks something."""
        table = spec.get("eval") if isinstance(spec, dict) else None
        if not isinstance(table, dict) or not isinstance(table.get("reward"), str):
            return None
        lists = [table.get(name) for name in ("seeds", "policies")]
        if not isinstance(table.get("episodes_per_seed"), int) or not all(isinstance(each, list) and each for each in lists):
            return None
        return cls(spec, frozenset(seed for seed in table["seeds"] if isinstance(seed, int)))

    @property
    def members(self) -> int:
        """Episodes of each seed."""
        return len(self.spec["eval"]["policies"]) * int(self.spec["eval"]["episodes_per_seed"])

    @property
    def episodes(self) -> int:
        """Episodes of all seeds."""
        return len(self.spec["eval"]["seeds"]) * self.members


def wrong_rewards(found: Figures, asked: Asked) -> Iterator[str]:
    """Turns whose reward is not the one that the job's spec counts, as ends of a sentence."""
    counts = asked.spec["eval"]["reward"]
    for index, reward, given in found.rewards:
        wanted = given.get(counts, given.get(REPORTED, 0.0))
        if not _same(reward, wanted):
            yield f"has in turn {index} the reward {reward}, and {counts} was {wanted} there"


def unasked(row: Row, asked: Asked) -> Iterator[str]:
    """What of an episode its job's spec does not ask for, as ends of a sentence."""
    table = asked.spec["eval"]
    if row.get("iteration", 0) != 0:
        yield f"is of iteration {row['iteration']}, and its job has none but 0"
    if "seed" in row and row["seed"] not in asked.seeds:
        yield f"is of seed {row['seed']}, which its job does not ask for"
    member = row.get("member")
    if member is not None and not 0 <= member < asked.members:
        yield f"is member {member}, which its job does not ask for"
    elif member is not None and "policy" in row and row["policy"] != (wanted := policy_of(asked.spec, member)):
        yield f"is of the policy {row['policy']}, and its job has {wanted} play member {member}"
    if row.get("env_version") == SESSION:
        return  # its split and task are the session's own
    for name in ("split", "task_id"):
        if name in table and name in row and row[name] != table[name]:
            yield f"has {name} {row[name]}, and its job's spec says {table[name]}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {each}" for name, each in sorted(value.items())) + "}"
    return "[" + ", ".join(value) + "]" if isinstance(value, list) else str(value)
