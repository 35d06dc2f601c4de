"""The supercell search against the counts of the specification and against brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from h5ml.compute.potentials import resolve_potential
from h5ml.compute.structure.supercell import find_supercell, make_supercell, reduce_lattice, shortest_translation

UREA, CO2, ACETIC_ACID = (5.565, 5.565, 4.684), (5.624, 5.624, 5.624), (13.151, 3.923, 5.762)

# atoms of the supercell for R = 10, 15, 20, 25 Angstrom (X23 crystals; general matrix, diagonal matrix)
COUNTS = [
    (UREA, 16, (128, 320, 752, 1376), (192, 576, 1280, 2400)),
    (CO2, 12, (96, 192, 420, 864), (96, 324, 768, 1500)),
    (ACETIC_ACID, 32, (192, 352, 768, 1408), (192, 768, 1536, 2240)),
]


def size(matrix: np.ndarray) -> int:
    return round(float(np.linalg.det(matrix)))


def brute_shortest(cell: np.ndarray, reach: int = 6) -> float:
    grid = np.array([n for n in product(range(-reach, reach + 1), repeat=3) if any(n)])
    return float(np.linalg.norm(grid @ cell, axis=1).min())


def random_cell(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(3, 3)) + np.diag(rng.uniform(1.5, 4.0, 3))


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize(("lengths", "atoms", "general", "plain"), COUNTS)
def test_atom_counts_of_the_specification(lengths, atoms, general, plain, diagonal):
    for radius, expected in zip((10, 15, 20, 25), plain if diagonal else general, strict=True):
        matrix = find_supercell(np.diag(lengths), radius, diagonal=diagonal)
        assert atoms * size(matrix) == expected
        assert shortest_translation(matrix @ np.diag(lengths)) >= radius


@pytest.mark.parametrize("seed", range(6))
def test_no_smaller_supercell_exists(seed):
    cell = random_cell(seed)
    radius = 4.0
    found = size(find_supercell(cell, radius))
    for n in range(1, found):
        for a, b in product(range(1, n + 1), repeat=2):
            if n % (a * b):
                continue
            c = n // (a * b)
            for x, y, z in product(range(b), range(c), range(c)):
                assert shortest_translation(np.array([[a, x, y], [0, b, z], [0, 0, c]]) @ cell) < radius


@pytest.mark.parametrize("seed", range(6))
def test_no_smaller_diagonal_supercell_exists(seed):
    cell = random_cell(seed)
    radius = 6.0
    matrix = find_supercell(cell, radius, diagonal=True)
    assert np.count_nonzero(matrix - np.diag(np.diag(matrix))) == 0
    for repeats in product(range(1, 9), repeat=3):
        if np.prod(repeats) < size(matrix):
            assert shortest_translation(np.diag(repeats) @ cell) < radius


@pytest.mark.parametrize("seed", range(30))
def test_reduction_is_unimodular_and_finds_the_shortest_vector(seed):
    rng = np.random.default_rng(seed)
    cell = rng.normal(size=(3, 3)) * 5
    skew = np.eye(3, dtype=int)
    for _ in range(3):
        i, j = rng.choice(3, 2, replace=False)
        skew[i] += int(rng.integers(-3, 4)) * skew[j]
    change = reduce_lattice(skew @ cell)
    assert size(change) == 1
    reduced = change @ skew @ cell
    assert shortest_translation(skew @ cell) == pytest.approx(brute_shortest(reduced))
    lengths = np.sort(np.linalg.norm(reduced, axis=1))
    grid = np.array([n for n in product(range(-3, 4), repeat=3) if any(n)])
    shells = np.sort(np.linalg.norm(grid @ reduced, axis=1))
    assert lengths[0] == pytest.approx(shells[0])
    minima = successive_minima(grid, grid @ reduced)
    np.testing.assert_allclose(lengths, minima, rtol=1e-9)


def successive_minima(grid: np.ndarray, vectors: np.ndarray) -> list[float]:
    chosen: list[np.ndarray] = []
    lengths: list[float] = []
    norms = np.linalg.norm(vectors, axis=1)
    for index in np.argsort(norms):
        if np.linalg.matrix_rank(np.array([*chosen, grid[index]])) > len(chosen):
            chosen.append(grid[index])
            lengths.append(float(norms[index]))
        if len(chosen) == 3:
            break
    return lengths


def test_result_does_not_depend_on_the_choice_of_cell_vectors():
    cell = random_cell(3)
    skewed = np.array([[1, 2, 0], [0, 1, -3], [0, 0, 1]]) @ cell
    first, second = find_supercell(cell, 9.0), find_supercell(skewed, 9.0)
    assert size(first) == size(second)
    assert shortest_translation(first @ cell) == pytest.approx(shortest_translation(second @ skewed))


def test_a_large_cell_stays_as_it_is():
    for diagonal in (False, True):
        np.testing.assert_array_equal(find_supercell(np.diag([30.0, 31.0, 32.0]), 25, diagonal=diagonal), np.eye(3))


def test_primitive_fcc_cell_is_the_densest_case():
    primitive = bulk("Ar", "fcc", a=5.0).cell.array
    matrix = find_supercell(primitive, 3 * 5.0 / np.sqrt(2))
    np.testing.assert_array_equal(matrix, 3 * np.eye(3))


def test_rounding_of_the_cell_does_not_spoil_an_exact_fit():
    np.testing.assert_array_equal(find_supercell(np.diag([1 / 3 * 15] * 3), 10.0, diagonal=True), 2 * np.eye(3))


@pytest.mark.parametrize("seed", range(4))
def test_result_is_compact_and_right_handed(seed):
    cell = random_cell(seed)
    matrix = find_supercell(cell, 8.0)
    assert size(matrix) > 0
    supercell = matrix @ cell
    grid = np.array([n for n in product(range(-3, 4), repeat=3) if any(n)])
    np.testing.assert_allclose(
        np.sort(np.linalg.norm(supercell, axis=1)), successive_minima(grid, grid @ supercell), rtol=1e-9
    )


@pytest.mark.parametrize(
    ("cell", "radius", "message"),
    [
        (np.zeros((3, 3)), 10.0, "span a volume"),
        (np.ones((3, 3)), 10.0, "span a volume"),
        (np.eye(3), -1.0, "must be positive"),
        (np.eye(3), float("nan"), "must be positive"),
        (np.eye(2), 5.0, "3 x 3"),
        (np.eye(3), 30.0, "too many of these cells"),
        (np.eye(3), 300.0, "too many of these cells"),
    ],
)
def test_impossible_input_is_refused(cell, radius, message):
    with pytest.raises(ValueError, match=message):
        find_supercell(cell, radius)


def test_supercell_repeats_energy_arrays_and_keeps_molecules_whole():
    water = molecule("H2O")
    water.set_cell([4.0, 5.0, 6.0])
    water.pbc = True
    water.positions -= [0.0, 2.0, 0.0]  # across a face
    water.set_velocities(np.arange(9.0).reshape(3, 3))
    matrix = np.array([[1, 1, 0], [-1, 1, 0], [0, 1, 2]])
    big = make_supercell(water, matrix)
    assert len(big) == 3 * 4
    np.testing.assert_allclose(big.cell.array, matrix @ water.cell.array)
    np.testing.assert_array_equal(big.numbers, np.tile(water.numbers, 4))
    np.testing.assert_allclose(big.get_velocities(), np.tile(water.get_velocities(), (4, 1)))
    for k in range(0, 12, 3):
        np.testing.assert_allclose(big.positions[k : k + 3] - big.positions[k], water.positions - water.positions[0])
    energies = []
    for atoms in (water, big):
        atoms.calc = resolve_potential("harmonic:springs?k=1&r0=1&rc=5.5").calculator()
        energies.append(atoms.get_potential_energy() / len(atoms))
    assert energies[0] == pytest.approx(energies[1], abs=1e-10)


@pytest.mark.parametrize("matrix", [-np.eye(3), np.zeros((3, 3)), 0.5 * np.eye(3), np.eye(2)])
def test_no_supercell_from_a_bad_matrix(matrix):
    with pytest.raises(ValueError, match="supercell matrix"):
        make_supercell(Atoms("H", cell=[1, 1, 1], pbc=True), matrix)
