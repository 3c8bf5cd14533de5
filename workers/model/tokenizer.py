"""A small tokenizer of Qwen's form, trained here on the texts that it will read.

Byte-level BPE, so that every text has tokens and comes back as it was; the control tokens of Qwen's own tokenizers at the end,
with their flags. Unlike theirs, an identifier such as ``move_left`` counts as one word, so one token may hold it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from app.errors import InvalidInput
from workers.transport.chat import TEMPLATE

PAD: Final = "<|endoftext|>"
END: Final = "<|im_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"

SPECIAL: Final = (
    PAD,
    "<|im_start|>",
    END,
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    VISION_START,
    VISION_END,
    "<|vision_pad|>",
    IMAGE,
    VIDEO,
)
"""Left out of a text that is decoded without special tokens."""
MARKS: Final = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
"""Tokens of their own too, which stay in every text: a reply's call is told by two of them."""

LEAST_VOCAB: Final = 512
"""Smallest vocabulary that is made: the bytes, the control tokens and room for words."""

_WORDS: Final = r" ?\p{L}+(?:_\p{L}+)*| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What a token may not reach beyond: a word with its blank, a number, a run of marks, a run of white space."""
_CONTROL: Final = re.compile("|".join(map(re.escape, (*SPECIAL, *MARKS))))
_OFTEN: Final = 10_000
"""How many times a word that must be one token is shown: more often than any pair of letters in the texts."""


def train(texts: Iterable[str], *, vocab: int, words: Sequence[str] = ()) -> Tokenizer:
    """A tokenizer of at most ``vocab`` tokens: fewer where the texts do not hold as many.

    ``words`` become one token each, alone and with a blank before. The same texts and words give the same tokenizer. Raises
    InvalidInput when ``vocab`` is too small, or a word cannot be one token.
    """
    if vocab < LEAST_VOCAB:
        raise InvalidInput(f"a vocabulary needs {LEAST_VOCAB} tokens or more, not {vocab}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(SPECIAL) - len(MARKS),
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_pieces(texts, words), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in MARKS])
    for word in words:
        if any(len(tokenizer.encode(text).ids) != 1 for text in (word, f" {word}")):
            raise InvalidInput(
                f"{word!r} does not become one token of {vocab}; give it letters and underscores, or a larger vocabulary"
            )
    return tokenizer


def _pieces(texts: Iterable[str], words: Sequence[str]) -> Iterator[str]:
    """The texts between their control tokens, and each word often enough to be one token."""
    for text in texts:
        yield from filter(None, _CONTROL.split(text))
    for word in words:
        yield from (text for text in (word, f" {word}") for _ in range(_OFTEN))


def save(tokenizer: Tokenizer, folder: Path, *, max_length: int) -> None:
    """Write the tokenizer's files and the chat template as transformers and vLLM read them."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # by its own class, transformers would put Qwen's rules in place of these
        "bos_token": None,
        "eos_token": END,
        "pad_token": PAD,
        "unk_token": None,
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_bytes(TEMPLATE.read_bytes())
