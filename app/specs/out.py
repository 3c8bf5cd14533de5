"""The way out: the resolved spec, its sha256, and what looks like a mistake in it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from app.specs.base import Spec


def resolved(spec: Spec) -> dict[str, Any]:
    """The whole spec as JSON values, every default written out, keys in the order of the tables."""
    return spec.model_dump(mode="json")


def sha256(spec: Spec) -> str:
    """The name of what a spec says: sha256 of its resolved JSON, keys sorted, without ``name``."""
    said = {key: value for key, value in resolved(spec).items() if key != "name"}
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def warnings(spec: Spec) -> list[str]:
    """What is allowed and looks like a mistake; each sentence begins with its key."""
    return list(spec.cautions())
