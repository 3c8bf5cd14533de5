"""The step ``label`` of an rl job: what the expert would have done at every turn of episodes that the model played.

Each episode that came to its end is played again and held to its recorded frames. What the expert says becomes a file of lines,
an artifact of the job, from which the trainer learns: the whole reply as the model should emit it, and what the model had said.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from sqlmodel import Session, col, select

from app import artifacts, db
from app.errors import ReplayMismatch, StepFailed
from app.models import TurnRow
from app.records import EpisodeKey, Outcome
from app.specs.dagger import LABELS
from app.specs.rl import TRAIN, RlSpec
from app.store import episodes
from workers.rollout import actions, envs, prompts
from workers.rollout.export.pulse import Pulse
from workers.rollout.play import PlayOptions
from workers.rollout.relabel import Label, recorded, relabel
from workers.runner import StepContext

_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def run(context: StepContext) -> dict[str, Any]:
    """Ask the expert about the step's episodes. Gives how many ``episodes`` and ``turns`` those were, and the ``artifact``."""
    spec: RlSpec = context.spec
    pulse, asker = Pulse(context), _Asker(spec)
    wanted = context.payload["episodes"]
    path, turns = context.workdir / "labels.jsonl", 0
    with path.open("w", encoding="utf-8") as file:
        for number, (iteration, seed, member) in enumerate(wanted):
            pulse.reach(number, len(wanted))
            key = EpisodeKey(iteration=iteration, seed=seed, member=member)
            for line in asker.lines(context.job_id, key):
                pulse()
                file.write(line + "\n")
                turns += 1
    pulse.reach(len(wanted), len(wanted))
    told = {"episodes": len(wanted), "turns": turns}
    return {**told, "artifact": _store(context, path, told)}


def _store(context: StepContext, path: Path, told: Mapping[str, int]) -> str:
    """Store the lines; gives their artifact's id."""
    iteration, part = context.payload["iteration"], context.payload["part"]
    made = artifacts.store_file(
        path,
        job_id=context.job_id,
        step_id=context.step_id,
        kind=LABELS,
        name=f"labels-{iteration}-{part}.jsonl",
        data={"iteration": iteration, "expert": context.spec.dagger.expert, **told},
    )
    context.check()
    with context.write() as session:
        return artifacts.record(session, made).id


class _Asker:
    """Asks the expert about episodes of one job, in one world."""

    def __init__(self, spec: RlSpec) -> None:
        self._table, self._options = spec.dagger, PlayOptions.of(spec, TRAIN)
        self._world = envs.make(self._options.env, dict(self._options.env_config))

    def lines(self, job_id: str, key: EpisodeKey) -> Iterator[str]:
        """A line for every turn of an episode, in order. Raises StepFailed where it comes out otherwise than it is on record."""
        with db.reading() as session:
            found = episodes.find(session, job_id, key)
            assert found is not None, "the plot has seen that it was played"
            session.expunge(found)
            said = _said(session, found.id)
        try:
            with db.reading() as session:
                played = recorded(session, found.id, self._options.env, self._options.env_config)
            for label in relabel(played, self._table.view, open_loop_k=self._table.actions, env=self._world):
                yield self._line(found.id, label, said[label.turn])
        except ReplayMismatch as error:
            raise StepFailed(f"the expert cannot be asked about episode {found.id}: {error}") from error

    def _line(self, episode_id: str, label: Label, said: tuple[str, ...] | None) -> str:
        reply = actions.format_reply(label.actions, self._options.prompt.reply_format)
        (message,) = prompts.to_openai([prompts.assistant(reply)])
        return _json(
            {
                "episode": episode_id,
                "turn": label.turn,
                "message": message,
                "actions": label.actions,
                "goal": label.goal,
                "said": said,
            }
        )


def _said(session: Session, episode_id: str) -> dict[int, tuple[str, ...] | None]:
    """By turn, the actions that the model's reply held: none where it could not be read; None where no reply came."""
    columns = (col(TurnRow.index), col(TurnRow.outcome), col(TurnRow.actions), col(TurnRow.dropped))
    found: dict[int, tuple[str, ...] | None] = {}
    for index, outcome, done, dropped in session.exec(select(*columns).where(TurnRow.episode_id == episode_id)):
        read = (*done, *dropped) if outcome == Outcome.OK else ()
        found[index] = None if outcome == Outcome.ENGINE_ERROR else read
    return found
