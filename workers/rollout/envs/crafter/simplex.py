"""OpenSimplex noise in three dimensions, for many points at once: every bit as `opensimplex` gives them one by one.

The order of the floating-point operations is part of the result, so it is the same here: a distance to a lattice corner is
`((d - whole) - squish) - late`, and contributions are added in the package's order. What the package decides by branches is a
table here: which two corners beyond the near ones count (`_EXTRA`), by the case that a point falls into.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# N points, V corners of the lattice.
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

STRETCH = -1.0 / 6
SQUISH = 1.0 / 3
NORM = 103

GRADIENTS = np.array(
    [
        [sign * (11 if axis == place else 4) for place, sign in enumerate((sx, sy, sz))]
        for sz, sy, sx in product((1, -1), (1, -1), (-1, 1))
        for axis in range(3)
    ],
    dtype=np.float64,
)
"""The 24 directions, float64 [24, 3]."""


class _Corner(NamedTuple):
    """A lattice corner, and in which order the way to it is subtracted."""

    whole: tuple[int, int, int]
    squishes: int
    late: tuple[int, int, int] = (0, 0, 0)


def _bits(case: int) -> tuple[int, int, int]:
    return (case & 1, case >> 1 & 1, case >> 2 & 1)


def _near_origin(case: int) -> tuple[_Corner, _Corner]:
    """The origin is among the two closest; `case` is the other one (one bit)."""
    x, y, z = _bits(case)
    first = (1 if x else -1, 1 if y else (-1 if x else 0), 1 if z else 0)
    second = (1 if x else 0, 1 if y else (0 if x else -1), 1 if z else -1)
    return _Corner(first, 0), _Corner(second, 0)


def _far_from_origin(case: int) -> tuple[_Corner, _Corner]:
    """The origin is not among the two closest; `case` has their two bits."""
    bits = _bits(case)
    second = [1 if bit else -1 for bit in bits]
    return _Corner(bits, 2), _Corner((second[0], second[1], second[2]), 1)


def _near_top(case: int) -> tuple[_Corner, _Corner]:
    """(1, 1, 1) is among the two closest; `case` is the other one (two bits)."""
    x, y, z = _bits(case)
    first, first_late = [2 if x else 0, y, z], [0, 0, 0]
    second, second_late = [x, y, 2 if z else 0], [0, 0, 0]
    if y:
        (second_late if x else first_late)[1] = 1
    return (
        _Corner((first[0], first[1], first[2]), 3, (first_late[0], first_late[1], first_late[2])),
        _Corner((second[0], second[1], second[2]), 3, (second_late[0], second_late[1], second_late[2])),
    )


def _far_from_top(case: int) -> tuple[_Corner, _Corner]:
    """(1, 1, 1) is not among the two closest; `case` is the one bit that these share."""
    x, y, z = _bits(case)
    return _Corner((x, y, z), 1), _Corner((2 * x, 2 * y, 2 * z), 2)


def _lacking(case: int) -> _Corner:
    """A permutation of (1, 1, -1): -1 where `case` has no bit."""
    x, y, z = (1 if bit else -1 for bit in _bits(case))
    return _Corner((x, y, z), 1)


def _doubled(case: int) -> _Corner:
    x, y, z = _bits(case)
    return _Corner((2 * x, 2 * y, 2 * z), 2)


def _mixed(far: int, near: int) -> tuple[_Corner, _Corner]:
    """One closest point on either side: (1, 1, -1) by the far one, (0, 0, 2) by the near one, subtracted last."""
    return _lacking(far), _Corner((0, 0, 0), 2, _doubled(near).whole)


_ONE, _TWO = (1, 2, 4), (3, 5, 6)
_CASES: dict[tuple[str, int], tuple[_Corner, _Corner]] = {
    **{("near origin", c): _near_origin(c) for c in _ONE},
    **{("far from origin", c): _far_from_origin(c) for c in _TWO},
    **{("near top", c): _near_top(c) for c in _TWO},
    **{("far from top", c): _far_from_top(c) for c in _ONE},
    **{("both far", c): (_Corner((1, 1, 1), 3), _doubled(c)) for c in _ONE},
    **{("both near", c): (_Corner((0, 0, 0), 0), _lacking(c)) for c in _TWO},
    **{("mixed", 8 * far + near): _mixed(far, near) for far in _TWO for near in _ONE},
}
_NUMBER = {case: number for number, case in enumerate(_CASES)}


_NUMBERS = {kind: np.array([_NUMBER.get((kind, bits), -1) for bits in range(64)], dtype=np.int64) for kind, _ in _CASES}
"""Number of the case by its bits, for each kind of case."""


_EXTRA = [
    (
        np.array([corners[i].whole for corners in _CASES.values()], dtype=np.int64),
        np.array([corners[i].squishes * SQUISH for corners in _CASES.values()]),
        np.array([corners[i].late for corners in _CASES.values()], dtype=np.int64),
    )
    for i in range(2)
]

_LOW = [_Corner((0, 0, 0), 0), _Corner((1, 0, 0), 1), _Corner((0, 1, 0), 1), _Corner((0, 0, 1), 1)]
_HIGH = [_Corner((1, 1, 0), 2), _Corner((1, 0, 1), 2), _Corner((0, 1, 1), 2), _Corner((1, 1, 1), 3)]
_MIDDLE = [*_LOW[1:], *_HIGH[:3]]


class Noise:
    """The noise of one seed."""

    def __init__(self, seed: int) -> None:
        self._perm = _permutation(seed)
        self._gradient = self._perm % len(GRADIENTS)

    def __call__(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Noise at N points: float64 [N], between -1 and 1."""
        stretch = (x + y + z) * STRETCH
        skewed = [axis + stretch for axis in (x, y, z)]
        cells = [np.floor(axis) for axis in skewed]
        squish = (cells[0] + cells[1] + cells[2]) * SQUISH
        inside = [axis - cell for axis, cell in zip(skewed, cells, strict=True)]
        offsets = [axis - (cell + squish) for axis, cell in zip((x, y, z), cells, strict=True)]
        corners = [cell.astype(np.int64) for cell in cells]
        total = inside[0] + inside[1] + inside[2]
        value = np.zeros(len(x))
        low, high = total <= 1, total >= 2
        for region, near, case_of in (
            (low, _LOW, _low_case),
            (high & ~low, _HIGH, _high_case),
            (~(low | high), _MIDDLE, _middle_case),
        ):
            at = np.flatnonzero(region)
            if len(at):
                value[at] = self._region(
                    [axis[at] for axis in corners],
                    [axis[at] for axis in offsets],
                    near,
                    case_of(inside[0][at], inside[1][at], inside[2][at], total[at]),
                )
        return value / NORM

    def _region(self, cells: list[Ints], offsets: list[Floats], near: Sequence[_Corner], case: Ints) -> Floats:
        value = np.zeros(len(case))
        for corner in near:
            ways = [d - whole - corner.squishes * SQUISH for d, whole in zip(offsets, corner.whole, strict=True)]
            value += self._contribution([c + whole for c, whole in zip(cells, corner.whole, strict=True)], ways)
        for whole, squish, late in _EXTRA:
            steps, last, out = whole[case], late[case], squish[case]
            ways = [d - steps[:, i] - out - last[:, i] for i, d in enumerate(offsets)]
            value += self._contribution([c + steps[:, i] + last[:, i] for i, c in enumerate(cells)], ways)
        return value

    def _contribution(self, cell: list[Ints], way: list[Floats]) -> Floats:
        """What a corner adds at each point, float64 [N]: nothing where it is too far."""
        dx, dy, dz = way
        reach = np.maximum(2 - dx * dx - dy * dy - dz * dz, 0.0)
        reach *= reach
        perm = self._perm
        gradient = GRADIENTS[self._gradient[(perm[(perm[cell[0] & 255] + cell[1]) & 255] + cell[2]) & 255]]
        slope: Floats = gradient[:, 0] * dx + gradient[:, 1] * dy + gradient[:, 2] * dz
        return reach * reach * slope


def _low_case(x: Floats, y: Floats, z: Floats, total: Floats) -> Ints:
    """Cases of the tetrahedron at the origin."""
    first = x >= y
    b_is_z, a_is_z = first & (z > y), ~first & (z > x)
    a_score, b_score = np.where(a_is_z, z, x), np.where(b_is_z, z, y)
    a, b = np.where(a_is_z, 4, 1), np.where(b_is_z, 4, 2)
    rest = 1 - total
    near = (rest > a_score) | (rest > b_score)
    return np.where(near, _NUMBERS["near origin"][np.where(b_score > a_score, b, a)], _NUMBERS["far from origin"][a | b])


def _high_case(x: Floats, y: Floats, z: Floats, total: Floats) -> Ints:
    """Cases of the tetrahedron at (1, 1, 1)."""
    first = x <= y
    b_is_z, a_is_z = first & (z < y), ~first & (z < x)
    a_score, b_score = np.where(a_is_z, z, x), np.where(b_is_z, z, y)
    a, b = np.where(a_is_z, 3, 6), np.where(b_is_z, 3, 5)
    rest = 3 - total
    near = (rest < a_score) | (rest < b_score)
    return np.where(near, _NUMBERS["near top"][np.where(b_score < a_score, b, a)], _NUMBERS["far from top"][a & b])


def _middle_case(x: Floats, y: Floats, z: Floats, total: Floats) -> Ints:
    """Cases of the octahedron between the two: the two closest of six points, each on the near or the far side."""
    p1, p2, p3 = x + y, x + z, y + z
    a_far, b_far, c_far = p1 > 1, p2 > 1, p3 > 1
    a_score, b_score, c_score = (np.where(far, p - 1, 1 - p) for p, far in ((p1, a_far), (p2, b_far), (p3, c_far)))
    a, b, c = np.where(a_far, 3, 4), np.where(b_far, 5, 2), np.where(c_far, 6, 1)
    c_for_a = (a_score <= b_score) & (a_score < c_score)
    c_for_b = (a_score > b_score) & (b_score < c_score)
    a, a_far = np.where(c_for_a, c, a), np.where(c_for_a, c_far, a_far)
    b, b_far = np.where(c_for_b, c, b), np.where(c_for_b, c_far, b_far)
    mixed = np.where(a_far, 8 * a + b, 8 * b + a)
    same = np.where(a_far, _NUMBERS["both far"][a & b], _NUMBERS["both near"][a | b])
    return np.where(a_far == b_far, same, _NUMBERS["mixed"][mixed])


def _permutation(seed: int) -> Ints:
    """The shuffled numbers 0 to 255 of a seed: int64 [256]."""

    def following(state: int) -> int:
        return (state * 6364136223846793005 + 1442695040888963407) & (2**64 - 1)

    source = list(range(256))
    perm = [0] * 256
    for _ in range(3):
        seed = following(seed)
    for i in range(255, -1, -1):
        seed = following(seed)
        signed = seed - 2**64 if seed >= 2**63 else seed
        pick = (signed + 31) % (i + 1)
        perm[i], source[pick] = source[pick], source[i]
    return np.array(perm, dtype=np.int64)
