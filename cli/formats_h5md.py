"""H5MD 1.1 (nongnu.org/h5md): trajectories that MDAnalysis, VMD and OVITO read."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..schemas.errors import WrongKind
from .frames import BLOCK, Array, selected

if TYPE_CHECKING:
    import h5py

    from .formats_write import Chosen

EV_IN_KJ_PER_MOL = 96.48533212331002
_PARTICLES = (
    ("position", "positions", "Angstrom", 1.0),
    ("velocity", "velocities", "Angstrom fs-1", 1.0),
    ("force", "forces", "kJ mol-1 Angstrom-1", EV_IN_KJ_PER_MOL),
)
_OBSERVABLES = (
    ("potential_energy", "energy", "eV"),
    ("kinetic_energy", "kinetic_energy", "eV"),
    ("temperature", "temperature", "K"),
    ("pressure", "pressure", "GPa"),
    ("volume", "volume", "Angstrom3"),
)


def write_h5md(chosen: Chosen, path: Path) -> None:
    """Write a trajectory as H5MD, block by block.

    Forces are in kJ/(mol Angstrom), the unit that readers of H5MD know; energies stay in eV.

    Raises
    ------
    WrongKind
        If the data are no trajectory.
    """
    import h5py

    if chosen.kind.name != "trajectory" or chosen.records is None:
        raise WrongKind(
            "H5MD holds trajectories.",
            key=chosen.key,
            expected="kind trajectory",
            found=f"kind {chosen.kind.name}",
            hint="use .extxyz or .db for structures",
        )
    dataset, records = chosen.dataset, chosen.records
    step, time = dataset["step"].to_numpy()[records], dataset["time"].to_numpy()[records]
    with h5py.File(path, "w") as file:
        _write_header(file, chosen.key)
        particles = file.create_group("particles/trajectory")
        box = particles.create_group("box")
        pbc = dataset["pbc"].to_numpy().astype(bool)
        box.attrs["dimension"] = 3
        box.attrs["boundary"] = np.array([b"periodic" if p else b"none" for p in pbc], dtype="S8")
        particles["species"] = dataset["atomic_numbers"].to_numpy()
        particles["mass"] = dataset["masses"].to_numpy()
        particles["mass"].attrs["unit"] = "u"
        series = {}
        for name, source, unit, factor in _PARTICLES:
            series[source] = _series(particles, name, dataset[source].shape[1:], unit, step, time), factor
        if pbc.any():
            series["cell"] = _series(box, "edges", (3, 3), "Angstrom", step, time), 1.0
        observables = file.create_group("observables")
        for name, source, unit in _OBSERVABLES:
            if source in dataset.variables:
                series[source] = _series(observables, name, (), unit, step, time), 1.0
        for start in range(0, len(records), BLOCK):
            rows = records[start : start + BLOCK]
            part = selected(dataset[list(series)], chosen.kind, rows)
            for source, (target, factor) in series.items():
                target[start : start + len(rows)] = part[source].to_numpy() * factor


def _write_header(file: h5py.File, key: str) -> None:
    head = file.create_group("h5md")
    head.attrs["version"] = np.array([1, 1], dtype=np.int32)
    head.create_group("author").attrs["name"] = getpass.getuser()
    creator = head.create_group("creator")
    creator.attrs["name"] = "h5ml"
    creator.attrs["version"] = __version__
    head.attrs["h5ml_key"] = key


def _series(group: h5py.Group, name: str, shape: tuple[int, ...], unit: str, step: Array, time: Array) -> Any:
    """A time-dependent element; its steps and times are links to the first one's."""
    element = group.create_group(name)
    value = element.create_dataset("value", shape=(len(step), *shape), dtype="f8")
    value.attrs["unit"] = unit
    position = group.file["particles/trajectory/position"]
    if "step" in position:
        element["step"], element["time"] = position["step"], position["time"]
    else:
        element["step"] = step
        element["time"] = time
        element["time"].attrs["unit"] = "fs"
    return value
