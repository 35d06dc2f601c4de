"""Normal modes against the dense dynamical matrix of the whole supercell, and the geometry of q-points."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from h5ml.compute.lattice.modes import (
    NormalModes,
    SupercellModes,
    fits,
    fitting_points,
    mesh_of_length,
    mesh_points,
    normal_modes,
    one_of_each_pair,
    supercell_in_primitive,
)
from h5ml.tests.kits.lattice import SKEWED, copper_gold, dense_modes


def unit_coordinates(modes: NormalModes) -> list[tuple[int, int, complex]]:
    """Every real coordinate: point, mode, and 1 or i."""
    return [
        (q, mode, part)
        for q, pair in enumerate(modes.paired)
        for mode in range(modes.eigenvalues.shape[1])
        for part in ((1.0, 1j) if pair else (1.0,))
    ]


def patterns(cell: SupercellModes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mass-weighted displacement (row) and eigenvalue of every real coordinate."""
    rows, values = [], []
    for q, mode, part in unit_coordinates(cell.modes):
        coordinates = np.zeros(cell.modes.eigenvalues.shape, dtype=complex)
        coordinates[q, mode] = part
        rows.append((cell.displacements(coordinates) * np.sqrt(cell.atoms.get_masses())[:, None]).ravel())
        values.append(cell.modes.eigenvalues[q, mode])
    return np.array(rows), np.array(values)


def test_the_coordinates_of_all_fitting_points_are_the_modes_of_the_whole_supercell() -> None:
    phonon = copper_gold()
    matrix = supercell_in_primitive(phonon)
    assert np.array_equal(matrix, SKEWED)
    modes = normal_modes(phonon, fitting_points(matrix))
    assert 0 < modes.paired.sum() < len(modes.paired)  # points of both sorts
    rows, found = patterns(SupercellModes(modes, phonon))
    values, vectors = dense_modes(phonon)
    assert rows.shape == vectors.shape
    assert np.allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-10)  # orthonormal, so none twice and none missing
    assert np.allclose(np.sort(found), values, atol=1e-8)
    # any function of the dynamical matrix is the same, such as a resolvent (and so the covariance of the atoms)
    ours = rows.T @ np.diag(1.0 / (0.1 + found)) @ rows
    dense = vectors @ np.diag(1.0 / (0.1 + values)) @ vectors.T
    assert np.allclose(ours, dense, atol=1e-7)


def test_the_harmonic_energy_is_that_of_the_force_constants() -> None:
    phonon = copper_gold()
    cell = SupercellModes(normal_modes(phonon, fitting_points(SKEWED)), phonon)
    rng = np.random.default_rng(1)
    coordinates = 0.1 * rng.normal(size=(2, *cell.modes.eigenvalues.shape))
    moved = cell.displacements(coordinates[0] + 1j * coordinates[1])
    expected = 0.5 * np.einsum("ix,ijxy,jy->", moved, phonon.force_constants, moved)
    assert cell.energy(coordinates[0] + 1j * coordinates[1]) == pytest.approx(expected, rel=1e-6)


def test_a_supercell_of_whole_primitive_cells_holds_the_same_waves() -> None:
    phonon = copper_gold()
    modes = normal_modes(phonon, mesh_points((1, 3, 1)))
    small = SupercellModes(modes, phonon, np.diag([1, 3, 1]))
    large = SupercellModes(modes, phonon, np.diag([2, 3, 1]))
    assert (len(small.atoms), len(large.atoms)) == (6, 12)
    coordinates = np.zeros(modes.eigenvalues.shape, dtype=complex)
    coordinates[1] = np.arange(1, 7) * (0.3 - 0.2j)
    first, second = small.displacements(coordinates), large.displacements(coordinates)
    # one normal coordinate spread over twice the cells moves each atom less by sqrt(2)
    inverse = np.linalg.inv(small.atoms.cell.array)
    apart = (large.atoms.positions[:, None] - small.atoms.positions[None]) @ inverse
    same = np.argmin(np.abs(apart - np.rint(apart)).sum(axis=2), axis=1)
    assert np.allclose(second, first[same] / np.sqrt(2.0), atol=1e-12)


def test_the_three_translations_are_told_from_other_modes_at_gamma_alone() -> None:
    modes = normal_modes(copper_gold(), fitting_points(SKEWED))
    gamma = int(np.flatnonzero(np.all(modes.q_points == 0.0, axis=1))[0])
    assert modes.acoustic[gamma].tolist() == [True] * 3 + [False] * 3
    assert modes.acoustic.sum() == 3


def test_each_pair_of_points_is_kept_once() -> None:
    points = np.array(
        [[0, 0, 0], [0.25, 0, 0], [0.75, 0, 0], [0.5, 0, 0], [-0.25, 1, 0], [0.5, 0.25, 0], [0.5, 0.75, 0]]
    )
    kept, paired = one_of_each_pair(points)
    assert kept.tolist() == [[0, 0, 0], [0.25, 0, 0], [0.5, 0, 0], [0.5, 0.25, 0]]
    assert paired.tolist() == [False, True, False, True]


@pytest.mark.parametrize("matrix", [SKEWED, np.diag([2, 2, 3]), np.array([[1, 1, 0], [-1, 2, 0], [1, 0, 4]])])
def test_a_supercell_fits_as_many_points_as_it_has_cells(matrix: NDArray[np.int64]) -> None:
    points = fitting_points(matrix)
    size = round(abs(float(np.linalg.det(matrix))))
    assert len(points) == size
    assert fits(points, matrix).all()
    kept, paired = one_of_each_pair(points)
    assert len(kept) + paired.sum() == size
    fine = mesh_points((12, 12, 12))  # brute force: no other point of a fine mesh fits
    inside = fine[fits(fine, matrix)]
    assert len(one_of_each_pair(inside)[0]) <= len(kept)


def test_a_length_makes_the_mesh_of_phonopy() -> None:
    phonon = copper_gold()
    phonon.run_mesh(25.0, is_gamma_center=True)
    assert mesh_of_length(phonon, 25.0) == tuple(phonon.mesh.mesh_numbers) == (9, 9, 7)


def test_vectors_are_real_where_a_point_is_its_own_partner() -> None:
    modes = normal_modes(copper_gold(), mesh_points((2, 2, 2)))
    assert not modes.paired.any()
    assert np.abs(modes.vectors.imag).max() == 0.0
