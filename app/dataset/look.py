"""What the checks of one line share: where they write problems and counts, and what the line has shown so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from app.dataset import tokens
from app.dataset.summary import Options, Summary


@dataclass(slots=True, kw_only=True)
class Look:
    """A look at one line."""

    options: Options
    counts: Summary
    """Of the whole file; each line adds to it."""
    problems: list[tuple[str, str]] = field(default_factory=list)
    """Where, as a path inside the line, and a sentence."""
    tools: dict[str, Any] | None = None
    """Parameters of each tool by its name; None for a schema with faults. None itself: the line has no tools."""
    calls: dict[str, bool] = field(default_factory=dict)
    """Ids of the calls so far, and whether a tool has answered."""
    images: int = 0

    @property
    def strict(self) -> bool:
        """synthq's own rules count."""
        return self.options.strict

    def bad(self, where: str, sentence: str) -> None:
        """Note a problem."""
        self.problems.append((where, sentence))

    def text(self, text: str, role: str, where: str) -> None:
        """Look at a text that a model reads or writes."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            self.bad(
                where, f"holds half a surrogate pair ({text[error.start]!r}) at character {error.start + 1}, which is no text"
            )
        if self.strict and (found := tokens.find(text)):
            self.bad(where, f"holds {found!r}, {_meaning(found, role)}")


def _meaning(found: str, role: str) -> str:
    if found.startswith("<|"):
        return "a control token, which a model would read as one; take it out"
    if found in ("<tool_call>", "</tool_call>") and role == "assistant":
        return "which marks a call; a call belongs in 'tool_calls'"
    return "which templates and processors act on; take it out"
