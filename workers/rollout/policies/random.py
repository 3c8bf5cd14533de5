"""The random policy: every action equally likely at every turn. The floor that any other policy is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from app.errors import InvalidInput
from app.records import EpisodeKey, Reply
from workers.rollout.actions import MAX_ACTIONS, format_reply
from workers.rollout.envs.base import Environment
from workers.rollout.policies.base import Request
from workers.rollout.policies.keyed import Key, from_snapshot, key_of, to_snapshot

_DRAW_BYTES = 8


class Random:
    """Uniform over the environment's actions, a fixed number of them a turn.

    A draw is a hash of (sampling seed, iteration, seed, member, turn): no state, so nothing can drift apart. The bias
    of taking 64 bits modulo the number of actions is below 1e-17.
    """

    name = "random"
    version = "random-1"
    model = None
    needs_messages = False

    def __init__(self, *, actions_per_turn: int = 1) -> None:
        if isinstance(actions_per_turn, bool) or not isinstance(actions_per_turn, int):
            raise InvalidInput(f"actions_per_turn must be a whole number, not {actions_per_turn!r}")
        if not 1 <= actions_per_turn <= MAX_ACTIONS:
            raise InvalidInput(f"actions_per_turn must be 1 to {MAX_ACTIONS}, not {actions_per_turn!r}")
        self.actions_per_turn = actions_per_turn
        self._key: Key | None = None

    def begin(self, env: Environment, key: EpisodeKey, *, sampling_seed: int) -> None:
        """Remember what keys the draws."""
        self._key = key_of(key, sampling_seed)

    async def reply(self, request: Request) -> Reply:
        """Draw this turn's actions."""
        if self.actions_per_turn > request.options.max_actions:
            raise InvalidInput(
                f"actions_per_turn = {self.actions_per_turn} is more than max_actions = {request.options.max_actions}"
            )
        chosen = self.draw(request.index, request.actions)
        said = format_reply(chosen, request.options.reply_format)
        return Reply(text=said.text, tool_calls=said.tool_calls, policy_version=self.version)

    def draw(self, turn: int, actions: Sequence[str]) -> list[str]:
        """The actions of a turn. Asked twice, it gives the same."""
        if self._key is None:
            raise InvalidInput("the random policy has no episode yet; call begin or restore first")
        text = ",".join(map(str, (*self._key, turn))).encode()
        digest = blake2b(text, digest_size=_DRAW_BYTES * self.actions_per_turn, person=b"synthq-random").digest()
        draws = (digest[at : at + _DRAW_BYTES] for at in range(0, len(digest), _DRAW_BYTES))
        return [actions[int.from_bytes(draw, "little") % len(actions)] for draw in draws]

    def snapshot(self) -> bytes:
        """The four numbers that key the draws, as JSON."""
        return to_snapshot(self.version, self._key)

    def restore(self, snapshot: bytes) -> None:
        """Take over the numbers of a snapshot."""
        self._key = from_snapshot(snapshot, self.version, self.name)

    async def close(self) -> None:
        """Nothing is held."""
