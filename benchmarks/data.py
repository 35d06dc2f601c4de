"""The data that the store benchmarks write: 20,000 frames of 64 atoms."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

FRAMES, ATOMS = 20_000, 64
UNITS = {"positions": "Angstrom", "forces": "eV/Angstrom", "energy": "eV", "cell": "Angstrom"}
DIMS = {
    "positions": ("record", "atom", "xyz"),
    "forces": ("record", "atom", "xyz"),
    "energy": ("record",),
    "cell": ("record", "cell_vector", "xyz"),
}


def arrays(frames: int = FRAMES, atoms: int = ATOMS) -> dict[str, np.ndarray[Any, Any]]:
    """Random positions, forces, energies and cells."""
    random = np.random.default_rng(1)
    return {
        "positions": random.normal(size=(frames, atoms, 3)),
        "forces": random.normal(size=(frames, atoms, 3)),
        "energy": random.normal(size=frames),
        "cell": random.normal(size=(frames, 3, 3)),
    }


def dataset(values: dict[str, np.ndarray[Any, Any]], rows: slice = slice(None)) -> xr.Dataset:
    """The arrays, or some of their rows, as a dataset of kind observables."""
    return xr.Dataset({name: (DIMS[name], array[rows], {"units": UNITS[name]}) for name, array in values.items()})


def ragged(frames: int = FRAMES) -> tuple[np.ndarray[Any, Any], dict[str, np.ndarray[Any, Any]]]:
    """Structures of 2 to 126 atoms (64 on average): counts, and arrays end to end."""
    random = np.random.default_rng(2)
    counts = random.integers(2, 127, size=frames)
    total = int(counts.sum())
    return counts, {
        "positions": random.normal(size=(total, 3)),
        "forces": random.normal(size=(total, 3)),
        "atomic_numbers": random.integers(1, 9, size=total),
        "energy": random.normal(size=frames),
        "cell": random.normal(size=(frames, 3, 3)),
        "pbc": np.ones((frames, 3), dtype=np.int8),
    }
