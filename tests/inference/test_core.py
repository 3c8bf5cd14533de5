"""Replies that are made many at once are those that are made alone, and those that transformers makes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from core_kit import Answers, apart, engine, inputs, picture, plain_logits, prompt, replies  # noqa: E402

from app.errors import InvalidInput, UnknownName  # noqa: E402
from workers.inference.core import Core  # noqa: E402
from workers.inference.core.request import Sampling  # noqa: E402
from workers.model.types import Prompt  # noqa: E402

TOLERANCE = 1e-4
"""Of log-probabilities in float32; 2e-6 is what is measured."""


@pytest.fixture
def core(loaded: Any) -> Iterator[Core]:
    with engine(loaded, max_model_len=512, image_cache_bytes=1 << 20) as running:
        yield running


def mixed(loaded: Any, count: int) -> list[tuple[Prompt, Sampling]]:
    """Requests of all kinds: short and long, without and with pictures of two sizes, however drawn."""
    asks = []
    for n in range(count):
        pictures = [picture(loaded, 10 * n + k, blocks=3 + k) for k in range(n % 3)]
        sampling = Sampling(
            max_tokens=1 + (7 * n) % 12,
            temperature=(1.0, 0.7, 0.0, 1.6)[n % 4],
            top_p=(1.0, 0.8)[n % 2],
            top_k=(0, 50, 3)[n % 3],
            logit_bias={20 + n: 2.0} if n % 5 == 0 else {},
            top_logprobs=(0, 0, 2)[n % 3],
            seed=n,
        )
        asks.append((prompt(loaded, 24 + (37 * n) % 160, pictures=pictures, seed=n), sampling))
    return asks


def test_a_request_draws_the_same_alone_and_among_32(loaded, core):
    asks = mixed(loaded, 32)
    alone = [replies(core, [ask])[0] for ask in asks]
    before = core.figures()
    together = replies(core, asks)
    after = core.figures()
    assert after["batch_sum"] - before["batch_sum"] > 4 * (after["steps"] - before["steps"]), "hardly anything was batched"
    assert max(apart(one, other) for one, other in zip(alone, together, strict=True)) < TOLERANCE
    assert [(one.text, one.finish) for one in alone] == [(other.text, other.finish) for other in together]
    assert len({reply.ids for reply in together}) > 24, "the requests hardly differ"


def test_more_requests_than_rows_are_computed_as_rows_become_free(loaded):
    asks = mixed(loaded, 20)
    with engine(loaded, max_num_seqs=32) as wide, engine(loaded, max_num_seqs=3) as narrow:
        for one, other in zip(replies(wide, asks), replies(narrow, asks), strict=True):
            assert apart(one, other) < TOLERANCE
        assert narrow.figures()["running"] == narrow.figures()["waiting"] == 0


@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_the_likeliest_tokens_are_those_that_generate_takes(loaded, core, pictures):
    asked = prompt(loaded, 60, pictures=[picture(loaded, n, blocks=2 + n) for n in range(pictures)], seed=pictures)
    loaded.model.model.rope_deltas = None
    wanted = loaded.model.generate(**inputs(loaded, asked), max_new_tokens=24, do_sample=False)[0, len(asked.ids) :].tolist()
    (reply,) = replies(core, [(asked, Sampling(max_tokens=24, temperature=0.0))])
    assert list(reply.ids) == wanted


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 1.7])
def test_log_probabilities_are_those_of_one_plain_forward(loaded, core, temperature):
    asked = prompt(loaded, 50, pictures=[picture(loaded, 3), picture(loaded, 4)], seed=5)
    bias = {60: 3.0, 61: -2.0}
    sampling = Sampling(max_tokens=16, temperature=temperature, top_p=0.9, top_k=40, logit_bias=bias, seed=1, ignore_eos=True)
    (reply,) = replies(core, [(asked, sampling)])
    logits = plain_logits(loaded.model, loaded, asked, reply.ids)
    for token, value in bias.items():
        logits[:, token] += value
    wanted = torch.log_softmax(logits / (temperature or 1.0), dim=-1)[range(16), list(reply.ids)]
    assert (wanted - torch.tensor(reply.logprobs)).abs().max() < TOLERANCE


def test_the_likeliest_tokens_at_each_place_are_told_when_asked_for(loaded, core):
    asked = prompt(loaded, 40, seed=3)
    few, none, many = replies(core, [(asked, Sampling(max_tokens=3, seed=1, top_logprobs=k)) for k in (2, 0, 5)])
    assert none.top == ()
    assert [len(place) for place in few.top] == [2] * len(few.ids)
    logp = torch.log_softmax(plain_logits(loaded.model, loaded, asked, many.ids), dim=-1)
    for place, row in zip(many.top, logp, strict=True):
        values, tokens = row.topk(5)
        assert [token for token, _ in place] == tokens.tolist()
        assert [value for _, value in place] == pytest.approx(values.tolist(), abs=TOLERANCE)


def test_a_blank_picture_changes_what_is_said(loaded, core):
    seen, blank = (prompt(loaded, 40, pictures=[picture(loaded, seed)], seed=6) for seed in (1, -1))
    assert seen.ids == blank.ids
    sampling = Sampling(max_tokens=1, seed=0, top_logprobs=20)
    one, other = (dict(reply.top[0]) for reply in replies(core, [(seen, sampling), (blank, sampling)]))
    assert max(abs(one[token] - other[token]) for token in one.keys() & other.keys()) > 100 * TOLERANCE


def test_without_a_seed_every_reply_is_another(loaded, core):
    asked = prompt(loaded, 30)
    drawn = replies(core, [(asked, Sampling(max_tokens=8, ignore_eos=True))] * 8)
    assert len({reply.ids for reply in drawn}) == 8


def test_a_long_reply_goes_on_while_others_keep_coming(loaded, core):
    answers = Answers(core)
    long = answers.ask(prompt(loaded, 30), Sampling(max_tokens=200, seed=0, ignore_eos=True))
    came = 0
    while long not in answers.results:
        short = answers.ask(prompt(loaded, 30, seed=came), Sampling(max_tokens=2, seed=came, ignore_eos=True))
        answers.wait(short)
        came += 1
    assert came > 20, "nothing came while the long one ran"
    assert len(answers.results[long].ids) == 200
    assert core.figures()["steps"] < 200 + came + 10, "the long one stood still in many steps"


# -- ends -----------------------------------------------------------------------------------------------------------------


def test_the_token_that_ends_a_reply_is_among_its_ids_and_not_in_its_text(loaded, core):
    end = loaded.eos_ids[0]
    asked = prompt(loaded, 30)
    ends, goes_on, other, short = replies(
        core,
        [
            (asked, Sampling(max_tokens=5, logit_bias={end: 100.0})),
            (asked, Sampling(max_tokens=5, logit_bias={end: 100.0}, ignore_eos=True, skip_special_tokens=False)),
            (asked, Sampling(max_tokens=5, logit_bias={77: 100.0}, stop_ids=(77,))),
            (asked, Sampling(max_tokens=1, logit_bias={end: 100.0})),
        ],
    )
    assert (ends.ids, ends.finish, ends.text) == ((end,), "stop", "")
    assert (goes_on.ids, goes_on.finish) == ((end,) * 5, "length")
    assert goes_on.text == loaded.tokenizer.convert_ids_to_tokens(end) * 5
    assert (other.ids, other.finish, other.text) == ((77,), "stop", "")
    assert (short.ids, short.finish) == ((end,), "stop")


def test_a_text_ends_a_reply_and_is_left_out_of_it(loaded, core):
    (token,) = loaded.tokenizer.encode("noop", add_special_tokens=False)
    asked, said = prompt(loaded, 30), {token: 100.0}
    within, across, never = replies(
        core, [(asked, Sampling(max_tokens=6, logit_bias=said, stop=stop)) for stop in (("xx", "oo"), ("opno", "p" * 3), ("x",))]
    )
    assert (within.ids, within.text, within.finish) == ((token,), "n", "stop")
    assert (across.ids, across.text, across.finish) == ((token,) * 2, "no", "stop")
    assert (never.ids, never.text, never.finish) == ((token,) * 6, "noop" * 6, "length")


def test_a_reply_ends_where_the_engine_has_no_more_room(loaded):
    with engine(loaded, max_model_len=48, prefix_bytes=1 << 20) as core:
        asks = [(prompt(loaded, tokens), Sampling(max_tokens=100, seed=0, ignore_eos=True)) for tokens in (40, 47, 10)]
        for _ in range(2):
            told = replies(core, asks)
            assert [(len(reply.ids), reply.finish) for reply in told] == [(8, "length"), (1, "length"), (38, "length")]
        with pytest.raises(InvalidInput, match="the prompt has 48 tokens, which leaves no room for a reply in 48"):
            replies(core, [(prompt(loaded, 48), Sampling(max_tokens=1))])


def test_an_image_token_that_is_drawn_is_text(loaded, core):
    asked = prompt(loaded, 40, pictures=[picture(loaded, 1)])
    drawn = Sampling(max_tokens=12, seed=3, logit_bias={loaded.image_id: 6.0, loaded.vision_start_id: 6.0}, ignore_eos=True)
    (alone,) = replies(core, [(asked, drawn)])
    assert loaded.image_id in alone.ids[:-1]
    together = replies(core, [(asked, drawn), *mixed(loaded, 6)])
    assert apart(alone, together[0]) < TOLERANCE


# -- what cannot be right ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampling", "sentence"),
    [
        ({"max_tokens": 0}, "max_tokens is 0; it must be 1 or more"),
        ({"temperature": -1.0}, "temperature is -1.0; it must be 0 or more"),
        ({"temperature": float("nan")}, "temperature is nan; it must be 0 or more"),
        ({"top_p": 0.0}, "top_p is 0.0; it must be above 0, up to 1"),
        ({"top_k": -1}, "top_k is -1; it must be 0 or more"),
        ({"top_logprobs": 1000}, "top_logprobs is 1000; it must be 0 to 100"),
        ({"logit_bias": {10**6: 1.0}}, "logit_bias has the token 1000000, and the model has 0 to"),
        ({"logit_bias": {1: float("inf")}}, "logit_bias of token 1 is inf; it must be a number between"),
        ({"stop": ("a", "")}, "stop has an empty text"),
    ],
)
def test_settings_that_cannot_be_right_are_refused_at_once(loaded, core, sampling, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        replies(core, [(prompt(loaded, 8), Sampling(**{"max_tokens": 1, **sampling}))])


def test_prompts_that_cannot_be_right_are_refused_at_once(loaded, core):
    whole = prompt(loaded, 30, pictures=[picture(loaded, 0)])
    wrong = {
        "the prompt has no tokens": Prompt(ids=()),
        r"the prompt has the token -1, and the model has 0 to": Prompt(ids=(5, -1)),
        "the prompt holds 9 image tokens, and its 0 pictures have 0": Prompt(ids=whole.ids),
        "the prompt holds 9 image tokens, and its 2 pictures have 18": Prompt(ids=whole.ids, pictures=whole.pictures * 2),
    }
    for sentence, asked in wrong.items():
        with pytest.raises(InvalidInput, match=sentence):
            replies(core, [(asked, Sampling(max_tokens=1))])
    with pytest.raises(UnknownName, match="no model named 'other'"):
        replies(core, [(whole, Sampling(max_tokens=1), "other")])
    assert core.figures()["submitted"] == 0


# -- where and by whom -------------------------------------------------------------------------------------------------------


def test_many_threads_ask_one_engine(loaded):
    errors: list[BaseException] = []
    with engine(loaded, max_num_seqs=8, max_waiting=1000, prefix_bytes=1 << 22) as core:

        def work(thread: int) -> None:
            try:
                for turn in range(4):
                    answers, asked = Answers(core), prompt(loaded, 20 + 5 * thread, seed=turn)
                    for _ in range(3):
                        answers.ask(asked, Sampling(max_tokens=1 + turn, seed=turn))
                    core.cancel(answers.tickets[1])
                    first, _, third = answers.wait()
                    assert apart(first, third) < TOLERANCE
            except BaseException as error:  # noqa: BLE001 - asserted below
                errors.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert errors == []
        figures = core.figures()
        assert figures["finished"] + figures["cancelled"] == figures["submitted"] == 6 * 4 * 3
        assert (figures["running"], figures["waiting"], figures["failed"]) == (0, 0, 0)


def test_in_bfloat16_replies_are_those_of_a_plain_forward_too(tiny_model):
    from workers.model.loading import load

    loaded = load(tiny_model, device="cpu", dtype="bfloat16")
    with engine(loaded, prefix_bytes=1 << 22, image_cache_bytes=1 << 20) as core:
        asks = [
            (prompt(loaded, 30 + 20 * n, pictures=[picture(loaded, n)], seed=n), Sampling(max_tokens=6, seed=n, ignore_eos=True))
            for n in range(4)
        ]
        for _ in range(3):
            for (asked, sampling), reply in zip(asks, replies(core, asks), strict=True):
                logits = plain_logits(loaded.model, loaded, asked, reply.ids).float()
                wanted = torch.log_softmax(logits, dim=-1)[range(sampling.max_tokens), list(reply.ids)]
                assert (wanted - torch.tensor(reply.logprobs)).abs().max() < 0.1
        assert reply.prefix_tokens
