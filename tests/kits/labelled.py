"""Small labelled data sets: clusters of metals by EMT, whose numbers are real and cost nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from h5ml.compute.structure.frames import structures_dataset
from h5ml.schemas.kinds_training import LABELS

EMT_LEVEL = {"level_of_theory": '{"engine":"ase","method":"emt"}', "level_of_theory_id": "e" * 64}
OTHER_LEVEL = {"level_of_theory": '{"engine":"ase","method":"other"}', "level_of_theory_id": "0" * 64}


def rattled(n: int, seed: int = 0, symbols: str = "CuAg", amplitude: float = 0.1) -> list[Atoms]:
    """Cells of 4 atoms of an alloy, each displaced at random, with a smooth drift of the cell along the frames."""
    rng = np.random.default_rng(seed)
    first, second = symbols[:2], symbols[2:]
    found = []
    for _ in range(n):
        atoms = bulk(first, "fcc", a=3.8, cubic=True)
        atoms.symbols[1:3] = second
        atoms.positions += rng.normal(scale=amplitude, size=(4, 3))
        found.append(atoms)
    return found


def labels(systems: Sequence[Atoms], level: dict[str, str] | None = None, **more: Any) -> xr.Dataset:
    """Labels of structures by EMT, with energies, forces and stresses (of periodic ones)."""
    energies, forces, stresses = [], [], []
    for atoms in systems:
        mine = atoms.copy()
        mine.calc = EMT()
        energies.append(mine.get_potential_energy())
        forces.append(mine.get_forces())
        stresses.append(mine.get_stress() if mine.pbc.all() else np.full(6, np.nan))
    n = len(systems)
    values = {
        "energy": np.array(energies),
        "forces": np.concatenate(forces),
        "stress": np.array(stresses),
        "converged": np.ones(n, np.int8),
        "status": np.zeros(n, np.int8),
        **more,
    }
    return structures_dataset(systems, values, level or EMT_LEVEL, kind=LABELS)


def isolated(symbols: Sequence[str], level: dict[str, str] | None = None, shift: float = 0.0) -> xr.Dataset:
    """Energies of free atoms by EMT, as labels of single atoms."""
    made = labels([Atoms(symbol) for symbol in symbols], level)
    return made.assign(energy=made["energy"] + shift) if shift == 0.0 else shifted(made, shift)


def shifted(dataset: xr.Dataset, shift: float) -> xr.Dataset:
    """The same labels with other energies."""
    found = dataset.copy(deep=True)
    found["energy"].data[:] += shift
    return found
