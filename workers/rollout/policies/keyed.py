"""The four numbers that key every draw of a policy that remembers nothing else, and their way through a snapshot."""

from __future__ import annotations

import json
from hashlib import blake2b

from app.errors import BadSnapshot, InvalidInput
from app.records import EpisodeKey

Key = tuple[int, int, int, int]
"""(sampling seed, iteration, seed, member)"""


def key_of(episode: EpisodeKey, sampling_seed: int) -> Key:
    """The numbers of an episode."""
    return sampling_seed, episode.iteration, episode.seed, episode.member


def number(name: str, key: Key | None, turn: int, attempt: int = 0) -> int:
    """0 to 2^31 - 1: a policy's draw for a turn, and for an attempt at it, the same whenever the turn is played."""
    if key is None:
        raise InvalidInput(f"the {name} policy has no episode yet; call begin or restore first")
    text = ",".join(map(str, (*key, turn, attempt))).encode()
    return int.from_bytes(blake2b(text, digest_size=4, person=f"synthq-{name}".encode()).digest(), "little") >> 1


def to_snapshot(version: str, key: Key | None) -> bytes:
    """The numbers as JSON, under the version of the policy; None before the first episode."""
    return json.dumps({"policy": version, "key": key}).encode()


def from_snapshot(snapshot: bytes, version: str, name: str) -> Key | None:
    """The inverse of ``to_snapshot``, for the policy of that version and name. Raises BadSnapshot."""
    try:
        value = json.loads(snapshot)
        found, key = value["policy"], value["key"]
        numbers = None if key is None else tuple(map(int, key))
    except (ValueError, KeyError, TypeError):
        raise BadSnapshot(f"these bytes are no snapshot of the {name} policy") from None
    if found != version or (numbers is not None and len(numbers) != 4):
        raise BadSnapshot(f"this is a snapshot of {found!r}; {version!r} cannot go on from it")
    return None if numbers is None else (numbers[0], numbers[1], numbers[2], numbers[3])
