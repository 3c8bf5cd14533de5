"""What files of weights (safetensors) hold, from their headers alone: names, shapes, types. Nothing is loaded.

A file is 8 bytes with the length of the header, the header in JSON, and the numbers. The header says where each tensor ends, so
a file that was cut short, or copied in part, is known by its size.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from app.errors import BadModel

MOST_HEADER_BYTES: Final = 100_000_000
"""The most that the format allows."""
FILE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
MOST_HASHED_BYTES: Final = 2 * 10**9
"""Weights up to here are hashed whole, which takes a few seconds at the most."""
_LENGTH_BYTES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor in a file."""

    shape: tuple[int, ...]
    dtype: str
    """As safetensors writes it: ``F32``, ``BF16`` and so on."""

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


def header(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name. Raises BadModel for a file that is none, or that is not whole."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if size < _LENGTH_BYTES or length > min(size - _LENGTH_BYTES, MOST_HEADER_BYTES):
                raise BadModel(
                    f"{path} is no file of weights, or only a piece of one: its header does not fit into its {size} bytes"
                )
            told = json.loads(file.read(length))
    except OSError as error:
        raise BadModel(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError):
        raise BadModel(f"{path} is no file of weights: its header is not JSON") from None
    return _tensors(path, told, size - _LENGTH_BYTES - length)


def _tensors(path: Path, told: Any, held: int) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    end = 0
    try:
        for name, about in told.items():
            if name == "__metadata__":
                continue
            found[name] = Tensor(shape=tuple(int(side) for side in about["shape"]), dtype=str(about["dtype"]))
            end = max(end, int(about["data_offsets"][1]))
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        raise BadModel(f"{path} is no file of weights: its header does not describe tensors") from None
    if end != held:
        how = "it was cut short" if held < end else "there is more behind it"
        raise BadModel(f"{path} is damaged: its header tells of {end} bytes of weights and there are {held}, so {how}")
    return found


def files(folder: Path) -> list[Path]:
    """The files that a model's weights are in: one, or those that an index names. Raises BadModel when some are not there."""
    if (folder / FILE).is_file():
        return [folder / FILE]
    if not (folder / INDEX).is_file():
        raise BadModel(f"{folder} has no weights: neither {FILE} nor {INDEX} is there (weights in other formats are not read)")
    names = sorted(set(_index(folder / INDEX).values()))
    if strange := next((name for name in names if Path(name).name != name), None):
        raise BadModel(f"{folder / INDEX} names {strange!r}, which is not a file beside it")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise BadModel(f"{folder} lacks {len(missing)} of the {len(names)} files that {INDEX} names, {missing[0]} first")
    return [folder / name for name in names]


def _index(path: Path) -> Mapping[str, str]:
    told = read_json(path).get("weight_map")
    if not isinstance(told, dict) or not told or not all(isinstance(name, str) for name in told.values()):
        raise BadModel(f"{path} has no weight_map that says which file each weight is in")
    return told


def tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a model's folder, by name, from all of its files. Raises BadModel."""
    found: dict[str, Tensor] = {}
    for path in files(folder):
        found |= header(path)
    if (folder / FILE).is_file():
        return found
    lacking = next((name for name in _index(folder / INDEX) if name not in found), None)
    if lacking is not None:
        raise BadModel(f"{folder / INDEX} names {lacking!r}, and none of the files has it")
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises BadModel."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadModel(f"{path.parent} has no {path.name}") from None
    except OSError as error:
        raise BadModel(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise BadModel(f"{path} is not JSON: {error}") from None
    if not isinstance(told, dict):
        raise BadModel(f"{path} holds no JSON object")
    return told


def is_hashed_whole(folder: Path) -> bool:
    """Whether ``sha256`` knows these weights from any others. Raises BadModel, and OSError."""
    return sum(path.stat().st_size for path in files(folder)) <= MOST_HASHED_BYTES


def sha256(folder: Path) -> str:
    """What tells a model's weights from others.

    Of one file, the sha256 of its bytes, as ``sha256sum`` gives it; of several, that of their names and sha256s. Of more than
    ``MOST_HASHED_BYTES`` only the names, sizes and headers are hashed: that is quick, and knows a model of another shape or
    precision, but not one with other numbers in the same places. Raises BadModel.
    """
    held = files(folder)
    try:
        if not is_hashed_whole(folder):
            return _sha256_of({path.name: [path.stat().st_size, _first_bytes(path)] for path in held})
        if len(held) == 1:
            return file_sha256(held[0])
        return _sha256_of({path.name: file_sha256(path) for path in held})
    except OSError as error:
        raise BadModel(f"{folder} cannot be read: {error.strerror or error}") from error


def _sha256_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_bytes(path: Path) -> str:
    """The sha256 of a file's header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        return hashlib.sha256(file.read(min(length, MOST_HEADER_BYTES))).hexdigest()
