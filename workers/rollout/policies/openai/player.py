"""The policy that asks a model at an OpenAI-compatible endpoint: any model there can play, and so teach.

What it answers is kept as it came. Nothing is made up for an answer that is missing, cut, filtered or of another shape.
"""

from __future__ import annotations

from typing import Any, Final

from app.errors import InvalidInput
from app.records import EpisodeKey, ImagePart, Reply
from app.store.spending import JobMeter, Tokens, cost
from workers.rollout import prompts
from workers.rollout.envs.base import Environment
from workers.rollout.policies.base import Request
from workers.rollout.policies.keyed import Key, from_snapshot, key_of, number, to_snapshot
from workers.rollout.policies.openai import answer
from workers.rollout.policies.openai.body import Body, Dialect, messages, most_tokens
from workers.rollout.policies.openai.endpoint import Endpoint
from workers.rollout.policies.openai.exchange import Answer, Exchange
from workers.rollout.policies.wire import storable
from workers.transport.pixels import decode_png

VERSION: Final = "openai-1"
_THINKING: Final = {"think": True, "no_think": False}


class OpenAI:
    """A model plays. One object holds one pool of connections; ``close`` closes it.

    ``endpoint`` is the base address (``https://HOST/v1``), ``api_key_env`` names the variable with its key (None: it takes none),
    ``meter`` counts and caps what is spent (None: nobody counts). Raises InvalidInput without a model or an address, and
    EngineRefused when the variable holds no key.
    """

    name = "openai"
    needs_messages = True

    def __init__(
        self,
        *,
        variant: str | None = None,
        endpoint: str | None = None,
        api_key_env: str | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_tokens: int = 512,
        tool_choice: str = "auto",
        deadline_s: float = 120.0,
        detail: str = "auto",
        reasoning_effort: str | None = None,
        thinking_mode: str | None = None,
        thinking_budget: int | None = None,
        upscale_to: int | None = None,
        input_usd_per_million: float | None = None,
        output_usd_per_million: float | None = None,
        meter: JobMeter | None = None,
    ) -> None:
        if not variant:
            raise InvalidInput("the policy 'openai' needs a model; write openai:MODEL")
        if not endpoint:
            raise InvalidInput(f"the policy 'openai:{variant}' needs an address; give policy_config.provider or inference_url")
        self.model: str | None = variant
        self.version = f"{VERSION}/{variant}"
        self._endpoint = Endpoint(endpoint, api_key_env)
        self._dialect = Dialect()
        self._meter = meter
        self._prices = {"input_usd_per_million": input_usd_per_million, "output_usd_per_million": output_usd_per_million}
        self._deadline_s, self._detail, self._upscale_to = deadline_s, detail, upscale_to
        self._tool_choice = tool_choice
        self._most_output = max_tokens + (thinking_budget or 0)
        self._sampling: Body = {"model": variant, "temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
        if reasoning_effort is not None:
            self._sampling["reasoning_effort"] = reasoning_effort
        if thinking_mode is not None:
            self._sampling["chat_template_kwargs"] = {"enable_thinking": _THINKING[thinking_mode]}
        if thinking_budget is not None:
            self._sampling["thinking_budget"] = thinking_budget
        self._key: Key | None = None

    def begin(self, env: Environment, key: EpisodeKey, *, sampling_seed: int) -> None:
        """Remember what keys the seeds that are sent. What was learned of the endpoint stays."""
        self._key = key_of(key, sampling_seed)

    async def reply(self, request: Request) -> Reply:
        """Ask for one turn's reply.

        Raises EngineFailed when none came in time or the request was refused, EngineRefused when all would be, BudgetSpent
        before a request that could pass the cap. An answer that cannot be used is a reply that finished with ``error``.
        """
        body = self._body(request)
        most = most_tokens(body, most_output=self._most_output, picture_px=self._picture_px(request))
        exchange = Exchange(
            endpoint=self._endpoint,
            dialect=self._dialect,
            meter=self._meter,
            model=str(self.model),
            body=body,
            most=most,
            deadline_s=self._deadline_s,
            draw=lambda attempt: self._number(request.index, attempt) / 2**31,
        )
        found = await exchange.answer()
        if found.value is None:
            said, notes = Reply(finish="error", policy_version=self.version), {"error": found.problem}
        else:
            said, notes = answer.read(found.value, self.version)
        learned = {"learned": exchange.learned} if exchange.learned else {}
        return Reply(
            text=said.text,
            tool_calls=said.tool_calls,
            finish=said.finish,
            policy_version=self.version,
            notes={**notes, **self._told(found, most), **learned},
        )

    def _body(self, request: Request) -> Body:
        body = {
            **self._sampling,
            "messages": messages(request, upscale_to=self._upscale_to, detail=self._detail),
            "seed": self._number(request.index),
        }
        if request.options.reply_format == "tool_call":
            body["tools"] = prompts.tools(request.actions, request.options.max_actions)
            body["tool_choice"] = self._tool_choice
            body["parallel_tool_calls"] = False
        return body

    def _picture_px(self, request: Request) -> int:
        """Side of the picture that the prompt shows, in pixels; 0 without one."""
        if self._upscale_to is not None:
            return self._upscale_to
        shown = next((part.sha256 for each in request.messages for part in each.parts if isinstance(part, ImagePart)), None)
        return max(decode_png(request.frames(shown)).shape) if shown is not None and request.frames is not None else 0

    def _number(self, turn: int, attempt: int = 0) -> int:
        """0 to 2^31 - 1, the same whenever this turn is played."""
        return number(self.name, self._key, turn, attempt)

    def _told(self, found: Answer, most: Tokens) -> dict[str, Any]:
        """What a reply's notes tell of how it was had."""
        served = found.value.get("model") if found.value else None
        wrong = answer.disbelieved(found.value, most)
        return {
            "model": storable(served) if isinstance(served, str) else None,
            "usage": {
                "input_tokens": found.used.input,
                "output_tokens": found.used.output,
                "estimated": found.estimated,
                **({"disbelieved": wrong} if wrong else {}),
            },
            "usd": self._usd(found.used),
            "attempts": found.attempts,
            "latency_ms": round(found.latency_ms, 3),
            "request_id": found.request_id,
        }

    def _usd(self, used: Tokens) -> float | None:
        return cost(used, **self._prices)

    def snapshot(self) -> bytes:
        """The four numbers that key the seeds, as JSON. Neither the key of the endpoint nor its address."""
        return to_snapshot(self.version, self._key)

    def restore(self, snapshot: bytes) -> None:
        """Take over the numbers of a snapshot."""
        self._key = from_snapshot(snapshot, self.version, self.name)

    async def close(self) -> None:
        """Close the connections."""
        await self._endpoint.close()
