"""Molecules of a periodic cell: which atoms are bonded, which images make each molecule whole, what has changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from ase.geometry import complete_cell, find_mic
from ase.symbols import Symbols
from numpy.typing import NDArray

from ...schemas.errors import InvalidConfig, InvalidData

if TYPE_CHECKING:
    from ase import Atoms

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

BOND_SCALE = 1.3
_OVERLAP = 0.5
_NO_RADIUS = 0.2  # what ASE gives to elements that Cordero et al. do not list


@dataclass(frozen=True, slots=True, eq=False)
class Molecules:
    """The molecules of a structure.

    Attributes
    ----------
    numbers : array (N,) of int
        Atomic numbers.
    molecule_of_atom : array (N,) of int
        Molecule of each atom; molecules are numbered in the order of their first atoms.
    image : array (N, 3) of int
        Lattice translation that brings each atom to the first atom of its molecule, in units of cell vectors.
    bonds : array (B, 2) of int
        Pairs of bonded atoms, the smaller index first.
    bond_shift : array (B, 3) of int
        Lattice translation of the second atom of each bond.
    bond_scale : float
        Scale of the covalent radii that the bonds were found with.
    ions : tuple of str
        Elements that were taken to form no bonds.
    """

    numbers: Integers
    molecule_of_atom: Integers
    image: Integers
    bonds: Integers
    bond_shift: Integers
    bond_scale: float = BOND_SCALE
    ions: tuple[str, ...] = ()

    @property
    def n_molecules(self) -> int:
        """Number of molecules."""
        return int(self.molecule_of_atom.max(initial=-1)) + 1

    @property
    def formulas(self) -> tuple[str, ...]:
        """Chemical formula of each molecule, in Hill's order."""
        return tuple(
            str(Symbols(self.numbers[atoms]).get_chemical_formula(mode="hill")) for atoms in self.all_members()
        )

    def members(self, molecule: int) -> Integers:
        """Indices of the atoms of a molecule, ascending."""
        return np.flatnonzero(self.molecule_of_atom == molecule)

    def all_members(self) -> list[Integers]:
        """Indices of the atoms of every molecule."""
        order = np.argsort(self.molecule_of_atom, kind="stable")
        return np.split(order, np.cumsum(np.bincount(self.molecule_of_atom))[:-1]) if len(order) else []

    def whole_positions(self, positions: Floats, cell: Floats) -> Floats:
        """Positions (N, 3) with every molecule in one piece, its first atom where it was (Angstrom).

        Parameters
        ----------
        positions : array (N, 3)
            Of the structure that the molecules were found in, or of a frame that continues it without wrapping; see
            ``images_in`` for frames that were wrapped into the cell.
        cell : array (3, 3)
            Cell vectors as rows.
        """
        return np.asarray(positions + self.image @ np.asarray(cell), dtype=np.float64)

    def centers_of_mass(self, positions: Floats, cell: Floats, masses: Floats) -> Floats:
        """Centres of mass (M, 3) of the whole molecules (Angstrom); masses (N,) in amu."""
        weighted = masses[:, None] * self.whole_positions(positions, cell)
        total = np.bincount(self.molecule_of_atom, masses)
        columns = [np.bincount(self.molecule_of_atom, weighted[:, k]) for k in range(3)]
        return np.asarray(np.stack(columns, axis=1) / total[:, None])


def detect_molecules(atoms: Atoms, *, bond_scale: float = BOND_SCALE, ions: Sequence[str] = ()) -> Molecules:
    """Find the molecules of a structure, whichever images their atoms lie in.

    Parameters
    ----------
    atoms : Atoms
        A structure with any periodicity; the cell may be smaller than a bond is long.
    bond_scale : float
        Two atoms are bonded when they are closer than this times the sum of their covalent radii.
    ions : sequence of str
        Symbols of elements that form no bonds, such as ``Na`` in a salt.

    Returns
    -------
    Molecules

    Raises
    ------
    InvalidData
        If two atoms lie on each other, or bonds run through the crystal without end (a metal, a polymer).

    Notes
    -----
    Covalent radii are those of B. Cordero et al., Dalton Trans. 2008, 2832. The scale of 1.3 leaves room for thermal
    stretching (a C-H bond reaches to 1.39 Angstrom) and stays below the shortest hydrogen bonds (O...H 1.26). Ions held
    together by hydrogen bonds, such as ammonium and chloride, are molecules of their own without further ado.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    numbers = np.asarray(atoms.numbers, dtype=np.int64)
    first, second, shift, distance = _near_pairs(atoms, bond_scale)
    _check_overlap(numbers, first, second, distance)
    bonded = distance < bond_limits(numbers, first, second, bond_scale, ions)
    first, second, shift = first[bonded], second[bonded], shift[bonded]
    count = len(numbers)
    graph = coo_array((np.ones(len(first), dtype=np.int8), (first, second)), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    _, starts, inverse = np.unique(labels, return_index=True, return_inverse=True)
    molecule_of_atom = np.argsort(np.argsort(starts))[inverse].astype(np.int64)
    image = np.zeros((count, 3), dtype=np.int64)
    for parents, children, steps in _tree(count, np.sort(starts), first, second, shift):
        image[children] = image[parents] + steps
    _check_finite_molecules(atoms, first, second, shift - (image[second] - image[first]))
    bonds = np.stack([first, second], axis=1)
    return Molecules(numbers, molecule_of_atom, image, bonds, shift, bond_scale, tuple(ions))


def images_in(atoms: Atoms, molecules: Molecules) -> Integers:
    """Lattice translations (N, 3) that make the molecules of a frame whole, also where it was wrapped into the cell.

    Notes
    -----
    Bonds are those of the reference, atom by atom. Where all of them have a bond's length with the translations of the
    reference, these are the answer; a longer bond takes the nearest image of its second atom.
    """
    first, second = molecules.bonds.T
    cell = atoms.cell.array
    shift = molecules.image[second] - molecules.image[first]
    vectors = atoms.positions[second] - atoms.positions[first] + shift @ cell
    limits = bond_limits(molecules.numbers, first, second, molecules.bond_scale, molecules.ions)
    long = np.flatnonzero(np.einsum("ij,ij->i", vectors, vectors) >= limits**2)
    if len(long) == 0 or not atoms.pbc.any():
        return molecules.image
    nearest, _ = find_mic(vectors[long], atoms.cell, atoms.pbc)
    shift = shift.copy()
    shift[long] += np.rint((nearest - vectors[long]) @ np.linalg.inv(complete_cell(cell))).astype(np.int64)
    image = np.zeros_like(molecules.image)
    starts = np.unique(molecules.molecule_of_atom, return_index=True)[1]
    for parents, children, steps in _tree(len(atoms), starts, first, second, shift):
        image[children] = image[parents] + steps
    return image


def changed_molecules(atoms: Atoms, molecules: Molecules, image: Integers | None = None) -> NDArray[np.bool_]:
    """Which molecules (M,) of a frame have lost or gained a bond since the reference.

    Parameters
    ----------
    atoms : Atoms
        A frame of the structure that the molecules were found in, with the same atoms in the same order.
    molecules : Molecules
        Of the reference.
    image : array (N, 3) of int, optional
        What ``images_in`` gives for the frame, where it is known.

    Notes
    -----
    The rule is that of ``detect_molecules``, without hysteresis: a bond is broken when it is longer than the scaled sum
    of the radii, and formed when any other pair is closer. Both molecules of a new bond are changed.
    """
    image = images_in(atoms, molecules) if image is None else image
    changed = np.zeros(molecules.n_molecules, dtype=np.bool_)
    first, second, shift, distance = _near_pairs(atoms, molecules.bond_scale)
    bonded = distance < bond_limits(molecules.numbers, first, second, molecules.bond_scale, molecules.ions)
    first, second, shift = first[bonded], second[bonded], shift[bonded]
    known = molecules.bonds
    reference = np.column_stack([known, image[known[:, 1]] - image[known[:, 0]]])
    now = np.column_stack([first, second, shift])
    rows, counts = np.unique(np.concatenate([reference, now]), axis=0, return_counts=True)
    different = rows[counts == 1, :2]
    changed[molecules.molecule_of_atom[different.ravel()]] = True
    return changed


def connectivity(atoms: Atoms, molecules: Molecules) -> bool:
    """Whether a frame has exactly the bonds of the reference, no more and no fewer; see ``changed_molecules``."""
    return not changed_molecules(atoms, molecules).any()


def bond_limits(numbers: Integers, first: Integers, second: Integers, scale: float, ions: Sequence[str]) -> Floats:
    """The distance (P,) below which each pair of atoms is bonded (Angstrom); zero where one is an ion.

    Raises
    ------
    InvalidConfig
        If an ion is no element.
    """
    unknown = [symbol for symbol in ions if symbol not in atomic_numbers]
    if unknown:
        raise InvalidConfig("There is no such element.", expected="symbols such as Na or Cl", found=unknown[0])
    limits = scale * (covalent_radii[numbers[first]] + covalent_radii[numbers[second]])
    if ions:
        alone = np.isin(numbers, [atomic_numbers[symbol] for symbol in ions])
        limits[alone[first] | alone[second]] = 0.0
    return np.asarray(limits, dtype=np.float64)


def _near_pairs(atoms: Atoms, scale: float) -> tuple[Integers, Integers, Integers, Floats]:
    """All pairs that may be bonded: atoms ``first <= second``, translation of the second, distance (Angstrom)."""
    radii = covalent_radii[np.unique(atoms.numbers)]
    if len(radii) and radii.min() <= _NO_RADIUS:
        symbol = chemical_symbols[int(np.unique(atoms.numbers)[int(radii.argmin())])]
        raise InvalidData("An element has no covalent radius.", expected="elements up to Cm", found=symbol)
    cutoff = max(2.0 * scale, 1.0) * float(radii.max(initial=0.0))
    return near_pairs(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)


def near_pairs(
    positions: Floats, cell: Floats, pbc: NDArray[np.bool_], cutoff: float
) -> tuple[Integers, Integers, Integers, Floats]:
    """Every pair of atoms, in any images, that is closer than a cutoff; the cost is linear in the number of atoms.

    Parameters
    ----------
    positions : array (N, 3)
        Inside the cell or not (Angstrom).
    cell : array (3, 3)
        Cell vectors as rows, of any length compared with the cutoff.
    pbc : array (3,) of bool
        Along which vectors the structure repeats.
    cutoff : float
        Angstrom.

    Returns
    -------
    first, second : arrays (P,) of int
        ``first <= second``; each pair of images stands once.
    shift : array (P, 3) of int
        The pair is ``positions[second] + shift @ cell - positions[first]``.
    distance : array (P,)
        Angstrom.
    """
    from scipy.spatial import cKDTree

    count = len(positions)
    if not np.isfinite(positions).all():
        raise InvalidData("A position is not a number.", expected="finite positions", found="NaN or infinity")
    whole = complete_cell(np.asarray(cell, dtype=np.float64))
    if pbc.any() and abs(np.linalg.det(whole)) < 1e-6:
        raise InvalidData("The cell of a periodic structure has no volume.", expected="a cell", found=cell.tolist())
    inverse = np.linalg.inv(whole)
    fractional = positions @ inverse
    wraps = np.where(pbc, np.floor(fractional), 0.0)
    index = np.arange(count, dtype=np.int64)
    fractional = fractional - wraps
    shifts = np.zeros((count, 3), dtype=np.int64)
    inside = cKDTree(fractional @ whole)
    margin = (cutoff + 1e-9) * np.linalg.norm(inverse, axis=0)
    for axis in np.flatnonzero(pbc):
        reach = int(np.ceil(margin[axis]))
        parts = []
        for step in range(-reach, reach + 1):
            moved = fractional[:, axis] + step
            keep = np.flatnonzero((moved > -margin[axis]) & (moved < 1.0 + margin[axis]))
            parts.append((keep, step))
        chosen = np.concatenate([keep for keep, _ in parts])
        steps = np.concatenate([np.full(len(keep), step, dtype=np.int64) for keep, step in parts])
        index, fractional, shifts = index[chosen], fractional[chosen].copy(), shifts[chosen].copy()
        fractional[:, axis] += steps
        shifts[:, axis] = steps
    found = inside.sparse_distance_matrix(cKDTree(fractional @ whole), cutoff, output_type="ndarray")
    first = found["i"].astype(np.int64)
    second, shift = index[found["j"]], shifts[found["j"]]
    forward = (shift[:, 0] > 0) | ((shift[:, 0] == 0) & ((shift[:, 1] > 0) | ((shift[:, 1] == 0) & (shift[:, 2] > 0))))
    keep = (first < second) | ((first == second) & forward)
    first, second, shift, distance = first[keep], second[keep], shift[keep], found["v"][keep]
    shift = shift - (wraps[second] - wraps[first]).astype(np.int64)
    order = np.lexsort((*shift.T[::-1], second, first))
    return first[order], second[order], shift[order], np.asarray(distance[order], dtype=np.float64)


def _tree(
    count: int, starts: Integers, first: Integers, second: Integers, shift: Integers
) -> list[tuple[Integers, Integers, Integers]]:
    """Walk outward along the bonds from one atom of each molecule: parents, children and translations by level."""
    reached = np.zeros(count, dtype=np.bool_)
    reached[starts] = True
    a, b = np.concatenate([first, second]), np.concatenate([second, first])
    steps = np.concatenate([shift, -shift])
    levels = []
    while len(a):
        outward = reached[a] & ~reached[b]
        if not outward.any():
            break
        children, which = np.unique(b[outward], return_index=True)
        levels.append((a[outward][which], children, steps[outward][which]))
        reached[children] = True
        left = ~reached[b]
        a, b, steps = a[left], b[left], steps[left]
    return levels


def _check_overlap(numbers: Integers, first: Integers, second: Integers, distance: Floats) -> None:
    too_near = np.flatnonzero(distance < _OVERLAP * (covalent_radii[numbers[first]] + covalent_radii[numbers[second]]))
    if len(too_near) == 0:
        return
    worst = too_near[int(np.argmin(distance[too_near]))]
    i, j = int(first[worst]), int(second[worst])
    raise InvalidData(
        "Two atoms lie on each other.",
        expected="atoms at least half a bond apart",
        found=f"{_named(numbers, i)} and {_named(numbers, j)}, {distance[worst]:.3f} Angstrom apart; "
        f"{len(too_near)} such pairs",
        hint="remove the double atoms (disorder in a CIF?), or look at the frame where they collided",
    )


def _check_finite_molecules(atoms: Atoms, first: Integers, second: Integers, excess: Integers) -> None:
    """Refuse bonds that lead from an atom to an image of itself."""
    endless = np.flatnonzero(excess.any(axis=1))
    if len(endless) == 0:
        return
    at = endless[int(np.argmin(np.abs(excess[endless]).sum(axis=1)))]
    i, j = int(first[at]), int(second[at])
    direction = excess[at] * (1 if excess[at][np.flatnonzero(excess[at])[0]] > 0 else -1)
    pair = "-".join(sorted(chemical_symbols[int(atoms.numbers[k])] for k in (i, j)))
    raise InvalidData(
        "Bonds run through the crystal without end, so that it has no molecules.",
        expected="molecules (a metal, a polymer or a network solid has none)",
        found=f"a chain of bonds along the cell direction {direction.tolist()}, closed by {pair} "
        f"({_named(atoms.numbers, i)} and {_named(atoms.numbers, j)})",
        hint=f"if {pair} is no bond, set bond_scale below 1.3, or name the element of a monatomic ion in ions",
    )


def _named(numbers: Integers, index: int) -> str:
    return f"{chemical_symbols[int(numbers[index])]} (atom {index})"
