"""A tracing v3 database, made by its documented tables and filled as its writers fill it."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from workers.rollout import envs
from workers.transport.pixels import encode_png

TABLES = """
CREATE TABLE session_traces (session_id VARCHAR PRIMARY KEY, created_at DATETIME NOT NULL,
    num_timesteps INTEGER NOT NULL DEFAULT 0, num_events INTEGER NOT NULL DEFAULT 0,
    num_messages INTEGER NOT NULL DEFAULT 0, metadata TEXT, experiment_id VARCHAR,
    embedding BLOB);
CREATE TABLE session_timesteps (id INTEGER PRIMARY KEY AUTOINCREMENT, session_id VARCHAR NOT NULL, step_id VARCHAR NOT NULL,
    step_index INTEGER NOT NULL, turn_number INTEGER, started_at DATETIME, completed_at DATETIME, num_events INTEGER,
    num_messages INTEGER, step_metadata TEXT, UNIQUE (session_id, step_id));
CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT, session_id VARCHAR NOT NULL, timestep_id INTEGER,
    event_type VARCHAR NOT NULL, system_instance_id VARCHAR, event_time REAL, message_time INTEGER, created_at DATETIME,
    model_name VARCHAR, provider VARCHAR, input_tokens INTEGER, output_tokens INTEGER, total_tokens INTEGER, cost_usd INTEGER,
    latency_ms INTEGER, span_id VARCHAR, trace_id VARCHAR, call_records TEXT, reward REAL, terminated BOOLEAN, truncated BOOLEAN,
    system_state_before TEXT, system_state_after TEXT, metadata TEXT, event_metadata TEXT, embedding BLOB,
    CHECK (event_type IN ('cais', 'environment', 'runtime')));
CREATE TABLE messages (id INTEGER PRIMARY KEY AUTOINCREMENT, session_id VARCHAR NOT NULL, timestep_id INTEGER,
    message_type VARCHAR NOT NULL, content TEXT NOT NULL, timestamp DATETIME, event_time REAL, message_time INTEGER,
    metadata TEXT, embedding BLOB);
CREATE TABLE outcome_rewards (id INTEGER PRIMARY KEY AUTOINCREMENT, session_id VARCHAR NOT NULL, total_reward INTEGER NOT NULL,
    achievements_count INTEGER NOT NULL, total_steps INTEGER NOT NULL, created_at DATETIME, reward_metadata TEXT);
CREATE TABLE event_rewards (id INTEGER PRIMARY KEY AUTOINCREMENT, event_id INTEGER NOT NULL, session_id VARCHAR NOT NULL,
    message_id INTEGER, turn_number INTEGER, reward_value REAL NOT NULL, reward_type VARCHAR, key VARCHAR, annotation TEXT,
    source VARCHAR, created_at DATETIME);
"""


def png(step: int = 0) -> bytes:
    """The picture of a Crafter world, as that project's engine paints it: 64 x 64, 8-bit RGB."""
    env = envs.make("crafter", {})
    env.reset(step)
    return encode_png(env.frame())


def picture(data: bytes, mime: str = "image/png") -> dict[str, Any]:
    """A message part with a picture."""
    return {"type": "image_url", "image_url": {"url": f"data:{mime};base64,{base64.b64encode(data).decode()}"}}


def call(*actions: str) -> dict[str, Any]:
    """A tool call as OpenAI's format has it."""
    arguments = json.dumps({"actions": list(actions)})
    return {"id": "call_1", "type": "function", "function": {"name": "interact_many", "arguments": arguments}}


def assistant(*calls: dict[str, Any], content: str | None = None) -> tuple[str, str]:
    """An assistant's message, (type, content)."""
    return "assistant", json.dumps({"role": "assistant", "content": content, "tool_calls": list(calls)})


def user(*parts: dict[str, Any], text: str = "") -> tuple[str, str]:
    """A user's message, (type, content)."""
    return "user", json.dumps({"role": "user", "text": text, "content": list(parts)})


class Writer:
    """Writes a tracing v3 database."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with closing(sqlite3.connect(path)) as made:
            made.executescript(TABLES)

    def session(
        self,
        id: str,
        turns: Sequence[Sequence[tuple[str, str]]],
        *,
        unlocked: dict[int, list[str]] | None = None,
        total: int | None = None,
        created_at: str = "2025-10-23 19:46:11.250000",
        **metadata: Any,
    ) -> None:
        """Add a session; each turn is its messages in order, (type, content); metadata goes over the usual."""
        meta = {"policy_name": "crafter-react", "env_name": "crafter", "seed": 3, "model": "gpt-4o-mini", **metadata}
        names = unlocked or {}
        with closing(sqlite3.connect(self.path)) as out:
            insert = "INSERT INTO session_traces (session_id, created_at, metadata) VALUES (?, ?, ?)"
            out.execute(insert, (id, created_at, json.dumps(meta)))
            for number, messages in enumerate(turns, start=1):
                self._turn(out, id, number, messages, names.get(number, []))
            if total is not None:
                every = sorted({name for each in names.values() for name in each})
                values = (id, total, len(every), 17, json.dumps({"final_achievements": every}))
                out.execute(
                    "INSERT INTO outcome_rewards (session_id, total_reward, achievements_count, total_steps, reward_metadata) "
                    "VALUES (?, ?, ?, ?, ?)",
                    values,
                )
            out.commit()

    def _turn(self, out: sqlite3.Connection, id: str, number: int, messages: Sequence[tuple[str, str]], names: list[str]) -> None:
        insert = "INSERT INTO session_timesteps (session_id, step_id, step_index, turn_number) VALUES (?, ?, ?, ?)"
        step = out.execute(insert, (id, f"decision_{number}", number - 1, number)).lastrowid
        for kind, content in messages:
            insert = "INSERT INTO messages (session_id, timestep_id, message_type, content) VALUES (?, ?, ?, ?)"
            out.execute(insert, (id, step, kind, content))
        insert = "INSERT INTO events (session_id, timestep_id, event_type, model_name, latency_ms) VALUES (?, ?, 'cais', ?, ?)"
        out.execute(insert, (id, step, "gpt-4o-mini", 250))
        insert = (
            "INSERT INTO events (session_id, timestep_id, event_type, reward, terminated, truncated) VALUES (?, ?, ?, ?, 0, 0)"
        )
        event = out.execute(insert, (id, step, "environment", 0.5 + len(names))).lastrowid
        if names:
            out.execute(
                "INSERT INTO event_rewards (event_id, session_id, turn_number, reward_value, reward_type, annotation) "
                "VALUES (?, ?, ?, ?, 'unique_achievement_delta', ?)",
                (event, id, number, float(len(names)), json.dumps({"new_unique": names})),
            )

    def sql(self, statement: str, *values: Any) -> None:
        """Run one statement."""
        with closing(sqlite3.connect(self.path)) as out:
            out.execute(statement, values)
            out.commit()
