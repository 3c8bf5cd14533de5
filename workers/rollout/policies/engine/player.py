"""The policy that asks a model which synthq serves: the tokens that were sampled are the tokens that are stored."""

from __future__ import annotations

from typing import Any, Final

from app.errors import InvalidInput
from app.records import EpisodeKey, Reply
from app.specs.policies import MODEL
from workers.rollout import prompts
from workers.rollout.envs.base import Environment
from workers.rollout.play import TIMINGS
from workers.rollout.policies import wire
from workers.rollout.policies.base import Request
from workers.rollout.policies.engine import answer
from workers.rollout.policies.engine.engines import Engines, Served, Stay
from workers.rollout.policies.keyed import Key, from_snapshot, key_of, number, to_snapshot
from workers.transport.generate import neutral_message, salt

VERSION: Final = "model-1"
HTTP: Final = "http"
"""The part of a turn's time that no part of the engine's own tells of: the way there and back; with vLLM the making of the prompt
too."""
ENGINE: Final = "engine"
"""All of the time from question to answer, where the engine tells no part of it."""


class Model:
    """A model plays. It stays with one endpoint as long as that answers.

    ``engines`` are those of the step that plays. Raises InvalidInput without a model or without engines.
    """

    name = MODEL
    needs_messages = True

    def __init__(
        self,
        *,
        variant: str | None = None,
        engines: Engines | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_tokens: int = 512,
        deadline_s: float = 120.0,
        upscale_to: int | None = None,
    ) -> None:
        if not variant:
            raise InvalidInput(f"the policy {MODEL!r} needs a model; write {MODEL}:FOLDER")
        if engines is None:
            raise InvalidInput(
                f"the policy '{MODEL}:{variant}' is served by inference workers, to whom only the steps of a job go; "
                "elsewhere a model plays as openai:MODEL at policy_config.inference_url"
            )
        self.model: str | None = variant
        self._engines = engines
        self._use = engines.use(f"{MODEL}:{variant}")
        self._stay = Stay(use=self._use)
        self._deadline_s, self._upscale_to = deadline_s, upscale_to
        self._asked: dict[str, Any] = {
            "model": self._use.served,
            "cache_salt": salt(self._use.served),
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "logprobs": True,
            "top_logprobs": 0,
            "return_token_ids": True,
            "skip_special_tokens": False,
            "stream": False,
        }
        self.version = answer.version(self._use.served, self._use.sha256)
        self._key: Key | None = None

    def begin(self, env: Environment, key: EpisodeKey, *, sampling_seed: int) -> None:
        """Remember what keys the seeds that are sent."""
        self._key = key_of(key, sampling_seed)

    async def reply(self, request: Request) -> Reply:
        """Ask for one turn's reply.

        Raises EngineFailed when none came in time, EngineRefused when the engine takes no such request, Drain when nobody serves
        the model any more.
        """
        served = await self._engines.ask(self._stay, self.body(request), deadline_s=self._deadline_s)
        due = self._use.sha256 or (served.sha256 if self._use.adapter else "")  # a base may have been replaced since
        reply, notes = answer.read(served.value, served=self._use.served, due=due, told=served.sha256)
        self.version = reply.policy_version
        return Reply(
            text=reply.text,
            tool_calls=reply.tool_calls,
            finish=reply.finish,
            policy_version=reply.policy_version,
            prompt_ids=reply.prompt_ids,
            output_ids=reply.output_ids,
            logprobs=reply.logprobs,
            notes={**notes, **_told(served, notes[TIMINGS])},
        )

    def body(self, request: Request) -> dict[str, Any]:
        """The body of a turn's request. Its tools are in the prompt; the text comes back as it was sampled, and is read here."""
        messages = wire.messages(request, upscale_to=self._upscale_to)
        body = {
            **self._asked,
            "messages": [neutral_message(message) for message in messages],
            "seed": number(self.name, self._key, request.index),
        }
        if request.options.reply_format == "tool_call":
            body["tools"] = prompts.tools(request.actions, request.options.max_actions)
            body["tool_choice"] = "none"
        return body

    def snapshot(self) -> bytes:
        """The four numbers that key the seeds, as JSON. Not the endpoint: play goes on at any other."""
        return to_snapshot(VERSION, self._key)

    def restore(self, snapshot: bytes) -> None:
        """Take over the numbers of a snapshot."""
        self._key = from_snapshot(snapshot, VERSION, self.name)

    async def close(self) -> None:
        """Give up the place at the endpoint; the connections are the step's."""
        self._engines.leave(self._stay)


def _told(served: Served, inside: dict[str, float]) -> dict[str, Any]:
    """What a reply's notes tell of how it was had."""
    between = max(0.0, served.latency_ms - sum(inside.values()))
    return {
        "endpoint": served.endpoint,
        "attempts": served.attempts,
        "latency_ms": round(served.latency_ms, 3),
        TIMINGS: {HTTP if inside else ENGINE: round(between, 3), **inside},
    }
