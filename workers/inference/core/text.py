"""Text of a reply while it grows, for replies that end at a text."""

from __future__ import annotations

from typing import Any

from tokenizers.decoders import DecodeStream


class StopTexts:
    """Looks for the first of some texts in what a reply says."""

    def __init__(self, tokenizer: Any, texts: tuple[str, ...], *, skip_special_tokens: bool) -> None:
        """``tokenizer`` is the one of the ``tokenizers`` library."""
        self._tokenizer, self._texts, self._skip = tokenizer, texts, skip_special_tokens
        self._stream = DecodeStream(skip_special_tokens=skip_special_tokens)
        self._back = max(map(len, texts)) - 1
        self.text = ""
        """All that was said; cut where a text was found."""

    def take(self, token: int) -> bool:
        """Read one token more; whether a text that ends the reply is complete with it."""
        piece = self._step(token)
        if not piece:
            return False
        start = max(0, len(self.text) - self._back)
        self.text += piece
        found = [(at + len(text), at) for text in self._texts if (at := self.text.find(text, start)) >= 0]
        if found:
            self.text = self.text[: min(found)[1]]  # that which is complete first
        return bool(found)

    def _step(self, token: int) -> str | None:
        try:
            piece: str | None = self._stream.step(self._tokenizer, token)
        except Exception:  # noqa: BLE001 - the library raises a bare one for bytes that its earlier guess does not begin
            self._stream = DecodeStream(skip_special_tokens=self._skip)
            piece = self._stream.step(self._tokenizer, token)
        return piece
