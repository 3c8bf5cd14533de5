"""Worlds that begin where somebody else's play has come to. The way there is played again, action by action, from the seed.

An environment's own ``length`` counts from the start on, like everything else of the episode.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from app import db
from app.errors import EpisodeOver, ReplayMismatch
from app.models import Episode, Job
from app.records import EpisodeKey, Frame
from app.specs import PlayedSpec, parse
from app.store import episodes, starts
from app.store.starts import Start
from workers.rollout import envs
from workers.rollout.envs.base import Environment
from workers.rollout.play import PlayOptions
from workers.transport.pixels import encode_png

LENGTH: Final = "length"
"""The key of an environment's settings that says after how many game steps it ends an episode, where it has one."""


def settings(env_config: Mapping[str, Any], start: Start | None) -> dict[str, Any]:
    """What the world of an episode is built with: as its job says, with the game steps before its start on top."""
    config = dict(env_config)
    if start is not None and isinstance(config.get(LENGTH), int):
        config[LENGTH] += len(start.actions)
    return config


def reached(start: Start, env_config: Mapping[str, Any]) -> Environment:
    """A world that stands at a start. ``env_config`` is what the job says. Raises ReplayMismatch when it cannot be come to."""
    world = envs.make(start.env, settings(env_config, start))
    if world.version != start.env_version:
        raise ReplayMismatch(f"the start {start.of} was come to in {start.env} {start.env_version}; this is {world.version}")
    world.reset(start.seed)
    for count, action in enumerate(start.actions):
        try:
            world.step(action)
        except EpisodeOver as over:
            raise ReplayMismatch(
                f"the start {start.of} lies {len(start.actions)} actions after the beginning of seed {start.seed}; played again, "
                f"the world ends after {count}: {over}"
            ) from None
    return world


class Starts:
    """The starts of one step's episodes, each come to once: all members of a group begin from the very same bytes."""

    def __init__(self, options: PlayOptions, wanted: Mapping[str, tuple[str, int]]) -> None:
        """``wanted``: seed, as text -> the episode and the turn of it at which that seed's group begins."""
        self._options, self._wanted = options, wanted
        self._taken: dict[int, Start] = {}
        self._snapshots: dict[str, bytes] = {}

    def of(self, key: EpisodeKey, stored: Episode | None) -> Start | None:
        """Where an episode begins: where its row says, of one that is under way; else as its step was told. None: at the seed.

        What an episode begins from is stored before it begins. Raises StepFailed, ReplayMismatch.
        """
        if stored is not None:
            with db.reading() as session:
                return starts.of_episode(session, stored)
        if str(key.seed) not in self._wanted:
            return None
        if key.seed not in self._taken:
            self._taken[key.seed] = self._take(*self._wanted[str(key.seed)])
        return self._taken[key.seed]

    def world(self, start: Start) -> Environment:
        """A world that stands at a start."""
        if start.sha256 not in self._snapshots:
            self._snapshots[start.sha256] = reached(start, self._options.env_config).snapshot()
        world = self.unplayed(start)
        world.restore(self._snapshots[start.sha256])
        return world

    def unplayed(self, start: Start) -> Environment:
        """A world for an episode with that start, to be restored."""
        return envs.make(self._options.env, settings(self._options.env_config, start))

    def _take(self, episode_id: str, turn: int) -> Start:
        """The moment before a turn, come to as its player did, with the same picture; stored."""
        with db.reading() as session:
            start, frame = starts.taken(session, episode_id, turn)
            episode = session.get(Episode, episode_id)
            job = session.get(Job, episode.job_id) if episode is not None else None
            assert job is not None, "an episode's job is a foreign key"
            spec = parse(job.kind, job.spec)
        assert isinstance(spec, PlayedSpec), "it has played"
        world = reached(start, PlayOptions.of(spec).env_config)
        if frame is not None:
            pixels = world.frame()
            found = Frame.of(encode_png(pixels), width=pixels.shape[1], height=pixels.shape[0]).sha256
            if found != frame:
                raise ReplayMismatch(
                    f"turn {turn} of episode {episode_id} has the frame {frame[:12]} on record, and {found[:12]} when its "
                    "actions are played again; no group can begin there"
                )
        self._snapshots[start.sha256] = world.snapshot()
        episodes.save_texts({start.sha256: start.text})
        return start
