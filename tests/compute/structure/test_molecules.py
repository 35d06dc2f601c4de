"""Molecules: found whichever images their atoms lie in, refused where there are none, followed through frames."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from h5ml.compute.structure.molecules import changed_molecules, connectivity, detect_molecules, images_in, near_pairs
from h5ml.schemas.errors import InvalidConfig, InvalidData
from h5ml.tests.kits.crystals import FORMULAS, ammonium_chloride, crystal


def test_a_pair_list_holds_every_image_also_in_cells_smaller_than_the_cutoff():
    rng = np.random.default_rng(1)
    for pbc in ([True] * 3, [True, False, True], [False] * 3):
        for _ in range(3):
            cell = np.diag(rng.uniform(2.0, 4.0, 3)) + rng.uniform(-0.6, 0.6, (3, 3))
            positions = rng.uniform(-3.0, 6.0, (5, 3))  # far outside the cell, too
            first, second, shift, distance = near_pairs(positions, cell, np.array(pbc), 4.0)
            found = {(int(i), int(j), *map(int, s)) for i, j, s in zip(first, second, shift, strict=True)}
            assert len(found) == len(first)
            vectors = positions[second] + shift @ cell - positions[first]
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), distance, atol=1e-9)
            reach = 14
            steps = np.array(list(product(*[range(-reach, reach + 1) if p else (0,) for p in pbc])))
            expected = 0
            for i in range(5):
                for j in range(i, 5):
                    lengths = np.linalg.norm(positions[j] + steps @ cell - positions[i], axis=1)
                    near = int(np.sum(lengths < 4.0)) - (i == j)
                    expected += near // 2 if i == j else near
            assert len(found) == expected


@pytest.mark.parametrize("name", FORMULAS)
def test_every_crystal_gives_its_molecules_wherever_its_atoms_are_wrapped(name):
    atoms = crystal(name)
    rng = np.random.default_rng(0)
    scattered = atoms.copy()
    scattered.positions += rng.integers(-2, 3, (len(atoms), 3)) @ atoms.cell.array
    slanted = scattered.copy()
    slanted.set_cell(np.array([[1, 0, 0], [3, 1, 0], [-2, 1, 1]]) @ atoms.cell.array)
    for one in (atoms, scattered, slanted):
        found = detect_molecules(one)
        assert set(found.formulas) == {FORMULAS[name]}
        assert sum(len(found.members(m)) for m in range(found.n_molecules)) == len(atoms)
        whole = found.whole_positions(one.positions, one.cell.array)
        i, j = found.bonds.T
        assert np.linalg.norm(whole[i] - whole[j], axis=1).max() < 1.6
        starts = [found.members(m)[0] for m in range(found.n_molecules)]
        assert starts == sorted(starts)
        assert not found.image[starts].any()


def test_centres_of_mass_are_those_of_whole_molecules():
    water = molecule("H2O", cell=[5, 5, 5], pbc=True)
    expected = water.get_center_of_mass()
    water.wrap()
    found = detect_molecules(water)
    centre = found.centers_of_mass(water.positions, water.cell.array, water.get_masses())
    off = (centre[0] - expected) / 5.0
    np.testing.assert_allclose(off, np.rint(off), atol=1e-12)


def test_ions_are_molecules_of_their_own():
    assert sorted(detect_molecules(ammonium_chloride()).formulas) == ["Cl", "H4N"]
    salt = bulk("NaCl", "rocksalt", a=5.64)
    with pytest.raises(InvalidData, match="ions"):
        detect_molecules(salt)
    assert detect_molecules(salt, ions=["Na"]).formulas == ("Na", "Cl")
    with pytest.raises(InvalidConfig, match="Xx"):
        detect_molecules(salt, ions=["Xx"])


@pytest.mark.parametrize(
    ("solid", "says"),
    [
        (bulk("Cu"), "Cu-Cu"),
        (bulk("C", "diamond", a=3.57), "C-C"),
        (Atoms("CH2", [[0, 0, 0], [0, 0.9, 0.6], [0, 0.9, -0.6]], cell=[1.5, 9, 9], pbc=True), r"\[1, 0, 0\]"),
    ],
)
def test_bonds_without_end_are_refused_with_their_direction(solid, says):
    with pytest.raises(InvalidData, match=says):
        detect_molecules(solid)


def test_atoms_on_one_another_are_refused():
    atoms = crystal("urea")
    atoms += atoms[3:4]
    atoms.positions[-1] += atoms.cell.array[0] + 0.01
    with pytest.raises(InvalidData, match="atom 3"):
        detect_molecules(atoms)


def test_a_frame_is_marked_when_a_bond_breaks_or_forms_and_only_then():
    atoms = crystal("urea").repeat((1, 1, 2))
    reference = detect_molecules(atoms)
    rng = np.random.default_rng(2)
    warm = atoms.copy()
    warm.rattle(0.05, rng=rng)
    warm.wrap()
    assert connectivity(warm, reference)
    hydrogen = int(np.flatnonzero(atoms.numbers == 1)[0])
    partner = int(next(b[b != hydrogen][0] for b in reference.bonds if hydrogen in b))
    broken = warm.copy()
    broken.positions[hydrogen] += 0.6 * (atoms.positions[hydrogen] - atoms.positions[partner])
    mark = changed_molecules(broken, reference)
    assert np.flatnonzero(mark).tolist() == [reference.molecule_of_atom[hydrogen]]
    oxygens = np.flatnonzero(atoms.numbers == 8)
    joined = atoms.copy()
    joined.positions[hydrogen] = atoms.positions[oxygens[-1]] + [1.0, 0.0, 0.0]
    assert not connectivity(joined, reference)
    assert changed_molecules(joined, reference)[reference.molecule_of_atom[oxygens[-1]]]


def test_molecules_of_a_wrapped_frame_are_made_whole_in_a_cell_as_short_as_a_molecule():
    atoms = crystal("formamide")  # a = 3.6 Angstrom
    reference = detect_molecules(atoms)
    moved = atoms.copy()
    moved.positions += [1.7, 2.3, -4.1]
    moved.wrap()
    image = images_in(moved, reference)
    whole = moved.positions + image @ moved.cell.array
    before = reference.whole_positions(atoms.positions, atoms.cell.array)
    for m in range(reference.n_molecules):
        members = reference.members(m)
        np.testing.assert_allclose(whole[members] - whole[members[0]], before[members] - before[members[0]], atol=1e-9)
