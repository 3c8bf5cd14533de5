"""One turn as one line of training data: OpenAI's chat format, the prompt as it was sent, the reply as it was given.

Nothing is made up here: what a turn's row does not hold is an error, and so is a picture whose bytes are not what its name says.
Where the spec wants the expert's reply in place of the one that was given, the line's metadata says so.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import BadFrame, StepFailed
from app.models import FrameRow, Job, TurnRow
from app.records import ImagePart, Message, Part, Reply, TextPart, ToolCall
from app.sources import PLAY
from app.specs import PlayedSpec, parse
from app.specs.crafter import CrafterConfig
from workers.rollout import actions, envs, lengths, prompts
from workers.rollout.actions import ReplyFormat
from workers.rollout.play import PlayOptions
from workers.rollout.relabel import Label
from workers.rollout.selection import Candidate
from workers.transport import pixels

HASH_BYTES = 16
"""Of the names that prompts and replies go by while lines are compared."""

_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """How a job's episodes were played, as far as it shows in a line."""

    env: str
    env_config: Mapping[str, Any]
    reward: str
    """Name of the reward that counts."""
    reply_format: ReplyFormat
    tools: str | None
    """The tool schemas that the policy was given, as JSON; None in the text format."""
    upscale_to: int | None
    """Side in pixels of the pictures that a model is sent; None: as stored."""
    tiles: int
    """Tiles along a side of the picture, for the upscale; 1 where the environment has none."""
    frames_kept: bool
    """Every frame was stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What the lines of one file hold."""

    metadata: bool = True
    tools: bool = True
    """A line has the key ``tools``; null where its policy had none."""
    rationales: bool = False
    """The expert's goal stands before its tool call."""
    expert: str | None = None
    """Who relabels, as the spec names it; None where the replies are those that were given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line, and what is asked about it."""

    content: bytes
    """With its line end."""
    prompt: bytes
    """A hash over everything but reply and metadata."""
    reply: bytes
    """A hash over the assistant's message."""
    tokens: int
    """Estimated from above."""
    images: int


def played(job: Job) -> Played:
    """How a job's episodes were played. Raises StepFailed for a job that plays none."""
    spec = parse(job.kind, job.spec)
    if not isinstance(spec, PlayedSpec):
        raise StepFailed(f"job {job.id} is of the kind {job.kind!r}, and only {' and '.join(PLAY)} jobs have episodes to filter")
    options, config = PlayOptions.of(spec), spec.play().env_config
    env = envs.make(options.env, dict(options.env_config))
    with_tools = options.prompt.reply_format == "tool_call"
    return Played(
        env=options.env,
        env_config=options.env_config,
        reward=options.reward,
        reply_format=options.prompt.reply_format,
        tools=_json(prompts.tools(env.actions, options.prompt.max_actions)) if with_tools else None,
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
    form: Form,
    *,
    system: str | None,
    picture: Callable[[str], bytes] | None,
    value: float,
    label: Label | None = None,
) -> Line:
    """The line of a turn.

    ``picture`` gives the PNG to show for a frame; None leaves pictures out. ``value`` is what the turn led to. ``label`` is the
    expert's word, which takes the place of the reply.
    """
    shown: list[bytes] = []

    def show(sha256: str) -> bytes:
        assert picture is not None, "without pictures no message names one"
        shown.append(picture(sha256))
        return shown[-1]

    prompt = _prompt(turn, system, with_images=picture is not None)
    wire = prompts.to_openai([*prompt, prompts.assistant(_said(turn, episode, how, form, label))], show)
    asked, answer = _json(wire[:-1]), _json(wire[-1])
    tools = f',"tools":{how.tools or "null"}' if form.tools else ""
    about = f',"metadata":{_json(_metadata(turn, episode, form, value, label))}' if form.metadata else ""
    return Line(
        content=f'{{"messages":{asked[:-1]},{answer}]{tools}{about}}}\n'.encode(),
        prompt=_hash(asked + tools),
        reply=_hash(answer),
        tokens=lengths.line(wire, how.tools, [_size(png) for png in shown]),
        images=len(shown),
    )


def _prompt(turn: TurnRow, system: str | None, *, with_images: bool) -> list[Message]:
    if not turn.messages:
        raise StepFailed(f'turn {turn.index} of episode {turn.episode_id} has no prompt: it was played with save_frames = "none"')
    prompt = [_message(message, with_images=with_images) for message in turn.messages]
    if not all(message.parts for message in prompt):
        raise StepFailed(
            f"include_images = false leaves nothing of the prompt of turn {turn.index} of episode {turn.episode_id}: "
            "it was played from the picture alone (image_only_mode)"
        )
    return prompt if system is None else [Message(role="system", parts=(TextPart(text=system),)), *prompt]


def _said(turn: TurnRow, episode: Candidate, how: Played, form: Form, label: Label | None) -> Reply:
    """The reply that the line teaches."""
    given = turn.reply
    said = actions.format_reply(label.actions, how.reply_format) if label else _reply(given)
    if not form.rationales:
        return said
    if how.reply_format != "tool_call":
        raise StepFailed(
            f"rationales = true puts words before a tool call, and job {episode.job_id} was played with "
            'reply_format = "text", which has none'
        )
    goal = label.goal if label else given["notes"].get("goal")
    if not goal:
        raise StepFailed(
            f"rationales = true needs the expert's goal, and turn {turn.index} of episode {episode.id} has none: it was played "
            f'by {episode.policy}; keep policies = ["scripted"] alone, or relabel'
        )
    return Reply(text=f"{goal}\n{said.text}" if said.text else goal, tool_calls=said.tool_calls)


def _metadata(turn: TurnRow, episode: Candidate, form: Form, value: float, label: Label | None) -> dict[str, Any]:
    """The same keys, and values of the same types, in every line of every file, for readers that take their columns from the
    first lines. So a value that is not there is an empty text, and a list of names is a text with blanks."""
    return {
        "job": episode.job_id,
        "episode": episode.id,
        "seed": episode.seed,
        "member": episode.member,
        "turn": turn.index,
        "policy": episode.policy,
        "model": episode.model or "",
        "split": episode.split,
        "task_id": episode.task_id or "",
        "reward": turn.reward,
        "return_to_go": value,
        "unlocked": " ".join(turn.unlocked),
        "achievements_total": episode.unlocked,
        "outcome": turn.outcome,
        "relabelled_by": (form.expert or "") if label else "",
        "original_actions": " ".join([*turn.actions, *turn.dropped]) if label else "",
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


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=HASH_BYTES).digest()


def _size(png: bytes) -> tuple[int, int]:
    """Width and height of a PNG, from its header."""
    width, height = struct.unpack(">II", png[16:24])
    return width, height


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
    return pixels.enlarged(row.png, how.upscale_to, tiles=how.tiles)
