"""Force constants travel through a dataset unchanged, and from displaced cells to what phonopy's own script gives."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from phonopy import Phonopy
from phonopy.harmonic.force_constants import compact_fc_to_full_fc

from h5ml.compute.lattice.displacements import (
    build_phonopy,
    check_crystal,
    displaced_cells,
    evaluate_cell,
    fit_force_constants,
    joined_cells,
    transposed_constants,
)
from h5ml.compute.lattice.force_constants import NAC_FACTOR, dataset_of, phonopy_of
from h5ml.compute.potentials import resolve_potential
from h5ml.schemas.errors import InvalidData
from h5ml.store.blob import pack, unpack

SKEWED = np.array([[2, 0, 0], [0, 2, 0], [1, 0, 2]])
Q = np.array([[0.1, 0.2, 0.3], [0.0, 0.0, 0.0], [0.5, 0.5, 0.0]])


def frequencies(phonon: Phonopy) -> np.ndarray:
    return np.asarray(phonon.run_qpoints(Q).frequencies)


@pytest.fixture
def copper() -> Phonopy:
    """Copper of two isotopes by EMT in a skewed supercell: four atoms a cell, of which none is equal to another."""
    atoms = bulk("Cu", cubic=True)
    atoms.set_masses([63.0, 65.0, 63.0, 63.0])
    phonon = build_phonopy(atoms, SKEWED, primitive="input", use_symmetry=False)
    cells = displaced_cells(phonon, resolve_potential("ase:emt"), 0.01)
    fit_force_constants(phonon, [evaluate_cell(cell) for cell in cells])
    return phonon


def test_a_dataset_gives_back_the_same_cells_and_the_same_frequencies(copper: Phonopy) -> None:
    copper.nac_params = {"born": np.zeros((4, 3, 3)), "dielectric": 2.0 * np.eye(3), "factor": NAC_FACTOR}
    back = phonopy_of(unpack(pack(dataset_of(copper))))
    for name in ("unitcell", "primitive", "supercell"):
        before, after = getattr(copper, name), getattr(back, name)
        assert np.array_equal(before.positions, after.positions)
        assert np.array_equal(before.masses, after.masses)
    assert np.array_equal(back.supercell_matrix, SKEWED.T)  # phonopy has the vectors as columns
    assert np.array_equal(back.nac_params["dielectric"], 2.0 * np.eye(3))
    assert np.array_equal(frequencies(back), frequencies(copper))


def test_full_force_constants_are_stored_in_compact_form(copper: Phonopy) -> None:
    compact = copper.force_constants.copy()
    copper.force_constants = compact_fc_to_full_fc(copper.primitive, compact)
    found = dataset_of(copper)
    assert found["force_constants"].shape == (4, 32, 3, 3)
    assert np.allclose(found["force_constants"], compact, rtol=0, atol=1e-15)


def test_without_a_unit_cell_the_primitive_one_was_repeated(copper: Phonopy) -> None:
    stored = dataset_of(copper).drop_dims("unitcell_atom").drop_vars(["primitive_matrix", "unitcell_cell"])
    # Other roundings of the reduced coordinates: far below a millionth of a THz, not to the bit.
    assert np.allclose(frequencies(phonopy_of(stored)), frequencies(copper), rtol=0, atol=1e-9)


def test_cells_that_do_not_belong_together_are_refused(copper: Phonopy) -> None:
    stored = dataset_of(copper)
    order = np.roll(np.arange(32), 1)
    shuffled = stored.assign(supercell_positions=stored["supercell_positions"][order])
    with pytest.raises(InvalidData, match="supercell is not the one"):
        phonopy_of(shuffled)
    with pytest.raises(InvalidData, match="no force constants"):
        dataset_of(build_phonopy(bulk("Cu"), np.eye(3, dtype=np.int64)))


def test_the_transposed_constants_are_those_of_the_full_matrix() -> None:
    phonon = build_phonopy(bulk("NaCl", "rocksalt", a=5.6, cubic=True), SKEWED)
    phonon.force_constants = np.random.default_rng(0).normal(size=(2, 64, 3, 3))
    full = compact_fc_to_full_fc(phonon.primitive, phonon.force_constants)
    wanted = np.swapaxes(full.transpose(1, 0, 2, 3), -1, -2)[phonon.primitive.p2s_map]
    assert np.allclose(transposed_constants(phonon), wanted, rtol=0, atol=1e-14)


def test_the_residuals_are_those_before_anything_was_imposed() -> None:
    atoms = bulk("Al", cubic=True)
    atoms.positions[0, 0] += 0.05  # off its minimum: residual forces, and force constants that are not symmetric
    found = {}
    for symmetrize in (False, True):
        phonon = build_phonopy(atoms, np.eye(3, dtype=np.int64), primitive="input")
        results = [evaluate_cell(cell) for cell in displaced_cells(phonon, resolve_potential("ase:emt"), 0.05)]
        found[symmetrize] = fit_force_constants(phonon, results, symmetrize=symmetrize)
        drift = np.abs(transposed_constants(phonon).sum(axis=1)).max()
        assert (drift < 1e-12) == symmetrize
    assert found[False] == found[True]
    assert found[True]["max_residual_force"] > 0.1
    assert found[True]["acoustic_sum_rule_residual"] > 1e-3


def test_the_displaced_cells_become_labelled_structures() -> None:
    phonon = build_phonopy(bulk("Al", cubic=True), SKEWED)
    results = [evaluate_cell(cell) for cell in displaced_cells(phonon, resolve_potential("ase:emt"), 0.02)]
    cells = joined_cells(phonon, results, {})
    assert cells["displaced_atom"].to_numpy().tolist() == [-1, 0]
    assert float(np.linalg.norm(cells["displacement"][1])) == pytest.approx(0.02)
    moved = cells["positions"].to_numpy().reshape(2, 32, 3)
    assert np.allclose(moved[1, 0] - moved[0, 0], cells["displacement"][1])
    assert float(cells["energy"][1]) > float(cells["energy"][0])


def test_isotopes_are_refused_where_symmetry_would_make_them_equal() -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.set_masses([63.0] * 4)
    assert build_phonopy(atoms, SKEWED).primitive.masses.tolist() == [63.0]
    atoms.set_masses([63.0, 65.0, 63.0, 63.0])
    for primitive in ("auto", "input"):
        with pytest.raises(InvalidData, match="different masses"):
            build_phonopy(atoms, SKEWED, primitive=primitive)
    assert build_phonopy(atoms, SKEWED, masses="phonopy").primitive.masses[0] == pytest.approx(63.546)
    every = build_phonopy(atoms, SKEWED, primitive="input", use_symmetry=False)
    assert every.primitive.masses.tolist() == [63.0, 65.0, 63.0, 63.0]


@pytest.mark.parametrize(
    ("atoms", "said"),
    [
        (Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 0.3]], cell=3 * np.eye(3), pbc=True), "lie on each other"),
        (Atoms("Cu", cell=[0.3, 3, 3], pbc=True), "lie on each other"),
        (Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2]]), "periodic"),
    ],
)
def test_what_has_no_phonons_is_refused(atoms: Atoms, said: str) -> None:
    with pytest.raises(InvalidData, match=said):
        check_crystal(atoms)
