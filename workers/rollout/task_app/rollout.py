"""One rollout: the ``Game`` that every worker plays, with the limits of a request around it. A finished turn is never lost."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from typing import Final

from app.records import Frame, Turn
from app.store.turns import system_text, text_sha256
from workers.rollout import policies
from workers.rollout.play import TIME_LIMIT, TURN_LIMIT, Game, PlayOptions
from workers.rollout.policies import Policy
from workers.rollout.task_app.ask import Ask
from workers.runner import describe
from workers.transport.trace import Trace

log = logging.getLogger("synthq.task_app")

BROKEN: Final = "error"
"""How a rollout ended in which something broke after play had begun."""
OPS_A_TURN: Final = 2


@dataclass(slots=True, kw_only=True)
class Played:
    """What became of a rollout."""

    ask: Ask
    game: Game
    turns: list[tuple[Turn, str | None]] = field(default_factory=list)
    """Each turn, with the world in words as it was before; None where the policy was to see the picture alone."""
    ended: str = ""
    aborted: bool = False
    """A limit of the request, or a fault, ended it, and not the episode or its own limit of turns."""
    error: str | None = None
    """What broke."""
    final: str | None = None
    """The world in words, after the last turn."""
    last_frame: Frame | None = None
    frames: dict[str, Frame] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    @property
    def image_only(self) -> bool:
        """Whether only pictures tell of the world."""
        return self.game.options.prompt.image_only_mode

    def describe(self) -> str | None:
        """The present state in words."""
        return None if self.image_only else self.game.env.describe(self.game.env.status())

    def trace(self) -> Trace:
        """Everything, as the store would keep it. It can be asked for once: the rows leave the game."""
        ask, last = self.ask, self.last_frame
        episode = {
            "iteration": ask.key.iteration,
            "seed": ask.key.seed,
            "member": ask.key.member,
            "env": self.game.options.env,
            "env_version": self.game.env.version,
            "policy": ask.label,
            **self.game.figures(),
            "ended": self.ended,
            "last_frame": last.sha256 if last else None,
        }
        rows = tuple(self.game.take_rows())
        return Trace(episode=episode, rows=rows, frames=tuple(self.frames.values()), texts=self.texts)


async def play(ask: Ask) -> Played:
    """Play a rollout to its end or to a limit.

    Raises what keeps it from beginning: an unknown policy or environment, a setting that does not fit, a key that is not there.
    What goes wrong later ends the rollout and is told in it.
    """
    options = PlayOptions.of(ask.spec)
    most = min(ask.max_turns, ask.max_ops // OPS_A_TURN)
    options = replace(options, max_turns=min(options.max_turns, most), max_time_s=None)
    policy = policies.make(ask.label, ask.spec.eval.options_of(ask.label))
    try:
        played = Played(ask=ask, game=Game.begin(options, policy, ask.key))
        await _turns(played)
    finally:
        await _close(policy)
    return _finish(played)


async def _turns(played: Played) -> None:
    """Play until the episode ends, the time is up (a reply that is under way then is cut off) or something breaks."""
    game, limit = played.game, asyncio.timeout(played.ask.max_time_s)
    try:
        async with limit:
            while not game.ended:
                await _turn(played)
                await asyncio.sleep(0)  # the process plays others as well, and is told here when nobody waits any longer
    except Exception as error:  # whatever breaks, the turns before it are the answer
        if limit.expired():
            played.ended = str(game.ended or TIME_LIMIT)
            return
        log.warning("rollout %s broke in turn %d", played.ask.run_id, len(played.turns), exc_info=error)
        played.ended, played.error = BROKEN, describe(error)
    else:
        played.ended = str(game.ended)


async def _turn(played: Played) -> None:
    whole = played.ask.record.return_trace
    told = played.describe() if not played.ask.whole else None
    turn, frame = await played.game.turn()
    played.turns.append((turn, told))
    if whole and frame is not None and played.game.options.keep_frames:
        played.frames[frame.sha256] = frame
    if whole and (text := system_text(turn)) is not None:
        played.texts[text_sha256(text)] = text


async def _close(policy: Policy) -> None:
    try:
        await policy.close()
    except Exception:
        log.exception("a policy could not be closed")


def _finish(played: Played) -> Played:
    game, ask = played.game, played.ask
    by_ops = played.ended == TURN_LIMIT and game.totals.turns == ask.max_ops // OPS_A_TURN < ask.max_turns
    played.aborted = by_ops or played.ended in (TIME_LIMIT, BROKEN)
    if played.ended != BROKEN:  # a world that broke may not be able to show itself
        played.final = played.describe()
        played.last_frame = game.frame() if game.options.keep_frames else None
        if played.last_frame is not None and ask.record.return_trace:
            played.frames[played.last_frame.sha256] = played.last_frame
    return played
