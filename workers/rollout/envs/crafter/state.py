"""A world as bytes: the one canonical form, which is hashed, stored and read back. No pickle, no class names.

The form is a line of JSON (step, player, objects, chunks), then the map's 4096 material numbers, then the generator's state. At
night that state is the one before the noise of the present frame, which is drawn again on reading.
"""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from collections.abc import Iterable
from typing import Any

from app.errors import BadSnapshot
from workers.rollout.envs.crafter import draws
from workers.rollout.envs.crafter.player import Player
from workers.rollout.envs.crafter.tables import ACHIEVEMENTS, DIRECTIONS, ITEMS, MATERIALS, MOST
from workers.rollout.envs.crafter.things import Arrow, Cow, Plant, Skeleton, Thing, Zombie
from workers.rollout.envs.crafter.world import CHUNK_OF, SIDE, World

MAGIC = b"synthq/crafter/1\n"
"""Begins every snapshot; its number counts up when the form changes."""
_DIGEST = 32
_LARGEST = 1 << 20
"""More bytes than any world needs: a bound for what a damaged or hostile snapshot may unpack to."""

_KINDS: dict[str, tuple[type[Thing], tuple[str, ...]]] = {
    "cow": (Cow, ("x", "y", "health")),
    "zombie": (Zombie, ("x", "y", "health", "cooldown")),
    "skeleton": (Skeleton, ("x", "y", "health", "reload")),
    "arrow": (Arrow, ("x", "y", "dx", "dy", "health")),
    "plant": (Plant, ("x", "y", "health", "grown")),
}
_PLAYER = ("hunger", "thirst", "fatigue", "recover", "last_health")


def pack(world: World) -> bytes:
    """The canonical form of a world."""
    player = world.player
    things = list(world.objects)
    number = {thing: i for i, thing in enumerate(things)}
    head = {
        "seed": world.seed,
        "step": world.step,
        "unlocked": world.unlocked,
        "player": {
            "at": [player.x, player.y],
            "facing": player.facing,
            "sleeping": player.sleeping,
            "inventory": player.inventory,
            "counts": player.counts,
        }
        | {name: getattr(player, name) for name in _PLAYER},
        "things": [[thing.name, *[getattr(thing, field) for field in _KINDS[thing.name][1]]] for thing in things[1:]],
        "chunks": [[chunk, [number[thing] for thing in held]] for chunk, held in world.chunks.items()],
    }
    line = json.dumps(head, separators=(",", ":")).encode()
    return b"%s\n%s%s" % (line, world.terrain(), draws.pack(world.settled or world.rng.getstate()))


def unpack(body: bytes) -> World:
    """The world of a canonical form. Raises BadSnapshot if it describes none."""
    try:
        return _unpack(body)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise BadSnapshot(f"the snapshot describes no Crafter world ({type(error).__name__}: {error})") from error


def seal(body: bytes) -> bytes:
    """A canonical form as it is stored: marked, with its hash, compressed."""
    return MAGIC + hashlib.sha256(body).digest() + zlib.compress(body, 6)


def unseal(snapshot: bytes) -> bytes:
    """The canonical form in a snapshot. Raises BadSnapshot if it is damaged, of another version, or none."""
    if not snapshot.startswith(MAGIC):
        begins = snapshot[: len(MAGIC)]
        raise BadSnapshot(f"the snapshot begins with {begins!r}; one of this version of Crafter begins with {MAGIC!r}")
    digest, packed = snapshot[len(MAGIC) :][:_DIGEST], snapshot[len(MAGIC) + _DIGEST :]
    stream = zlib.decompressobj()
    try:
        body = stream.decompress(packed, _LARGEST)
    except zlib.error as error:
        raise BadSnapshot(f"the snapshot does not unpack ({error}); its bytes are damaged") from error
    if not stream.eof or stream.unused_data or hashlib.sha256(body).digest() != digest:
        raise BadSnapshot("the snapshot's bytes do not fit the hash it carries; they are damaged")
    return body


def _unpack(body: bytes) -> World:
    line, _, rest = body.partition(b"\n")
    head = json.loads(line)
    terrain, packed = rest[: SIDE * SIDE], rest[SIDE * SIDE :]
    _require(len(packed) == draws.STATE_BYTES, f"{len(rest)} bytes of map and generator")
    _require(0 < min(terrain) <= max(terrain) < len(MATERIALS), f"material numbers {min(terrain)} to {max(terrain)}")
    rng = random.Random()
    rng.setstate(draws.unpack(packed))
    player = _player(head["player"])
    world = World(_whole(head["seed"]), rng, player)
    world.step = _whole(head["step"])
    _require(min(world.seed, world.step) >= 0, f"seed {world.seed} at step {world.step}")
    world.unlocked = {name: _whole(step) for name, step in head["unlocked"].items()}
    _require(set(world.unlocked) <= set(ACHIEVEMENTS), "an unknown achievement")
    world.set_terrain(terrain)
    things: list[Thing] = [player]
    for kind, *values in head["things"]:
        make, fields = _KINDS[kind]
        things.append(_on_map(make(**dict(zip(fields, map(_whole, values), strict=True)))))
        _require(world.thing(things[-1].x, things[-1].y) is None, "two objects on one tile")
        world.add(things[-1])
    world.chunks = _chunks(head["chunks"], things)
    world.dusk()
    return world


def _player(head: dict[str, Any]) -> Player:
    player = Player(*map(_whole, head["at"]))
    _on_map(player)
    _require(tuple(head["facing"]) in DIRECTIONS, f"facing {head['facing']}")
    player.facing = tuple(head["facing"])
    player.sleeping = bool(head["sleeping"])
    player.inventory = _counted(head["inventory"], ITEMS)
    _require(max(player.inventory.values()) <= MOST, "more than 9 of an item")
    player.counts = _counted(head["counts"], ACHIEVEMENTS)
    for name in _PLAYER:
        setattr(player, name, _whole(head[name]))
    return player


def _chunks(chunks: Iterable[tuple[int, list[int]]], things: list[Thing]) -> dict[int, dict[Thing, None]]:
    held = {_whole(chunk): {things[i]: None for i in numbers} for chunk, numbers in chunks}
    _require(all(CHUNK_OF[thing.at] == chunk for chunk, some in held.items() for thing in some), "a misplaced object")
    _require(sum(map(len, held.values())) == len(things), "an object in no chunk")
    return held


def _on_map(thing: Thing) -> Thing:
    _require(0 <= thing.x < SIDE and 0 <= thing.y < SIDE, f"{thing.name} at {(thing.x, thing.y)}")
    return thing


def _counted(amounts: dict[str, int], names: tuple[str, ...]) -> dict[str, int]:
    """The amounts by name, in the order of the names."""
    _require(set(amounts) == set(names), f"the names {sorted(amounts)}")
    _require(all(_whole(amount) >= 0 for amount in amounts.values()), "an amount below 0")
    return {name: amounts[name] for name in names}


def _whole(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _require(fits: bool, what: str) -> None:
    if not fits:
        raise ValueError(what)
