"""What the expert would have done at every turn of an episode that somebody else played: labels for DAgger.

The episode is played again, action by action, and the expert looks on with its own memory. It changes nothing: the world goes
where the recorded actions take it. Where the player did what the expert had said, the expert looks when the player did, at the
turns; where not, it looks after every action, so that it never loses its way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlmodel import Session, col, select

from app.errors import EpisodeOver, ReplayMismatch
from app.models import Episode, TurnRow
from app.records import EpisodeKey, Frame
from app.store import starts
from app.store.traces import NO_SNAPSHOT
from workers.rollout import envs
from workers.rollout.envs.base import Environment
from workers.rollout.play import black
from workers.rollout.policies.scripted import Scripted
from workers.rollout.policies.scripted.player import goal_of
from workers.rollout.starts import reached, settings
from workers.transport.pixels import encode_png


class PlayedTurn(Protocol):
    """What is read of a turn. A ``TurnRow`` is one, and so is the record ``Turn``."""

    @property
    def index(self) -> int:
        """The turn, from 0."""

    @property
    def actions(self) -> Sequence[str]:
        """What was carried out."""

    @property
    def frame(self) -> str | None:
        """sha256 of the frame at its beginning; None when none was kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """An episode on record: enough to play it again."""

    env: str
    env_config: Mapping[str, Any]
    """As ``PlayOptions.env_config`` has it."""
    seed: int
    turns: Sequence[PlayedTurn]
    """All turns from the start, in order."""
    env_version: str | None = None
    """The environment's version on record; None when it is not known."""
    start: bytes | None = None
    """The environment's snapshot that the episode began from; None for the seed's true start."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """As much of a turn's row as it takes to play it again."""

    index: int
    actions: list[str]
    frame: str | None


def recorded(session: Session, episode_id: str, env: str, env_config: Mapping[str, Any]) -> Played:
    """An episode of the store; ``env`` and ``env_config`` are those that its job's ``PlayOptions`` tell.

    Raises ReplayMismatch for one that begins where nobody can come to any more.
    """
    episode = session.exec(select(Episode).where(Episode.id == episode_id).options(NO_SNAPSHOT)).one()
    start = starts.of_episode(session, episode)
    turns = select(col(TurnRow.index), col(TurnRow.actions), col(TurnRow.frame)).where(TurnRow.episode_id == episode_id)
    return Played(
        env=env,
        env_config=settings(env_config, start),
        seed=episode.seed,
        turns=[_Turn(*row) for row in session.exec(turns.order_by(col(TurnRow.index)))],
        env_version=episode.env_version or None,
        start=None if start is None else reached(start, env_config).snapshot(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What the expert would have said at a turn."""

    turn: int
    actions: tuple[str, ...]
    goal: str


def relabel(played: Played, view: str = "visible", *, open_loop_k: int = 1, env: Environment | None = None) -> Iterator[Label]:
    """A label for every turn, in order, of up to ``open_loop_k`` actions each.

    ``view`` is a variant of the policy ``scripted``; ``env`` a used environment of the job's settings, for an episode that begins
    with its seed: what begins elsewhere has a longer world of its own. Raises ReplayMismatch at the turn whose frame is another
    one than that on record, and where the world ended before the turns did; UnknownName for a view; InvalidInput for an
    environment that the expert does not play.
    """
    expert = Scripted(variant=view, open_loop_k=open_loop_k)
    world = env if env is not None and played.start is None else envs.make(played.env, dict(played.env_config))
    if played.env_version not in (None, world.version):
        raise ReplayMismatch(f"the episode was played in {played.env} {played.env_version}; this is {world.version}")
    if played.start is None:
        world.reset(played.seed)
    else:
        world.restore(played.start)
    expert.begin(world, EpisodeKey(iteration=0, seed=played.seed, member=0), sampling_seed=0)
    for turn in played.turns:
        _check(world, turn)
        expert.observe(world)
        decisions = expert.decide()
        actions = tuple(action for action, _ in decisions)
        yield Label(turn=turn.index, actions=actions, goal=goal_of(decisions))
        if tuple(turn.actions) == actions:
            expert.expect(actions)
            _act(world, turn)
        else:
            _act(world, turn, expert)


def _act(world: Environment, turn: PlayedTurn, onlooker: Scripted | None = None) -> None:
    """Do what was done at a turn, and let an onlooker look before every action and know of it."""
    for number, action in enumerate(turn.actions):
        if onlooker and number:
            onlooker.observe(world)
        if onlooker:
            onlooker.expect([action])
        try:
            world.step(action)
        except EpisodeOver as over:
            raise ReplayMismatch(
                f"turn {turn.index} has {len(turn.actions)} actions on record; played again, the world ends before: {over}"
            ) from None


def _check(world: Environment, turn: PlayedTurn) -> None:
    """Raise ReplayMismatch unless the world looks as it did. A black picture on record (``blank_frames``) tells nothing of it."""
    if world.ended:
        raise ReplayMismatch(f"turn {turn.index} is on record; played again, the world has ended before it ({world.ended})")
    if turn.frame is None:
        return
    pixels = world.frame()
    found = Frame.of(encode_png(pixels), width=pixels.shape[1], height=pixels.shape[0]).sha256
    if found != turn.frame and turn.frame != black(pixels.shape[1], pixels.shape[0]).sha256:
        raise ReplayMismatch(
            f"turn {turn.index} has the frame {turn.frame[:12]} on record, and {found[:12]} when it is played again; "
            "the actions, the seed or the environment's config are others than those it was played with"
        )
