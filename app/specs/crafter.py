"""What a spec may say about the built-in environment, Crafter. The names are held equal to the environment's by a test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from app.errors import did_you_mean
from app.specs.base import Clash, Table

NAMES = ("crafter", "crafter-classic", "grpo-crafter-task-app")
"""Every spelling of this environment; the first is its name."""

ACHIEVEMENTS = (
    "collect_coal",
    "collect_diamond",
    "collect_drink",
    "collect_iron",
    "collect_sapling",
    "collect_stone",
    "collect_wood",
    "defeat_skeleton",
    "defeat_zombie",
    "eat_cow",
    "eat_plant",
    "make_iron_pickaxe",
    "make_iron_sword",
    "make_stone_pickaxe",
    "make_stone_sword",
    "make_wood_pickaxe",
    "make_wood_sword",
    "place_furnace",
    "place_plant",
    "place_stone",
    "place_table",
    "wake_up",
)


class StepRewards(Table):
    """What `consistent` and `per_achievement` pay."""

    enabled: bool = False
    """Use `strategy` as the reward of the job."""
    mode: Literal["decision_stepwise"] = "decision_stepwise"
    """When the reward is given: once a turn."""
    strategy: Literal["consistent", "per_achievement"] = "consistent"
    """`consistent`: one reward when a turn unlocks anything; `per_achievement`: the sum of `weights` of what it unlocks."""
    indicator_lambda: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """What `consistent` gives for a turn that unlocks something."""
    weights: dict[str, Annotated[float, Field(ge=-1000, le=1000)]] = Field(default_factory=dict)
    """Weight of an achievement by name, for `per_achievement`; one that is not named weighs 1.0."""
    k_limits: dict[str, Annotated[int, Field(ge=0, le=1000)]] = Field(default_factory=dict)
    """How often an achievement counts in an episode, by name; 0 is never, one that is not named counts once."""

    def checks(self) -> Iterator[Clash]:
        for table in ("weights", "k_limits"):
            for name in getattr(self, table):
                if name not in ACHIEVEMENTS:
                    yield Clash(f"{table}.{name}", f"Crafter has no achievement {name!r}{did_you_mean(name, ACHIEVEMENTS)}")


class CrafterConfig(Table):
    """The world and its picture."""

    image_size: Annotated[int, Field(ge=9, le=144)] = 64
    """Side of the stored frame in pixels."""
    upscale_to: Annotated[int, Field(ge=9, le=2048)] | None = None
    """Side in pixels of the picture that a model is sent, at least `image_size`; 288 goes well with an `image_size` of 144."""
    length: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    """Game steps after which an episode ends."""
    area: Annotated[tuple[Literal[64], Literal[64]], Field(strict=False)] = (64, 64)
    """Size of the world in tiles; stock Crafter's is the only one."""
    step_rewards: StepRewards = StepRewards()
    """Reward for each turn."""

    def settings(self) -> dict[str, Any]:
        """What the environment itself takes; the rest is read by those who show and score it."""
        return {"image_size": self.image_size, "length": self.length, "area": self.area}

    def checks(self) -> Iterator[Clash]:
        if self.upscale_to is not None and self.upscale_to < self.image_size:
            yield Clash("upscale_to", f"{self.upscale_to} is less than image_size = {self.image_size}; a frame is never shrunk")
