"""The frames that a training goes through: columns in memory, end to end, which batches are gathered from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import mace.calculators  # noqa: F401 - e3nn can only be imported after it
import numpy as np
from mace.data import Configuration, KeySpecification
from numpy.typing import NDArray

from ..schemas.errors import InvalidData

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[Any]

_OF_ATOMS = ("positions", "atomic_numbers", "forces")
_LABELS = ("energy", "forces", "stress", "dipole")
_STATES = ("charge", "spin_multiplicity")


class Frames:
    """Frames with their labels, by number.

    Parameters
    ----------
    values : mapping of str to array
        ``n_atoms`` (frames,), ``positions`` and ``forces`` (atoms, 3), ``atomic_numbers`` (atoms,), and by frame
        ``cell``, ``pbc``, ``energy``, ``stress`` (Voigt), ``dipole``, ``weight``, ``charge``, ``spin_multiplicity`` and
        ``head``. Labels may be missing; where one is unknown it is NaN.
    """

    def __init__(self, values: Mapping[str, Array]) -> None:
        self.values = dict(values)
        self._counts = np.asarray(self.values["n_atoms"], dtype=np.int64)
        self._starts = np.cumsum(self._counts) - self._counts

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def numbers(self) -> list[int]:
        """Atomic numbers that occur, ascending."""
        return [int(z) for z in np.unique(self.values["atomic_numbers"])]

    def take(self, frames: Sequence[int] | Array, names: Sequence[str] | None = None) -> dict[str, Array]:
        """Some frames, in this order: arrays by atom end to end, the others one row a frame."""
        index = np.asarray(frames, dtype=np.int64)
        counts = self._counts[index]
        rows = np.arange(counts.sum()) + np.repeat(self._starts[index] - (np.cumsum(counts) - counts), counts)
        wanted = self.values if names is None else ["n_atoms", *names]
        return {name: self.values[name][rows if name in _OF_ATOMS else index] for name in wanted}

    def configurations(self, head: str) -> Iterator[Configuration]:
        """The frames as mace-torch reads them from a file: unknown labels are None, of no weight."""
        keys = KeySpecification.from_defaults()
        nothing = dict.fromkeys((*keys.arrays_keys, *keys.info_keys), 0.0)
        for number, start in enumerate(self._starts):
            rows = slice(start, start + self._counts[number])
            one = {name: array[rows if name in _OF_ATOMS else number] for name, array in self.values.items()}
            labels = {name: one[name] if name in one and np.isfinite(one[name]).all() else None for name in _LABELS}
            yield Configuration(
                atomic_numbers=one["atomic_numbers"],
                positions=one["positions"],
                properties=labels,
                property_weights=nothing | {name: float(label is not None) for name, label in labels.items()},
                cell=np.array(one["cell"]),
                pbc=tuple(bool(flag) for flag in one["pbc"]),
                weight=float(one["weight"]),
                head=head,
            )

    def relabelled(self, configurations: Sequence[Configuration]) -> Frames:
        """The same frames with the energies, forces and, where it was known, stresses of these configurations."""
        found = {
            "energy": np.array([one.properties["energy"] for one in configurations], dtype=np.float64),
            "forces": np.concatenate([one.properties["forces"] for one in configurations], dtype=np.float64),
        }
        if "stress" in self.values:
            found["stress"] = np.array([_voigt(one.properties["stress"]) for one in configurations])
        return Frames({**self.values, **found})

    def repeated(self, times: int) -> Frames:
        """All frames, so many times one after the other."""
        return Frames({name: np.concatenate([array] * times) for name, array in self.values.items()})


def frames_of(dataset: xr.Dataset, records: NDArray[np.int64], where: str, *, weight: float = 1.0) -> Frames:
    """Some frames of a gathered training set, read into memory.

    Parameters
    ----------
    dataset : xarray.Dataset
        Structures with labels and, where known, weights.
    records : array (frames,)
        Which.
    where : str
        The key, for messages.
    weight : float
        Factor on the weights of the frames.

    Raises
    ------
    InvalidData
        If there are no labels.
    """
    if "energy" not in dataset and "forces" not in dataset:
        raise InvalidData(
            "The training set has no labels.",
            key=where,
            expected="energy or forces",
            found=", ".join(map(str, dataset.data_vars)),
        )
    counts = dataset["n_atoms"].to_numpy().astype(np.int64)
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[records] = True
    of_atoms = np.repeat(chosen, counts)
    weights = dataset["weight"].to_numpy() if "weight" in dataset else np.ones(len(counts))
    values: dict[str, Array] = {"n_atoms": counts[chosen], "weight": weight * weights[chosen]}
    for name in ("positions", "atomic_numbers", "cell", "pbc", *_LABELS, *_STATES):
        if name in dataset:
            values[name] = dataset[name].to_numpy()[of_atoms if name in _OF_ATOMS else chosen]
    return Frames(values)


def joined(parts: Sequence[Frames]) -> Frames:
    """The frames of several heads one after the other, each with the number of its head.

    A label that one of them does not have is unknown (NaN) there; a charge is 0, a multiplicity 1.
    """
    absent = {**dict.fromkeys(_LABELS, np.nan), "charge": 0.0, "spin_multiplicity": 1.0}
    values: dict[str, Array] = {}
    for name in dict.fromkeys(name for part in parts for name in part.values):
        trailing = next(part.values[name].shape[1:] for part in parts if name in part.values)
        columns = []
        for part in parts:
            rows = len(part.values["positions"]) if name in _OF_ATOMS else len(part)
            columns.append(part.values[name] if name in part.values else np.full((rows, *trailing), absent[name]))
        values[name] = np.concatenate(columns) if len(columns) > 1 else columns[0]
    return Frames({**values, "head": np.repeat(np.arange(len(parts)), [len(part) for part in parts])})


def _voigt(stress: Any) -> Array:
    """Six components of a stress that mace-torch gives as a matrix, or leaves as it was."""
    if stress is None:
        return np.full(6, np.nan)
    found = np.asarray(stress, dtype=np.float64)
    return found if found.shape == (6,) else found.reshape(9)[[0, 4, 8, 5, 2, 1]]
