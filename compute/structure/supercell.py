"""The smallest supercell in which no atom sees its own periodic image closer than a given distance.

A supercell is an integer matrix ``M`` (rows = supercell vectors in units of cell vectors, so the supercell
is ``M @ cell``). Every sublattice of index ``n`` has exactly one Hermite normal form of determinant ``n``;
walking through them upward from the packing bound finds the smallest one exactly, with no heuristics.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ase import Atoms

IntMatrix = NDArray[np.int64]
FloatMatrix = NDArray[np.float64]

__all__ = ["find_supercell", "make_supercell", "reduce_lattice", "shortest_translation"]

_RELATIVE_TOLERANCE = 1e-8
_MAX_CANDIDATES = 20_000_000
_MAX_CELLS = 3000


def find_supercell(cell: FloatMatrix, radius: float, *, diagonal: bool = False) -> IntMatrix:
    """Find the smallest supercell whose shortest translation is at least ``radius``.

    Parameters
    ----------
    cell : array (3, 3)
        Cell vectors as rows (Angstrom).
    radius : float
        Least distance between an atom and its periodic image in the supercell (Angstrom).
    diagonal : bool
        Only repeat the cell along its own vectors.

    Returns
    -------
    array (3, 3) of int
        Rows are the supercell vectors in units of cell vectors; the determinant is positive. Unless
        ``diagonal``, the vectors are Minkowski-reduced; of several supercells of equal size the one with
        the longest shortest translation, then the most compact, is taken.

    Notes
    -----
    The densest lattice packing (fcc) bounds the shortest translation by ``(sqrt(2) V)**(1/3)``, so that the
    search starts at ``n = floor(R**3 / (sqrt(2) V))``.
    """
    cell = _checked_cell(cell, radius)
    basis_change = reduce_lattice(cell)
    reduced = basis_change @ cell
    short = _short_vectors(reduced, radius * (1.0 - _RELATIVE_TOLERANCE))
    start = max(1, int(radius**3 / (np.sqrt(2.0) * abs(np.linalg.det(cell)))))
    if diagonal:
        return _smallest_diagonal(cell, short @ basis_change, start, radius)
    if start > _MAX_CELLS:
        raise _too_large(radius)
    size = start
    while True:
        matrices = list(_hermite_forms_without(short, size))
        if matrices:
            return _best(cell, [matrix @ basis_change for matrix in matrices])
        size += 1


def make_supercell(atoms: Atoms, matrix: IntMatrix) -> Atoms:
    """Repeat a structure into the supercell ``matrix @ cell``.

    Parameters
    ----------
    atoms : Atoms
        A structure with three cell vectors. Molecules are not cut: atoms keep their place relative to
        their cell and are not wrapped into the supercell.
    matrix : array (3, 3) of int
        Rows are the supercell vectors in units of cell vectors, with positive determinant.

    Returns
    -------
    Atoms
        ``det(matrix)`` copies of the structure, one whole copy after another, with velocities,
        masses and other per-atom arrays repeated. Constraints and calculator are dropped.
    """
    from ase.build import make_supercell as repeat

    matrix = np.asarray(matrix)
    if matrix.shape != (3, 3) or not np.array_equal(matrix, np.rint(matrix)):
        raise ValueError(f"a supercell matrix has 3 x 3 integers; found {matrix.tolist()}")
    integers = np.rint(matrix).astype(np.int64)
    size = round(float(np.linalg.det(integers)))
    if size < 1:
        raise ValueError(f"a supercell matrix needs a positive determinant; found {size}")
    plain = atoms.copy()
    plain.set_constraint()
    if np.array_equal(integers, np.eye(3)):
        return plain  # type: ignore[no-any-return]
    return repeat(plain, integers, wrap=False, order="cell-major")  # type: ignore[no-any-return]


def shortest_translation(cell: FloatMatrix) -> float:
    """Length of the shortest lattice vector (Angstrom) of the cell with the given rows."""
    cell = np.asarray(cell, dtype=np.float64)
    return float(np.linalg.norm(reduce_lattice(cell) @ cell, axis=1).min())


def reduce_lattice(cell: FloatMatrix) -> IntMatrix:
    """Find a unimodular integer matrix ``U`` such that the rows of ``U @ cell`` are Minkowski-reduced.

    Parameters
    ----------
    cell : array (3, 3)
        Lattice vectors as rows (Angstrom).

    Returns
    -------
    array (3, 3) of int
        ``U`` with determinant 1. Rows are ordered and signed so that ``U`` is as near to the unit
        matrix as it can be.

    Notes
    -----
    Greedy reduction in three dimensions after I. Semaev, "A 3-dimensional lattice reduction algorithm"
    (CaLC 2001): the longest vector is shortened by the two others until nothing gets shorter.
    """
    change = np.eye(3, dtype=np.int64)
    steps = np.array(list(product((-1, 0, 1), repeat=2)), dtype=np.int64)
    tolerance = 1e-10 * float(np.sum(cell**2))
    while True:
        vectors = change @ cell
        order = np.argsort(np.sum(vectors**2, axis=1), kind="stable")
        change = _reduce_pair(change[order], cell)
        vectors = change @ cell
        plane, longest = vectors[:2], vectors[2]
        centre = np.rint(np.linalg.lstsq(plane.T, longest, rcond=None)[0]).astype(np.int64)
        shifts = centre + steps
        lengths = np.sum((longest - shifts @ plane) ** 2, axis=1)
        best = int(np.argmin(lengths))
        if lengths[best] > np.sum(longest**2) - tolerance:
            return _aligned(change)
        change[2] -= shifts[best] @ change[:2]


def _reduce_pair(change: IntMatrix, cell: FloatMatrix) -> IntMatrix:
    """Lagrange-Gauss reduction of the first two rows, the shorter one first."""
    change = change.copy()
    while True:
        a, b = change[:2] @ cell
        factor = int(np.rint(a @ b / (a @ a)))
        shorter = b - factor * a
        if factor == 0 or shorter @ shorter > (b @ b) * (1.0 - 1e-10):
            return change
        change[1] -= factor * change[0]
        if shorter @ shorter < a @ a:
            change[[0, 1]] = change[[1, 0]]


def _aligned(matrix: IntMatrix) -> IntMatrix:
    """Order and sign the rows: positive determinant, largest trace, then the largest in rows' order."""
    sign = np.array(list(product((1, -1), repeat=3)), dtype=np.int64)
    candidates = [s[:, None] * matrix[list(p)] for p in permutations(range(3)) for s in sign]
    right_handed = [c for c in candidates if np.linalg.det(c) > 0]
    return max(right_handed, key=lambda c: (int(np.trace(c)), c.ravel().tolist()))


def _checked_cell(cell: FloatMatrix, radius: float) -> FloatMatrix:
    cell = np.asarray(cell, dtype=np.float64)
    if cell.shape != (3, 3) or not np.all(np.isfinite(cell)):
        raise ValueError("a cell has 3 x 3 finite numbers, its vectors as rows")
    lengths = np.linalg.norm(cell, axis=1)
    if lengths.min() == 0.0 or abs(np.linalg.det(cell)) < 1e-8 * lengths.prod():
        raise ValueError("the cell vectors do not span a volume, so no supercell can be built")
    if not (np.isfinite(radius) and radius > 0.0):
        raise ValueError(f"the radius of a supercell must be positive; found {radius} Angstrom")
    return cell


def _too_large(radius: float) -> ValueError:
    return ValueError(
        f"a radius of {radius:g} Angstrom needs too many of these cells; give the supercell matrix instead"
    )


def _short_vectors(cell: FloatMatrix, radius: float) -> IntMatrix:
    """All integer triples (one of each +/- pair) of lattice vectors shorter than ``radius``, shortest first."""
    reach = np.floor(radius * np.linalg.norm(np.linalg.inv(cell), axis=0) + 1e-9).astype(np.int64)
    if np.prod(2.0 * reach + 1.0) > _MAX_CANDIDATES:
        raise _too_large(radius)
    grid = np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij")
    triples = np.stack([axis.ravel() for axis in grid], axis=1)
    triples = triples[len(triples) // 2 + 1 :]  # the later half: one of v and -v, without zero
    lengths = np.linalg.norm(triples @ cell, axis=1)
    keep = np.flatnonzero(lengths < radius)
    return triples[keep[np.argsort(lengths[keep], kind="stable")]].astype(np.int64)


def _factor_triples(size: int) -> Iterator[tuple[int, int, int]]:
    divisors = [d for d in range(1, size + 1) if size % d == 0]
    for a in divisors:
        for b in divisors:
            if (size // a) % b == 0:
                yield a, b, size // a // b


def _hermite_forms_without(short: IntMatrix, size: int) -> Iterator[IntMatrix]:
    """All Hermite normal forms of determinant ``size`` whose lattice holds none of the ``short`` vectors.

    The rows are ``(a, x, y), (0, b, z), (0, 0, c)`` with ``abc = size``, ``0 <= x < b`` and
    ``0 <= y, z < c``. An integer vector ``v`` lies in that lattice when ``v1 = k1 a``,
    ``v2 = k1 x + k2 b`` and ``v3 = k1 y + k2 z + k3 c`` have integer solutions.
    """
    for a, b, c in _factor_triples(size):
        x, y, z = (axis.ravel() for axis in np.meshgrid(np.arange(b), np.arange(c), np.arange(c)))
        for v1, v2, v3 in short[short[:, 0] % a == 0].tolist():
            k1 = v1 // a
            rest = v2 - k1 * x
            inside = (rest % b == 0) & ((v3 - k1 * y - (rest // b) * z) % c == 0)
            if inside.any():
                x, y, z = x[~inside], y[~inside], z[~inside]
                if x.size == 0:
                    break
        for i in range(x.size):
            yield np.array([[a, x[i], y[i]], [0, b, z[i]], [0, 0, c]], dtype=np.int64)


def _best(cell: FloatMatrix, matrices: list[IntMatrix]) -> IntMatrix:
    """The supercell with the longest shortest translation, then the shortest vectors, then by its digits."""
    ranked = []
    for matrix in matrices:
        compact = reduce_lattice(matrix @ cell) @ matrix
        compact = _aligned(compact)
        lengths = np.sort(np.linalg.norm(compact @ cell, axis=1))
        ranked.append(
            (-round(lengths[0], 5), round(float(lengths.sum()), 5), -np.trace(compact), compact.ravel().tolist())
        )
    return np.array(min(ranked)[3], dtype=np.int64).reshape(3, 3)


def _smallest_diagonal(cell: FloatMatrix, short: IntMatrix, start: int, radius: float) -> IntMatrix:
    """The smallest product of three repeats such that no short vector has all components divisible."""
    if len(short) == 0:
        return np.eye(3, dtype=np.int64)
    most = np.abs(short).max(axis=0) + 1  # so many repeats along one vector exclude every short vector
    if np.prod(most.astype(np.float64)) > _MAX_CANDIDATES:
        raise _too_large(radius)
    triples = np.stack([g.ravel() for g in np.meshgrid(*[np.arange(1, n + 1) for n in most])], axis=1)
    triples = triples[np.prod(triples, axis=1) >= start]
    spread = np.ptp(triples * np.linalg.norm(cell, axis=1), axis=1)
    order = np.lexsort((*triples.T[::-1], np.round(spread, 5), np.prod(triples, axis=1)))
    for repeats in triples[order]:
        if not np.any(np.all(short % repeats == 0, axis=1)):
            return np.diag(repeats).astype(np.int64)
    raise AssertionError("unreachable: the largest repeats exclude every short vector")
