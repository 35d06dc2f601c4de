"""A small crystal with force constants, and the dense modes of its whole supercell as the outside truth."""

from __future__ import annotations

import functools

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from h5ml.compute.potentials import resolve_potential

SKEWED = np.array([[2, 1, 0], [0, 3, 0], [0, 0, 2]])
"""Rows of a supercell of 12 cells that fits q-points of every sort."""


@functools.cache
def copper_gold() -> Phonopy:
    """L1_0 CuAu of the EMT potential, two atoms a cell, with full force constants in the skewed supercell."""
    phonon = Phonopy(
        PhonopyAtoms(
            symbols=["Cu", "Au"], scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=np.diag([2.75, 2.75, 3.66])
        ),
        supercell_matrix=SKEWED.T,
        primitive_matrix=np.eye(3),
        is_symmetry=False,
    )
    phonon.generate_displacements(distance=0.01)
    forces = []
    for cell in phonon.supercells_with_displacements:
        atoms = Atoms(numbers=cell.numbers, positions=cell.positions, cell=cell.cell, pbc=True)
        atoms.calc = resolve_potential("ase:emt").fresh()
        forces.append(atoms.get_forces())
    phonon.forces = np.array(forces)
    phonon.produce_force_constants(calculate_full_force_constants=True)
    phonon.symmetrize_force_constants()
    return phonon


def dense_modes(phonon: Phonopy) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues (eV/Angstrom^2/amu) and eigenvectors (columns) of the whole supercell, from full force constants."""
    masses = np.repeat(phonon.supercell.masses, 3)
    constants = phonon.force_constants.transpose(0, 2, 1, 3).reshape(len(masses), -1)
    values, vectors = np.linalg.eigh(constants / np.sqrt(np.outer(masses, masses)))
    return values, vectors
