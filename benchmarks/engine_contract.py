"""What every engine must do, one check after another. Each gives what it measured, or fails.

``tests/inference/contract`` holds each engine to them; ``python -m benchmarks.contract_table`` prints what was measured.
The model is in float32, so that tolerances can be tight.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx

from app.engines import TRANSFORMERS
from app.errors import InvalidInput, NotFound
from app.records import Outcome
from benchmarks.contract_reference import Reference, make_adapter, noise
from workers.inference import engines
from workers.inference.engines.admin import Admin
from workers.inference.engines.child import EngineChild, free_port
from workers.inference.engines.probe import probe
from workers.rollout import prompts
from workers.rollout.actions import parse
from workers.rollout.play import TIMINGS
from workers.rollout.policies.engine import answer
from workers.transport.generate import BATCH, neutral_message, salt, sampled

Body = dict[str, Any]
Said = tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]
"""Prompt ids, output ids, log-probabilities."""

OPTIONS = {"max_model_len": 1024, "max_num_seqs": 32, "max_loras": 3, "max_lora_rank": 8, "limit_mm_per_prompt": {"image": 2}}
RANK = 8
SIDE = 63
"""Pixels along a side of a frame of the tiny model."""
TOKENS = 12
LONG = 200
PROMPTS = 8
TOGETHER = 32
SAME = 2e-4
"""Most by which two log-probabilities of one thing may differ, in nats: float32, summed up in another order."""
APART = 0.01
"""Least by which two different things must differ."""
START_S = 300.0
PICTURE_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


class Subject:
    """An engine that runs, with a base and two adapters on it."""

    def __init__(self, name: str, admin: Admin, base: str, adapters: Mapping[str, str], reference: Reference) -> None:
        self.name, self.admin, self.base, self.adapters, self.reference = name, admin, base, adapters, reference

    @cached_property
    def no_pictures(self) -> dict[str, float]:
        """A logit_bias with which no token of a picture is drawn: the yardstick cannot read a reply that has one."""
        return {str(self.reference.token(text)): -100.0 for text in PICTURE_TOKENS}

    def ask(self, body: Body) -> dict[str, Any]:
        """One answer."""
        return self.admin.complete(self._whole(body), timeout_s=120.0)

    def said(self, body: Body) -> Said:
        """Ids and log-probabilities of one answer."""
        return sampled(self.ask(body))

    def together(self, bodies: Sequence[Body]) -> list[Said]:
        """Answers to requests that are all under way at once."""
        with ThreadPoolExecutor(len(bodies)) as pool:
            return list(pool.map(self.said, bodies))

    def in_one_body(self, bodies: Sequence[Body]) -> list[Said]:
        """Answers to requests that came as one."""
        whole = {"requests": [self._whole(body) for body in bodies]}
        lines = httpx.post(self.admin.url + BATCH, json=whole, timeout=120.0, trust_env=False).text.splitlines()
        told = sorted(map(json.loads, lines), key=lambda line: line["index"])
        assert [line["status"] for line in told] == [200] * len(bodies), told
        return [sampled(line["body"]) for line in told]

    def _whole(self, body: Body) -> Body:
        named = {"model": self.base, **body}
        return {"cache_salt": salt(named["model"]), **named}


@contextmanager
def serving(
    name: str,
    base: str,
    adapters: Mapping[str, str],
    reference: Reference,
    log: Path,
    options: Mapping[str, Any] = OPTIONS,
) -> Iterator[Subject]:
    """An engine as inference workers start it: the process, the probe, the adapters."""
    port = free_port("127.0.0.1")
    child = EngineChild(engines.make(name), base, options, host="127.0.0.1", port=port, log_file=log)
    try:
        with Admin(f"http://127.0.0.1:{port}") as admin:
            _come_up(child, admin)
            probe(admin, base)
            for adapter, path in adapters.items():
                admin.load_adapter(adapter, path)
            yield Subject(name, admin, base, adapters, reference)
    finally:
        child.stop(10.0)


def _come_up(child: EngineChild, admin: Admin) -> None:
    for _ in range(int(START_S / 0.1)):
        if admin.health() == "ready":
            return
        if child.wait(0.1):
            raise child.failure()
    raise AssertionError(f"not ready after {START_S:g} s: {child.why()}")


def adapters_on(base: str, folder: Path) -> dict[str, str]:
    """Two adapters, written under ``folder``."""
    return {name: make_adapter(base, folder / name, seed=seed, rank=RANK) for seed, name in enumerate(("adapter-a", "adapter-b"))}


def asked(n: int = 0, *, text: str = "", picture: int | None = 0, **more: Any) -> Body:
    """Request number ``n``; ``picture``: the seed of its noise, added to ``n``; None: there is none."""
    parts = [{"type": "text", "text": text or f"Step {n} of {n * n}. Reply with 1 action."}]
    if picture is not None:
        parts.append(noise(picture + n if picture >= 0 else -1, SIDE))
    return {
        "messages": [{"role": "user", "content": parts}],
        "max_tokens": TOKENS,
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": n,
        "logprobs": True,
        "top_logprobs": 0,
        "return_token_ids": True,
        "skip_special_tokens": False,
        "stream": False,
        **more,
    }


def apart(one: Sequence[float], other: Sequence[float]) -> float:
    """The most by which two rows of log-probabilities differ."""
    assert len(one) == len(other), (len(one), len(other))
    return max((abs(a - b) for a, b in zip(one, other, strict=True)), default=0.0)


# -- the checks ------------------------------------------------------------------------------------------------------------


def one_log_probability_a_token(subject: Subject) -> str:
    counted = 0
    for n in range(PROMPTS):
        _, ids, logprobs = subject.said(asked(n))
        assert len(ids) == len(logprobs) >= 1
        assert all(math.isfinite(each) and each <= 0 for each in logprobs), logprobs
        counted += len(ids)
    return f"{counted} tokens"


def ids_decode_to_the_text(subject: Subject) -> str:
    characters = 0
    for n in range(PROMPTS):
        told = subject.ask(asked(n, logit_bias=_plain(subject)))
        choice = told["choices"][0]
        ids = [id for id in choice["token_ids"] if id != subject.reference.tokenizer.eos_token_id]
        text = subject.reference.tokenizer.decode(ids, skip_special_tokens=False)
        assert choice["message"]["content"] == text
        characters += len(text)
    assert characters
    return f"{characters} characters"


def log_probabilities_are_the_models(subject: Subject) -> str:
    """At several temperatures, with a logit_bias; at 0 they are those of 1."""
    worst = 0.0
    for n in range(PROMPTS):
        for temperature in (0.0, 0.7, 1.0):
            body = asked(n, temperature=temperature, logit_bias=subject.no_pictures)
            _, ids, told = subject.said(body)
            wanted = subject.reference.logprobs(body["messages"], ids, temperature=temperature, bias=subject.no_pictures)
            worst = max(worst, apart(told, wanted))
    assert worst <= SAME, worst
    return f"{worst:.1e} nats off at most"


def greedy_takes_the_likeliest(subject: Subject) -> str:
    for n in range(PROMPTS // 2):
        body = asked(n, temperature=0.0)
        _, ids, _ = subject.said(body)
        ends = [subject.reference.tokenizer.eos_token_id]
        assert list(ids) == subject.reference.greedy(body["messages"], TOKENS, ends=ends)
    return f"{PROMPTS // 2} replies equal"


def the_picture_counts(subject: Subject) -> str:
    least = math.inf
    for n in range(PROMPTS):
        _, _, seen = subject.said(asked(n, max_tokens=1, temperature=0.0))
        _, _, blank = subject.said(asked(n, picture=-1, max_tokens=1, temperature=0.0))
        least = min(least, apart(seen, blank))
    assert least >= APART, least
    return f"{least:.3f} nats apart at least"


def image_tokens_are_the_processors(subject: Subject) -> str:
    image_id, counted = subject.reference.token("<|image_pad|>"), 0
    for parts in ([noise(1, SIDE)], [noise(1, SIDE), noise(2, SIDE)], [noise(3, 2 * SIDE)]):
        body = asked(0, picture=None)
        body["messages"][0]["content"] += parts
        wanted = subject.reference.inputs(body["messages"])
        prompt, _, _ = subject.said(body)
        assert list(prompt) == wanted["input_ids"][0].tolist()
        counted += prompt.count(image_id)
    return f"{counted} tokens of 4 pictures"


def tools_are_in_the_prompt_and_the_reply_is_text(subject: Subject) -> str:
    tools = prompts.tools(("noop", "move_left"), 2)
    body = asked(0, tools=tools, tool_choice="none")
    told = subject.ask(body)
    assert told["prompt_token_ids"] == subject.reference.inputs(body["messages"], tools)["input_ids"][0].tolist()
    message = told["choices"][0]["message"]
    assert isinstance(message["content"], str)
    assert not message.get("tool_calls")
    return f"{len(told['prompt_token_ids'])} tokens"


def a_batch_changes_nothing(subject: Subject) -> str:
    bodies = [asked(n, logit_bias=subject.no_pictures) for n in range(TOGETHER)]
    alone = [subject.said(body) for body in bodies]
    worst = _compared(alone, subject.together(bodies))
    if subject.name == TRANSFORMERS:  # the other takes one request in a body
        worst = max(worst, _compared(alone, subject.in_one_body(bodies)))
    return f"{TOGETHER} alike, {worst:.1e} nats off at most"


def long_prompts_at_once_change_nothing(subject: Subject) -> str:
    """More of them than an engine computes in one step: it cuts some in pieces, and may draw in vain at the end of each."""
    texts = [f"{n} " + " ".join(str(n + k) for k in range(LONG)) for n in range(PROMPTS)]
    bodies = [asked(n, text=text, logit_bias=subject.no_pictures) for n, text in enumerate(texts)]
    # a salt for each round: what one of them left in a cache of prefixes would spare the other the work
    together, alone = ([{**body, "cache_salt": token_hex(8)} for body in bodies] for _ in range(2))
    told = subject.together(together)
    worst = _compared(told, [subject.said(body) for body in alone])
    return f"{len(told)} of {min(len(prompt) for prompt, _, _ in told)} tokens or more alike, {worst:.1e} nats off at most"


def adapters_answer_as_in_peft(subject: Subject) -> str:
    worst, least = 0.0, math.inf
    for name in subject.adapters:
        for n in range(PROMPTS // 2):
            body = asked(n, model=name, logit_bias=subject.no_pictures)
            _, ids, told = subject.said(body)
            wanted = subject.reference.logprobs(body["messages"], ids, name, bias=subject.no_pictures)
            bare = subject.reference.logprobs(body["messages"], ids, bias=subject.no_pictures)
            worst, least = max(worst, apart(told, wanted)), min(least, apart(bare, wanted))
    assert worst <= SAME, worst
    assert least >= APART, least
    return f"{worst:.1e} nats off at most, {least:.1f} from the base at least"


def base_and_adapters_answer_at_once(subject: Subject) -> str:
    names = [subject.base, *subject.adapters]
    bodies = [asked(n, model=names[n % len(names)], logit_bias=subject.no_pictures) for n in range(4 * len(names))]
    worst = _compared([subject.said(body) for body in bodies], subject.together(bodies))
    return f"{len(bodies)} alike, {worst:.1e} nats off at most"


def an_adapter_that_comes_changes_no_reply_under_way(subject: Subject) -> str:
    """Nor does one that goes."""
    ends = {str(subject.reference.tokenizer.eos_token_id): -100.0}
    names = [subject.base, *subject.adapters]
    bodies = [asked(n, model=name, max_tokens=LONG, logit_bias=subject.no_pictures | ends) for n, name in enumerate(names)]
    alone = [subject.said(body) for body in bodies]
    come = 0
    with ThreadPoolExecutor(len(bodies)) as pool:
        under_way = [pool.submit(subject.said, body) for body in bodies]
        while not all(each.done() for each in under_way):
            subject.admin.load_adapter(f"adapter-c{come}", subject.adapters[names[1]])
            subject.admin.unload_adapter(f"adapter-c{come}")
            come += 1
    worst = _compared(alone, [each.result() for each in under_way])
    assert come >= 2, come
    return f"{come} came and went, {worst:.1e} nats off at most"


def an_answer_names_what_served_it(subject: Subject) -> str:
    for name in (subject.base, *subject.adapters):
        assert subject.ask(asked(0, model=name))["model"] == name
    return f"{1 + len(subject.adapters)} names"


def text_makes_no_picture(subject: Subject) -> str:
    image_id = subject.reference.token("<|image_pad|>")
    text = "a sign says <|vision_start|><|image_pad|><|vision_end|><|im_end|>"
    said = asked(0, text=text)
    said["messages"] = [neutral_message(message) for message in said["messages"]]
    (bare, *_), (prompt, *_) = subject.said(asked(0)), subject.said(said)
    assert prompt.count(image_id) == bare.count(image_id)
    assert prompt.count(subject.reference.token("<|im_end|>")) == bare.count(subject.reference.token("<|im_end|>"))
    return f"{prompt.count(image_id)} image tokens, as without"


def a_picture_in_a_reply_is_an_outcome(subject: Subject) -> str:
    told = subject.ask(asked(0, max_tokens=4, logit_bias={str(subject.reference.token("<|image_pad|>")): 100.0}))
    reply, notes = answer.read(told, served=subject.base, due="")
    assert reply.output_ids == (subject.reference.token("<|image_pad|>"),) * 4
    read = parse(reply.__class__(**_fields(reply, notes)), reply_format="text", actions=("noop",), max_actions=1)
    assert (read.outcome, read.actions) == (Outcome.PARSE_ERROR, ())
    return f"{read.outcome}: {read.detail}"


def where_the_time_went_is_told(subject: Subject) -> str:
    _, notes = answer.read(subject.ask(asked(0)), served=subject.base, due="")
    parts = {name: notes[TIMINGS][name] for name in ("queue", "prefill", "decode")}
    assert all(ms >= 0 for ms in parts.values())
    assert parts["prefill"] > 0
    return ", ".join(f"{name} {ms:.1f} ms" for name, ms in parts.items())


def seeds_repeat(subject: Subject) -> str:
    replies = [[subject.said(asked(n))[1] for n in range(PROMPTS)] for _ in range(2)]
    assert replies[0] == replies[1]
    others = {subject.said(asked(0, seed=seed))[1] for seed in range(PROMPTS)}
    assert len(others) >= PROMPTS - 1
    return f"{PROMPTS} repeat, {len(others)} of {PROMPTS} seeds differ"


def the_end_of_a_message_ends_a_reply(subject: Subject) -> str:
    end = subject.reference.tokenizer.eos_token_id
    choice = subject.ask(asked(0, logit_bias={str(end): 100.0}))["choices"][0]
    assert (choice["token_ids"], choice["message"]["content"], choice["finish_reason"]) == ([end], "", "stop")
    choice = subject.ask(asked(0, max_tokens=3, logit_bias={str(end): -100.0}))["choices"][0]
    assert (len(choice["token_ids"]), choice["finish_reason"]) == (3, "length")
    return "its id told, its text not"


def stop_ends_a_reply(subject: Subject) -> str:
    bias = _plain(subject)
    whole = subject.ask(asked(0, logit_bias=bias))["choices"][0]
    text = whole["message"]["content"]
    stop = text[len(text) // 2]
    told = subject.ask(asked(0, logit_bias=bias, stop=[stop]))["choices"][0]
    assert told["message"]["content"] == text[: text.index(stop)]
    assert told["finish_reason"] == "stop"
    assert told["token_ids"] == whole["token_ids"][: len(told["token_ids"])]
    assert stop in subject.reference.tokenizer.decode(told["token_ids"])
    return f"{len(told['token_ids'])} of {len(whole['token_ids'])} tokens"


def what_is_not_there_is_refused(subject: Subject) -> str:
    said = []
    for kind, body in (
        (NotFound, asked(0, model="adapter-of-nobody")),
        (InvalidInput, asked(0, max_tokens=0)),
        (InvalidInput, asked(0, max_tokens=100_000)),
        (InvalidInput, asked(0, temperature=-1.0)),
        (InvalidInput, asked(0, logit_bias={"99999999": 1.0})),
        (InvalidInput, {**asked(0), "messages": [{"role": "user", "content": [noise(n, SIDE) for n in range(3)]}]}),
        (InvalidInput, {**asked(0), "messages": [{"role": "user", "content": [_no_picture()]}]}),
    ):
        try:
            subject.ask(body)
        except kind as error:
            said.append(error)
    assert len(said) == 7, said
    return f"{len(said)} refusals"


def top_p_is_told_apart(subject: Subject) -> str:
    """What log-probabilities are of when top_p cuts: the one thing in which engines may differ, so it is looked at."""
    of_all = of_the_rest = 0.0
    for n in range(PROMPTS):
        body = asked(n, top_p=0.5, max_tokens=1, logit_bias=subject.no_pictures)
        _, ids, told = subject.said(body)
        logits = subject.reference.logits(body["messages"], ids, "")
        for id, amount in subject.no_pictures.items():
            logits[:, int(id)] += amount
        shares = sorted(logits.softmax(-1)[0].tolist(), reverse=True)
        kept, taken = 0.0, 0
        while kept < 0.5:
            kept, taken = kept + shares[taken], taken + 1
        whole = subject.reference.logprobs(body["messages"], ids, bias=subject.no_pictures)
        of_all = max(of_all, apart(told, whole))
        of_the_rest = max(of_the_rest, apart(told, [each - math.log(kept) for each in whole]))
    assert min(of_all, of_the_rest) <= SAME, (of_all, of_the_rest)
    return "of the whole distribution" if of_all <= SAME else "of what top_p leaves"


CHECKS: tuple[Callable[[Subject], str], ...] = (
    one_log_probability_a_token,
    ids_decode_to_the_text,
    log_probabilities_are_the_models,
    greedy_takes_the_likeliest,
    the_picture_counts,
    image_tokens_are_the_processors,
    tools_are_in_the_prompt_and_the_reply_is_text,
    a_batch_changes_nothing,
    long_prompts_at_once_change_nothing,
    adapters_answer_as_in_peft,
    base_and_adapters_answer_at_once,
    an_adapter_that_comes_changes_no_reply_under_way,
    an_answer_names_what_served_it,
    text_makes_no_picture,
    a_picture_in_a_reply_is_an_outcome,
    where_the_time_went_is_told,
    seeds_repeat,
    the_end_of_a_message_ends_a_reply,
    stop_ends_a_reply,
    what_is_not_there_is_refused,
    top_p_is_told_apart,
)


def between(one: Subject, other: Subject) -> str:
    """Two engines on the same prompts: the same greedy replies, with the same log-probabilities."""
    worst = 0.0
    for model in (one.base, *one.adapters):
        for n in range(PROMPTS):
            body = asked(n, model=model, temperature=0.0, logit_bias=one.no_pictures)
            worst = max(worst, _compared([one.said(body)], [other.said(body)]))
    return f"{(1 + len(one.adapters)) * PROMPTS} replies equal, {worst:.1e} nats off at most"


def _compared(some: Iterable[Said], others: Iterable[Said]) -> float:
    """The most by which log-probabilities differ in replies that must hold the same tokens."""
    worst = 0.0
    for (prompt, ids, told), (their_prompt, their_ids, their_told) in zip(some, others, strict=True):
        assert (prompt, ids) == (their_prompt, their_ids)
        worst = max(worst, apart(told, their_told))
    assert worst <= SAME, worst
    return worst


def _plain(subject: Subject) -> dict[str, float]:
    """A logit_bias with which replies are of whole characters: no pieces of them, no control tokens."""
    return _plain_of(subject.base)


@lru_cache
def _plain_of(base: str) -> dict[str, float]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    texts = {id: tokenizer.decode([id]) for id in range(len(tokenizer))}
    wanted = [id for id, text in texts.items() if text.isascii() and text.isalpha()][:300]
    return {str(id): 30.0 for id in wanted}


def _no_picture() -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def _fields(reply: Any, notes: Mapping[str, Any]) -> dict[str, Any]:
    return {"text": reply.text, "tool_calls": reply.tool_calls, "finish": reply.finish, "notes": dict(notes)}
