"""Frames of any structural kind in blocks of bounded size, as arrays whose atoms lie end to end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import xarray as xr

_ATOMS_AT_ONCE = 200_000
_OF_ATOMS = ("positions", "atomic_numbers", "masses", "velocities", "forces", "charges")


@dataclass(frozen=True, slots=True)
class FrameBlock:
    """Some consecutive frames.

    Attributes
    ----------
    first : int
        Number of the first.
    n_atoms, starts : array (frames,) of int
        Their sizes, and the row of the first atom of each.
    values : dict of str to array
        ``(frames, ...)``, or ``(sum of atoms, ...)`` end to end.
    """

    first: int
    n_atoms: NDArray[np.int64]
    starts: NDArray[np.int64]
    values: dict[str, NDArray[Any]]

    def atoms(self, index: int) -> slice:
        """Rows of the atoms of a frame."""
        start = int(self.starts[index])
        return slice(start, start + int(self.n_atoms[index]))


def frame_sizes(dataset: xr.Dataset) -> NDArray[np.int64]:
    """Number of atoms of each frame."""
    if "n_atoms" in dataset:
        return np.asarray(dataset["n_atoms"].to_numpy(), dtype=np.int64)
    return np.full(dataset.sizes["frame"], dataset.sizes["atom"], dtype=np.int64)


def frame_blocks(
    dataset: xr.Dataset, names: Sequence[str], *, atoms_at_once: int = _ATOMS_AT_ONCE
) -> Iterator[FrameBlock]:
    """All frames, block by block.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of any kind with frames; trajectories give their constant variables with every frame.
    names : sequence of str
        Variables to read; those that it does not have are left out.
    atoms_at_once : int
        Atoms of a block; a frame is never split.

    Yields
    ------
    FrameBlock
        Never an empty one.
    """
    counts = frame_sizes(dataset)
    ends = np.cumsum(counts)
    ragged = "n_atoms" in dataset
    present = [name for name in names if name in dataset]
    first = 0
    while first < len(counts):
        start = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, start + atoms_at_once, side="right")))
        rows = {"frame": slice(first, last)}
        if ragged:
            rows["atom"] = slice(start, int(ends[last - 1]))
        values = {}
        for name in present:
            array = dataset[name]
            read = array.isel({dim: cut for dim, cut in rows.items() if dim in array.dims}).to_numpy()
            if not ragged and name in _OF_ATOMS:
                read = np.broadcast_to(read, (last - first, *read.shape)) if "frame" not in array.dims else read
                read = read.reshape(-1, *read.shape[2:])
            elif "frame" not in array.dims and not (ragged and name in _OF_ATOMS):
                read = np.broadcast_to(read, (last - first, *read.shape))
            values[name] = read
        mine = counts[first:last]
        yield FrameBlock(first, mine, np.cumsum(mine) - mine, values)
        first = last
