"""Plays games in a process of its own. Reads a list of questions as JSON from stdin: who plays what, and perhaps from which
snapshot on. Answers with the turns' hashes in JSON. Run by test_sameness.py.
"""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

from play_kit import begin, key, options, play, traced
from play_policies import Babbler

from workers.rollout import policies
from workers.rollout.play import Game


def player(name: str) -> Any:
    """A policy by name; the test policies need no entry point here."""
    return Babbler() if name == "babbler" else policies.make(name)


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Play what is asked for."""
    way = options(sampling_seed=asked["sampling_seed"])
    if asked["snapshot"]:
        game = Game.resume(way, player(asked["policy"]), key(asked["seed"]), base64.b64decode(asked["snapshot"]))
    else:
        game = begin(player(asked["policy"]), way, seed=asked["seed"])
    turns = play(game, asked["turns"])
    return {"turns": traced(turns), "chain": game.totals.chain, "state": game.env.state_sha256()}


if __name__ == "__main__":
    json.dump([answer(asked) for asked in json.load(sys.stdin)], sys.stdout)
