"""Whether two sets of atoms are the same up to rotation, reflection and the order of their atoms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .molecules import Floats, Integers

_LOOSE = 0.02
_FLAT = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """A set of atoms about its centroid, with what does not change when it is turned.

    Attributes
    ----------
    numbers : array (A,) of int
        Atomic numbers.
    positions : array (A, 3)
        About the centroid (Angstrom).
    environment : array (A,)
        Mean distance of each atom to all, weighted by atomic number (Angstrom).
    fingerprint : array (3,)
        Means over the distance matrix: plain, of squares (as root), weighted by atomic numbers (Angstrom).
    """

    numbers: Integers
    positions: Floats
    environment: Floats
    fingerprint: Floats

    @classmethod
    def of(cls, numbers: Integers, positions: Floats) -> Shape:
        """The shape of atoms at some positions (A, 3)."""
        centred = positions - positions.mean(axis=0)
        distance = np.linalg.norm(centred[:, None] - centred[None], axis=2)
        weights = numbers / numbers.sum()
        environment = distance @ weights
        fingerprint = np.array([distance.mean(), np.sqrt(np.mean(distance**2)), environment @ weights])
        return cls(numbers, centred, environment, fingerprint)


def congruent(first: Shape, second: Shape, tolerance: float, *, mirror_images: bool) -> bool:
    """Whether some rotation and some order of the atoms lay one shape on the other.

    Parameters
    ----------
    first, second : Shape
        What is compared.
    tolerance : float
        Root mean square deviation of the atoms that is still the same (Angstrom).
    mirror_images : bool
        Whether a reflection may be used as well.

    Notes
    -----
    The fingerprints only exclude. The answer comes from rotations that carry two atoms of the first shape, off one line
    with the centroid, onto two like atoms of the second; the order of the atoms follows from such a rotation, and the
    best rotation for that order (W. Kabsch, Acta Cryst. A 32, 922, 1976) gives the deviation.
    """
    if not np.array_equal(np.sort(first.numbers), np.sort(second.numbers)):
        return False
    furthest = float(np.sqrt(len(first.numbers))) * tolerance  # how far off a single atom may be
    if np.abs(first.fingerprint - second.fingerprint).max() > 2.0 * furthest:
        return False
    loose = max(_LOOSE, 2.0 * furthest)
    p, q = first.positions, second.positions
    far = int(np.argmax(np.linalg.norm(p, axis=1)))
    if np.linalg.norm(p[far]) < _FLAT:
        return True
    off_line = np.linalg.norm(np.cross(p, p[far]), axis=1) / np.linalg.norm(p[far])
    side = int(np.argmax(off_line))
    if off_line[side] < _FLAT:
        side = far
    apart = np.linalg.norm(p[far] - p[side])
    for i in _alike(first, far, second, loose):
        for j in [i] if side == far else _alike(first, side, second, loose):
            if abs(np.linalg.norm(q[i] - q[j]) - apart) > loose:
                continue
            for sign in (1.0, -1.0) if mirror_images else (1.0,):
                turn = _frame(p[far], p[side], 1.0).T @ _frame(q[i], q[j], sign)
                if _lies_on(first, second, turn, tolerance, mirror_images):
                    return True
    return False


def _alike(first: Shape, atom: int, second: Shape, loose: float) -> list[int]:
    """Atoms of the second shape that an atom of the first may be laid on."""
    radius = np.linalg.norm(first.positions[atom])
    same = (
        (second.numbers == first.numbers[atom])
        & (np.abs(np.linalg.norm(second.positions, axis=1) - radius) < loose)
        & (np.abs(second.environment - first.environment[atom]) < loose)
    )
    return [int(i) for i in np.flatnonzero(same)]


def _frame(along: Floats, beside: Floats, sign: float) -> Floats:
    """Orthonormal rows: along the first vector, towards the second, and across (reversed for a reflection)."""
    x = along / np.linalg.norm(along)
    y = beside - (beside @ x) * x
    if np.linalg.norm(y) < _FLAT:  # all on one line: any direction across will do
        y = np.eye(3)[int(np.argmin(np.abs(x)))]
        y = y - (y @ x) * x
    y = y / np.linalg.norm(y)
    return np.stack([x, y, sign * np.cross(x, y)])


def _lies_on(first: Shape, second: Shape, turn: Floats, tolerance: float, mirror_images: bool) -> bool:
    turned = first.positions @ turn
    squares = np.sum((turned[:, None] - second.positions[None]) ** 2, axis=2)
    squares[first.numbers[:, None] != second.numbers[None]] = np.inf
    order = squares.argmin(axis=1)
    if squares[np.arange(len(order)), order].max() > 0.1 or len(np.unique(order)) < len(order):
        return False
    target = second.positions[order]
    u, _, vt = np.linalg.svd(first.positions.T @ target)
    if np.linalg.det(u @ vt) < 0.0 and not mirror_images:
        u[:, -1] *= -1.0
    deviation = first.positions @ u @ vt - target
    return bool(np.sqrt(np.mean(np.sum(deviation**2, axis=1))) < tolerance)
