"""A reply ends where one of its stop texts is complete, however tokens cut it."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("transformers")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers.decoders import DecodeStream

from workers.inference.core import text as core_text
from workers.inference.core.text import StopTexts


@pytest.fixture(scope="module")
def tokenizer(loaded: Any) -> Any:
    return loaded.tokenizer.backend_tokenizer


def said(tokenizer: Any, whole: str, *stops: str, skip: bool = True) -> tuple[str, int | None]:
    """What is left of a text, and how many of its tokens were read when it ended."""
    looking = StopTexts(tokenizer, stops, skip_special_tokens=skip)
    for count, token in enumerate(tokenizer.encode(whole, add_special_tokens=False).ids, 1):
        if looking.take(token):
            return looking.text, count
    return looking.text, None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(whole=st.text(st.sampled_from("ab <>ü🌳\n"), max_size=30), stop=st.text(st.sampled_from("ab ü🌳"), min_size=1, max_size=3))
def test_a_reply_is_cut_where_the_text_first_stands(tokenizer, whole, stop):
    left, read = said(tokenizer, whole, stop)
    assert left == whole.partition(stop)[0]
    assert (read is not None) == (stop in whole)


def test_no_more_tokens_are_read_than_the_text_needs(tokenizer):
    ids = tokenizer.encode("noop noop noop", add_special_tokens=False).ids
    left, read = said(tokenizer, "noop noop noop", "op n")
    assert left == "no"
    assert "op n" in tokenizer.decode(ids[:read])
    assert "op n" not in tokenizer.decode(ids[: read - 1])


def test_of_several_texts_the_one_that_is_complete_first_counts(tokenizer):
    assert said(tokenizer, "abcdef", "cdef", "de")[0] == "abc"
    assert said(tokenizer, "abcdef", "abcdefg", "ef")[0] == "abcd"


def test_a_control_token_is_a_text_only_when_it_is_shown(tokenizer):
    assert said(tokenizer, "noop<|im_end|>noop", "<|im_end|>", skip=False)[0] == "noop"
    assert said(tokenizer, "noop<|im_end|>noop", "<|im_end|>", skip=True) == ("noopnoop", None)


def test_bytes_that_the_library_gives_up_on_do_not_end_the_reply(tokenizer, monkeypatch):
    made: list[Any] = []

    class FailsOnce:
        """The library's stream, of which the first raises what the library raises."""

        def __init__(self, **options: Any) -> None:
            self._stream = DecodeStream(**options)
            made.append(self)

        def step(self, told: Any, token: int) -> Any:
            if self is made[0]:
                raise Exception("Invalid prefix encountered")
            return self._stream.step(told, token)

    monkeypatch.setattr(core_text, "DecodeStream", FailsOnce)
    assert said(tokenizer, "noop noop", "p n")[0] == "noo"
    assert len(made) == 2
