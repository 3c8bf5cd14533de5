"""What tests of rl in the trainer share: a job, and its play by the tiny model behind the real engine core, without HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from core.kit import submit
from inference.core_kit import engine, replies
from sqlmodel import col, select

from app import db, specs
from app.models import ITS_OWN, Episode, Job, TurnRow, served_name
from app.records import EpisodeKey, Frame, Reply
from app.specs.rl import RlSpec
from app.store import episodes
from app.store.turns import system_text, text_sha256
from workers.inference.core.request import Sampling
from workers.model.inputs import Inputs
from workers.model.loading import Loaded, load
from workers.model.types import Prompt
from workers.rollout import envs, prompts
from workers.rollout.envs.base import Environment
from workers.rollout.play import Game, PlayOptions
from workers.rollout.policies import wire
from workers.rollout.policies.base import Request
from workers.rollout.policies.engine.answer import version
from workers.trainer.child.held import Held
from workers.trainer.child.ranks import Alone
from workers.trainer.rl import update
from workers.transport.generate import neutral_message

torch.set_num_threads(1)  # more of them, beside whatever else runs, only wait for one another

BASE: dict[str, Any] = {
    "rollout": {
        "max_turns": 4,
        "episodes_per_batch": 8,
        "max_concurrent_rollouts": 8,
        "reply_format": "text",
        "env_config": {"image_size": 63},
        "policy_config": {"rules": "none", "max_actions": 1, "max_tokens": 3, "image_only_mode": True},
    },
    "training": {"group_size": 4, "iterations": 2, "batch_size": 8, "learning_rate": 1e-2},
    "lora": {"r": 4, "alpha": 8.0},
    "evaluation": {"seeds": "0-1"},
}
"""A spec without its model."""


def spec_of(model: Path | str, **tables: dict[str, Any]) -> RlSpec:
    """A small rl job on a model; ``tables`` are laid over those of ``BASE``."""
    given = {name: {**BASE.get(name, {}), **tables.get(name, {})} for name in {*BASE, *tables}}
    made = specs.build({"kind": "rl", "model": {"base": str(model)}, **given})
    assert isinstance(made, RlSpec)
    return made


def submitted(spec: RlSpec, base: Path, adapter: str = "") -> Job:
    """Submit it as the API would."""
    use = {"label": spec.label, "base": str(base), "line": ITS_OWN, "adapter_path": adapter, "options": {"max_loras": 2}}
    return submit("rl", specs.resolved(spec), uses=[use])


class Player:
    """The tiny model, asked through the real engine core."""

    name = model = "tiny"
    needs_messages = True

    def __init__(self, loaded: Loaded, core: Any, spec: RlSpec, served: str, sha256: str) -> None:
        self.version = version(served, sha256)
        self.prompts: dict[tuple[EpisodeKey, int], Prompt] = {}
        """What the engine read, by episode and turn."""
        table = spec.play()
        self._core, self._inputs, self._served = core, Inputs(loaded), served
        self._config, self._temperature = table.policy_config, table.temperature
        self._upscale_to = getattr(table.env_config, "upscale_to", None)
        self._key = EpisodeKey(iteration=0, seed=0, member=0)

    def begin(self, env: Environment, key: EpisodeKey, *, sampling_seed: int) -> None:
        self._key = key

    async def reply(self, request: Request) -> Reply:
        messages = [neutral_message(message) for message in wire.messages(request, upscale_to=self._upscale_to)]
        tools = prompts.tools(request.actions, request.options.max_actions)
        asked = self._inputs.prompt(messages, tools if request.options.reply_format == "tool_call" else None)
        self.prompts[self._key, request.index] = asked
        named = f"{self._key}:{request.index}".encode()
        drawn = int.from_bytes(hashlib.blake2b(named, digest_size=4).digest(), "little")
        sampling = Sampling(max_tokens=self._config.max_tokens, temperature=self._temperature, seed=drawn)
        [said] = replies(self._core, [(asked, sampling, self._served)])
        return Reply(
            text=wire.storable(said.text),
            finish=said.finish,
            policy_version=self.version,
            prompt_ids=asked.ids,
            output_ids=said.ids,
            logprobs=said.logprobs,
        )


class Stage:
    """One job's play and updates in this process."""

    def __init__(self, model: Path, spec: RlSpec, job: Job | None = None) -> None:
        self.spec, self.base = spec, model
        self.job = job or submitted(spec, model)
        self.told: list[dict[str, Any]] = []
        self.prompts: dict[tuple[EpisodeKey, int], Prompt] = {}

    def play(self, iteration: int, *, adapter: Path | None = None, number: int | None = None) -> None:
        """Play an iteration with the adapter in a folder, as version ``number``; by default with that of the last update."""
        path = adapter or Path(self.result(iteration - 1)["path"])
        loaded = load(self.base, device="cpu")
        served = served_name(self.job.id, number if number is not None else iteration + 1)
        with engine(loaded) as core:
            sha256 = core.load_adapter(served, str(path))
            player = Player(loaded, core, self.spec, served, sha256)
            for seed in self.spec.seeds_of(iteration):
                for member in range(self.spec.training.group_size):
                    self._episode(player, EpisodeKey(iteration=iteration, seed=seed, member=member))
        self.prompts |= player.prompts
        self.pay(iteration)

    def pay(self, iteration: int) -> None:
        """Reward every turn whose reply begins with an even token: an untrained model earns nothing otherwise."""
        with db.writing() as session:
            for turn in session.exec(self._of(iteration)):
                turn.reward = float((turn.output_ids or [1])[0] % 2 == 0)
                turn.rewards = {**turn.rewards, "even": turn.reward}
                session.add(turn)

    def _episode(self, player: Player, key: EpisodeKey) -> None:
        options = PlayOptions.of(self.spec, "train")
        world = envs.make(options.env, dict(options.env_config))
        game, frames = Game.begin(options, player, key, world), list[Frame]()
        while not game.ended:
            turn, frame = asyncio.run(game.turn())
            frames += [frame] if frame else []
            if (text := system_text(turn)) is not None:
                episodes.save_texts({text_sha256(text): text})
        episodes.save_frames(frames)
        values = {
            "job_id": self.job.id, "step_id": "stp_of_the_test", "iteration": key.iteration, "seed": key.seed,
            "member": key.member, "env": options.env, "env_version": world.version, "split": "train", "task_id": None,
            "policy": self.spec.label, **game.figures(), "state": "done", "error": None, "last_frame": None, "snapshot": None,
        }  # fmt: skip
        with db.writing() as session:
            episodes.save_segment(session, values, game.take_rows())

    # -- the trainer's child --------------------------------------------------------------------------------------------

    def args(self, **more: Any) -> dict[str, Any]:
        return {"job": self.job.id, "spec": specs.resolved(self.spec), "base": str(self.base), "adapter": "", **more}

    def begin(self, held: Held) -> dict[str, Any]:
        """What training begins from."""
        return update.begin(self.args(), self.told.append, held)

    def update(self, iteration: int, held: Held) -> dict[str, Any]:
        """Update from an iteration's play."""
        return update.run(self.args(iteration=iteration, version=iteration + 1), self.told.append, held)

    def result(self, iteration: int) -> dict[str, Any]:
        """What an update told, or, for -1, what training begins from."""
        told = update.Runs(self.job.id).result(iteration)
        assert told is not None, f"update {iteration} is not done"
        return told

    def turns(self, iteration: int = 0) -> list[TurnRow]:
        """Every turn of an iteration, by seed, member and index."""
        with db.reading() as session:
            found = list(session.exec(self._of(iteration)))
            session.expunge_all()
            return found

    def _of(self, iteration: int) -> Any:
        query = select(TurnRow).join(Episode, col(Episode.id) == TurnRow.episode_id)
        query = query.where(Episode.job_id == self.job.id, Episode.iteration == iteration)
        return query.order_by(col(Episode.seed), col(Episode.member), col(TurnRow.index))


def begun(model: Path, home: Path, **tables: dict[str, Any]) -> Stage:
    """In a fresh home, a job that began and played iteration 0. What cost time is made once and copied.

    ``tables`` may say anything but how it is played.
    """
    kept, spec = _KEPT.get(model), spec_of(model, **tables)
    if kept is None:
        made = Stage(model, spec_of(model))
        made.begin(held())
        made.play(0)
        db.dispose()
        folder = Path(tempfile.mkdtemp(prefix="played-", dir=model.parent))
        shutil.copytree(home, folder, dirs_exist_ok=True)
        kept = _KEPT[model] = folder, made.job
        shutil.rmtree(home / "runs")
    folder, job = kept
    db.dispose()
    shutil.copytree(folder, home, dirs_exist_ok=True)
    return Stage(model, spec, job)


_KEPT: dict[Path, tuple[Path, Job]] = {}


def held() -> Held:
    """What a fresh child holds: nothing."""
    return Held(Alone(), threading.Event())


@contextmanager
def changed(row: TurnRow) -> Iterator[TurnRow]:
    """The turn's row, to be changed in the store."""
    with db.writing() as session:
        found = session.get(TurnRow, (row.episode_id, row.index))
        assert found is not None
        yield found
        session.add(found)
