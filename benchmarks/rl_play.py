"""Play for rl by a small model behind the real engine core, in this process and without HTTP: what an update is measured and
tested with. Environment, prompts, engine, store and rows are the product's own."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from sqlmodel import col, select

from app import claims, db, lifecycle, specs
from app.models import ITS_OWN, Episode, Job, Queue, Step, TurnRow
from app.plots.rl import LABEL
from app.records import EpisodeKey, Frame, Reply
from app.specs.rl import RlSpec
from app.store import episodes
from app.store.turns import system_text, text_sha256
from workers.inference.core.engine import Core
from workers.inference.core.request import Generated, Sampling
from workers.model.inputs import Inputs
from workers.model.loading import Loaded
from workers.model.types import Prompt
from workers.rollout import envs, prompts
from workers.rollout.envs.base import Environment
from workers.rollout.play import Game, PlayOptions
from workers.rollout.policies import wire
from workers.rollout.policies.base import Request
from workers.rollout.policies.engine.answer import version
from workers.runner import run_claim, worker_id
from workers.tasks import STEPS
from workers.transport.generate import neutral_message

WAIT_S = 60.0


def submitted(spec: RlSpec, base: Path, adapter: str = "") -> Job:
    """Submit an rl job as the API would."""
    use = {"label": spec.label, "base": str(base), "line": ITS_OWN, "adapter_path": adapter, "options": {"max_loras": 2}}
    with db.writing() as session:
        return lifecycle.submit(session, kind="rl", spec=specs.resolved(spec), spec_sha256="0" * 64, uses=[use])


class Player:
    """A policy that asks the engine's core."""

    name = model = "core"
    needs_messages = True

    def __init__(self, loaded: Loaded, core: Core, spec: RlSpec, served: str, sha256: str) -> None:
        """``served``: the name of the adapter that plays, ``sha256``: what is behind it."""
        table = spec.play()
        self.version = version(served, sha256)
        self.prompts: dict[tuple[EpisodeKey, int], Prompt] = {}
        """What the engine read, by episode and turn."""
        self._core, self._inputs, self._served = core, Inputs(loaded), served
        self._most, self._temperature = table.policy_config.max_tokens, table.temperature
        self._upscale_to = getattr(table.env_config, "upscale_to", None)
        self._key = EpisodeKey(iteration=0, seed=0, member=0)

    def begin(self, env: Environment, key: EpisodeKey, *, sampling_seed: int) -> None:
        """Remember what keys the draws."""
        self._key = key

    async def reply(self, request: Request) -> Reply:
        """Ask, and wait."""
        messages = [neutral_message(message) for message in wire.messages(request, upscale_to=self._upscale_to)]
        tools = prompts.tools(request.actions, request.options.max_actions)
        asked = self._inputs.prompt(messages, tools if request.options.reply_format == "tool_call" else None)
        self.prompts[self._key, request.index] = asked
        drawn = hashlib.blake2b(f"{self._key}:{request.index}".encode(), digest_size=4).digest()
        sampling = Sampling(max_tokens=self._most, temperature=self._temperature, seed=int.from_bytes(drawn, "little"))
        answer: Future[Generated | Exception] = Future()
        self._core.submit(asked, sampling, self._served, answer.set_result)
        said = answer.result(WAIT_S)
        if isinstance(said, Exception):
            raise said
        return Reply(
            text=wire.storable(said.text),
            finish=said.finish,
            policy_version=self.version,
            prompt_ids=asked.ids,
            output_ids=said.ids,
            logprobs=said.logprobs,
        )


def play(job_id: str, spec: RlSpec, player: Player, iteration: int) -> None:
    """Play an iteration of a job, and store it."""
    for seed in spec.seeds_of(iteration):
        for member in range(spec.training.group_size):
            _episode(job_id, spec, player, EpisodeKey(iteration=iteration, seed=seed, member=member))


def _episode(job_id: str, spec: RlSpec, player: Player, key: EpisodeKey) -> None:
    options = PlayOptions.of(spec, "train")
    world = envs.make(options.env, dict(options.env_config))
    game, frames = Game.begin(options, player, key, world), list[Frame]()
    while not game.ended:
        turn, frame = asyncio.run(game.turn())
        frames += [frame] if frame else []
        if (text := system_text(turn)) is not None:
            episodes.save_texts({text_sha256(text): text})
    episodes.save_frames(frames)
    values: Mapping[str, Any] = {
        "job_id": job_id,
        "step_id": "stp_played_here",
        "iteration": key.iteration,
        "seed": key.seed,
        "member": key.member,
        "env": options.env,
        "env_version": world.version,
        "split": spec.data.split,
        "task_id": None,
        "policy": spec.label,
        **game.figures(),
        "state": "done",
        "error": None,
        "last_frame": None,
        "snapshot": None,
    }
    with db.writing() as session:
        episodes.save_segment(session, dict(values), game.take_rows())


def ask(job_id: str, spec: RlSpec, iteration: int = 0, *, attempt: int = 1, members: int | None = None) -> Step:
    """Have the expert asked about an iteration's play, or about so many ``members`` of each group, by the step that does so.

    Gives the step as it ended. The job must have no other step that a rollout worker would take.
    """
    count = members or spec.training.group_size
    asked = [[iteration, seed, member] for seed in spec.seeds_of(iteration) for member in range(count)]
    with db.writing() as session:
        now, job = db.clock(session), session.get_one(Job, job_id)
        job.spec = specs.resolved(spec)
        row = Step(
            id=f"stp_{attempt}_label_{iteration}_{job_id}",
            job_id=job_id,
            key=f"{attempt}/label/{iteration}/0",
            kind=LABEL,
            queue=Queue.ROLLOUT,
            position=1000 * attempt + iteration,
            payload={"iteration": iteration, "part": 0, "episodes": asked},
            total=len(asked),
            created_at=now,
            available_at=now,
        )
        session.add_all([job, row])
        step_id = row.id
    taken = claims.claim(Queue.ROLLOUT, owner=worker_id())
    assert taken is not None, "nothing waits"
    assert taken.step_id == step_id, "another step waits before it"
    run_claim(taken, STEPS)
    with db.reading() as session:
        done = session.get_one(Step, step_id)
        session.expunge(done)
        return done


def turns_of(job_id: str, iteration: int) -> Any:
    """The query of every turn of an iteration, by seed, member and index."""
    query = select(TurnRow).join(Episode, col(Episode.id) == TurnRow.episode_id)
    query = query.where(Episode.job_id == job_id, Episode.iteration == iteration)
    return query.order_by(col(Episode.seed), col(Episode.member), col(TurnRow.index))


def one_side(model: Path) -> frozenset[int]:
    """The half of a model's tokens whose embeddings lie on one side of a plane: what they have in common can be learnt."""
    embeddings = load_file(model / "model.safetensors")["model.language_model.embed_tokens.weight"].astype(np.float32)
    along = embeddings @ np.random.default_rng(0).standard_normal(embeddings.shape[1], dtype=np.float32)
    return frozenset(np.flatnonzero(along > np.median(along)).tolist())


def pay(job_id: str, iteration: int, good: frozenset[int]) -> float:
    """Reward 1 for every turn whose reply begins with one of these tokens, 0 for the others; the share of those that do.

    A model without training earns nothing in Crafter, and where nobody earns anything there is nothing to learn.
    """
    with db.writing() as session:
        rows = session.exec(turns_of(job_id, iteration)).all()
        for turn in rows:
            turn.reward = float((turn.output_ids or [-1])[0] in good)
            session.add(turn)
        return sum(turn.reward for turn in rows) / len(rows)
