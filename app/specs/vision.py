"""The one rule about pictures: every section that says whether there are any must say the same.

A run in which one section shows pictures and another leaves them out trains on something that was never played, and nothing
breaks: so it is refused before it begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from app.specs.base import Clash
from app.specs.draft import shown


def disagreement(flags: Mapping[str, bool | int | None]) -> Iterator[Clash]:
    """A clash at each flag that does not agree with the first one given.

    ``flags`` names the keys in order of weight, with their values: true or a number above 0 says that there are pictures, false
    or 0 that there are none, None says nothing.
    """
    said = {key: value for key, value in flags.items() if value is not None}
    if not said:
        return
    first, value = next(iter(said.items()))
    for key, other in said.items():
        if bool(other) != bool(value):
            effect = "the model would be shown no picture" if bool(value) else "there is no picture to show"
            yield Clash(
                key, f"{shown(other)} does not agree with {first} = {shown(value)}: {effect}; make all vision flags agree"
            )
