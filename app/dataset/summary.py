"""What a check was asked, and what it counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from app.errors import InvalidInput

MOST_NAMES: Final = 1000
"""Names that one counter tells apart, so that no file makes it grow without end."""
OTHERS: Final = "others"

Format = Literal["openai", "synthq"]
FORMATS: tuple[Format, ...] = get_args(Format)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How strict a check is."""

    format: Format = "synthq"
    """``openai``: what OpenAI documents. ``synthq``: that, and what training here needs besides."""
    max_images: int | None = None
    """The most images in one message, as the ``max_images_per_message`` of a spec; None: only what the format says."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise InvalidInput(f"format must be one of {', '.join(FORMATS)}, not {self.format!r}")
        if self.max_images is not None and self.max_images < 0:
            raise InvalidInput(f"max_images must be 0 or more, not {self.max_images}")

    @property
    def strict(self) -> bool:
        """synthq's own rules count."""
        return self.format == "synthq"


@dataclass(slots=True, kw_only=True)
class Summary:
    """What was in the lines that were read. Filled while they are."""

    lines: int = 0
    bytes: int = 0
    problems: int = 0
    bad_lines: int = 0
    messages: int = 0
    roles: Counter[str] = field(default_factory=Counter)
    replies: int = 0
    """Assistant messages that are learnt from: those whose weight is not 0."""
    calls: Counter[str] = field(default_factory=Counter)
    """Tool calls by the tool's name."""
    tools: Counter[str] = field(default_factory=Counter)
    """Lines that offer a tool, by its name."""
    images: int = 0
    image_lines: int = 0
    image_bytes: int = 0
    image_sizes: Counter[str] = field(default_factory=Counter)
    """Images by format and size, such as ``PNG 64x64``."""
    links: int = 0
    """Images of which only the address was looked at."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Lines by the ``outcome`` of their metadata."""
    undocumented: Counter[str] = field(default_factory=Counter)
    """Keys of lines that OpenAI does not document and that were passed over, such as ``metadata``."""
    unchecked: Counter[str] = field(default_factory=Counter)
    """Keywords of tool schemas that calls were not held to."""

    def as_json(self) -> dict[str, Any]:
        """The counts as a JSON object."""
        return {name: _plain(getattr(self, name)) for name in self.__slots__}

    def rows(self) -> list[tuple[str, str]]:
        """The counts for people: a name and a text each; what is nowhere is left out."""
        said = [
            ("lines", f"{self.lines:,}" + (f", {self.bad_lines:,} of them with problems" if self.bad_lines else "")),
            ("bytes", f"{self.bytes:,}"),
            ("messages", _listed(self.roles, self.messages)),
            ("replies", f"{self.replies:,} to learn from" if self.replies else ""),
            ("tool calls", _listed(self.calls)),
            ("tools", _listed(self.tools)),
            ("images", f"{self._image_counts()}" if self.images else ""),
            ("links", f"{self.links:,} images that were not looked at: only their addresses are here" if self.links else ""),
            ("outcomes", _listed(self.outcomes)),
            (
                "undocumented",
                f"{_listed(self.undocumented)}: not among the keys that OpenAI documents" if self.undocumented else "",
            ),
            ("not checked", f"{_listed(self.unchecked)} in tool schemas" if self.unchecked else ""),
        ]
        return [(name, text) for name, text in said if text]

    def _image_counts(self) -> str:
        return f"{self.images:,} in {self.image_lines:,} lines, {self.image_bytes:,} bytes ({_listed(self.image_sizes)})"


def count(counter: Counter[str], name: str) -> None:
    """Count one more of a name that a file chose."""
    counter[name if name in counter or len(counter) < MOST_NAMES else OTHERS] += 1


def _plain(value: Any) -> Any:
    return dict(value.most_common()) if isinstance(value, Counter) else value


def _listed(counts: Counter[str], total: int | None = None, most: int = 6) -> str:
    names = [f"{name} {count:,}" for name, count in counts.most_common(most)]
    rest = [f"{len(counts) - most} more"] if len(counts) > most else []
    told = ", ".join([*names, *rest])
    return f"{total:,} ({told})" if total is not None and told else told
