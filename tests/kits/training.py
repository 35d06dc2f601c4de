"""Small labelled sets for training: real energies and forces, few atoms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from ase import Atoms
from ase.build import bulk, molecule

from h5ml.compute.potentials import Potential, resolve_potential
from h5ml.schemas.kinds import STRUCTURES
from h5ml.schemas.kinds_training import TRAINING_SET
from h5ml.store.store import Store

TINY: dict[str, Any] = {
    "r_max": 3.0,
    "num_channels": 4,
    "max_L": 1,
    "max_ell": 2,
    "correlation": 2,
    "num_radial_basis": 4,
    "radial_MLP": [8],
    "MLP_irreps": "4x0e",
    "batch_size": 4,
    "valid_batch_size": 4,
    "max_num_epochs": 3,
}
"""Settings of a model that learns in milliseconds."""


def rattled_water(count: int, *, seed: int = 0, name: str = "H2O") -> list[Atoms]:
    """Distorted molecules."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        atoms = molecule(name)
        atoms.positions += rng.normal(0.0, 0.06, atoms.positions.shape)
        found.append(atoms)
    return found


def rattled_copper(count: int, *, seed: int = 0) -> list[Atoms]:
    """Distorted and strained periodic cells of two atoms."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        atoms = bulk("Cu", a=3.6, cubic=True)
        atoms.set_cell(atoms.cell * (1 + rng.normal(0.0, 0.02)), scale_atoms=True)
        atoms.positions += rng.normal(0.0, 0.05, atoms.positions.shape)
        found.append(atoms)
    return found


def labelled(
    frames: Sequence[Atoms],
    potential: str | Potential,
    *,
    valid: int = 4,
    stress: bool = False,
    isolated: bool = True,
) -> xr.Dataset:
    """Frames as a training set arrives in its module: labels, splits, weights, energies of isolated atoms.

    Parameters
    ----------
    frames : sequence of Atoms
        Structures; the last ``valid`` are to validate with.
    potential : str or Potential
        What labels them.
    valid : int
        How many.
    stress : bool
        Whether the stress is wanted.
    isolated : bool
        Whether the energies of isolated atoms are given.
    """
    engine = resolve_potential(potential) if isinstance(potential, str) else potential
    values: dict[str, list[Any]] = {name: [] for name in ("energy", "forces", "stress")}
    for atoms in frames:
        atoms = atoms.copy()
        atoms.calc = engine.fresh()
        values["energy"].append(atoms.get_potential_energy())
        values["forces"].append(atoms.get_forces())
        if stress:
            values["stress"].append(atoms.get_stress())
    split = np.zeros(len(frames), dtype=np.int8)
    split[len(frames) - valid :] = 1
    numbers = sorted({int(z) for atoms in frames for z in atoms.numbers})
    dataset = STRUCTURES.dataset(
        {
            "n_atoms": [len(atoms) for atoms in frames],
            "positions": np.concatenate([atoms.positions for atoms in frames]),
            "atomic_numbers": np.concatenate([atoms.numbers for atoms in frames]),
            "cell": np.stack([np.asarray(atoms.cell) for atoms in frames]),
            "pbc": np.stack([atoms.pbc for atoms in frames]),
            "energy": values["energy"],
            "forces": np.concatenate(values["forces"]),
            "stress": np.stack(values["stress"]) if stress else None,
            "split": (("frame",), split, {"units": "1"}),
            "weight": (("frame",), np.ones(len(frames)), {"units": "1"}),
        }
    )
    if isolated:
        dataset.attrs |= isolated_attributes(engine, numbers)
    return dataset


def isolated_attributes(engine: Potential, numbers: Sequence[int]) -> dict[str, Any]:
    """Energies of isolated atoms (eV) as a training set carries them."""
    import json

    found = {}
    for number in numbers:
        atom = Atoms([number], positions=[[0.0, 0.0, 0.0]])
        atom.calc = engine.fresh()
        found[str(number)] = float(atom.get_potential_energy())
    return {"isolated_atom_energies_eV": json.dumps(found)}


def write_training_set(store: Store, name: str, frames: xr.Dataset) -> None:
    """Write labelled frames as ``labels/NAME``, and ``sets/NAME``, a training set that refers to them."""
    store.write(f"labels/{name}", frames.drop_vars(["split", "weight"]).drop_attrs(deep=False), "structures")
    entry, count = store.entry(f"labels/{name}"), frames.sizes["frame"]
    references = TRAINING_SET.dataset(
        {
            "source": np.zeros(count),
            "source_frame": np.arange(count),
            "split": frames["split"].values,
            "weight": np.ones(count),
            "source_key": np.array([f"{entry.key}@{entry.version}"], dtype=object),
            "source_digest": np.array([entry.digest], dtype=object),
        },
        frames.attrs,
    )
    store.write(f"sets/{name}", references, "training_set")
