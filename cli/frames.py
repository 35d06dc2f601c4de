"""Choosing frames of a dataset, and turning them into ASE's structures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.errors import InvalidConfig, InvalidData, WrongKind

if TYPE_CHECKING:
    import xarray as xr
    from ase import Atoms

    from ..schemas.kind import Kind

Array = np.ndarray[Any, np.dtype[Any]]

BLOCK = 256
_STRUCTURAL = ("positions", "atomic_numbers", "cell", "pbc")
_INFO = {"time": "time_fs", "step": "step", "temperature": "temperature_K", "pressure": "pressure_GPa"}


def parse_slice(text: str) -> slice:
    """Read ``START:STOP:STEP`` or a single number, as in Python.

    Raises
    ------
    InvalidConfig
        If it is no slice.
    """
    try:
        parts = [int(part) if part.strip() else None for part in text.split(":")]
        if not 1 <= len(parts) <= 3 or (len(parts) == 3 and parts[2] == 0):
            raise ValueError
    except ValueError:
        raise InvalidConfig(
            "These are no frames.", expected="NUMBER or START:STOP:STEP, as in Python", found=f"--frames {text}"
        ) from None
    if len(parts) == 1 and parts[0] is not None:
        return slice(parts[0], parts[0] + 1 if parts[0] != -1 else None)
    return slice(*parts)


def chosen_frames(
    dataset: xr.Dataset, kind: Kind, frames: str | None, *, equilibration: bool, key: str
) -> tuple[Array | None, int]:
    """Which records to take, and how many of equilibration were left out.

    Returns
    -------
    tuple
        Record numbers (None where the data have no records) and the number left out.

    Raises
    ------
    InvalidData
        If no frame remains, or frames are asked of data without.
    """
    if not kind.grows or kind.grows[0] not in dataset.sizes:
        if frames is not None:
            raise InvalidData(f"Data of kind {kind.name} have no frames.", key=key, found=f"--frames {frames}")
        return None, 0
    count = dataset.sizes[kind.grows[0]]
    chosen = np.arange(count)[parse_slice(frames) if frames else slice(None)]
    if chosen.size == 0:
        raise InvalidData(
            "No frame is chosen.", key=key, expected=f"frames from 0 to {count - 1}", found=f"--frames {frames}"
        )
    if equilibration or "equilibration" not in dataset.variables:
        return chosen, 0
    kept = chosen[np.asarray(dataset["equilibration"].to_numpy())[chosen] == 0]
    if kept.size == 0:
        raise InvalidData(
            "All of these frames are marked as equilibration.",
            key=key,
            expected="at least one frame of production",
            found=f"{chosen.size} frames of equilibration",
            hint="add --include-equilibration, or run longer than time_equilibration_fs",
        )
    return kept, int(chosen.size - kept.size)


def selected(dataset: xr.Dataset, kind: Kind, records: Array | None) -> xr.Dataset:
    """The dataset with only these records (and, where ragged, their atoms)."""
    if records is None or len(records) == dataset.sizes[kind.grows[0]]:
        return dataset
    if not kind.ragged:
        return dataset.isel({kind.grows[0]: records})
    counts = dataset["n_atoms"].to_numpy()
    ends = np.cumsum(counts)
    rows = [np.arange(ends[i] - counts[i], ends[i]) for i in records]
    atoms = np.concatenate(rows) if rows else np.zeros(0, dtype=int)
    return dataset.isel({kind.grows[0]: records, kind.grows[1]: atoms})


def images(dataset: xr.Dataset, kind: Kind, records: Array | None, *, key: str) -> Iterator[Atoms]:
    """ASE's structures of some records, read block by block.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of a kind with positions.
    kind : Kind
        Its kind.
    records : numpy.ndarray or None
        Which.
    key : str
        For messages.

    Raises
    ------
    WrongKind
        If the data hold no structures.
    """
    missing = [name for name in _STRUCTURAL if name not in dataset.variables]
    if missing or records is None:
        raise WrongKind(
            "This format holds structures, and the key has none.",
            key=key,
            expected="a kind with positions: structures, trajectory, clusters",
            found=f"kind {kind.name}",
            hint="use .csv or .nc for other data",
        )
    for start in range(0, len(records), BLOCK):
        part = selected(dataset, kind, records[start : start + BLOCK]).load()
        yield from _ragged_images(part) if kind.ragged else _fixed_images(part)


def _fixed_images(part: xr.Dataset) -> Iterator[Atoms]:
    values = {str(name): variable.to_numpy() for name, variable in part.variables.items()}
    moving = {name for name, variable in part.variables.items() if variable.dims[:1] == ("frame",)}
    for i in range(part.sizes["frame"]):
        yield _atoms({name: value[i] if name in moving else value for name, value in values.items()})


def _ragged_images(part: xr.Dataset) -> Iterator[Atoms]:
    values = {str(name): variable.to_numpy() for name, variable in part.variables.items()}
    dims = {str(name): variable.dims[:1] for name, variable in part.variables.items()}
    stop = 0
    for i, count in enumerate(values["n_atoms"].tolist()):
        start, stop = stop, stop + count
        frame = {n: v[i] for n, v in values.items() if dims[n] == ("frame",)}
        frame |= {n: v[start:stop] for n, v in values.items() if dims[n] == ("atom",)}
        yield _atoms(frame)


def _unusual_masses(frame: dict[str, Any]) -> Array | None:
    """The masses, where they are not ASE's standard ones (isotopes)."""
    from ase.data import atomic_masses

    masses: Array | None = frame.get("masses")
    if masses is None or np.allclose(masses, atomic_masses[frame["atomic_numbers"]], rtol=0, atol=1e-6):
        return None
    return masses


def _atoms(frame: dict[str, Any]) -> Atoms:
    from ase import Atoms, units
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = Atoms(
        numbers=frame["atomic_numbers"],
        positions=frame["positions"],
        cell=frame["cell"],
        pbc=np.asarray(frame["pbc"]).astype(bool),
        masses=_unusual_masses(frame),
    )
    if "velocities" in frame:
        atoms.set_velocities(frame["velocities"] / units.fs)
    results = {
        name: float(frame[name]) if name == "energy" else frame[name]
        for name in ("energy", "forces", "stress")
        if name in frame and np.isfinite(frame[name]).all()
    }
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.info |= {new: frame[old].item() for old, new in _INFO.items() if old in frame and np.ndim(frame[old]) == 0}
    for name in ("label", "charge", "spin_multiplicity"):
        if name in frame:
            value = frame[name]
            atoms.info[name] = value.item() if hasattr(value, "item") else value
    return atoms
