"""From the answer of a task app to a trace: whole where it is synthq's own, and as much as the contract tells where it is not.

Of another app's episode the store gets what came: prompts and replies as they were sent, rewards as they were reported. Nothing
is filled in: a turn that shows no call has no actions, and a reward that was not told is not counted.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.errors import BadFrame, BadTrace, InvalidInput, TaskAppFailed
from app.records import EpisodeKey, Frame, ImagePart, Message, Outcome, Parsed, Part, Reply, TextPart, ToolCall, Turn
from app.specs.eval import EvalSpec
from app.specs.policies import OPENAI, policy_name
from app.store import turns as turn_rows
from app.store.foreign import FOREIGN, REPORTED
from workers.rollout import actions, envs, prompts
from workers.rollout.play import Totals
from workers.transport.pixels import decode_png
from workers.transport.trace import FORMAT, Trace, unpack

MOST_ACTIONS = 20
"""What the contract's environment takes in one call."""


def trace_of(answer: Mapping[str, Any], spec: EvalSpec, label: str, key: EpisodeKey) -> Trace:
    """The trace in an answer to ``POST /rollout``. Raises TaskAppFailed for an answer that holds none, or another episode's."""
    if isinstance(broke := answer.get("error"), str):
        raise TaskAppFailed(f"the task app did not play to the end: {broke}")
    sent = answer.get("trace")
    try:
        if isinstance(sent, dict) and sent.get("format") == FORMAT:
            trace = unpack(sent)
        else:
            trace = _Foreign(spec, label, key).trace(answer)
    except (BadTrace, BadFrame, InvalidInput) as error:
        raise TaskAppFailed(f"the task app's answer cannot be stored: {error}") from None
    wanted = {"iteration": key.iteration, "seed": key.seed, "member": key.member, "policy": label}
    for name, value in wanted.items():
        if trace.episode[name] != value:
            raise TaskAppFailed(f"the task app played {name} {trace.episode[name]!r}, and {value!r} was asked for")
    return trace


@dataclass(slots=True)
class _Foreign:
    """Reads the steps of an app that is not synthq's."""

    spec: EvalSpec
    label: str
    key: EpisodeKey
    frames: dict[str, Frame] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def trace(self, answer: Mapping[str, Any]) -> Trace:
        """The whole episode."""
        steps = _steps(answer)
        known = envs.make(self.spec.eval.env, dict(self.spec.eval.env_settings())).actions
        totals, rows, achievements, length = Totals(), [], dict[str, int](), 0
        for index, step in enumerate(steps):
            turn = self._turn(index, step, known, last=index == len(steps) - 1)
            length += len(turn.actions)
            achievements.update({name: length for name in turn.unlocked if name not in achievements})
            row = turn_rows.row(turn)
            rows.append(row)
            totals.add(turn, row)
            if (system := turn_rows.system_text(turn)) is not None:
                self.texts[turn_rows.text_sha256(system)] = system
        name, variant = policy_name(self.label)
        episode = {
            "iteration": self.key.iteration,
            "seed": self.key.seed,
            "member": self.key.member,
            "env": self.spec.eval.env,
            "env_version": FOREIGN,
            "policy": self.label,
            "policy_version": FOREIGN,
            "model": variant if name == OPENAI else None,
            "ended": _ended(answer, totals),
            "length": length,
            "achievements": achievements,
            "unlocked": len(achievements),
            **totals.figures(),
            "last_frame": None,
        }
        return Trace(episode=episode, rows=tuple(rows), frames=tuple(self.frames.values()), texts=self.texts)

    def _turn(self, index: int, step: Mapping[str, Any], known: Sequence[str], *, last: bool) -> Turn:
        info = _table(step.get("info"))
        meta = _table(info.get("meta"))
        reply = _reply(step, meta)
        parsed = actions.parse(reply, reply_format="tool_call", actions=known, max_actions=MOST_ACTIONS)
        unlocked = tuple(name for name in info.get("achievements_added") or () if isinstance(name, str))
        rewards = {"unlocked": float(len(unlocked)), **_reported(step)}
        messages = self._messages(step, meta)
        shown = next((p.sha256 for m in messages for p in m.parts if isinstance(p, ImagePart)), None)
        done = step.get("done") is True
        return Turn(
            index=index,
            frame=shown,
            messages=messages,
            reply=reply,
            outcome=parsed.outcome,
            detail=parsed.detail,
            actions=_carried_out(parsed),
            dropped=(),
            rewards=rewards,
            reward=rewards.get(self.spec.eval.reward, rewards.get(REPORTED, 0.0)),
            unlocked=unlocked,
            terminated=last and done and step.get("truncated") is not True,
            truncated=last and step.get("truncated") is True,
            state_sha256=None,
            timings=_timings(meta),
        )

    def _messages(self, step: Mapping[str, Any], meta: Mapping[str, Any]) -> tuple[Message, ...]:
        """The prompt as it was sent to the model; without one on record, the text of the observation."""
        sent = _table(meta.get("inference_request")).get("messages")
        if isinstance(sent, list):
            return tuple(self._message(message) for message in sent if isinstance(message, dict))
        text = _table(step.get("obs")).get("text")
        return (Message(role="user", parts=(TextPart(text=text),)),) if isinstance(text, str) and text else ()

    def _message(self, message: Mapping[str, Any]) -> Message:
        role, content = message.get("role"), message.get("content")
        if role not in ("system", "user", "assistant", "tool"):
            raise BadTrace(f"a message has the role {role!r}")
        if isinstance(content, str):
            return Message(role=role, parts=(TextPart(text=content),))
        parts = [self._part(part) for part in content or () if isinstance(part, dict)]
        return Message(role=role, parts=tuple(parts))

    def _part(self, part: Mapping[str, Any]) -> Part:
        if isinstance(part.get("text"), str):
            return TextPart(text=part["text"])
        url = _table(part.get("image_url")).get("url")
        head, _, data = url.partition(",") if isinstance(url, str) else ("", "", "")
        if head != "data:image/png;base64":
            raise BadTrace("a message shows a picture that is no PNG in a data: URL")
        try:
            png = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            raise BadTrace("a message shows a picture that is not base64") from None
        height, width = decode_png(png).shape[:2]
        frame = Frame(sha256=hashlib.sha256(png).hexdigest(), png=png, width=width, height=height)
        self.frames[frame.sha256] = frame
        return ImagePart(sha256=frame.sha256)


def _steps(answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The steps of the one trajectory."""
    listed = answer.get("trajectories") or answer.get("trajectory")
    first = listed[0] if isinstance(listed, list) and listed else listed
    steps = first.get("steps") if isinstance(first, dict) else None
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise TaskAppFailed(
            f"the task app's answer has no trajectories[0].steps (it has {', '.join(sorted(map(str, answer))[:12])})"
        )
    return steps


def _reply(step: Mapping[str, Any], meta: Mapping[str, Any]) -> Reply:
    """The reply as the model gave it, where the answer holds it; else the calls that the step names."""
    choices = _table(meta.get("raw_response")).get("choices")
    message = _table(choices[0]).get("message") if isinstance(choices, list) and choices else None
    if isinstance(message, dict):
        try:
            return prompts.reply_from_openai(message)
        except InvalidInput:
            pass  # the step itself says what was called
    calls = [call for call in step.get("tool_calls") or () if isinstance(call, dict)]
    return Reply(tool_calls=tuple(_call(call) for call in calls), policy_version=FOREIGN)


def _call(call: Mapping[str, Any]) -> ToolCall:
    arguments = call.get("arguments", call.get("args"))
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return ToolCall(name=str(call.get("tool_name", call.get("name"))), arguments=text)


def _carried_out(parsed: Parsed) -> tuple[str, ...]:
    return parsed.actions if parsed.outcome is Outcome.OK else ()


def _reported(step: Mapping[str, Any]) -> dict[str, float]:
    reward = step.get("reward")
    fits = isinstance(reward, int | float) and not isinstance(reward, bool) and math.isfinite(reward)
    return {REPORTED: float(reward)} if fits and reward is not None else {}


def _timings(meta: Mapping[str, Any]) -> dict[str, float]:
    """Milliseconds by part, as far as they were told."""
    timing = _table(meta.get("timing"))
    named = {"policy": meta.get("inference_ms", timing.get("inference_ms")), "env": timing.get("env_step_ms")}
    return {name: float(ms) for name, ms in named.items() if isinstance(ms, int | float) and math.isfinite(ms)}


def _ended(answer: Mapping[str, Any], totals: Totals) -> str:
    if totals.terminated:
        return "died"
    return "time" if answer.get("aborted") is True else "turns"


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
