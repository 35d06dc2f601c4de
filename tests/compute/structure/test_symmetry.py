"""Space groups, standard cells and the rotations of molecules."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from h5ml.compute.structure.symmetry import (
    NO_GROUP,
    is_linear,
    rotational_symmetry_number,
    space_group,
    standard_cell,
    symmetrized,
)
from h5ml.schemas.errors import InvalidData

UREA = Atoms(
    "COHHHHNN",
    [
        [0.0, 0.0, 0.0],
        [0.0, 0.0, 1.26],
        [1.43, 0.0, 1.0 - 1.72],
        [-1.43, 0.0, 1.0 - 1.72],
        [0.81, 0.0, -1.73],
        [-0.81, 0.0, -1.73],
        [1.14, 0.0, -0.72],
        [-1.14, 0.0, -0.72],
    ],
)
SULFUR_HEXAFLUORIDE = Atoms("SF6", np.vstack([np.zeros(3), 1.56 * np.eye(3), -1.56 * np.eye(3)]))


@pytest.mark.parametrize(
    ("system", "number"),
    [
        ("H2O", 2),
        ("NH3", 3),
        ("CO2", 2),
        ("C6H6", 12),
        ("CH4", 12),
        ("HCl", 1),
        ("N2", 2),
        ("H", 1),
        ("C2H6", 6),
        ("C2H4", 4),
        ("CH3OH", 1),
        (UREA, 2),
        (SULFUR_HEXAFLUORIDE, 24),
    ],
)
def test_rotations_of_molecules_are_counted(system: str | Atoms, number: int) -> None:
    atoms = molecule(system) if isinstance(system, str) else system.copy()
    atoms.rotate(37.0, (0.3, 0.5, 0.9))
    atoms.translate([3.0, -2.0, 1.0])
    atoms.rattle(0.003, seed=4)
    assert rotational_symmetry_number(atoms) == number


def test_an_isotope_takes_rotations_away() -> None:
    benzene = molecule("C6H6")
    masses = benzene.get_masses()
    masses[np.flatnonzero(benzene.numbers == 1)[0]] = 2.014
    benzene.set_masses(masses)
    assert rotational_symmetry_number(benzene) == 2


def test_a_bent_molecule_is_not_linear() -> None:
    assert is_linear(molecule("CO2").positions)
    assert is_linear(molecule("C2H2").positions)
    assert not is_linear(molecule("H2O").positions)


def test_the_primitive_cell_of_a_supercell_is_the_primitive_cell() -> None:
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat((2, 1, 1))
    small = standard_cell(salt, 1e-3, primitive=True)
    assert len(small) == 2
    assert small.get_volume() == pytest.approx(salt.get_volume() / 8)
    assert space_group(salt, 1e-3).number == space_group(small, 1e-5).number == 225
    assert len(standard_cell(salt, 1e-3, primitive=False)) == 8


def test_symmetry_is_made_exact_in_the_given_cell() -> None:
    crystal = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    crystal.rotate(25.0, (1, 2, 3), rotate_cell=True)
    noisy = crystal.copy()
    noisy.rattle(1e-3, seed=1)
    assert space_group(noisy, 1e-6).number == 1
    exact = symmetrized(noisy, 1e-2)
    assert space_group(exact, 1e-6).number == 225
    assert np.abs(exact.positions - noisy.positions).max() < 0.01
    assert np.allclose(exact.cell.array, crystal.cell.array, atol=1e-8)


def test_what_has_no_space_group_says_so() -> None:
    assert space_group(molecule("H2O"), 1e-3) == NO_GROUP
    twins = Atoms("Cu2", [[0, 0, 0], [0, 0, 0.001]], cell=[3, 3, 3], pbc=True)
    with pytest.raises(InvalidData, match="symmetry"):
        space_group(twins, 1e-2)
