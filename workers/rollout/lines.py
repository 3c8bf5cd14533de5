"""One turn as one line of training data: OpenAI's chat format, the prompt as it was sent, the reply as it was given.

Nothing is made up here: what a turn's row does not hold is an error, and so is a picture whose bytes are not what its name says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.errors import BadFrame, StepFailed
from app.models import FrameRow, Job, TurnRow
from app.records import ImagePart, Message, Part, Reply, TextPart, ToolCall
from app.specs import EvalSpec, parse
from app.specs.crafter import CrafterConfig
from workers.rollout import envs, prompts
from workers.rollout.envs import pixels
from workers.rollout.play import PlayOptions
from workers.rollout.selection import Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """How a job's episodes were played, as far as it shows in a line."""

    reward: str
    """Name of the reward that counts."""
    tools: list[dict[str, Any]] | None
    """The tool schemas that the policy was given; None in the text format."""
    upscale_to: int | None
    """Side in pixels of the pictures that a model is sent; None: as stored."""
    tiles: int
    """Tiles along a side of the picture, for the upscale; 1 where the environment has none."""
    frames_kept: bool
    """Every frame was stored."""


def played(job: Job) -> Played:
    """How a job's episodes were played. Raises StepFailed for a job that plays none."""
    spec = parse(job.kind, job.spec)
    if not isinstance(spec, EvalSpec):
        raise StepFailed(f"job {job.id} is of the kind {job.kind!r}, and only eval jobs have episodes to filter")
    options, config = PlayOptions.of(spec), spec.eval.env_config
    env = envs.make(options.env, dict(options.env_config))
    with_tools = options.prompt.reply_format == "tool_call"
    return Played(
        reward=options.reward,
        tools=prompts.tools(env.actions, options.prompt.max_actions) if with_tools else None,
        upscale_to=config.upscale_to if isinstance(config, CrafterConfig) else None,
        tiles=getattr(env, "tiles", 1),
        frames_kept=options.keep_frames,
    )


def frames_of(turn: TurnRow) -> list[str]:
    """The frames that a turn's prompt shows, by sha256."""
    return [part["sha256"] for message in turn.messages for part in message["parts"] if part["type"] == "image"]


def line(
    turn: TurnRow,
    episode: Candidate,
    how: Played,
    *,
    system: str | None,
    picture: Callable[[str], bytes] | None,
) -> bytes:
    """The line of a turn, with its line end. ``picture`` gives the PNG to show for a frame; None leaves pictures out."""
    if not turn.messages:
        raise StepFailed(f'turn {turn.index} of episode {episode.id} has no prompt: it was played with save_frames = "none"')
    prompt = [_message(message, with_images=picture is not None) for message in turn.messages]
    if not all(message.parts for message in prompt):
        raise StepFailed(
            f"include_images = false leaves nothing of the prompt of turn {turn.index} of episode {episode.id}: "
            "it was played from the picture alone (image_only_mode)"
        )
    first = [Message(role="system", parts=(TextPart(text=system),))] if system is not None else []
    last = prompts.assistant(_reply(turn.reply))
    content: dict[str, Any] = {"messages": prompts.to_openai([*first, *prompt, last], picture)}
    if how.tools is not None:
        content["tools"] = how.tools
    content["metadata"] = _metadata(turn, episode)
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _metadata(turn: TurnRow, episode: Candidate) -> dict[str, Any]:
    return {
        "job": episode.job_id,
        "episode": episode.id,
        "seed": episode.seed,
        "member": episode.member,
        "turn": turn.index,
        "policy": episode.policy,
        "model": episode.model,
        "reward": turn.reward,
        "unlocked": list(turn.unlocked),
        "achievements_total": episode.unlocked,
        "outcome": turn.outcome,
    }


def _message(row: dict[str, Any], *, with_images: bool) -> Message:
    parts: list[Part] = []
    for part in row["parts"]:
        if part["type"] == "text":
            parts.append(TextPart(text=part["text"]))
        elif with_images:
            parts.append(ImagePart(sha256=part["sha256"]))
    return Message(role=row["role"], parts=tuple(parts), tool_calls=_calls(row.get("tool_calls", ())))


def _reply(row: dict[str, Any]) -> Reply:
    return Reply(text=row["text"], tool_calls=_calls(row["tool_calls"]), finish=row["finish"])


def _calls(rows: Any) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(name=row["name"], arguments=row["arguments"]) for row in rows)


def checked_png(row: FrameRow | None, sha256: str, how: Played, where: str) -> bytes:
    """The PNG that a line shows for a stored frame, after a look at every one of its bytes and pixels.

    Raises StepFailed, with ``where`` and the frame's name, for one that is missing, is not what its name says, or is no picture.
    """
    if row is None:
        because = "" if how.frames_kept else '; its job was played with save_frames = "none", so set include_images = false'
        raise StepFailed(f"{where} shows frame {sha256}, and it is not stored{because}")
    found = hashlib.sha256(row.png).hexdigest()
    if found != sha256:
        raise StepFailed(f"{where} shows frame {sha256}, and its stored bytes have sha256 {found}")
    try:
        native = pixels.decode_png(row.png)
    except BadFrame as error:
        raise StepFailed(f"{where} shows frame {sha256}, and its stored bytes cannot be read: {error}") from error
    if native.shape[:2] != (row.height, row.width):
        raise StepFailed(
            f"{where} shows frame {sha256} of {native.shape[1]} x {native.shape[0]} pixels, stored as {row.width} x {row.height}"
        )
    if how.upscale_to is None:
        return row.png
    return pixels.encode_png(pixels.upscale(native, how.upscale_to, tiles=how.tiles))
