"""What there is to be played: the one task, its seeds, and what the world of a seed is like at its start."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Final

from app.specs.seeds import MAX_SEED
from workers.rollout import envs, policies, prompts
from workers.rollout.actions import MAX_ACTIONS, TOOL
from workers.rollout.envs.crafter import Crafter
from workers.rollout.envs.crafter.world import SIDE, World
from workers.rollout.rewards import REWARDS
from workers.rollout.task_app.bodies import Safety

SERVICE: Final = "synthq-task-app"
DEFAULT_SEED: Final = 42
HOSTILE: Final = ("zombie", "skeleton")


def _task() -> dict[str, Any]:
    return {"id": "crafter_classic", "name": "Crafter, as it is", "version": "1.0.0", "environment_version": Crafter.version}


def _dataset() -> dict[str, Any]:
    return {
        "id": "crafter_classic_procedural",
        "name": "Crafter's worlds, one for each seed",
        "version": "1.0.0",
        "splits": ["train"],
        "seed_range": [0, MAX_SEED],
        "default_seed": DEFAULT_SEED,
    }


def _limits() -> dict[str, Any]:
    safety = Safety()
    return {"max_ops": safety.max_ops, "max_time_s": safety.max_time_s, "max_actions": MAX_ACTIONS}


def _inference() -> dict[str, Any]:
    tool = prompts.tools(Crafter.actions, MAX_ACTIONS)[0]["function"]
    return {"endpoints": ["chat.completions"], "tool": {"name": TOOL, "parameters": tool["parameters"]}}


def _rubric() -> dict[str, Any]:
    return {"outcome": {"achievements": list(Crafter.achievements)}, "rewards": list(REWARDS)}


def info() -> dict[str, Any]:
    """The service, and what it has."""
    return {
        "service": {"task": _task(), "name": SERVICE, "version": version("synthq")},
        "dataset": _dataset(),
        "rubrics": _rubric(),
        "inference": _inference(),
        "limits": _limits(),
        "environments": sorted(envs.registered()),
        "policies": list(policies.known()),
    }


def taskset() -> dict[str, Any]:
    """The seeds that there are."""
    world = Crafter()
    return {
        "taskset": {**_dataset(), "config": {"area": [SIDE, SIDE], "length": world.most_steps, "image_size": world.image_size}}
    }


def task_info(seed: int) -> dict[str, Any]:
    """The task of one seed, with its real world at the start: counts are over the whole map, positions are [x, y] in tiles."""
    game = Crafter()
    game.reset(seed)
    player = game.world.player
    return {
        "task": _task(),
        "environment": Crafter.name,
        "action_space": {"type": "discrete", "size": len(Crafter.actions), "actions": list(Crafter.actions)},
        "observation": {
            "keys": ["text", "frame"],
            "image_shape": list(game.frame().shape),
            "text": game.describe(game.status()),
            "traits": _traits(game.world),
            "inventory": {name: amount for name, amount in game.inventory().items() if amount},
            "player_position": [player.x, player.y],
        },
        "dataset": {**_dataset(), "seed": seed, "difficulty": "normal"},
        "rubric": _rubric(),
        "inference": _inference(),
        "limits": _limits(),
    }


def _traits(world: World) -> dict[str, int]:
    names = [thing.name for thing in world.objects]
    trees = sum(world.material(x, y) == "tree" for x in range(SIDE) for y in range(SIDE))
    return {"trees": trees, "cows": names.count("cow"), "hostiles": sum(names.count(name) for name in HOSTILE)}
