"""Frames of several keys by the number of the record that refers to them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from .catalogue import Entry
from .frames import Frames

if TYPE_CHECKING:
    from .store import Store

Array = np.ndarray[Any, np.dtype[Any]]

OF_ATOMS = ("positions", "atomic_numbers", "masses", "velocities", "forces", "molecule", "charges")
OF_FRAMES = ("cell", "pbc", "energy", "stress", "charge", "spin_multiplicity", "dipole", "converged", "status")
REFERRING = ("selection", "training_set")
"""Kinds that refer to frames of others instead of holding them."""

_ALWAYS = {"positions": (3,), "atomic_numbers": (), "cell": (3, 3), "pbc": (3,)}
_INTEGERS = ("atomic_numbers", "molecule", "spin_multiplicity")
_FLAGS = ("pbc", "converged", "status")


@dataclass(frozen=True, slots=True)
class Place:
    """Frames of one source.

    Attributes
    ----------
    entry : Entry
        The source.
    records : array of int
        Records that refer to it, ascending.
    frames : array of int
        The frame that each of them means.
    """

    entry: Entry
    records: Array
    frames: Array

    @classmethod
    def joined(cls, places: Sequence[Place]) -> Place:
        """Places of one source as one."""
        records = np.concatenate([place.records for place in places])
        order = np.argsort(records, kind="stable")
        return cls(places[0].entry, records[order], np.concatenate([place.frames for place in places])[order])


class FrameReader:
    """Reads frames by record; a context manager that holds the sources open.

    Parameters
    ----------
    store : Store
        Where the sources lie.
    places : sequence of Place
        Where the frame of each record lies.
    n_records : int
        How many records there are.
    wanted : sequence of str, optional
        Variables that may be read; by default all that are known.
    filled : sequence of str
        Variables that are NaN where a source has none; others are left out unless all sources have them.

    Attributes
    ----------
    names : list of str
        The variables.
    n_atoms : array (records,) of int
        Size of each frame.
    """

    def __init__(
        self,
        store: Store,
        places: Sequence[Place],
        n_records: int,
        *,
        wanted: Sequence[str] = (*OF_ATOMS, *OF_FRAMES),
        filled: Sequence[str] = (),
    ) -> None:
        self.store, self.places = store, list(places)
        self.part_of = np.full(n_records, -1, dtype=np.int64)
        self.frame_of = np.zeros(n_records, dtype=np.int64)
        self.n_atoms = np.zeros(n_records, dtype=np.int64)
        self._parts = []
        for number, place in enumerate(self.places):
            part = _Part(store, place.entry, wanted)
            self._parts.append(part)
            self.part_of[place.records], self.frame_of[place.records] = number, place.frames
            self.n_atoms[place.records] = part.n_atoms[place.frames]
        self._shapes: dict[str, tuple[int, ...]] = {} if self._parts else dict(_ALWAYS)
        for name in wanted:
            have = [part for part in self._parts if name in part.shapes]
            if have and (len(have) == len(self._parts) or name in filled):
                self._shapes[name] = have[0].shapes[name]
        self._ends = np.cumsum(self.n_atoms)
        self._open: dict[int, Frames] = {}
        self._stack = ExitStack()

    @property
    def names(self) -> list[str]:
        """The variables."""
        return list(self._shapes)

    def trailing(self, name: str) -> tuple[int, ...]:
        """Shape of a variable for one frame, or for one atom."""
        return self._shapes[name]

    def dtype(self, name: str) -> np.dtype[Any]:
        """Type of a variable."""
        return np.dtype(np.int64 if name in _INTEGERS else np.int8 if name in _FLAGS else np.float64)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the sources."""
        self._open = {}
        self._stack.close()

    def __getstate__(self) -> dict[str, Any]:
        """Travel between processes with closed sources."""
        return {**self.__dict__, "_open": {}, "_stack": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._stack = ExitStack()

    def take(self, records: Array, names: Sequence[str] | None = None) -> dict[str, Array]:
        """Frames of some records, end to end.

        Parameters
        ----------
        records : array of int
            In any order, repeated or not.
        names : sequence of str, optional
            Which variables; by default all.

        Returns
        -------
        dict of str to numpy.ndarray
            Arrays ``(records, ...)`` or ``(sum of atoms, ...)``, and ``n_atoms``.
        """
        records = np.asarray(records, dtype=np.int64)
        chosen = self.names if names is None else list(names)
        part_of = self.part_of[records]
        present = np.unique(part_of)
        if len(present) == 1:
            number = int(present[0])
            found = self._parts[number].read(self._frames(number), self.frame_of[records], chosen)
            found["n_atoms"] = self.n_atoms[records]
            for name in chosen:
                if name not in found:
                    found[name] = self._empty(name, found["n_atoms"])
            return found
        n_atoms = self.n_atoms[records]
        joined = {name: self._empty(name, n_atoms) for name in chosen}
        starts = np.cumsum(n_atoms) - n_atoms
        for number in present.tolist():
            mine = np.flatnonzero(part_of == number)
            read = self._parts[number].read(self._frames(number), self.frame_of[records[mine]], chosen)
            rows = rows_of(starts, n_atoms, mine)
            for name, values in read.items():
                joined[name][rows if name in OF_ATOMS else mine] = values
        return {**joined, "n_atoms": n_atoms}

    def _empty(self, name: str, n_atoms: Array) -> Array:
        rows = int(n_atoms.sum()) if name in OF_ATOMS else len(n_atoms)
        dtype = self.dtype(name)
        return np.full((rows, *self._shapes[name]), np.nan if dtype.kind == "f" else 0, dtype=dtype)

    def _frames(self, number: int) -> Frames:
        if number not in self._open:
            part = self._parts[number]
            self._open[number] = self._stack.enter_context(Frames(self.store, part.entry, part.growing))
        return self._open[number]

    def read(self, name: str, selection: tuple[Any, ...]) -> Array:
        """A part of one variable, for lazy arrays; nothing stays open."""
        first, *rest = selection
        of_atoms = name in OF_ATOMS
        length = int(self._ends[-1]) if of_atoms and len(self._ends) else len(self.n_atoms)
        if isinstance(first, slice):
            first = np.arange(*first.indices(length))
        rows = np.atleast_1d(np.asarray(first, dtype=np.int64))
        with self:
            if not of_atoms:
                values = self.take(rows, [name])[name]
            elif rows.size:
                low, high = np.searchsorted(self._ends, [rows.min(), rows.max()], side="right")
                start = int(self._ends[low - 1]) if low else 0
                values = self.take(np.arange(low, high + 1), [name])[name][rows - start]
            else:
                values = self._empty(name, np.zeros(0, dtype=np.int64))
        for axis in range(len(rest), 0, -1):
            values = values[(slice(None),) * axis + (rest[axis - 1],)]
        return values if np.ndim(first) else np.asarray(values[0])


class _Part:
    """One source: which variables it has, those that are the same for all frames, and the sizes of its frames."""

    def __init__(self, store: Store, entry: Entry, wanted: Sequence[str]) -> None:
        self.entry = entry
        dataset = store.dataset(entry.reference)
        names = [name for name in wanted if name in dataset]
        self.ragged = "n_atoms" in dataset
        self.growing = [n for n in names if "frame" in dataset[n].dims or (self.ragged and n in OF_ATOMS)]
        self.fixed = {name: dataset[name].to_numpy() for name in names if name not in self.growing}
        self.n_atoms: Array = (
            dataset["n_atoms"].to_numpy()
            if self.ragged
            else np.full(dataset.sizes["frame"], dataset.sizes["atom"], dtype=np.int64)
        )
        self.shapes = {
            name: tuple(size for dim, size in dataset[name].sizes.items() if dim not in ("frame", "atom"))
            for name in names
        }

    def read(self, frames: Frames, index: Array, names: Sequence[str]) -> dict[str, Array]:
        """Some frames, end to end."""
        read = frames.batch(index, [name for name in names if name in self.growing])
        read.pop("n_atoms", None)
        for name in names:
            if name in self.fixed:
                values = self.fixed[name]
                read[name] = np.broadcast_to(values, (len(index), *values.shape))
            if name in read and name in OF_ATOMS and not self.ragged:
                read[name] = read[name].reshape(-1, *self.shapes[name])
        return read


def rows_of(starts: Array, counts: Array, frames: Array) -> Array:
    """Rows of the atoms of some frames, end to end."""
    sizes = counts[frames]
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    rows: Array = np.repeat(starts[frames], sizes) + within
    return rows
