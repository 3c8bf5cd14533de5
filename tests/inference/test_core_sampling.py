"""How tokens are drawn: by each request's own seed, from its own distribution."""

from __future__ import annotations

from collections import Counter

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from transformers import TopKLogitsWarper, TopPLogitsWarper  # noqa: E402

from workers.inference.core.request import Sampling  # noqa: E402
from workers.inference.core.sampling import Drawn, Sampler, uniform  # noqa: E402

CPU = torch.device("cpu")
VOCABULARY = 40


def logits(rows: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def draw(scores: torch.Tensor, samplings: list[Sampling], seeds: list[int], index: int = 0) -> Drawn:
    return Sampler(samplings, seeds, VOCABULARY, CPU).draw(scores, [index] * len(seeds))


def sampling(**more: object) -> Sampling:
    return Sampling(max_tokens=1, **more)  # type: ignore[arg-type]


@given(seed=st.integers(), index=st.integers(0, 10**6))
def test_a_draw_is_a_number_from_0_to_below_1_and_always_the_same(seed, index):
    number = uniform(seed, index)
    assert 0 <= number < 1
    assert number == uniform(seed, index)
    assert number not in (uniform(seed, index + 1), uniform(seed + 1, index))


def test_draws_are_known_numbers():
    """They are part of what a trace can be made again from."""
    assert [round(uniform(0, index), 6) for index in range(3)] == [0.385993, 0.298689, 0.299272]


@pytest.mark.parametrize(
    "more", [{}, {"temperature": 0.5}, {"top_k": 5}, {"top_p": 0.7}, {"top_k": 8, "top_p": 0.8, "temperature": 1.5}]
)
def test_tokens_come_as_often_as_they_should(more):
    count = 20_000
    one = logits(1)
    told = draw(one.expand(count, -1), [sampling(**more)] * count, list(range(count)))
    scores = one / more.get("temperature", 1.0)
    if "top_k" in more:
        scores = TopKLogitsWarper(more["top_k"])(None, scores)
    if "top_p" in more:
        scores = TopPLogitsWarper(more["top_p"])(None, scores)
    wanted = torch.softmax(scores, dim=-1)[0]
    came = Counter(told.ids)
    assert {token for token in range(VOCABULARY) if wanted[token] == 0} & came.keys() == set()
    for token, chance in enumerate(wanted.tolist()):
        assert abs(came[token] / count - chance) < 5 * (chance * (1 - chance) / count) ** 0.5 + 1e-9


def test_every_reply_of_a_batch_is_drawn_as_if_it_were_alone():
    samplings = [
        sampling(),
        sampling(temperature=0.0),
        sampling(top_p=0.5),
        sampling(top_k=1),
        sampling(temperature=0.3, logit_bias={3: 4.0}),
        sampling(top_logprobs=3),
    ]
    scores = logits(len(samplings))
    together = draw(scores, samplings, list(range(6)), index=4)
    for row, each in enumerate(samplings):
        alone = draw(scores[row : row + 1], [each], [row], index=4)
        assert together.ids[row] == alone.ids[0]
        assert together.logprobs[row] == pytest.approx(alone.logprobs[0], abs=1e-6)


def test_what_is_reported_is_the_distribution_before_anything_is_cut_off():
    scores = logits(64)
    bias = {3: 5.0, 4: -5.0}
    told = draw(scores, [sampling(temperature=0.6, top_p=0.3, top_k=2, logit_bias=bias)] * 64, list(range(64)))
    biased = scores.clone()
    for token, value in bias.items():
        biased[:, token] += value
    logp = torch.log_softmax(biased / 0.6, dim=-1)
    assert told.logprobs == pytest.approx(logp[range(64), told.ids].tolist(), abs=1e-6)
    likeliest_two = biased.topk(2).indices.tolist()
    assert all(token in two for token, two in zip(told.ids, likeliest_two, strict=True))


def test_at_temperature_0_the_likeliest_token_is_taken_and_reported_as_at_1():
    scores = logits(8)
    told = draw(scores, [sampling(temperature=0.0, top_p=0.1)] * 8, list(range(8)))
    assert told.ids == scores.argmax(dim=-1).tolist()
    assert told.logprobs == pytest.approx(torch.log_softmax(scores, dim=-1).max(dim=-1).values.tolist(), abs=1e-6)


def test_a_token_without_a_chance_is_never_drawn():
    scores = torch.full((2000, VOCABULARY), -torch.inf)
    scores[:, 7] = 0.0
    assert set(draw(scores, [sampling()] * 2000, list(range(2000))).ids) == {7}
    scores[:, 39] = -1.0
    assert set(draw(scores, [sampling(top_k=1)] * 2000, list(range(2000))).ids) == {7}


def test_the_logits_that_are_given_stay_as_they_are():
    scores = logits(4)
    before = scores.clone()
    draw(scores, [sampling(temperature=0.5, logit_bias={1: 9.0}, top_k=3)] * 4, [1, 2, 3, 4])
    assert torch.equal(scores, before)


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e-50, 1e-38, 9e-6])
def test_a_temperature_next_to_nothing_takes_the_likeliest(temperature):
    scores = logits(1)
    drawn = draw(scores, [sampling(temperature=temperature)], [1])
    assert drawn.ids == scores.argmax(-1).tolist()
    assert drawn.logprobs == pytest.approx(scores.log_softmax(-1).max(-1).values.tolist())


def test_the_least_temperature_that_counts_gives_numbers():
    drawn = draw(logits(1), [sampling(temperature=1e-5)], [1])
    assert drawn.logprobs == [0.0]
