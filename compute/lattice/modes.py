"""Normal modes of a crystal at q-points that fit a supercell, as real normal coordinates of that supercell.

A mode at q and its partner at -q describe the same two real coordinates, so each pair is kept once. A coordinate
``c`` (complex for a pair, real where q and -q are the same point) moves atom ``k`` of the cell at ``R`` by::

    u(k, R) = sqrt(w / (N m_k)) Re[c e_k exp(2 pi i q.R)]

with ``w = 2`` for a pair and 1 else, ``N`` cells in the supercell. The energy is ``lambda |c|^2 / 2``, and real and
imaginary part of ``c`` are independent oscillators: M. Born and K. Huang, Dynamical Theory of Crystal Lattices
(1954), section 38.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..structure.supercell import make_supercell

if TYPE_CHECKING:
    from ase import Atoms
    from phonopy import Phonopy

Floats = NDArray[np.float64]
Complexes = NDArray[np.complex128]
Integers = NDArray[np.int64]

_SAME = 1e-6
_TIE = 1e-6


@dataclass(frozen=True, slots=True)
class NormalModes:
    """Eigenvalues and eigenvectors at q-points, one of each pair q, -q.

    Attributes
    ----------
    q_points : array (q, 3)
        Reduced coordinates in the reciprocal primitive cell, each from -1/2 (excluded) to 1/2.
    paired : array (q,) of bool
        Whether -q is another point, for which this one stands too.
    eigenvalues : array (q, mode)
        Of the dynamical matrix (eV/Angstrom^2/amu), ascending.
    vectors : array (q, 3 atoms, mode), complex
        Eigenvectors as columns, for phases ``exp(2 pi i q.R)`` of lattice vectors R; real where not ``paired``. The
        largest component of each is real and positive.
    frequencies : array (q, mode)
        In THz; negative where the eigenvalue is.
    acoustic : array (q, mode) of bool
        The three modes at Gamma that are nearest to a translation of the whole crystal.
    """

    q_points: Floats
    paired: NDArray[np.bool_]
    eigenvalues: Floats
    vectors: Complexes
    frequencies: Floats
    acoustic: NDArray[np.bool_]


def mesh_points(mesh: tuple[int, int, int]) -> Floats:
    """All points (n, 3) of a mesh with Gamma among them, in reduced coordinates."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in mesh), indexing="ij"), axis=-1)
    return np.asarray(grid.reshape(-1, 3) / np.array(mesh), dtype=np.float64)


def mesh_of_length(phonon: Phonopy, length: float) -> tuple[int, int, int]:
    """Mesh of a real-space length (Angstrom), ``N = max(1, rint(length |a*|))`` along each axis as in phonopy."""
    from phonopy.phonon.grid import length2mesh

    a, b, c = (int(n) for n in length2mesh(length, phonon.primitive.cell))
    return a, b, c


def supercell_in_primitive(phonon: Phonopy) -> Integers:
    """Rows (3, 3) of the supercell of the force constants in primitive vectors."""
    return np.rint(phonon.supercell.cell @ np.linalg.inv(phonon.primitive.cell)).astype(np.int64)


def fitting_points(matrix: Integers) -> Floats:
    """All points (n, 3) that fit the supercell ``matrix @ primitive cell``; as many as it has cells."""
    from phonopy.harmonic.dynmat_to_fc import get_commensurate_points_in_integers

    integers = get_commensurate_points_in_integers(matrix.T)
    return np.asarray(integers / len(integers), dtype=np.float64)


def fits(q_points: Floats, matrix: Integers) -> NDArray[np.bool_]:
    """Whether each wave (q, 3) repeats itself in the supercell ``matrix @ primitive cell``."""
    turns = q_points @ matrix.T
    return np.asarray(np.all(np.abs(turns - np.rint(turns)) < _SAME, axis=1))


def one_of_each_pair(q_points: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Points without those that differ by a reciprocal lattice vector or by sign from one before.

    Parameters
    ----------
    q_points : array (n, 3)
        Reduced coordinates.

    Returns
    -------
    points : array (q, 3)
        Each coordinate from -1/2 (excluded) to 1/2.
    paired : array (q,) of bool
        Whether -q is another point than q.
    """
    home = _home(q_points)
    there = np.rint(home / _SAME).astype(np.int64)
    back = np.rint(_home(-home) / _SAME).astype(np.int64)
    seen: set[tuple[int, ...]] = set()
    kept, paired = [], []
    for index, (q, minus) in enumerate(zip(map(tuple, there.tolist()), map(tuple, back.tolist()), strict=True)):
        if q not in seen:
            seen |= {q, minus}
            kept.append(index)
            paired.append(q != minus)
    return home[kept], np.array(paired, dtype=bool)


def _home(q_points: Floats) -> Floats:
    return np.asarray(q_points - np.ceil(q_points - 0.5 - _SAME), dtype=np.float64) + 0.0


def normal_modes(phonon: Phonopy, q_points: Floats) -> NormalModes:
    """Solve the dynamical matrix at one q-point of each pair.

    Parameters
    ----------
    phonon : Phonopy
        With force constants.
    q_points : array (n, 3)
        Reduced coordinates; partners and repetitions are dropped.
    """
    points, paired = one_of_each_pair(q_points)
    positions, masses = phonon.primitive.scaled_positions, phonon.primitive.masses
    size = 3 * len(masses)
    values = np.empty((len(points), size))
    vectors = np.empty((len(points), size, size), dtype=np.complex128)
    for index, (q, pair) in enumerate(zip(points, paired, strict=True)):
        matrix = _dynamical_matrix(phonon, q)
        to_lattice = np.repeat(np.exp(2j * np.pi * (positions @ q)), 3)  # from phases of atoms to phases of cells
        matrix = to_lattice[:, None] * matrix * to_lattice.conj()
        values[index], vectors[index] = np.linalg.eigh(matrix if pair else matrix.real)
    frequencies = np.sign(values) * np.sqrt(np.abs(values)) * phonon.unit_conversion_factor
    acoustic = np.zeros_like(values, dtype=bool)
    for gamma in np.flatnonzero(np.all(np.abs(points) < _SAME, axis=1)):
        acoustic[gamma, np.argsort(-_translation(vectors[gamma], masses), kind="stable")[:3]] = True
    return NormalModes(points, paired, values, _with_fixed_phase(vectors), frequencies, acoustic)


def _dynamical_matrix(phonon: Phonopy, q: Floats) -> Complexes:
    solver = phonon.dynamical_matrix
    assert solver is not None, "phonopy has no force constants"
    solver.run(q)
    found = np.asarray(solver.dynamical_matrix, dtype=np.complex128)
    return 0.5 * (found + found.conj().T)


def _translation(vectors: Complexes, masses: Floats) -> Floats:
    """Share (mode,) of each eigenvector in the three translations of the whole crystal."""
    weights = np.sqrt(masses / masses.sum())
    parts = np.einsum("k,kxj->xj", weights, vectors.reshape(len(masses), 3, -1))
    return np.asarray(np.sum(np.abs(parts) ** 2, axis=0))


def _with_fixed_phase(vectors: Complexes) -> Complexes:
    size = np.abs(vectors)
    first = np.argmax(size > size.max(axis=1, keepdims=True) * (1.0 - _TIE), axis=1)
    largest = np.take_along_axis(vectors, first[:, None, :], axis=1)
    return np.asarray(vectors * (np.abs(largest) / largest))


class SupercellModes:
    """Turns normal coordinates into displacements of a supercell's atoms.

    Parameters
    ----------
    modes : NormalModes
        At q-points that fit the supercell.
    phonon : Phonopy
        Where they come from.
    matrix : array (3, 3) of int, optional
        Rows of the supercell in primitive vectors; by default the supercell of the force constants, with its order
        of atoms. Another one is built of whole copies of the primitive cell.

    Attributes
    ----------
    atoms : Atoms
        The perfect supercell.
    matrix : array (3, 3) of int
        Its rows in primitive vectors.
    """

    def __init__(self, modes: NormalModes, phonon: Phonopy, matrix: Integers | None = None) -> None:
        own = supercell_in_primitive(phonon)
        self.modes = modes
        self.matrix = own if matrix is None else matrix
        self.atoms, origin = _supercell(phonon, None if matrix is None or np.array_equal(matrix, own) else matrix)
        masses = phonon.primitive.masses
        cells = len(self.atoms) // len(masses)
        shifts = self.atoms.positions @ np.linalg.inv(phonon.primitive.cell)
        shifts = np.rint(shifts - phonon.primitive.scaled_positions[origin])
        self._order = np.argsort(origin, kind="stable")
        phases = np.exp(2j * np.pi * (modes.q_points @ shifts[self._order].T))
        by_atom = phases.reshape(len(phases), len(masses), cells).transpose(1, 0, 2)
        self._waves = np.ascontiguousarray(np.concatenate([by_atom.real, -by_atom.imag], axis=1))
        self._scale = np.sqrt(np.where(modes.paired, 2.0, 1.0) / cells)[:, None, None] / np.sqrt(masses)[:, None]

    def displacements(self, coordinates: Complexes) -> Floats:
        """Displacements (atom, 3) in Angstrom.

        Parameters
        ----------
        coordinates : array (q, mode), complex
            Normal coordinates ``c`` (sqrt(amu) Angstrom); the imaginary part counts where ``modes.paired``.
        """
        moved = np.matmul(self.modes.vectors, self._real_where_alone(coordinates)[:, :, None])
        moved = moved.reshape(len(moved), -1, 3) * self._scale
        by_atom = np.concatenate([moved.real, moved.imag]).transpose(1, 2, 0)
        sorted_by_origin = np.matmul(by_atom, self._waves).transpose(0, 2, 1).reshape(-1, 3)
        found = np.empty((len(self._order), 3))
        found[self._order] = sorted_by_origin
        return found

    def energy(self, coordinates: Complexes) -> float:
        """Harmonic energy (eV) of the supercell above that of the perfect crystal; ``coordinates`` as above."""
        squares = np.abs(self._real_where_alone(coordinates)) ** 2
        return 0.5 * float(np.sum(self.modes.eigenvalues * squares))

    def _real_where_alone(self, coordinates: Complexes) -> Complexes:
        return np.where(self.modes.paired[:, None], coordinates, coordinates.real)


def _supercell(phonon: Phonopy, matrix: Integers | None) -> tuple[Atoms, Integers]:
    """The perfect supercell, and the primitive atom that each of its atoms is a copy of."""
    from ase import Atoms

    primitive = phonon.primitive
    cell = phonon.supercell if matrix is None else primitive
    atoms = Atoms(numbers=cell.numbers, positions=cell.positions, masses=cell.masses, cell=cell.cell, pbc=True)
    if matrix is None:
        index = np.array([primitive.p2p_map[int(i)] for i in primitive.s2p_map], dtype=np.int64)
        return atoms, index
    repeated = make_supercell(atoms, matrix)
    return repeated, np.tile(np.arange(len(atoms), dtype=np.int64), len(repeated) // len(atoms))
