"""What prompts have in common is computed once, and the replies stay what they were."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import numpy as np
from core_kit import apart, engine, picture, prompt, replies

from workers.inference.core.prefix import chain_of
from workers.inference.core.request import Sampling
from workers.inference.core.rows import BLOCK
from workers.model.types import Prompt

TOLERANCE = 1e-4
ROOM = 1 << 24


def sampling(seed: int = 0) -> Sampling:
    return Sampling(max_tokens=6, seed=seed, ignore_eos=True)


def family(loaded: Any, shared: int, rest: list[int]) -> list[Prompt]:
    """Prompts that begin alike, two pictures within, and go on for so many tokens each."""
    head = prompt(loaded, shared, pictures=[picture(loaded, 1), picture(loaded, 2, blocks=4)], seed=7)
    return [Prompt(ids=head.ids + prompt(loaded, n, seed=100 + n).ids, pictures=head.pictures) for n in rest]


def test_replies_are_the_same_with_and_without_it(loaded):
    asks = [(asked, sampling(n)) for n, asked in enumerate(family(loaded, 90, [1, 15, 16, 17, 40, 3, 70, 2]))]
    asks += [(prompt(loaded, 20 + 9 * n, seed=n), sampling(n)) for n in range(6)]
    with engine(loaded) as plain, engine(loaded, prefix_bytes=ROOM, image_cache_bytes=ROOM) as keeping:
        wanted = replies(plain, asks)
        for again in range(3):
            told = replies(keeping, asks)
            assert max(apart(one, other) for one, other in zip(wanted, told, strict=True)) < TOLERANCE
            if again == 2:
                assert all(
                    reply.prefix_tokens == (len(asked.ids) - 1) // BLOCK * BLOCK
                    for reply, (asked, _) in zip(told, asks, strict=True)
                )
        assert plain.figures()["prefix_tokens"] == 0
        assert keeping.figures()["prefix_hits"] >= len(asks)


def test_a_beginning_is_kept_when_it_comes_for_the_second_time(loaded):
    asks = family(loaded, 90, [8, 24, 40])
    shared = (90 + 9 + 16 + 4) // BLOCK * BLOCK
    with engine(loaded, prefix_bytes=ROOM) as core:
        reused = [replies(core, [(asked, sampling())])[0].prefix_tokens for asked in asks]
        assert reused == [0, 0, shared]
        assert core.figures()["prefix_blocks"] == shared // BLOCK


def test_pictures_within_what_is_reused_are_not_seen_again(loaded):
    (asked,) = family(loaded, 90, [20])
    with engine(loaded, prefix_bytes=ROOM) as core:
        for _ in range(4):
            replies(core, [(asked, sampling())])
        assert core.figures()["image_misses"] == 4, "two pictures, for the first two requests alone"


def test_a_prompt_is_never_reused_whole(loaded):
    asked = prompt(loaded, 4 * BLOCK)
    with engine(loaded, prefix_bytes=ROOM) as core:
        told = [replies(core, [(asked, sampling())])[0] for _ in range(3)]
    assert [reply.prefix_tokens for reply in told] == [0, 0, 3 * BLOCK]
    assert apart(told[0], told[2]) < TOLERANCE


def test_the_same_tokens_with_another_picture_are_not_the_same(loaded):
    one, other = (prompt(loaded, 60, pictures=[picture(loaded, seed)], seed=1) for seed in (1, 2))
    assert one.ids == other.ids
    with engine(loaded, prefix_bytes=ROOM, image_cache_bytes=ROOM) as core:
        for _ in range(3):
            first = replies(core, [(one, sampling())])[0]
        second = replies(core, [(other, sampling())])[0]
    assert first.prefix_tokens == 64
    assert second.prefix_tokens == 0, "the picture begins in the first block"
    assert first.logprobs != second.logprobs


def test_a_hash_stands_for_all_that_leads_up_to_its_block(loaded):
    ids = np.arange(6 * BLOCK + 4, dtype=np.int64)
    seen, other = picture(loaded, 1), picture(loaded, 2)
    span = 2 * BLOCK - 2, 2 * BLOCK + 7
    chain = chain_of(ids, [(*span, seen)], "base")
    assert len(chain) == len(set(chain)) == 6
    changed = ids.copy()
    changed[BLOCK + 4] += 1
    assert [a == b for a, b in zip(chain, chain_of(changed, [(*span, seen)], "base"), strict=True)] == [True] + 5 * [False]
    assert [a == b for a, b in zip(chain, chain_of(ids, [(*span, other)], "base"), strict=True)] == [True] + 5 * [False]
    assert not set(chain) & set(chain_of(ids, [(*span, seen)], "adapter"))
    assert chain_of(ids[: BLOCK + 1], [], "base") == chain_of(ids[: 2 * BLOCK], [], "base") == chain_of(ids, [], "base")[:1]


def test_its_memory_is_bounded_and_the_oldest_goes_first(loaded):
    asks = [prompt(loaded, 4 * BLOCK + 1, seed=seed) for seed in range(5)]
    text = loaded.model.config.get_text_config()
    block = BLOCK * 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * 4
    with engine(loaded, prefix_bytes=8 * block) as core:
        for asked in asks:
            for _ in range(2):
                replies(core, [(asked, sampling())])
        assert core.figures()["prefix_blocks"] == 8
        assert [replies(core, [(asked, sampling())])[0].prefix_tokens for asked in (asks[4], asks[3], asks[0])] == [
            4 * BLOCK,
            4 * BLOCK,
            0,
        ]


def test_a_store_that_is_smaller_than_a_prompt_does_no_harm(loaded):
    asked = prompt(loaded, 200, seed=4)
    text = loaded.model.config.get_text_config()
    block = BLOCK * 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * 4
    with engine(loaded) as plain, engine(loaded, prefix_bytes=3 * block) as core:
        (wanted,) = replies(plain, [(asked, sampling())])
        for _ in range(4):
            assert apart(wanted, replies(core, [(asked, sampling())])[0]) < TOLERANCE
