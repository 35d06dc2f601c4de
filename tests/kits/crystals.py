"""Molecular crystals for tests, and neighbours counted the slow and simple way."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

FORMULAS = {
    "urea": "CH4N2O",
    "CO2": "CO2",
    "acetic_acid": "C2H4O2",
    "ammonia": "H3N",
    "benzene": "C6H6",
    "formamide": "CH3NO",
    "naphthalene": "C10H8",
}


def crystal(name: str) -> Atoms:
    """One of the X23 crystals, its conventional cell."""
    return ase.io.read(Path(__file__).parents[1] / "data" / f"x23_{name}.xyz")


def ammonium_chloride() -> Atoms:
    """The CsCl-like form with four hydrogens of one orientation, a = 3.87 Angstrom."""
    hydrogens = 0.1536 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    return Atoms("NH4Cl", scaled_positions=[[0, 0, 0], *hydrogens, [0.5, 0.5, 0.5]], cell=[3.87] * 3, pbc=True)


def block_distances(atoms: Atoms, reach: float) -> list[tuple[float, float]]:
    """Shortest and longest distance of every molecule to one in the middle, from an open block of repeated cells.

    No periodic code is used: the block is large enough that all molecules within ``reach`` of the middle are whole.
    """
    heights = 1.0 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)
    block = atoms.repeat([2 * int(np.ceil((reach + 9.0) / h)) + 1 for h in heights])
    block.pbc = False
    radii = covalent_radii[block.numbers]
    pairs = cKDTree(block.positions).query_pairs(2.6 * radii.max(), output_type="ndarray")
    lengths = np.linalg.norm(block.positions[pairs[:, 0]] - block.positions[pairs[:, 1]], axis=1)
    bonded = pairs[lengths < 1.3 * radii[pairs].sum(axis=1)]
    graph = coo_array((np.ones(len(bonded)), bonded.T), shape=(len(block), len(block)))
    _, label = connected_components(graph, directed=False)
    middle = block.positions.mean(axis=0)
    size = {formula: len(atoms) for formula, atoms in ((f, Atoms(f)) for f in FORMULAS.values())}
    near = np.argsort(np.linalg.norm(block.positions - middle, axis=1))
    first = next(label[i] for i in near if np.sum(label == label[i]) in size.values())
    centre = block.positions[label == first]
    table = cdist(block.positions, centre)
    low, high = table.min(axis=1), table.max(axis=1)
    shortest = np.full(label.max() + 1, np.inf)
    longest = np.zeros(label.max() + 1)
    np.minimum.at(shortest, label, low)
    np.maximum.at(longest, label, high)
    return [(shortest[m], longest[m]) for m in range(label.max() + 1) if m != first]
