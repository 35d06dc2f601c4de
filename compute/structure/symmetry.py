"""Space groups and standard cells of crystals, and the rotations of molecules."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...schemas.errors import InvalidData

if TYPE_CHECKING:
    from ase import Atoms

__all__ = [
    "NO_GROUP",
    "SpaceGroup",
    "is_linear",
    "quiet",
    "rotational_symmetry_number",
    "space_group",
    "standard_cell",
    "symmetrized",
]

FloatArray = NDArray[np.float64]

_LINEAR = 1e-3


@dataclass(frozen=True, slots=True)
class SpaceGroup:
    """A space group, as spglib names it.

    Attributes
    ----------
    number : int
        1 to 230; 0 where there is none (molecules, slabs, wires).
    symbol : str
        Hermann-Mauguin symbol.
    n_operations : int
        Symmetry operations of the cell.
    """

    number: int
    symbol: str
    n_operations: int = 1


NO_GROUP = SpaceGroup(0, "none", 1)


def space_group(atoms: Atoms, symprec: float) -> SpaceGroup:
    """The space group of a structure; ``NO_GROUP`` where it is not periodic in three directions.

    Parameters
    ----------
    atoms : Atoms
        Isotopes, charges and magnetic moments tell atoms of one element apart.
    symprec : float
        Distance within which atoms count as symmetric (Angstrom).

    Raises
    ------
    InvalidData
        If spglib finds no symmetry at all: atoms on each other, or a cell without volume.
    """
    if not atoms.pbc.all():
        return NO_GROUP
    found: Any = _spglib("get_symmetry_dataset", _cell(atoms), symprec=symprec)
    return SpaceGroup(int(found.number), str(found.international), len(found.rotations))


def standard_cell(atoms: Atoms, symprec: float, *, primitive: bool) -> Atoms:
    """The standardised cell in the standard orientation, with its symmetry made exact.

    Parameters
    ----------
    atoms : Atoms
        Periodic in three directions.
    symprec : float
        Distance within which atoms count as symmetric (Angstrom).
    primitive : bool
        The primitive cell, or the conventional one.

    Returns
    -------
    Atoms
        Atoms in spglib's order, wrapped into the cell. Masses, charges and magnetic moments are kept; velocities,
        constraints and the calculator are dropped.

    Notes
    -----
    The settings are those of A. Togo, K. Shinohara, I. Tanaka, Sci. Technol. Adv. Mater. Meth. 4, 2384822 (2024).
    """
    from ase import Atoms as Structure

    cell = _cell(atoms)
    lattice, positions, species = _spglib("standardize_cell", cell, symprec=symprec, to_primitive=primitive)
    first = [int(np.flatnonzero(np.asarray(cell[2]) == kind)[0]) for kind in species]
    made = Structure(
        numbers=atoms.numbers[first], cell=lattice, scaled_positions=positions, pbc=True, info=dict(atoms.info)
    )
    for name in ("masses", "initial_charges", "initial_magmoms"):
        if atoms.has(name):
            made.set_array(name, atoms.get_array(name)[first])
    return made


def symmetrized(atoms: Atoms, symprec: float) -> Atoms:
    """The same cell and setting with its symmetry made exact; parameters as in ``standard_cell``.

    Raises
    ------
    InvalidData
        If making it exact would change the space group, which a smaller ``symprec`` avoids.
    """
    from ase.spacegroup.symmetrize import IntermediateDatasetError, refine_symmetry

    made: Atoms = atoms.copy()
    made.set_constraint()
    wanted = space_group(atoms, symprec)
    found = NO_GROUP
    with contextlib.suppress(IntermediateDatasetError), quiet():
        refine_symmetry(made, symprec)
        found = space_group(made, symprec)
    if found != wanted:
        raise InvalidData(
            "The symmetry of a structure cannot be made exact.",
            expected=f"space group {wanted.symbol}",
            found=f"{found.symbol} afterwards",
            hint="set a smaller symprec_loose_A, or keep_symmetry = false",
        )
    return made


def _cell(atoms: Atoms) -> tuple[FloatArray, FloatArray, list[int]]:
    """Lattice, reduced positions and species: equal numbers for atoms that are equal in every way."""
    features = [atoms.numbers.astype(float), atoms.get_masses()]
    features += [atoms.get_initial_charges(), atoms.get_initial_magnetic_moments().reshape(len(atoms), -1).sum(axis=1)]
    _, species = np.unique(np.stack(features, axis=1), axis=0, return_inverse=True)
    return atoms.cell.array, atoms.get_scaled_positions(), (species.ravel() + 1).tolist()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence spglib's advice to developers, which nobody who runs h5ml can follow."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Set OLD_ERROR_HANDLING", category=DeprecationWarning)
        yield


def _spglib(name: str, *arguments: Any, **options: Any) -> Any:
    import spglib

    error: Exception | None = None
    try:
        with quiet():
            found = getattr(spglib, name)(*arguments, **options)
    except spglib.SpglibError as raised:
        found, error = None, raised
    if found is None:
        raise InvalidData(
            "The symmetry of a structure cannot be found.",
            expected="atoms apart from each other in a cell with a volume",
            found=str(error or "nothing within the tolerance"),
            hint="look at the structure, or set another symprec_A",
        )
    return found


def is_linear(positions: FloatArray) -> bool:
    """Whether all points (N, 3) (Angstrom) lie on a line, within a thousandth of their extent; two always do."""
    if len(positions) < 3:
        return True
    spread = np.linalg.svd(positions - positions.mean(axis=0), compute_uv=False)
    return bool(spread[1] < _LINEAR * spread[0])


def rotational_symmetry_number(atoms: Atoms, tolerance: float = 0.05) -> int:
    """Number of proper rotations that map a molecule on itself.

    Parameters
    ----------
    atoms : Atoms
        A molecule.
    tolerance : float
        Distance within which an atom counts as mapped on another (Angstrom).

    Returns
    -------
    int
        1 for an atom and HCl, 2 for water and CO2, 3 for ammonia, 12 for methane and benzene.

    Notes
    -----
    A rotation about the centre of mass is fixed by where it takes two atoms that are not on a line with the centre.
    Every pair of like atoms at like distances is tried, so that none is missed.
    """
    species = np.stack([atoms.numbers, atoms.get_masses()], axis=1)
    positions = atoms.positions - atoms.get_center_of_mass()
    if len(atoms) == 1:
        return 1
    if is_linear(positions):
        return 2 if _maps(-np.eye(3), positions, species, tolerance) else 1
    first, second = _anchors(positions, species, tolerance)
    source = _frame(positions[first], positions[second])
    count = 0
    for a, b in product(_alike(first, positions, species, tolerance), _alike(second, positions, species, tolerance)):
        distance = np.linalg.norm(positions[a] - positions[b])
        if abs(distance - np.linalg.norm(positions[first] - positions[second])) > 2.0 * tolerance:
            continue
        rotation = _frame(positions[a], positions[b]) @ source.T
        count += _maps(rotation, positions, species, tolerance)
    return count


def _anchors(positions: FloatArray, species: NDArray[Any], tolerance: float) -> tuple[int, int]:
    """Two atoms not on a line with the centre, of the rarest kinds so that few images are tried."""
    lengths = np.linalg.norm(positions, axis=1)
    images = [len(_alike(i, positions, species, tolerance)) for i in range(len(positions))]
    away = [i for i in np.lexsort((-lengths, images)) if lengths[i] > 5.0 * tolerance]
    for first in away:
        for second in away:
            area = np.linalg.norm(np.cross(positions[first], positions[second]))
            if area > 0.1 * lengths[first] * lengths[second]:
                return int(first), int(second)
    raise InvalidData("A molecule is too small to tell its rotations.", found=f"extent {lengths.max():.3g} Angstrom")


def _alike(atom: int, positions: FloatArray, species: NDArray[Any], tolerance: float) -> Sequence[int]:
    lengths = np.linalg.norm(positions, axis=1)
    same = np.all(species == species[atom], axis=1) & (np.abs(lengths - lengths[atom]) < tolerance)
    return [int(i) for i in np.flatnonzero(same)]


def _frame(a: FloatArray, b: FloatArray) -> FloatArray:
    """A right-handed orthonormal frame, as columns, from two vectors that are not parallel."""
    x = a / np.linalg.norm(a)
    y = b - (b @ x) * x
    length = np.linalg.norm(y)
    if length < 1e-8:  # a pair on a line: a frame that maps nothing
        return np.zeros((3, 3))
    y = y / length
    return np.stack([x, y, np.cross(x, y)], axis=1)


def _maps(rotation: FloatArray, positions: FloatArray, species: NDArray[Any], tolerance: float) -> bool:
    moved = positions @ rotation.T
    distances = np.linalg.norm(moved[:, None, :] - positions[None, :, :], axis=2)
    distances[~np.all(species[:, None, :] == species[None, :, :], axis=2)] = np.inf
    targets = np.argmin(distances, axis=1)
    return len(set(targets.tolist())) == len(positions) and bool(distances.min(axis=1).max() < tolerance)
