"""Where the molecules of a crystal lie around one of them, with every lattice image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from ase.formula import Formula
from ase.geometry import complete_cell
from numpy.typing import NDArray

from ...schemas.errors import InvalidConfig
from .molecules import Floats, Integers, Molecules

SHELL = 1e-3
"""Distances that follow one another this closely (Angstrom) count as equal: one shell of neighbours."""

_ROWS_AT_ONCE = 2_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Neighbors:
    """Images of molecules around a central one, in order.

    Attributes
    ----------
    molecule : array (K,) of int
        Number of the molecule.
    image : array (K, 3) of int
        Lattice translation of the molecule, in units of cell vectors.
    minimum, maximum : array (K,)
        Shortest and longest distance of its atoms to those of the central molecule (Angstrom).
    center : array (K,)
        Distance of the centres of mass (Angstrom).
    """

    molecule: Integers
    image: Integers
    minimum: Floats
    maximum: Floats
    center: Floats

    def __len__(self) -> int:
        return len(self.molecule)

    def take(self, chosen: Integers | NDArray[np.bool_]) -> Neighbors:
        """Some of them, in the given order."""
        molecule, image = self.molecule[chosen], self.image[chosen]
        return Neighbors(molecule, image, self.minimum[chosen], self.maximum[chosen], self.center[chosen])

    def in_order(self, distance: Floats) -> Neighbors:
        """The nearest first, by shells of equal distance (see ``SHELL``).

        Within a shell they go by the distance of the centres of mass, again in shells, then by number of the molecule
        and by image, so that the order does not hang on the last bits.
        """
        order = np.lexsort((*self.image.T[::-1], self.molecule, shells(self.center), shells(distance)))
        return self.take(order.astype(np.int64))


@dataclass(slots=True, eq=False)
class MoleculeGeometry:
    """The whole molecules of one structure.

    Parameters
    ----------
    atoms : Atoms
        The structure.
    molecules : Molecules
        Its molecules.
    """

    atoms: Atoms
    molecules: Molecules
    cell: Floats = field(init=False)
    positions: Floats = field(init=False)
    centers: Floats = field(init=False)
    reach: Floats = field(init=False)
    members: list[Integers] = field(init=False)

    def __post_init__(self) -> None:
        atoms, molecules = self.atoms, self.molecules
        self.cell = np.asarray(complete_cell(atoms.cell.array))
        self.positions = molecules.whole_positions(atoms.positions, atoms.cell.array)
        self.centers = molecules.centers_of_mass(atoms.positions, atoms.cell.array, atoms.get_masses())
        off = np.linalg.norm(self.positions - self.centers[molecules.molecule_of_atom], axis=1)
        self.reach = np.zeros(molecules.n_molecules)
        np.maximum.at(self.reach, molecules.molecule_of_atom, off)
        self.members = molecules.all_members()

    @property
    def pbc(self) -> NDArray[np.bool_]:
        """Directions in which the structure repeats."""
        return np.asarray(self.atoms.pbc)

    def around_point(self, point: Floats, radius: Floats | float) -> tuple[Integers, Integers, Floats]:
        """All images of molecules whose centre of mass is nearer to a point than a radius.

        Parameters
        ----------
        point : array (3,)
            Angstrom.
        radius : float or array (M,)
            One for all, or one for each molecule (Angstrom).

        Returns
        -------
        tuple of arrays
            Molecule (K,), translation (K, 3), distance (K,) in Angstrom.
        """
        inverse = np.linalg.inv(self.cell)
        fractional = (self.centers - point) @ inverse
        base = np.where(self.pbc, -np.rint(fractional), 0.0)
        span = np.max(radius, initial=0.0) * np.linalg.norm(inverse, axis=0) + 0.5
        steps = [np.arange(-n, n + 1) for n in np.where(self.pbc, np.floor(span), 0).astype(np.int64)]
        grid = np.stack([axis.ravel() for axis in np.meshgrid(*steps, indexing="ij")], axis=1)
        molecule = np.repeat(np.arange(len(self.centers), dtype=np.int64), len(grid))
        image = (base.astype(np.int64)[:, None, :] + grid[None]).reshape(-1, 3)
        distance = np.linalg.norm(self.centers[molecule] + image @ self.cell - point, axis=1)
        limit = np.broadcast_to(radius, len(self.centers))[molecule]
        near = np.flatnonzero(distance < limit)
        return molecule[near], image[near], distance[near]

    def neighbors(self, central: int, radius: float) -> Neighbors:
        """Every image of a molecule that is nearer to the central one, by atoms or by centres of mass, than a radius.

        Parameters
        ----------
        central : int
            Number of the central molecule, itself left out.
        radius : float
            Angstrom.

        Returns
        -------
        Neighbors
            In the order of their shortest distances.
        """
        limit = radius + self.reach[central] + self.reach
        molecule, image, center = self.around_point(self.centers[central], limit)
        other = (molecule != central) | image.any(axis=1)
        molecule, image, center = molecule[other], image[other], center[other]
        minimum, maximum = self.distances(central, molecule, image)
        found = Neighbors(molecule, image, minimum, maximum, center)
        found = found.take((minimum < radius) | (center < radius))
        return found.in_order(found.minimum)

    def distances(self, central: int, molecule: Integers, image: Integers) -> tuple[Floats, Floats]:
        """Shortest and longest distance (K,) between the atoms of images of molecules and those of the central one."""
        minimum, maximum = np.empty(len(molecule)), np.empty(len(molecule))
        centre = self.positions[self.members[central]]
        sizes = np.array([len(atoms) for atoms in self.members], dtype=np.int64)
        for size in np.unique(sizes[molecule]):
            rows = np.flatnonzero(sizes[molecule] == size)
            table = np.array([self.members[m] if sizes[m] == size else [0] * size for m in range(len(sizes))])
            step = max(1, _ROWS_AT_ONCE // (int(size) * len(centre)))
            for start in range(0, len(rows), step):
                some = rows[start : start + step]
                moved = self.positions[table[molecule[some]]] + (image[some] @ self.cell)[:, None]
                squares = np.sum((moved[:, :, None] - centre[None, None]) ** 2, axis=3).reshape(len(some), -1)
                minimum[some], maximum[some] = np.sqrt(squares.min(axis=1)), np.sqrt(squares.max(axis=1))
        return minimum, maximum

    def middle(self) -> Floats:
        """Centre of mass of the cell's molecules, each in the image whose own centre of mass lies in the cell."""
        inverse = np.linalg.inv(self.cell)
        wraps = np.where(self.pbc, np.floor(self.centers @ inverse + 1e-6), 0.0)
        masses = np.bincount(self.molecules.molecule_of_atom, self.atoms.get_masses())
        return np.asarray(np.average(self.centers - wraps @ self.cell, axis=0, weights=masses))


def shells(distance: Floats) -> Integers:
    """Number of the shell (K,) that each distance lies in: a new one begins after a gap of ``SHELL``."""
    order = np.argsort(distance, kind="stable")
    number = np.zeros(len(distance), dtype=np.int64)
    number[order[1:]] = np.cumsum(np.diff(distance[order]) > SHELL)
    return number


def charges_of(molecules: Molecules, unit_charges: Mapping[str, int], *, periodic: bool) -> NDArray[np.float64]:
    """Charge of each molecule (M,) from charges by formula, written in any order of the elements (e).

    Raises
    ------
    InvalidConfig
        If no molecule has one of the formulas, or the charges of a periodic cell do not cancel.
    """
    by_count = {}
    for text, charge in unit_charges.items():
        try:
            by_count[tuple(sorted(Formula(text).count().items()))] = (text, charge)
        except (ValueError, KeyError):
            raise InvalidConfig("This is no chemical formula.", expected="such as NH4", found=text) from None
    formulas = molecules.formulas
    counts = {formula: tuple(sorted(Formula(formula).count().items())) for formula in set(formulas)}
    unknown = [text for key, (text, _) in by_count.items() if key not in counts.values()]
    if unknown:
        raise InvalidConfig(
            "A charge is given for a molecule that is not there.",
            expected=", ".join(sorted(counts)),
            found=unknown[0],
            hint="name the formulas of this structure in unit_charges",
        )
    of_formula = {formula: by_count[key][1] if key in by_count else 0 for formula, key in counts.items()}
    charges = np.array([of_formula[formula] for formula in formulas], dtype=np.float64)
    if periodic and charges.sum() != 0.0:
        raise InvalidConfig(
            "The charges of the cell do not cancel.",
            expected="charges that add up to 0",
            found=f"{charges.sum():+.0f} e from {dict(unit_charges)}",
            hint="give unit_charges of all kinds of ions",
        )
    return charges


def piece(atoms: Atoms, chosen: Integers, image: Integers, charges: Floats, sizes: Integers) -> Atoms:
    """Some atoms of a structure as one of their own, the centre of mass at the origin.

    Parameters
    ----------
    atoms : Atoms
        The structure.
    chosen : array (A,) of int
        The atoms, molecule by molecule.
    image : array (A, 3) of int
        Lattice translation of each.
    charges : array (n,)
        Charge of each molecule (e), spread over its atoms.
    sizes : array (n,) of int
        Atoms of each molecule.
    """
    masses = atoms.get_masses()[chosen]
    positions = atoms.positions[chosen] + image @ atoms.cell.array
    found = Atoms(atoms.numbers[chosen], positions - np.average(positions, axis=0, weights=masses), masses=masses)
    if charges.any():
        found.set_initial_charges(np.repeat(charges / sizes, sizes))
    return found
