"""Start states by seed: made once, then kept in memory and, where synthq has a home folder, on disk.

A start state is the canonical form of a fresh world. A file of the cache is a sealed snapshot, so a damaged one is noticed and
made anew; it is written beside its place and moved there, so that several processes may share a folder.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from pathlib import Path
from threading import Lock, get_ident

from app.errors import BadSnapshot
from app.settings import get_settings
from workers.rollout.envs.crafter.advance import begin
from workers.rollout.envs.crafter.state import pack, seal, unpack, unseal
from workers.rollout.envs.crafter.world import World

KEPT = 1024
"""Start states kept in memory, about 10 KB each."""


class Starts:
    """A cache of start states. ``folder`` None keeps them in memory only."""

    def __init__(self, folder: Path | None, kept: int = KEPT) -> None:
        self.folder = folder
        self._kept = kept
        self._bodies: OrderedDict[int, bytes] = OrderedDict()
        self._lock = Lock()

    def world(self, seed: int) -> World:
        """A fresh world of this seed, the caller's own."""
        with self._lock:
            body = self._bodies.get(seed)
            if body is not None:
                self._bodies.move_to_end(seed)
                return unpack(body)
        world = self._read(seed) or self._make(seed)
        with self._lock:
            self._bodies[seed] = pack(world)
            if len(self._bodies) > self._kept:
                self._bodies.popitem(last=False)
        return world

    def path(self, seed: int) -> Path | None:
        """Where the start state of a seed is on disk, if anywhere."""
        return self.folder / f"{seed}.start" if self.folder else None

    def _read(self, seed: int) -> World | None:
        path = self.path(seed)
        if path is None:
            return None
        try:
            world = unpack(unseal(path.read_bytes()))
        except (OSError, BadSnapshot):
            return None
        return world if (world.seed, world.step) == (seed, 0) else None

    def _make(self, seed: int) -> World:
        world, path = begin(seed), self.path(seed)
        if path is not None:
            draft = path.with_name(f".{path.name}.{os.getpid()}.{get_ident()}")
            # A folder that is full or not ours costs the cache, never the episode.
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                draft.write_bytes(seal(pack(world)))
                draft.replace(path)
        return world


_shared: dict[Path | None, Starts] = {}


def shared(version: str) -> Starts:
    """This process's cache. On disk under ``home``/cache where the home folder is there already: none is made for this."""
    home = get_settings().home
    folder = home / "cache" / "crafter" / version if home.is_dir() else None
    return _shared.setdefault(folder, Starts(folder))
