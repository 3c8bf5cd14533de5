"""From messages in OpenAI's format to what a model reads: token ids and pictures. The one way, for engine and trainer. No torch.

The text comes from the model's own chat template. In it a picture is one token; here it becomes as many as the picture has, as
the family's processor does it. A prompt's text is rendered and tokenised once: the same messages with other pictures (as an
agent's are, that sees a frame and little else) cost a look into a cache.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any, Final, NamedTuple, Protocol

from jinja2 import TemplateError

from app.dataset.images import Unfit, unpack
from app.errors import InvalidInput, cut
from workers.model.cache import Cache
from workers.model.images import ImageReader
from workers.model.types import Picture, Prompt
from workers.transport.chat import TEMPLATE
from workers.transport.generate import neutral

Wire = Mapping[str, Any]
"""A message or a tool in OpenAI's format."""

TEXT_BYTES: Final = 64 * 1024**2
_PICTURE: Final = {"type": "image"}
"""A part that templates write a picture's place for."""
ID_BYTES: Final = 36
"""What one id takes in a tuple."""


class Reads(Protocol):
    """What a prompt is made by; ``workers.model.loading.Loaded`` is one."""

    @property
    def tokenizer(self) -> Any:
        """transformers' tokenizer of the model."""

    @property
    def images(self) -> ImageReader:
        """Reads pictures as the model's folder says."""

    @property
    def image_id(self) -> int:
        """The token that stands for a piece of a picture."""


class _Text(NamedTuple):
    """A prompt's ids, a picture one token of them, and where those are."""

    ids: tuple[int, ...]
    places: tuple[int, ...]


class Inputs:
    """Makes prompts for one model. Safe between threads."""

    def __init__(self, by: Reads, *, max_tokens: int | None = None, text_bytes: int = TEXT_BYTES) -> None:
        """``max_tokens``: of one picture, None: any number; ``text_bytes``: what tokenised texts may take of memory."""
        self._tokenizer, self._reader, self._image_id = by.tokenizer, by.images, by.image_id
        self._template = None if self._tokenizer.chat_template else TEMPLATE.read_text(encoding="utf-8")
        self._texts: Cache[str, _Text] = Cache(text_bytes)
        self._spent = {"render": 0.0, "tokenize": 0.0, "pictures": 0.0}
        self._max_tokens, self._prompts = max_tokens, 0
        self._counting = Lock()

    def prompt(self, messages: Sequence[Wire], tools: Sequence[Wire] | None = None) -> Prompt:
        """What the model reads before its reply. Pictures are parts of the type image_url that hold a ``data:`` URL.

        A text can hold no control token: whatever reads as one is made ``neutral``. Raises InvalidInput for messages that
        cannot be written as a prompt, and for a picture that cannot be read.
        """
        urls: list[str] = []
        bare = [_bare(message, urls) for message in messages]
        text = self._text(bare, tools or None)
        with self._timed("pictures"):
            pictures = tuple(self._picture(url) for url in urls)
        if len(text.places) != len(pictures):
            raise InvalidInput(
                f"the model's chat template writes {len(text.places)} pictures, and the messages hold {len(pictures)}"
            )
        with self._counting:
            self._prompts += 1
        return Prompt(ids=self._expanded(text, pictures), pictures=pictures)

    def figures(self) -> dict[str, Any]:
        """Prompts made, milliseconds that went into each part of them, and the two caches' figures."""
        with self._counting:
            spent = {f"{part}_ms": round(1000 * seconds, 3) for part, seconds in self._spent.items()}
            prompts = self._prompts
        return {"prompts": prompts, **spent, "texts": self._texts.figures(), "pictures": self._reader.cache.figures()}

    def _text(self, messages: Sequence[Wire], tools: Sequence[Wire] | None) -> _Text:
        try:
            key = json.dumps([messages, tools], ensure_ascii=False, separators=(",", ":"))
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"messages and tools must be JSON values: {error}") from error
        if (held := self._texts.get(key)) is not None:
            return held
        with self._timed("render"):
            rendered = self._render(_neutral(messages), _neutral(tools))
        with self._timed("tokenize"):  # what wraps the backend sets its padding anew in each call, which threads must not do
            ids = tuple(self._tokenizer.backend_tokenizer.encode(rendered, add_special_tokens=False).ids)
        made = _Text(ids, tuple(i for i, id in enumerate(ids) if id == self._image_id))
        self._texts.put(key, made, 4 * len(key) + ID_BYTES * len(ids))
        return made

    def _render(self, messages: Any, tools: Any) -> str:
        try:
            rendered: str = self._tokenizer.apply_chat_template(
                messages, tools=tools, add_generation_prompt=True, tokenize=False, chat_template=self._template
            )
            rendered.encode()
        except UnicodeEncodeError:
            raise InvalidInput("the messages hold half of a surrogate pair, which is no text") from None
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise InvalidInput(f"these messages cannot be written as a prompt: {error}") from error
        return rendered

    def _picture(self, url: str) -> Picture:
        if url[:5].lower() != "data:":
            scheme = url.partition(":")[0].lower()
            if scheme in ("http", "https"):
                raise InvalidInput(
                    f"the picture is a link ({cut(url)}); nothing is fetched here; put the picture itself in, as "
                    "'data:image/png;base64,...'"
                )
            raise InvalidInput(f"the picture's url begins {cut(url[:40])}; it must be 'data:image/png;base64,...' or its like")
        try:
            _, data = unpack(url)
        except Unfit as error:
            raise InvalidInput(f"the picture {error}") from None
        return self._reader.read(data, max_tokens=self._max_tokens)

    def _expanded(self, text: _Text, pictures: Sequence[Picture]) -> tuple[int, ...]:
        """Ids with as many image tokens for each picture as it has."""
        ids: list[int] = []
        done = 0
        for place, picture in zip(text.places, pictures, strict=True):
            ids += text.ids[done:place]
            ids += [self._image_id] * self._reader.tokens(picture)
            done = place + 1
        ids += text.ids[done:]
        return tuple(ids)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            with self._counting:
                self._spent[part] += time.perf_counter() - began


def _bare(message: Wire, urls: list[str]) -> Wire:
    """A message without its pictures, whose urls go to ``urls``. Texts that stand side by side become one.

    So nothing can be put together from them that would read as a control token. Raises InvalidInput for a part of another type.
    """
    if not isinstance(message, Mapping):
        raise InvalidInput(f"a message must be an object, not {cut(str(message))}")
    content = message.get("content")
    if not isinstance(content, list | tuple):
        return message
    parts: list[dict[str, Any]] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            if parts and parts[-1]["type"] == "text":
                parts[-1]["text"] += part["text"]
            else:
                parts.append({"type": "text", "text": part["text"]})
        elif kind == "image_url":
            urls.append(_url(part.get("image_url")))
            parts.append(_PICTURE)
        else:
            raise InvalidInput(f"a part of a message must be of the type text or image_url, not {cut(str(kind or part))}")
    return {**message, "content": parts}


def _url(value: Any) -> str:
    url = value.get("url") if isinstance(value, Mapping) else None
    if not isinstance(url, str):
        raise InvalidInput('image_url must be an object with a url that is text: {"url": "data:image/png;base64,..."}')
    return url


def _neutral(value: Any) -> Any:
    """A JSON value, every text in it made ``neutral``, the names of keys too: a template may write any of them."""
    if isinstance(value, str):
        return neutral(value)
    if isinstance(value, Mapping):
        return {neutral(key): _neutral(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_neutral(item) for item in value]
    return value
