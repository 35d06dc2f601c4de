"""Frames of any structural kind as ASE structures, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from ...schemas.errors import InvalidConfig
from ...schemas.kind import Kind
from ...schemas.kinds import CLUSTERS, STRUCTURES, TRAJECTORY
from ...schemas.kinds_training import LABELS

if TYPE_CHECKING:
    import xarray as xr

FRAMES = (STRUCTURES, TRAJECTORY, CLUSTERS, LABELS)
"""The kinds that hold frames; a module that takes any of them reads ``One(*FRAMES)``."""

_ROWS_AT_ONCE = 200_000
_OF_ATOMS = ("positions", "atomic_numbers", "masses", "velocities")
_OF_FRAMES = ("cell", "pbc", "charge", "spin_multiplicity")


def frame_count(dataset: xr.Dataset) -> int:
    """Number of frames."""
    return int(dataset.sizes["frame"])


def production_frames(dataset: xr.Dataset, *, include_equilibration: bool = False) -> NDArray[np.int64]:
    """Indices of the frames that count: those of the equilibration of a trajectory are left out unless asked for."""
    every = np.arange(frame_count(dataset), dtype=np.int64)
    if include_equilibration or "equilibration" not in dataset:
        return every
    return np.flatnonzero(dataset["equilibration"].to_numpy() == 0)


def atoms_of(dataset: xr.Dataset, index: int | None) -> Atoms:
    """One structure, with masses, velocities, charge and spin where it has them.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of a kind in ``FRAMES``.
    index : int, optional
        Which; may be left out where there is only one.

    Raises
    ------
    InvalidConfig
        If there are several and none is chosen, or there is none of that index.
    """
    count = frame_count(dataset)
    if index is None and count != 1:
        raise InvalidConfig(
            "The key holds several structures.",
            expected="structure_index",
            found=f"{count} structures",
            hint=f"set structure_index to one of 0 to {count - 1}",
        )
    chosen = index or 0
    if chosen >= count:
        raise InvalidConfig(
            "There is no structure of that index.",
            expected=f"structure_index from 0 to {count - 1}",
            found=chosen,
        )
    return next(iterate_atoms(dataset, [chosen]))


def iterate_atoms(dataset: xr.Dataset, indices: Sequence[int] | NDArray[np.int64] | None = None) -> Iterator[Atoms]:
    """Structures one by one, read in blocks of bounded size.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of a kind in ``FRAMES``.
    indices : sequence of int, optional
        Which frames, in this order; by default all.

    Yields
    ------
    Atoms
        As ``atoms_of`` gives them.
    """
    wanted = np.arange(frame_count(dataset)) if indices is None else np.asarray(indices, dtype=np.int64)
    if "n_atoms" in dataset:
        counts = dataset["n_atoms"].to_numpy()
    else:
        counts = np.full(frame_count(dataset), dataset.sizes["atom"], dtype=np.int64)
    step = max(1, _ROWS_AT_ONCE // max(1, int(counts.max(initial=1))))
    for first in range(0, len(wanted), step):
        block = wanted[first : first + step]
        low, high = int(block.min()), int(block.max()) + 1
        if high - low > 4 * len(block):
            for index in block:
                yield _Block(dataset, counts, int(index), int(index) + 1).atoms(int(index))
        else:
            read = _Block(dataset, counts, low, high)
            for index in block:
                yield read.atoms(int(index))


class _Block:
    """The variables of some consecutive frames in memory."""

    def __init__(self, dataset: xr.Dataset, counts: NDArray[np.int64], low: int, high: int) -> None:
        self.low, self.ragged = low, "n_atoms" in dataset
        self.ends = np.concatenate([[0], np.cumsum(counts[low:high])])
        start = int(counts[:low].sum())
        rows = {"frame": slice(low, high)}
        if self.ragged:
            rows["atom"] = slice(start, start + int(self.ends[-1]))
        self.values: dict[str, NDArray[Any]] = {}
        self.by_frame: set[str] = set()
        for name in (*_OF_ATOMS, *_OF_FRAMES):
            if name in dataset:
                array = dataset[name]
                self.values[name] = array.isel({d: s for d, s in rows.items() if d in array.dims}).to_numpy()
                if "frame" in array.dims:
                    self.by_frame.add(name)

    def of_atoms(self, name: str, at: int) -> NDArray[Any] | None:
        if name not in self.values:
            return None
        if self.ragged:
            return self.values[name][self.ends[at] : self.ends[at + 1]]
        return self.of_frame(name, at)

    def of_frame(self, name: str, at: int) -> NDArray[Any]:
        found: NDArray[Any] = self.values[name][at] if name in self.by_frame else self.values[name]
        return found

    def atoms(self, index: int) -> Atoms:
        at = index - self.low
        atoms = Atoms(
            numbers=self.of_atoms("atomic_numbers", at),
            positions=self.of_atoms("positions", at),
            masses=self.of_atoms("masses", at),
            cell=self.of_frame("cell", at),
            pbc=self.of_frame("pbc", at).astype(bool),
        )
        velocities = self.of_atoms("velocities", at)
        if velocities is not None:
            atoms.set_velocities(velocities / units.fs)
        if "charge" in self.values and float(self.of_frame("charge", at)) != 0.0:
            atoms.set_initial_charges(np.full(len(atoms), float(self.of_frame("charge", at)) / len(atoms)))
        if "spin_multiplicity" in self.values and int(self.of_frame("spin_multiplicity", at)) != 1:
            unpaired = int(self.of_frame("spin_multiplicity", at)) - 1
            atoms.set_initial_magnetic_moments(np.full(len(atoms), unpaired / len(atoms)))
        return atoms


def structures_dataset(
    systems: Sequence[Atoms],
    more: Mapping[str, Any] | None = None,
    attributes: Mapping[str, Any] | None = None,
    *,
    kind: Kind = STRUCTURES,
) -> xr.Dataset:
    """ASE structures end to end, as a dataset of the kind ``structures`` (or ``clusters``).

    Parameters
    ----------
    systems : sequence of Atoms
        Positions, numbers, cells and masses are taken.
    more : mapping, optional
        Further variables of the kind: ``energy`` (frame), ``forces`` (all atoms, 3), ``label`` ...
    attributes : mapping, optional
        Attributes of the dataset.
    kind : Kind
        ``STRUCTURES``, ``CLUSTERS`` or ``LABELS``.
    """
    values: dict[str, Any] = {
        "n_atoms": np.array([len(a) for a in systems], dtype=np.int64),
        "positions": _joined([a.positions for a in systems], (0, 3)),
        "atomic_numbers": _joined([a.numbers for a in systems], (0,)).astype(np.int64),
        "cell": np.array([a.cell.array for a in systems]).reshape(-1, 3, 3),
        "pbc": np.array([a.pbc for a in systems], dtype=np.int8).reshape(-1, 3),
        **(more or {}),
    }
    if any(a.has("masses") for a in systems):
        values["masses"] = _joined([a.get_masses() for a in systems], (0,))
    return kind.dataset(values, attributes)


def _joined(arrays: Sequence[NDArray[Any]], empty: tuple[int, ...]) -> NDArray[Any]:
    return np.concatenate(arrays) if arrays else np.zeros(empty)
