"""Who plays: the labels of policies, and what may be set for each of those that synthq has itself."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from app.specs.base import Table

POLICIES = ("random", "scripted", "openai", "model")
"""The policies that synthq has itself."""
VIEWS = ("omniscient", "visible", "reactive")
"""The variants of ``scripted``: what it may know."""
OPENAI = "openai"
"""The policy that asks a model at an OpenAI-compatible endpoint; its variant is the model's name."""
MODEL = "model"
"""The policy that asks a model which synthq serves itself; its variant is a folder, a hub id or an artifact."""


def policy_name(label: str) -> tuple[str, str | None]:
    """The name and the variant in a label: ``scripted:reactive``; None for no variant."""
    name, colon, variant = label.partition(":")
    return name, variant if colon else None


class RandomOptions(Table):
    """Options of `random`."""

    actions_per_turn: Annotated[int, Field(ge=1, le=8)] = 1
    """Actions in each of its replies."""


class ScriptedOptions(Table):
    """Options of `scripted`."""

    open_loop_k: Annotated[int, Field(ge=1, le=8)] = 1
    """Most actions that it plans from one frame; 1 looks before every action."""


class PolicyOptions(Table):
    """Options of the policies that play, by the policy's name; those of another package's policy are checked by itself."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    random: RandomOptions | None = None
    """Options of `random`."""
    scripted: ScriptedOptions | None = None
    """Options of `scripted`."""

    def of(self, name: str) -> dict[str, Any]:
        """The options of a policy, as keywords."""
        options = getattr(self, name, None) or (self.model_extra or {}).get(name)
        return options.model_dump() if isinstance(options, Table) else dict(options or {})

    def names(self) -> list[str]:
        """The policies that options are given for."""
        return [*(name for name in type(self).model_fields if getattr(self, name) is not None), *(self.model_extra or {})]
