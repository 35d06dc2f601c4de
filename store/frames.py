"""Random batches of frames: what training reads, straight from the store."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from ..schemas.errors import InvalidData, nearest
from ..schemas.kinds import kind_named
from .catalogue import Entry
from .engine import Array

if TYPE_CHECKING:
    from .store import Store


class Frames:
    """Frames of one key by number; a context manager.

    Fixed-size data give arrays ``(batch, ...)``. Ragged data give per-frame arrays ``(batch, ...)`` and per-atom
    arrays ``(sum of atoms, ...)`` end to end, with ``n_atoms`` of each frame among them.

    Parameters
    ----------
    store : Store
        Where it lies.
    entry : Entry
        Which dataset; frames appended later do not show.
    names : sequence of str, optional
        Variables to read; by default all that grow.
    """

    def __init__(self, store: Store, entry: Entry, names: Sequence[str] | None = None) -> None:
        kind = kind_named(entry.kind)
        grows = tuple(dim for dim in kind.grows if dim in entry.sizes)
        if not grows:
            raise InvalidData(f"Data of kind {entry.kind} have no frames.", key=entry.reference)
        with store.at(entry) as (reader, path):
            layout = reader.layout(path)
            firsts = {name: array.dims[0] for name, array in layout.arrays.items() if array.dims}
            growing = [name for name, dim in firsts.items() if dim in grows]
            unknown = [name for name in names or () if name not in growing]
            if unknown:
                raise InvalidData(
                    f"There is no variable {unknown[0]!r} along {grows[0]}.",
                    key=entry.reference,
                    expected=", ".join(growing),
                    found=unknown[0],
                    hint=nearest(unknown[0], growing),
                )
            chosen = list(names) if names is not None else growing
            self._counts: Array | None = None
            if len(grows) > 1:
                self._counts = np.asarray(reader.read(path, "n_atoms", (slice(None),)))
                self._starts = np.cumsum(self._counts) - self._counts
        self._per_frame = [name for name in chosen if firsts[name] == grows[0]]
        self._per_atom = [name for name in chosen if firsts[name] != grows[0]]
        self._rows = store.engine.rows(path, chosen)
        self._length = layout.sizes[grows[0]]

    def __len__(self) -> int:
        return self._length

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def batch(self, frames: Sequence[int] | Array, names: Sequence[str] | None = None) -> dict[str, Array]:
        """Read some frames.

        Parameters
        ----------
        frames : sequence of int
            Numbers from 0, in any order, repeated or not.
        names : sequence of str, optional
            Which of the variables; by default all.

        Returns
        -------
        dict of str to numpy.ndarray

        Raises
        ------
        IndexError
            If a number is out of range.
        """
        index = np.asarray(frames, dtype=np.int64)
        if index.size and (index.min() < 0 or index.max() >= self._length):
            raise IndexError(f"frames lie from 0 to {self._length - 1}; {index.min()} to {index.max()} were asked for")
        wanted = {*self._per_frame, *self._per_atom} if names is None else set(names)
        found = {name: self._rows.take(name, index) for name in self._per_frame if name in wanted}
        if self._counts is not None:
            starts, counts = self._starts[index], self._counts[index]
            per_atom = (name for name in self._per_atom if name in wanted)
            found.update({name: self._rows.ranges(name, starts, counts) for name in per_atom})
            found["n_atoms"] = counts
        return found

    def close(self) -> None:
        """Release what it holds."""
        self._rows.close()
