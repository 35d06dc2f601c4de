"""Keys that h5ml made, written as objects of mbe-automation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from .formats_mbe_names import legacy_name

if TYPE_CHECKING:
    import xarray as xr

NOT_HERE = "such files have no place for this kind"


def write_native(file: h5py.File, path: str, kind: str, dataset: xr.Dataset, layout: str) -> str:
    """Write a dataset as an object of such a file.

    Energies and volumes are per atom there, and frames have all the same number of atoms.

    Parameters
    ----------
    file : h5py.File
        Open for writing.
    path : str
        The group.
    kind : str
        The kind of the dataset.
    dataset : xarray.Dataset
        What to write.
    layout : {"seed", "head"}
        ``head`` also says what each object is.

    Returns
    -------
    str
        Why it was left out; empty where it was written.
    """
    writers = {"trajectory": _trajectory, "structures": _structures, "clusters": _clusters}
    if kind == "force_constants":
        _force_constants(file.require_group(path), dataset, layout)
        return ""
    if kind not in writers:
        return NOT_HERE
    if kind != "trajectory" and not dataset.sizes["frame"]:
        return "no frames"
    if kind != "trajectory" and len(set(dataset["n_atoms"].to_numpy().tolist())) != 1:
        return "frames of different numbers of atoms"
    if kind == "clusters" and len(set(dataset["n_molecules"].to_numpy().tolist())) != 1:
        return "clusters of different numbers of molecules"
    if path in file:
        return "the file has another object of that name"
    writers[kind](file.require_group(path), dataset, layout)
    return ""


def _write(group: h5py.Group, arrays: Mapping[tuple[str, str], Any], attributes: Mapping[str, Any]) -> None:
    for (stem, unit), values in arrays.items():
        if values is not None:
            group.create_dataset(legacy_name(stem, unit), data=np.asarray(values))
    for name, value in attributes.items():
        if value is not None:
            group.attrs[name] = value


def _trajectory(group: h5py.Group, dataset: xr.Dataset, layout: str) -> None:
    data = {str(name): variable.to_numpy() for name, variable in dataset.variables.items()}
    frames, atoms = data["positions"].shape[:2]
    periodic = bool(data["pbc"].any())
    given = dataset.attrs
    time, part = data["time"], data["equilibration"] == 1
    limit = float(time[~part][0]) if (~part).any() else float(time[-1])
    arrays = {
        ("time", "fs"): time,
        ("T", "K"): data["temperature"],
        ("p", "GPa"): data.get("pressure"),
        ("V", "Angstrom^3/atom"): data["volume"] / atoms if "volume" in data and periodic else None,
        ("forces", "eV/Angstrom"): data["forces"],
        ("velocities", "Angstrom/fs"): data["velocities"],
        ("E_kin", "eV/atom"): data["kinetic_energy"] / atoms,
        ("E_pot", "eV/atom"): data["energy"] / atoms,
        ("positions", "Angstrom"): data["positions"],
        ("atomic_numbers", ""): data["atomic_numbers"],
        ("masses", "amu"): data["masses"],
        ("cell_vectors", "Angstrom"): data["cell"] if periodic else None,
    }
    target = data.get("target_temperature")
    attributes = {
        "dataclass": "Trajectory" if layout == "head" else None,
        "ensemble": given.get("ensemble", "NVE"),
        "n_frames": frames,
        "n_atoms": atoms,
        "periodic": periodic,
        "feature_vectors_type": "none",
        "target_temperature (K)": None if target is None else float(target[-1]),
        "target_pressure (GPa)": given.get("target_pressure_GPa", given.get("pressure_GPa")),
        "time_equilibration (fs)": float(given.get("time_equilibration_fs", limit)),
        "level_of_theory": given.get("level_of_theory"),
    }
    _write(group, arrays, attributes)


def _structures(group: h5py.Group, dataset: xr.Dataset, layout: str) -> None:
    data = {str(name): variable.to_numpy() for name, variable in dataset.variables.items()}
    frames, atoms = len(data["n_atoms"]), int(data["n_atoms"][0])
    periodic = bool(data["pbc"].any())
    numbers = data["atomic_numbers"].reshape(frames, atoms)
    same = bool((numbers == numbers[0]).all())
    arrays = {
        ("positions", "Angstrom"): data["positions"].reshape(frames, atoms, 3),
        ("atomic_numbers", ""): numbers[0] if same else numbers,
        ("masses", "amu"): _masses(data, frames, atoms, same=same),
        ("cell_vectors", "Angstrom"): data["cell"] if periodic else None,
        ("E_pot", "eV/atom"): data["energy"] / atoms if "energy" in data else None,
        ("forces", "eV/Angstrom"): data["forces"].reshape(frames, atoms, 3) if "forces" in data else None,
    }
    attributes = {
        "dataclass": "Structure" if layout == "head" else None,
        "n_frames": frames,
        "n_atoms": atoms,
        "periodic": periodic,
        "feature_vectors_type": "none",
        "level_of_theory": dataset.attrs.get("level_of_theory"),
    }
    _write(group, arrays, attributes)


def _masses(data: Mapping[str, Any], frames: int, atoms: int, *, same: bool) -> Any:
    from ase.data import atomic_masses

    found = data.get("masses", atomic_masses[data["atomic_numbers"]]).reshape(frames, atoms)
    return found[0] if same and (found == found[0]).all() else found


def _clusters(group: h5py.Group, dataset: xr.Dataset, layout: str) -> None:
    _structures(group.require_group("cluster_of_molecules"), dataset, layout)
    count = int(dataset["n_molecules"][0])
    given = dataset.get("molecule_indices")
    indices = np.arange(count) if given is None else given.to_numpy()
    name = "FiniteSubsystem" if layout == "head" else None
    _write(group, {("molecule_indices", ""): indices}, {"dataclass": name, "n_molecules": count})


def _force_constants(group: h5py.Group, dataset: xr.Dataset, layout: str) -> None:
    from ase.data import atomic_masses

    arrays = {
        ("force_constants", "eV/Angstrom^2"): dataset["force_constants"].to_numpy(),
        ("supercell_matrix", ""): dataset["supercell_matrix"].to_numpy().T,
    }
    _write(group, arrays, {"dataclass": "ForceConstants" if layout == "head" else None})
    for name in ("primitive", "supercell"):
        numbers = dataset[f"{name}_numbers"].to_numpy()
        given = dataset.get(f"{name}_masses")
        cell = {
            ("positions", "Angstrom"): dataset[f"{name}_positions"].to_numpy(),
            ("atomic_numbers", ""): numbers,
            ("masses", "amu"): atomic_masses[numbers] if given is None else given.to_numpy(),
            ("cell_vectors", "Angstrom"): dataset[f"{name}_cell"].to_numpy(),
        }
        facts = {"n_frames": 1, "n_atoms": len(numbers), "periodic": True, "feature_vectors_type": "none"}
        dataclass = {"dataclass": "Structure"} if layout == "head" else {}
        _write(group.require_group(name), cell, {**dataclass, **facts})
