"""Neighbours in the order of mace-torch, for every kind of boundary."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from h5ml.compute.potentials.mace_engine import mace_guard

with mace_guard():
    from mace.data.neighborhood import get_neighborhood

    from h5ml.compute.potentials.mace_graphs import neighbours

CELLS = {
    "wide": np.array([[9.0, 0.5, 0.0], [0.0, 8.0, 1.0], [0.3, 0.0, 7.0]]),
    "smaller than the cutoff": np.array([[2.5, 0.1, 0.0], [0.0, 2.7, 0.2], [0.3, 0.0, 2.6]]),
    "none": np.zeros((3, 3)),
}


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("pbc", list(itertools.product((False, True), repeat=3)))
def test_neighbours_are_those_of_mace_in_its_order(name: str, pbc: tuple[bool, bool, bool]) -> None:
    positions = np.random.default_rng(3).uniform(-1.0, 6.0, (7, 3))
    edges, shifts, unit_shifts, whole = get_neighborhood(positions, 4.0, pbc, CELLS[name].copy())
    found, images, cell = neighbours(positions, CELLS[name], np.array(pbc, dtype=np.int8), 4.0)
    assert np.array_equal(found, edges)
    assert np.array_equal(images, unit_shifts)
    assert np.array_equal(cell, whole)
    assert np.array_equal(np.dot(images, cell), shifts), "the same product of whole numbers and cell"
    assert found.shape[1] > 0


def test_a_lone_atom_has_neighbours_only_where_it_repeats() -> None:
    for pbc, count in (((0, 0, 0), 0), ((0, 0, 1), 2), ((1, 1, 1), 6)):
        edges, images, _ = neighbours(np.zeros((1, 3)), 3.0 * np.eye(3), np.array(pbc), 3.5)
        assert edges.shape == (2, count)
        assert images.any(axis=1).all(), "it is no neighbour of itself"
