"""Which layers an adapter changes: some of the language model's, never one of the vision tower, which engines serve as it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from app.errors import InvalidInput, cut
from app.model_folder import VISION
from workers.model.adapters import MEANT, language_layers
from workers.trainer.learner.settings import ALL_LINEAR

_NAME: Final = re.compile(r"[\w.]+")
_DEPTH: Final = re.compile(r"\.layers\.(\d+)\.")


def chosen(asked: str | Sequence[str], model: Any, depths: Sequence[int] | None = None) -> list[str]:
    """Names in the whole model of the layers that ``target_modules`` names, sorted; with ``depths`` only those so deep in it.

    A name stands for every module whose name ends with it, as in peft; text that is no name is a regular expression that whole
    names match. Raises InvalidInput for what names no layer, or one that no adapter may change.
    """
    names = _named(asked, model)
    return names if depths is None else _so_deep(names, depths, model)


def _so_deep(names: Iterable[str], depths: Sequence[int], model: Any) -> list[str]:
    count = int(model.config.get_text_config().num_hidden_layers)
    for depth in depths:
        if not -count <= depth < count:
            raise InvalidInput(f"layers_to_transform: {depth} is none of this model's {count} layers, {-count} to {count - 1}")
    wanted = {depth % count for depth in depths}
    found = [name for name in names if int(_DEPTH.findall(name)[0]) in wanted]
    if not found:
        raise InvalidInput(f"layers_to_transform: {', '.join(map(str, depths))} has none of the layers that target_modules names")
    return found


def _named(asked: str | Sequence[str], model: Any) -> list[str]:
    may = language_layers(model.config)
    if asked == ALL_LINEAR:
        return sorted(may)
    names = [name for name, _ in model.named_modules() if name]
    told: Iterable[str] = (asked,) if isinstance(asked, str) else asked
    found: set[str] = set()
    for one in told:
        hits = [name for name in names if _hit(one, name)]
        if vision := [name for name in hits if VISION in name]:
            raise InvalidInput(
                f"target_modules: {cut(one)} names {vision[0]} of the vision tower, which engines serve without adapters: what "
                f"is trained there would not be what plays; {MEANT}"
            )
        if other := [name for name in hits if name not in may]:
            raise InvalidInput(f"target_modules: {cut(one)} names {other[0]}; {MEANT}")
        if not hits:
            raise InvalidInput(f"target_modules: {cut(one)} names no layer of this model; {MEANT}")
        found.update(hits)
    if not found:
        raise InvalidInput(f"target_modules is empty; name layers, or take {ALL_LINEAR!r}")
    return sorted(found)


def _hit(asked: str, name: str) -> bool:
    if _NAME.fullmatch(asked):
        return name == asked or name.endswith(f".{asked}")
    try:
        return re.fullmatch(asked, name) is not None
    except re.error as error:
        raise InvalidInput(f"target_modules: {cut(asked)} is neither a name nor a regular expression ({error})") from None


def pattern(names: Iterable[str], model: Any) -> str | list[str]:
    """The same layers as short as peft can take them: one regular expression where every layer has the same parts."""
    wanted = set(names)
    parts = sorted({".".join(name.rsplit(".", 2)[1:]) for name in wanted})
    alike = {name for name in language_layers(model.config) if name.endswith(tuple(f".{part}" for part in parts))}
    if alike != wanted:
        return sorted(wanted)
    return rf"model\.language_model\.layers\.\d+\.({'|'.join(map(re.escape, parts))})"
