"""Finite displacements: the supercells whose forces are needed, and force constants from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ...schemas.errors import InvalidConfig, InvalidData
from ..structure.evaluation import evaluated
from ..structure.frames import structures_dataset
from ..structure.relaxation import check_apart
from .force_constants import quiet_phonopy

if TYPE_CHECKING:
    import xarray as xr
    from phonopy import Phonopy

    from ..potentials import Potential

Floats = NDArray[np.float64]
IntMatrix = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DisplacedCell:
    """A supercell to evaluate: plain data, and the potential.

    Attributes
    ----------
    potential : Potential
        What gives the forces.
    numbers : array (atom,)
        Atomic numbers.
    positions : array (atom, 3)
        Positions (Angstrom).
    cell : array (3, 3)
        Supercell vectors as rows (Angstrom).
    """

    potential: Potential
    numbers: NDArray[np.int64]
    positions: Floats
    cell: Floats


def check_crystal(atoms: Atoms) -> None:
    """Refuse what has no phonons: no crystal, or atoms on top of each other.

    Raises
    ------
    InvalidData
        If a direction is not periodic, or two atoms lie on each other.
    """
    if not atoms.pbc.all() or atoms.cell.rank != 3:
        raise InvalidData(
            "Phonons need a crystal that is periodic in three directions.",
            expected="periodic: [True, True, True] and a cell with a volume",
            found=f"periodic: {atoms.pbc.tolist()}, cell of rank {atoms.cell.rank}",
            hint="choose a crystal; the vibrations of a molecule come with `quasi_harmonic` of its crystal (molecule)",
        )
    check_apart(atoms)


def build_phonopy(
    atoms: Atoms,
    supercell_matrix: IntMatrix,
    *,
    primitive: Literal["auto", "input"] = "auto",
    symprec: float = 1e-5,
    use_symmetry: bool = True,
    masses: Literal["structure", "phonopy"] = "structure",
) -> Phonopy:
    """A phonopy object of a crystal, without force constants.

    Parameters
    ----------
    atoms : Atoms
        The cell that is repeated.
    supercell_matrix : array (3, 3) of int
        Rows are supercell vectors in units of cell vectors.
    primitive : {"auto", "input"}
        Whether the primitive cell is looked for, or the cell itself is taken for it.
    symprec : float
        Tolerance of the symmetry search (Angstrom).
    use_symmetry : bool
        Whether symmetry is looked for at all.
    masses : {"structure", "phonopy"}
        Masses of the structure, or phonopy's standard ones.

    Raises
    ------
    InvalidConfig
        If phonopy cannot build the cells.
    InvalidData
        If atoms that symmetry makes equal have different masses, which phonopy would not see.
    """
    from phonopy.structure.atoms import PhonopyAtoms
    from phonopy.structure.cells import guess_primitive_matrix

    unit = PhonopyAtoms(
        numbers=atoms.numbers,
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(),
        masses=atoms.get_masses() if masses == "structure" else None,
    )
    try:
        search = primitive == "auto" and use_symmetry
        phonon = quiet_phonopy(
            unit,
            supercell_matrix=np.asarray(supercell_matrix).T,
            primitive_matrix=guess_primitive_matrix(unit, symprec=symprec) if search else np.eye(3),
            symprec=symprec,
            is_symmetry=use_symmetry,
        )
    except (RuntimeError, AssertionError) as error:
        raise InvalidConfig(
            "phonopy cannot build the cells.",
            expected="a symmetry tolerance below the distances of atoms and above the noise of the structure",
            found=f"symprec = {symprec:g} Angstrom: {error}",
            hint="set symprec smaller, or primitive_cell = input",
        ) from None
    _check_masses(phonon)
    return phonon


def _check_masses(phonon: Phonopy) -> None:
    primitive = phonon.primitive
    kept = np.asarray(primitive.masses)
    copies = kept[[primitive.p2p_map[int(i)] for i in primitive.s2p_map]]
    moved = kept[phonon.primitive_symmetry.atomic_permutations]
    if np.allclose(copies, phonon.supercell.masses) and np.allclose(moved, kept):
        return
    raise InvalidData(
        "Atoms that symmetry makes equal have different masses.",
        expected="one mass for all of them",
        found=f"masses from {min(phonon.supercell.masses):g} to {max(phonon.supercell.masses):g} amu",
        hint="set primitive_cell = input and use_symmetry = false, or masses = phonopy",
    )


def displaced_cells(phonon: Phonopy, potential: Potential, length: float) -> list[DisplacedCell]:
    """The undisplaced supercell, and those with a displaced atom that symmetry asks for.

    Parameters
    ----------
    phonon : Phonopy
        Keeps the displacements.
    potential : Potential
        What will evaluate the cells.
    length : float
        Length of a displacement (Angstrom).
    """
    phonon.generate_displacements(distance=length)
    cells = [phonon.supercell, *(phonon.supercells_with_displacements or [])]
    return [DisplacedCell(potential, cell.numbers, cell.positions, cell.cell) for cell in cells]


def evaluate_cell(item: DisplacedCell) -> xr.Dataset:
    """Energy and forces of one supercell by a cold engine: the function of the map.

    Returns
    -------
    xarray.Dataset
        Of the kind ``structures``, one frame.

    Raises
    ------
    ComputeFailed
        If the potential has no forces, fails, or gives a number that is not finite.
    """
    atoms = Atoms(numbers=item.numbers, positions=item.positions, cell=item.cell, pbc=True)
    found = evaluated(atoms, item.potential, stress=False)
    return structures_dataset([atoms], {"energy": np.array([found["energy"]]), "forces": found["forces"]})


def fit_force_constants(
    phonon: Phonopy, results: Sequence[xr.Dataset], *, subtract_residual: bool = False, symmetrize: bool = True
) -> dict[str, float]:
    """Set the compact force constants of a phonopy object from the evaluated cells.

    Parameters
    ----------
    phonon : Phonopy
        That the cells were made of.
    results : sequence of xarray.Dataset
        Answers of ``evaluate_cell``, the undisplaced supercell first.
    subtract_residual : bool
        Whether the forces of the undisplaced supercell are taken off (phonopy's option ``--force-sets-zero``).
    symmetrize : bool
        Whether the sum rule and the symmetry of pairs are imposed, as phonopy's ``symmetrize_force_constants`` does.

    Returns
    -------
    dict
        ``max_residual_force`` (eV/Angstrom) of the undisplaced supercell; ``acoustic_sum_rule_residual`` and
        ``symmetry_residual`` (eV/Angstrom^2) before anything was imposed.
    """
    forces = [found["forces"].to_numpy() for found in results]
    residual = forces[0]
    phonon.forces = np.array(forces[1:]) - residual if subtract_residual else np.array(forces[1:])
    phonon.produce_force_constants(calculate_full_force_constants=False, show_drift=False)
    constants: Any = phonon.force_constants
    transposed = transposed_constants(phonon)
    found = {
        "max_residual_force": float(np.linalg.norm(residual, axis=1).max()),
        "acoustic_sum_rule_residual": float(
            max(np.abs(constants.sum(axis=1)).max(), np.abs(transposed.sum(axis=1)).max())
        ),
        "symmetry_residual": float(np.abs(constants - transposed).max()),
    }
    if symmetrize:
        phonon.symmetrize_force_constants(show_drift=False)
    return found


def transposed_constants(phonon: Phonopy) -> Floats:
    """``Phi(j, i)`` transposed, in the places of the compact ``Phi(i, j)``: equal to them where pairs are symmetric."""
    primitive, constants = phonon.primitive, np.asarray(phonon.force_constants)
    first = primitive.p2s_map
    index = np.array([primitive.p2p_map[int(s)] for s in primitive.s2p_map])
    # The pure translation that takes the supercell atom j to its image in the primitive cell.
    shifts = primitive.atomic_permutations
    which = np.argmax(shifts == primitive.s2p_map, axis=0)
    partner = shifts[which[None, :], first[:, None]]
    return np.swapaxes(constants[index[None, :], partner], -1, -2)


def joined_cells(phonon: Phonopy, results: Sequence[xr.Dataset], attributes: dict[str, Any]) -> xr.Dataset:
    """All evaluated supercells end to end, with what was displaced in each.

    Returns
    -------
    xarray.Dataset
        Of the kind ``structures``, with energies and forces; ``displaced_atom`` is -1 for the undisplaced supercell.
    """
    supercell, shown = phonon.supercell, phonon.displacements
    atoms = Atoms(numbers=supercell.numbers, positions=supercell.positions, cell=supercell.cell, pbc=True)
    systems, number, shift = [atoms], [-1], [np.zeros(3)]
    for row in shown:
        moved = atoms.copy()
        moved.positions[int(row[0])] += row[1:4]
        systems.append(moved)
        number.append(int(row[0]))
        shift.append(np.array(row[1:4], dtype=float))
    more = {
        "energy": np.array([float(found["energy"][0]) for found in results]),
        "forces": np.concatenate([found["forces"].to_numpy() for found in results]),
        "displaced_atom": (("frame",), np.array(number, dtype=np.int64), {"units": "1"}),
        "displacement": (("frame", "xyz"), np.array(shift), {"units": "Angstrom"}),
    }
    return structures_dataset(systems, more, attributes)
