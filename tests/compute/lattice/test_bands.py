"""Bands, meshes, densities and displacements against phonopy's full sums and formulas on paper."""

from __future__ import annotations

import numpy as np
import pytest
import seekpath
from ase.build import bulk
from ase.geometry import minkowski_reduce
from phonopy import Phonopy

from h5ml.compute.lattice.bands import (
    density_dataset,
    imaginary_modes,
    mesh_dataset,
    path_dataset,
    thermal_displacements,
)
from h5ml.compute.lattice.displacements import build_phonopy, displaced_cells, evaluate_cell, fit_force_constants
from h5ml.compute.lattice.force_constants import NAC_FACTOR
from h5ml.compute.potentials import resolve_potential

DOUBLE = 2 * np.eye(3, dtype=np.int64)


def ready(atoms: object, model: str, matrix: np.ndarray = DOUBLE, **settings: object) -> Phonopy:
    """Force constants of a crystal."""
    phonon = build_phonopy(atoms, matrix, **settings)
    cells = displaced_cells(phonon, resolve_potential(model), 0.01)
    fit_force_constants(phonon, [evaluate_cell(cell) for cell in cells])
    return phonon


@pytest.fixture(scope="module")
def titanium() -> Phonopy:
    """A hexagonal crystal of two atoms a cell, by springs to the two shells of neighbours."""
    return ready(bulk("Ti"), "harmonic:springs?k=2.0&r0=2.9&rc=3.5", 3 * np.eye(3, dtype=np.int64))


def test_thermal_displacements_are_those_of_the_whole_mesh(titanium: Phonopy) -> None:
    temperatures = [0.0, 300.0]
    mesh = mesh_dataset(titanium, 18.0, -0.1)
    found = thermal_displacements(titanium, mesh, temperatures)
    titanium.run_mesh(18.0, is_mesh_symmetry=False, with_eigenvectors=True)
    titanium.run_thermal_displacement_matrices(temperatures=temperatures, freq_min=1e-3)
    theirs = titanium.thermal_displacement_matrices.thermal_displacement_matrices.real
    assert mesh.sizes["q"] < len(titanium.mesh.qpoints) / 5
    assert np.abs(theirs).max() > 1e-3
    assert np.allclose(found, theirs, rtol=0, atol=1e-12)


def test_a_mesh_is_that_of_phonopy_and_its_weights_add_up_to_one(titanium: Phonopy) -> None:
    mesh = mesh_dataset(titanium, 18.0, -0.1)
    titanium.run_mesh(18.0)
    assert np.array_equal(mesh["frequency"], titanium.mesh.frequencies)
    assert float(mesh["weight"].sum()) == pytest.approx(1.0, abs=1e-14)
    assert mesh.attrs["mesh_numbers"] == [7, 7, 4]
    assert mesh.attrs["n_imaginary"] == 0
    density = density_dataset(titanium, 0.02, None)
    assert np.trapezoid(density["density_of_states"], density["frequency"]) == pytest.approx(6.0, rel=0.02)


def test_the_path_is_right_also_in_a_cell_that_is_not_the_standard_one() -> None:
    standard = ready(bulk("Al"), "ase:emt")
    skewed = bulk("Al")
    skewed.set_cell(np.array([[1, 0, 0], [1, 1, 0], [0, 2, 1]]) @ skewed.cell.array, scale_atoms=False)
    other = build_phonopy(skewed, np.eye(3, dtype=np.int64), primitive="input")
    assert not np.allclose(minkowski_reduce(other.primitive.cell)[0], other.primitive.cell)
    # The same supercell in other vectors: rows in units of the skewed cell.
    matrix = np.rint(2 * bulk("Al").cell.array @ np.linalg.inv(skewed.cell.array)).astype(int)
    other = ready(skewed, "ase:emt", matrix, primitive="input")
    one, two = (path_dataset(phonon, 11, -0.1) for phonon in (standard, other))
    assert one["label"].to_numpy()[0] == "Gamma"
    assert one["label"].to_numpy().tolist() == two["label"].to_numpy().tolist()
    assert np.allclose(one["distance"], two["distance"], rtol=0, atol=1e-12)
    # Translations at Gamma are square roots of rounding errors, elsewhere nothing is.
    assert np.allclose(one["frequency"], two["frequency"], rtol=0, atol=1e-4)
    assert not np.allclose(one["q_point"], two["q_point"])


def test_the_path_has_the_special_points_of_seekpath(titanium: Phonopy) -> None:
    path = path_dataset(titanium, 21, -0.1)
    points = seekpath.get_path(titanium.primitive.totuple())["point_coords"]
    labels = path["label"].to_numpy()
    named = np.flatnonzero(labels != "")
    assert {"Gamma", "M", "K", "A", "L", "H"} <= set(labels[named])
    for row in named:
        coordinates = points["GAMMA" if labels[row] == "Gamma" else labels[row]]
        wanted = titanium.run_qpoints([coordinates]).frequencies[0]
        assert np.allclose(path["frequency"][row], wanted, rtol=0, atol=1e-4)
    step = np.diff(path["distance"])
    assert (step >= 0).all()
    assert np.diff(path["segment"]).max() == 1


def test_born_charges_split_longitudinal_and_transverse_modes_as_the_formula_says() -> None:
    phonon = ready(bulk("NaCl", "rocksalt", a=5.64), "harmonic:springs?k=1.0&r0=3.4&rc=4.2")
    before = phonon.run_qpoints([[0, 0, 0]]).frequencies[0]
    charge, dielectric = 1.1, 2.4
    born = np.array([charge * np.eye(3), -charge * np.eye(3)])
    phonon.nac_params = {"born": born, "dielectric": dielectric * np.eye(3), "factor": NAC_FACTOR}
    path = path_dataset(phonon, 21, -0.1)
    at_gamma = path["frequency"].to_numpy()[path["label"].to_numpy() == "Gamma"]
    # Lyddane, Sachs and Teller: the squares differ by 4 pi e^2 Z^2 / (dielectric V mu).
    over_mu = (1.0 / phonon.primitive.masses).sum()
    gap = 4.0 * np.pi * NAC_FACTOR * charge**2 / (dielectric * phonon.primitive.volume) * over_mu
    longitudinal = np.sqrt(before[3] ** 2 + gap * phonon.unit_conversion_factor**2)
    assert longitudinal - before[3] > 1.0
    for frequencies in at_gamma:
        assert np.allclose(frequencies[3:], [before[3], before[3], longitudinal], rtol=0, atol=1e-5)


def test_a_soft_optical_mode_is_no_acoustic_one_although_it_is_the_lowest() -> None:
    phonon = ready(bulk("NaCl", "rocksalt", a=5.64), "harmonic:springs?k=1.0&r0=3.4&rc=4.2")
    constants, first = phonon.force_constants.copy(), phonon.primitive.p2s_map
    pull = 2.0 * np.eye(3)  # the two atoms of a cell repel each other: optical modes turn imaginary, no others
    for atom, other in ((0, 1), (1, 0)):
        constants[atom, first[atom]] -= pull
        constants[atom, first[other]] += pull
    phonon.force_constants = constants
    q = np.array([[0.0, 0.0, 0.0], [0.05, 0.0, 0.0], [0.1, 0.2, 0.3], [1.0, 0.0, 0.0]])
    frequency = phonon.run_qpoints(q).frequencies
    assert (frequency[[0, 1, 3], :3] < -1.0).all()  # by their rank they would be acoustic
    found = imaginary_modes(phonon, q, frequency, -0.1)
    assert (found.count, found.acoustic, found.optical) == (9, 0, 9)
    assert found.per_point.tolist() == [3, 3, 0, 3]
    assert (found.lowest, found.lowest_optical) == (frequency.min(), frequency.min())
    assert found.lowest_acoustic == frequency[[0, 1, 3], 3:].min()
    assert found.lowest_q == tuple(q[frequency.min(axis=1).argmin()])


def test_a_crystal_of_one_atom_a_cell_has_acoustic_modes_alone() -> None:
    phonon = ready(bulk("Ar", a=5.3), "harmonic:springs?k=0.5&r0=7.0&rc=4.6")  # compressed springs: the lattice buckles
    path = path_dataset(phonon, 11, -0.1)
    below = path["frequency"].to_numpy() < -0.1
    assert below.any()
    assert path.attrs["n_imaginary_acoustic"] == path.attrs["n_imaginary"] == below.sum()
    assert path.attrs["lowest_acoustic_frequency_THz"] == path["frequency"].to_numpy().min()
    assert "lowest_optical_frequency_THz" not in path.attrs
