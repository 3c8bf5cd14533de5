"""The sessions of a tracing v3 database, each read into the turns of one episode. Nothing is made up; what is lost is counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, inspect, text

from app.records import Frame, ImagePart, Message, Outcome, Parsed, Reply, TextPart, Turn
from app.specs.seeds import MAX_SEED
from app.store.foreign import OF_THE_SESSION
from app.transfer import messages
from app.transfer.messages import ROLES, Prompt, Said, Unusable

Parse = Callable[[Reply], Parsed]
"""The one parser of replies."""
UNLOCKING: Final = "unique_achievement_delta"
"""Type of the rewards that tell what a turn unlocked for the first time."""
SEED_KEYS: Final = ("env_seed", "seed", "eval_seed")
ORDER: Final = {
    "session_timesteps": "id",
    "events": "id",
    "messages": "id",
    "outcome_rewards": "id",
    "event_rewards": "id",
}
"""Tables of a session, and the column that tells the order of their rows: their times may be empty."""


@dataclass(slots=True, kw_only=True)
class Played:
    """A session as an episode, without its place in a job."""

    session_id: str
    created_at: float
    seed: int
    label: str
    """Under which name its policy stands in a job: ``imported:MODEL``."""
    model: str | None
    split: str
    task_id: str | None
    scores: dict[str, float] | None
    achievements: list[str]
    unlocked: int
    returns: dict[str, float]
    length: int
    turns: list[Turn]
    frames: dict[str, Frame]
    lost: Counter[str]
    """What of it was not carried over."""


@dataclass(slots=True, kw_only=True)
class _Open:
    """A turn whose messages are being read."""

    key: int | None = None
    system: str | None = None
    prompts: list[Prompt] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)


class Sessions:
    """Reads sessions one by one."""

    def __init__(self, connection: Connection, parse: Parse) -> None:
        self._connection, self._parse = connection, parse
        self._tables = set(inspect(connection).get_table_names())

    def ids(self) -> list[str]:
        """Every session's id, oldest first."""
        rows = self._connection.execute(text("SELECT session_id FROM session_traces ORDER BY created_at, session_id"))
        return [str(row[0]) for row in rows]

    def read(self, session_id: str) -> Played:
        """One session. Raises Unusable."""
        query = text("SELECT * FROM session_traces WHERE session_id = :id")
        row = dict(self._connection.execute(query, {"id": session_id}).mappings().one())
        meta, lost = _mapping(row.get("metadata")), Counter[str]()
        _check_environment(meta)
        rows = {table: self._rows(table, session_id) for table in ORDER}
        model = _model(meta, rows["events"])
        outcome = rows["outcome_rewards"][0] if rows["outcome_rewards"] else {}
        lost["outcome after a session's first"] += max(0, len(rows["outcome_rewards"]) - 1)
        frames: dict[str, Frame] = {}
        turns = list(self._turns(rows, frames, lost))
        if not turns:
            raise Unusable("session without a prompt and its reply")
        names = _achievements(meta, outcome, rows["event_rewards"])
        count = outcome.get("achievements_count")
        return Played(
            session_id=session_id,
            created_at=_time(row.get("created_at")),
            seed=_seed(meta),
            label=f"imported:{model}" if model else "imported",
            model=model,
            split=str(meta.get("task_split") or "train"),
            task_id=None if meta.get("task_id") is None else str(meta["task_id"]),
            scores=_scores(meta, lost),
            achievements=names,
            unlocked=len(names) or (count if isinstance(count, int) else 0),
            returns=_returns(turns, outcome),
            length=_length(turns, outcome),
            turns=turns,
            frames=frames,
            lost=+lost,
        )

    def _rows(self, table: str, session_id: str) -> list[dict[str, Any]]:
        if table not in self._tables:
            return []
        query = text(f"SELECT * FROM {table} WHERE session_id = :id ORDER BY {ORDER[table]}")
        return [dict(row) for row in self._connection.execute(query, {"id": session_id}).mappings()]

    # -- turns -------------------------------------------------------------------------------------------------------------

    def _turns(self, rows: Mapping[str, list[dict[str, Any]]], frames: dict[str, Frame], lost: Counter[str]) -> Iterator[Turn]:
        number = {row["id"]: row.get("turn_number") for row in rows["session_timesteps"]}
        facts = _Facts(rows, number)
        for index, found in enumerate(_gathered(rows["messages"], number, lost)):
            for prompt in found.prompts:
                frames.update({frame.sha256: frame for frame in prompt.frames})
            yield self._turn(index, found, facts, lost)
        lost["reward or event of a turn that has no messages"] += facts.unused()

    def _turn(self, index: int, found: _Open, facts: _Facts, lost: Counter[str]) -> Turn:
        said, others = messages.merged(found.said)
        lost["second reply of a turn"] += others
        lost["arguments of a tool call that were stored as an object: written as JSON anew"] += said.reencoded
        parsed = Parsed(outcome=Outcome.PARSE_ERROR, detail=said.broken) if said.broken else self._parse(said.reply)
        users = tuple(prompt.message for prompt in found.prompts)
        shown = [part.sha256 for message in users for part in message.parts if isinstance(part, ImagePart)]
        system = () if found.system is None else (Message(role="system", parts=(TextPart(text=found.system),)),)
        rewards, unlocked = facts.rewards(found.key)
        terminated, truncated = facts.ends(found.key)
        return Turn(
            index=index,
            frame=shown[-1] if shown else None,
            messages=(*system, *users),
            reply=said.reply,
            outcome=parsed.outcome,
            detail=parsed.detail,
            actions=parsed.actions,
            dropped=(),
            rewards=rewards,
            reward=rewards["unlocked"],
            unlocked=unlocked,
            terminated=terminated,
            truncated=truncated,
            state_sha256=None,
            timings=facts.timings(found.key),
        )


def _gathered(rows: list[dict[str, Any]], number: Mapping[Any, Any], lost: Counter[str]) -> Iterator[_Open]:
    """The messages of a session as turns: a system text, prompts, replies; what is no whole turn is counted."""
    turn = _Open()
    for row in rows:
        role = ROLES.get(str(row.get("message_type")))
        if role is None:
            lost[f"message of the type {str(row.get('message_type'))[:40]!r}"] += 1
            continue
        key = _turn_number(row, number)
        if role != "reply" and (turn.said or (turn.prompts and key != turn.key)):
            yield from _whole(turn, lost)
            turn = _Open(system=turn.system if role == "user" and key == turn.key else None)
        content = str(row.get("content") or "")
        turn.key = key if role != "reply" or turn.key is None else turn.key
        if role == "system":
            lost["system message after a turn's first"] += turn.system is not None
            turn.system = messages.system(content) if turn.system is None else turn.system
        elif role == "user":
            turn.prompts.append(messages.user(content))
        elif turn.prompts and (key is None or turn.key is None or key == turn.key):
            turn.said.append(messages.reply(str(row["message_type"]), content))
        else:
            lost["reply without a prompt"] += 1
    yield from _whole(turn, lost)


def _whole(turn: _Open, lost: Counter[str]) -> Iterator[_Open]:
    if turn.prompts and turn.said:
        yield turn
    elif turn.prompts:
        lost["prompt without a reply"] += 1


def _turn_number(row: Mapping[str, Any], number: Mapping[Any, Any]) -> int | None:
    found = number.get(row.get("timestep_id"))
    found = _mapping(row.get("metadata")).get("turn") if found is None else found
    return found if isinstance(found, int) else None


class _Facts:
    """What is known of each turn beside its messages, by its number in the source."""

    def __init__(self, rows: Mapping[str, list[dict[str, Any]]], number: Mapping[Any, Any]) -> None:
        self._events: dict[int | None, list[dict[str, Any]]] = {}
        self._rewards: dict[int | None, list[dict[str, Any]]] = {}
        for row in rows["events"]:
            if row.get("event_type") in ("environment", "cais"):
                self._events.setdefault(_turn_number(row, number), []).append(row)
        for row in rows["event_rewards"]:
            if row.get("reward_type") == UNLOCKING:
                self._rewards.setdefault(row.get("turn_number"), []).append(row)
        self._used: set[int | None] = set()

    def _of(self, key: int | None, kind: str) -> list[dict[str, Any]]:
        return [row for row in self._events.get(key, ()) if key is not None and row["event_type"] == kind]

    def rewards(self, key: int | None) -> tuple[dict[str, float], tuple[str, ...]]:
        """The rewards of a turn and the achievements that it unlocked, each where the source tells it."""
        self._used.add(key)
        found = self._rewards.get(key, []) if key is not None else []
        names = tuple(dict.fromkeys(name for row in found for name in _named(row)))
        value = sum(float(row.get("reward_value") or 0) for row in found)
        given = [float(row["reward"]) for row in self._of(key, "environment") if row.get("reward") is not None]
        return {"unlocked": value, **({"native": sum(given)} if given else {})}, names

    def ends(self, key: int | None) -> tuple[bool, bool]:
        """Whether the environment said in this turn that the episode is over: (terminated, truncated)."""
        found = self._of(key, "environment")
        return any(row.get("terminated") for row in found), any(row.get("truncated") for row in found)

    def timings(self, key: int | None) -> dict[str, float]:
        """How long the model took."""
        found = [float(row["latency_ms"]) for row in self._of(key, "cais") if row.get("latency_ms") is not None]
        return {"policy": sum(found)} if found else {}

    def unused(self) -> int:
        """Rows that belong to no turn."""
        kept = self._used - {None}
        return sum(len(rows) for known in (self._events, self._rewards) for key, rows in known.items() if key not in kept)


# -- facts of a session ------------------------------------------------------------------------------------------------------


def _mapping(value: Any) -> dict[str, Any]:
    found = value
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return found if isinstance(found, dict) else {}


def _check_environment(meta: Mapping[str, Any]) -> None:
    env = meta.get("env_name")
    if env and "crafter" not in str(env).lower():
        raise Unusable(f"session of the environment {str(env)[:40]!r}, which is not Crafter")


def _seed(meta: Mapping[str, Any]) -> int:
    seed = next((meta[key] for key in SEED_KEYS if meta.get(key) is not None), None)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise Unusable("session without a seed in its metadata")
    if not 0 <= seed <= MAX_SEED:
        raise Unusable(f"session with a seed outside 0 to {MAX_SEED}")
    return seed


def _model(meta: Mapping[str, Any], events: list[dict[str, Any]]) -> str | None:
    asked = Counter(row["model_name"] for row in events if row.get("model_name"))
    found = meta.get("model") or (asked.most_common(1)[0][0] if asked else None)
    return messages.storable(found)[:150] if isinstance(found, str) else None


def _time(value: Any) -> float:
    """Epoch seconds of a stored time; a time without a zone is UTC. Raises Unusable."""
    if isinstance(value, int | float):
        return float(value)
    try:
        at = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        raise Unusable("session without a time of creation") from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _scores(meta: Mapping[str, Any], lost: Counter[str]) -> dict[str, float] | None:
    judges = _mapping(meta.get("judge_scores"))
    given = {**judges, **({"official": meta["official_score"]} if meta.get("official_score") is not None else {})}
    scores = {str(name): float(value) for name, value in given.items() if isinstance(value, int | float)}
    lost["score that is no number"] += len(given) - len(scores)
    return scores or None


def _named(row: Mapping[str, Any]) -> list[str]:
    annotation = _mapping(row.get("annotation"))
    listed = annotation.get("new_unique", annotation.get("achievements"))
    return [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []


def _achievements(meta: Mapping[str, Any], outcome: Mapping[str, Any], rewards: list[dict[str, Any]]) -> list[str]:
    about = _mapping(outcome.get("reward_metadata"))
    listed = [about.get("final_achievements"), about.get("achievements"), meta.get("final_achievements")]
    final = [name for names in listed if isinstance(names, list) for name in names if isinstance(name, str)]
    turn_by_turn = [name for row in rewards if row.get("reward_type") == UNLOCKING for name in _named(row)]
    return sorted({messages.storable(name) for name in (*final, *turn_by_turn)})


def _returns(turns: list[Turn], outcome: Mapping[str, Any]) -> dict[str, float]:
    sums: Counter[str] = Counter()
    for turn in turns:
        sums.update(turn.rewards)
    total = outcome.get("total_reward")
    return {**{name: float(value) for name, value in sums.items()}, **({} if total is None else {OF_THE_SESSION: float(total)})}


def _length(turns: list[Turn], outcome: Mapping[str, Any]) -> int:
    steps = outcome.get("total_steps")
    return steps if isinstance(steps, int) and steps > 0 else sum(len(turn.actions) for turn in turns)
