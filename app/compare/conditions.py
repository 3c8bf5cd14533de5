"""What episodes were played under, and whether it was the same for all that are compared.

Whatever decides what a policy meets must be the same, or the comparison is of the conditions. What only a reader of prompts meets
(the prompt, the sampling) is asked of such policies alone: the built-in player has no temperature.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.compare.arms import Arm
from app.sources import NO_PROMPT
from app.specs.policies import policy_name

SHOWN: Final = ("use_vision", "image_only_mode", "rules", "history", "max_actions")
"""Keys of ``policy_config`` that make the prompt."""
SAMPLED: Final = (
    "top_p",
    "max_tokens",
    "tool_choice",
    "detail",
    "reasoning_effort",
    "thinking_mode",
    "thinking_budget",
)
"""Keys of ``policy_config`` that say how a model is asked."""
PICTURE: Final = ("image_size", "upscale_to")
"""Keys of ``env_config`` that only a policy that is shown pictures meets."""
NO_MATTER: Final = ("step_rewards",)
"""Keys of ``env_config`` that change nothing of what is compared here."""
TOLD: Final = ("split", "sampling_seed", "engine", "blank_frames")
"""What may differ, and is told: it is no advantage for anybody, or it is what is asked about."""


def conditions(table: Mapping[str, Any], policy: str, env_versions: Sequence[str]) -> dict[str, Any]:
    """What a policy was played under, from the resolved table of its spec and its episodes' rows."""
    config, shown = dict(table["env_config"]), table["policy_config"]
    picture = {key: config.pop(key, None) for key in PICTURE}
    for key in NO_MATTER:
        config.pop(key, None)
    found = {
        "env": table["env"],
        "env_version": " and ".join(env_versions),
        **{f"env_config.{key}": value for key, value in sorted(config.items())},
        "episodes_per_seed": table["episodes_per_seed"],
        "max_turns": table["max_turns"],
        "max_time_s": table["max_time_s"],
        "split": table["split"],
        "sampling_seed": table["sampling_seed"],
    }
    if policy_name(policy)[0] in NO_PROMPT:
        return found
    calls = table["max_llm_calls"]
    return {
        **found,
        "max_turns": min(table["max_turns"], calls) if calls is not None else table["max_turns"],
        "temperature": table["temperature"],
        "engine": table["engine"],
        "reply_format": table["reply_format"],
        "invalid_reply": table["invalid_reply"],
        **{f"policy_config.{key}": shown[key] for key in (*SHOWN, *SAMPLED)},
        **{f"env_config.{key}": value for key, value in picture.items()},
        "blank_frames": table.get("blank_frames", False),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A condition that was not the same for all."""

    key: str
    values: dict[str, Any]
    """By the arm's label; arms that do not meet it are left out."""
    fair: bool
    """It may differ: it gives nobody an advantage."""

    def __str__(self) -> str:
        alike: dict[str, list[str]] = {}
        for label, value in self.values.items():
            alike.setdefault(_said(value), []).append(label)
        return f"{self.key}: " + ", ".join(f"{value} ({', '.join(labels)})" for value, labels in alike.items())


def _said(value: Any) -> str:
    return "none" if value is None or value == "" else str(value).lower() if isinstance(value, bool) else str(value)


def differences(arms: Sequence[Arm]) -> list[Difference]:
    """Every condition that was not the same for all arms that meet it, the unfair ones first."""
    found = list(_different(arms))
    return sorted(found, key=lambda each: each.fair)


def _different(arms: Sequence[Arm]) -> Iterator[Difference]:
    for key in dict.fromkeys(key for arm in arms for key in arm.conditions):
        values = {arm.label: arm.conditions[key] for arm in arms if key in arm.conditions}
        if len({_said(value) for value in values.values()}) > 1:
            yield Difference(key=key, values=values, fair=key in TOLD)


def shared(arms: Sequence[Arm]) -> dict[str, Any]:
    """The conditions that were the same for all arms that meet them."""
    unlike = {each.key for each in differences(arms)}
    return {key: value for arm in arms for key, value in arm.conditions.items() if key not in unlike}
