"""Training sets as files: extended XYZ with the names of MACE, and MACE's own HDF5 file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.errors import InvalidConfig, InvalidData, MissingPackage, WrongKind
from .formats_write import Chosen

if TYPE_CHECKING:
    import xarray as xr
    from ase import Atoms

Array = np.ndarray[Any, np.dtype[Any]]

_AT_ONCE = 256
_INFO = {"energy": "REF_energy", "stress": "REF_stress", "dipole": "REF_dipole"}
_ARRAYS = {"forces": "REF_forces", "charges": "REF_charges"}
_SPLITS = ("train", "valid", "test")


def records_of_split(dataset: xr.Dataset, records: Array | None, split: str, key: str) -> Array:
    """Records of one split.

    Raises
    ------
    WrongKind
        If the data are not divided.
    InvalidData
        If none is left.
    """
    if dataset.attrs.get("kind") != "training_set" or records is None:
        raise WrongKind("Only training sets are divided.", key=key, expected="kind training_set")
    found: Array = records[dataset["split"].to_numpy()[records] == _SPLITS.index(split)]
    if not found.size:
        raise InvalidData("There are no such frames.", key=key, expected=f"frames of the split {split}", found="none")
    return found


def write_extxyz(chosen: Chosen, path: Path) -> None:
    """Write frames with their targets as ``REF_energy``, ``REF_forces`` ...; unknown ones are left out.

    Free atoms come first, as MACE reads them (``config_type=IsolatedAtom``); ``config_weight`` is the weight.
    """
    from ase.io.extxyz import write_extxyz as write

    with path.open("w") as file:
        for atoms in _free_atoms(chosen.dataset):
            write(file, atoms)
        for atoms in labelled_atoms(chosen):
            write(file, atoms)


def write_mace_hdf5(chosen: Chosen, path: Path) -> None:
    """Write frames as the HDF5 file that mace-torch's ``run_train`` takes (one shard, as ``preprocess_data`` writes).

    Raises
    ------
    WrongKind
        If these are no training sets.
    MissingPackage
        If mace-torch is not installed.
    """
    import h5py

    if chosen.kind.name != "training_set":
        raise WrongKind(
            "MACE's HDF5 files hold training sets.",
            key=chosen.key,
            expected="kind training_set",
            found=f"kind {chosen.kind.name}",
            hint="use .nc for any other kind",
        )
    from ..compute.potentials.mace_engine import mace_guard

    try:
        with mace_guard():
            from mace.data import KeySpecification, config_from_atoms
            from mace.data.utils import save_configurations_as_HDF5
    except ImportError as error:
        raise MissingPackage(
            "This format needs mace-torch.", found=str(error), hint='pip install "h5ml[mace]"'
        ) from None
    keys = KeySpecification.from_defaults()
    with h5py.File(path, "w") as file:
        file.attrs["drop_last"] = False
        configurations = [config_from_atoms(atoms, key_specification=keys) for atoms in labelled_atoms(chosen)]
        save_configurations_as_HDF5(configurations, 0, file)


def labelled_atoms(chosen: Chosen) -> Iterator[Atoms]:
    """Frames of a training set with what is learned from them, read in blocks."""
    from ase import Atoms

    from ..store.training_frames import SPLITS, TrainingFrames

    if chosen.store is None or chosen.records is None:
        raise InvalidConfig("A training set is written from its store.", key=chosen.key)
    with TrainingFrames(chosen.store, chosen.store.entry(chosen.key)) as frames:
        for start in range(0, len(chosen.records), _AT_ONCE):
            read = frames.take(chosen.records[start : start + _AT_ONCE])
            ends = np.cumsum(read["n_atoms"])
            for i, end in enumerate(ends.tolist()):
                rows = slice(end - int(read["n_atoms"][i]), end)
                numbers, positions = read["atomic_numbers"][rows], read["positions"][rows]
                atoms = Atoms(numbers, positions, cell=read["cell"][i], pbc=read["pbc"][i] != 0)
                for name, key in _INFO.items():
                    if name in read and np.isfinite(read[name][i]).all():
                        value = read[name][i]
                        atoms.info[key] = value if np.ndim(value) else float(value)
                for name, key in _ARRAYS.items():
                    if name in read and np.isfinite(read[name][rows]).all():
                        atoms.arrays[key] = read[name][rows]
                atoms.info["config_weight"] = float(read["weight"][i])
                atoms.info["split"] = SPLITS[int(read["split"][i])]
                yield atoms


def _free_atoms(dataset: xr.Dataset) -> list[Atoms]:
    from ase import Atoms
    from ase.data import chemical_symbols

    found = []
    energies = json.loads(str(dataset.attrs.get("isolated_atom_energies_eV", "{}")))
    for number, energy in sorted(energies.items(), key=lambda item: int(item[0])):
        atoms = Atoms(chemical_symbols[int(number)])
        atoms.info |= {"REF_energy": float(energy), "config_type": "IsolatedAtom"}
        atoms.arrays["REF_forces"] = np.zeros((1, 3))
        found.append(atoms)
    return found
