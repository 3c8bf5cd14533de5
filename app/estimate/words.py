"""Figures of an estimate in words."""

from __future__ import annotations

from collections.abc import Sequence

from app.estimate.memory import Part, total


def many(count: int, what: str) -> str:
    """``1 sample``, ``2,000 samples``."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def parameters(count: int) -> str:
    """``4.4 billion parameters``, ``1.0 million parameters``."""
    return f"{count / 1e9:.1f} billion parameters" if count >= 1e8 else f"{count / 1e6:.1f} million parameters"


def size(count: float) -> str:
    """``12.3 GB``, ``410 MB``, ``3.2 kB``."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.0f} bytes"


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.4 h``, ``2.1 days``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    for unit, name, most in ((60, "min", 90), (3600, "h", 48)):
        if seconds < unit * most:
            return f"{seconds / unit:.2g} {name}"
    return f"{seconds / 86_400:.2g} days"


def at_the_most(parts: Sequence[Part]) -> str:
    """``4.1 GB, 9.3 GB at the most``."""
    return f"{size(total(parts, most=False))}, {size(total(parts))} at the most"


def parts_told(parts: Sequence[Part]) -> str:
    """Each part with its size, the bounds last."""
    exact = [f"{part.name} {size(part.bytes)}" for part in parts if not part.most]
    bounds = [f"{part.name} {size(part.bytes)}" for part in parts if part.most]
    return ", ".join(exact) + (f"; at the most {', '.join(bounds)}" if bounds else "")
