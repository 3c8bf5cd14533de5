"""Steps that play episodes, as every plot with play asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.models import Queue, StepState
from app.plots.base import EpisodeId, StepPlan, StepView

PLAY = "play"
"""The kind of these steps."""


def play_step(key: str, episodes: Sequence[Sequence[int]], label: str | None, **more: Any) -> StepPlan:
    """A step that plays these episodes; ``label`` of the policy, where it needs a model that synthq serves."""
    payload: dict[str, Any] = {"episodes": [list(episode) for episode in episodes], **more}
    if label is not None:
        payload["policy"] = label
    return StepPlan(key=key, kind=PLAY, queue=Queue.ROLLOUT, payload=payload, total=len(episodes))


def chunks(episodes: Sequence[EpisodeId], size: int) -> list[Sequence[EpisodeId]]:
    """The episodes, so many at a time."""
    return [episodes[i : i + size] for i in range(0, len(episodes), size)]


def apart(steps: Sequence[StepView]) -> list[StepPlan]:
    """The episodes of failed play steps, each in a step of its own: what ended the step then ends only itself."""
    made = {step.key for step in steps}
    alone = [
        StepPlan(key=f"{step.key}/{i}", kind=PLAY, queue=Queue.ROLLOUT, payload={**step.payload, "episodes": [episode]})
        for step in steps
        if step.kind == PLAY and step.state == StepState.FAILED and len(step.payload["episodes"]) > 1
        for i, episode in enumerate(step.payload["episodes"])
    ]
    return [plan for plan in alone if plan.key not in made]
