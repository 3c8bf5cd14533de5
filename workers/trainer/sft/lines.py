"""One line of training data as samples: the prompt as the engine would make it, and every reply as the policy would emit it.

The prompt goes through ``workers.model.inputs``, which the engine uses too. A reply's text is that of ``workers.transport.chat``,
which reads it back as the same message, and its end is learnt with it. So what is imitated here is what is played there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from transformers import AutoTokenizer

from app import model_folder
from app.errors import BadModel, InvalidInput
from app.model_folder import BaseFolder
from workers.model.cache import Cache
from workers.model.hub import find
from workers.model.images import ImageReader
from workers.model.inputs import ID_BYTES, Inputs
from workers.model.types import Prompt
from workers.trainer.samples import Sample
from workers.transport import chat

IMAGE: Final = "<|image_pad|>"
REPLY_BYTES: Final = 16 * 1024**2
"""What tokenised replies may take of memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What lines are read with: all of a model but its weights."""

    tokenizer: Any
    images: ImageReader
    image_id: int
    end_id: int
    """Of the token that ends a reply."""
    max_length: int
    """Most tokens that the model takes."""


def reading(base: str) -> Reading:
    """What a model reads with, from its folder or hub id. Raises BadModel, and Unavailable when the hub does not answer."""
    path = find(base)
    facts = model_folder.read(path)
    if not isinstance(facts, BaseFolder):
        raise BadModel(f"{base} is an adapter; lines are read as its base reads them")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare exceptions for files that it cannot read
        raise BadModel(f"{base}: its tokenizer cannot be read: {error}") from error
    known: dict[str, Any] = {token: tokenizer.convert_tokens_to_ids(token) for token in (IMAGE, chat.END)}
    if absent := [token for token, id in known.items() if id is None or id == tokenizer.unk_token_id]:
        raise BadModel(f"{base}: its tokenizer has no token {absent[0]}, which the chat form of the Qwen family has")
    return Reading(
        tokenizer=tokenizer,
        images=ImageReader.of(Path(path)),
        image_id=known[IMAGE],
        end_id=known[chat.END],
        max_length=facts.max_length,
    )


def reply_ids(tokenizer: Any, end_id: int, message: Mapping[str, Any]) -> list[int]:
    """Token ids of a message of the assistant with its end, as a policy emits them. Raises InvalidInput where that has no end."""
    _, text = chat.prompt_and_reply([message])
    ids: list[int] = tokenizer.backend_tokenizer.encode(text.removesuffix("\n"), add_special_tokens=False).ids
    if not ids or ids[-1] != end_id:
        raise InvalidInput(f"its reply is tokenised without the end token {chat.END}")
    return ids


class Liner:
    """Makes samples of lines, for one model."""

    def __init__(self, by: Reading) -> None:
        self._by = by
        self._inputs = Inputs(by)
        self._replies: Cache[str, list[int]] = Cache(REPLY_BYTES)  # an agent says the same few things again and again

    def samples(self, line: Mapping[str, Any], key: str) -> list[Sample]:
        """Samples of a line, which ``app.dataset`` has found to be one, in the order of its replies.

        Every message of the assistant is a target but those of weight 0. They are one sample where the text before each is read
        as its policy read it; a model whose chat template writes earlier replies in another way gets a sample of each. Raises
        InvalidInput for a message that cannot be written for this model.
        """
        messages = [_plain(message) for message in line["messages"]]
        tools = line.get("tools")
        made: list[Sample] = []
        for at, message in enumerate(messages):
            if message["role"] == "assistant" and line["messages"][at].get("weight") != 0:
                asked = self._inputs.prompt(messages[:at], tools)
                self._check_pictures(asked)
                begun = made[-1] if made and asked.ids[: len(made[-1].ids)] == made[-1].ids else None
                reply = self._reply(message)
                whole = (*asked.ids, *reply)
                targets = (*(begun.targets if begun else ()), *range(len(asked.ids), len(whole)))
                made = [*(made[:-1] if begun else made), Sample(key=key, ids=whole, targets=targets, pictures=asked.pictures)]
        if len(made) > 1:
            return [replace(sample, key=f"{key} (reply {i})") for i, sample in enumerate(made, 1)]
        return made

    def _reply(self, message: Mapping[str, Any]) -> list[int]:
        key = json.dumps(message, ensure_ascii=False)
        if (held := self._replies.get(key)) is None:
            held = reply_ids(self._by.tokenizer, self._by.end_id, message)
            self._replies.put(key, held, 4 * len(key) + ID_BYTES * len(held))
        return held

    def _check_pictures(self, asked: Prompt) -> None:
        """Features that are no tokens, or the other way round, would teach the model to see what is not there."""
        wanted = sum(self._by.images.tokens(picture) for picture in asked.pictures)
        if (found := asked.ids.count(self._by.image_id)) != wanted:
            raise InvalidInput(f"its pictures are {wanted} tokens, and its prompt has {found} image tokens")


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without what the chat form has no place for. Templates differ in what they make of a content that is null."""
    kept = {key: value for key, value in message.items() if key not in ("weight", "name", "refusal") and value is not None}
    return {"content": "", **kept}
