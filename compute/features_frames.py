"""The frames of several inputs as one pool: in a fixed order, in batches, each knowing where it comes from."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..schemas.errors import InvalidData
from .structure.frames import atoms_of, iterate_atoms, production_frames
from .structure.molecules import detect_molecules

if TYPE_CHECKING:
    import xarray as xr
    from ase import Atoms

    from ..schemas.run import DataRef

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Part:
    """The frames that are taken of one input.

    Attributes
    ----------
    dataset : xarray.Dataset
        The input.
    frames : array (F,) of int
        Which of its frames.
    n_atoms : array (F,) of int
        Their sizes.
    source, source_frame : array (F,) of int
        What they are for others: for a selection, the original frames.
    """

    dataset: xr.Dataset
    frames: Integers
    n_atoms: Integers
    source: Integers
    source_frame: Integers


class Pool:
    """All frames of all inputs, end to end.

    Parameters
    ----------
    datasets : sequence of xarray.Dataset
        Of kinds with frames.
    refs : sequence of DataRef
        What was read for each; empty where nobody knows.
    include_equilibration : bool
        Whether frames of an equilibration count.

    Attributes
    ----------
    source_key, source_digest : list of str
        What ``source`` of a frame indexes.

    Raises
    ------
    InvalidData
        If there are no frames.
    """

    def __init__(
        self, datasets: Sequence[xr.Dataset], refs: Sequence[DataRef], *, include_equilibration: bool = False
    ) -> None:
        self._sources: dict[tuple[str, str], int] = {}
        self.parts = [
            self._part(dataset, refs[i] if i < len(refs) else None, i, include_equilibration)
            for i, dataset in enumerate(datasets)
        ]
        self.n_atoms = np.concatenate([part.n_atoms for part in self.parts])
        self.source = np.concatenate([part.source for part in self.parts])
        self.source_frame = np.concatenate([part.source_frame for part in self.parts])
        self.source_key = [key for key, _ in self._sources]
        self.source_digest = [digest for _, digest in self._sources]
        if not len(self.n_atoms):
            there = sum(int(dataset.sizes["frame"]) for dataset in datasets)
            raise InvalidData(
                "There are no frames to describe.",
                expected="at least one frame of production",
                found=f"{there} frames, all of equilibration" if there else "no frames at all",
                hint="set include_equilibration = true, or give another key" if there else "give another key",
            )
        if self.n_atoms.min() < 1:
            raise InvalidData(
                "A frame has no atoms.", key=self.where(int(np.argmin(self.n_atoms))), expected="at least one atom"
            )

    def __len__(self) -> int:
        return len(self.n_atoms)

    def _part(self, dataset: xr.Dataset, ref: DataRef | None, number: int, include_equilibration: bool) -> Part:
        frames = production_frames(dataset, include_equilibration=include_equilibration)
        if "n_atoms" in dataset:
            n_atoms = dataset["n_atoms"].to_numpy()[frames]
        else:
            n_atoms = np.full(len(frames), dataset.sizes["atom"], dtype=np.int64)
        if ref is not None and ref.kind == "selection":
            tables = (dataset[name].to_numpy() for name in ("source_key", "source_digest"))
            places = [self._number(str(key), str(digest)) for key, digest in zip(*tables, strict=True)]
            source = np.array(places, dtype=np.int64)[dataset["source"].to_numpy()[frames]]
            return Part(dataset, frames, n_atoms, source, dataset["source_frame"].to_numpy()[frames])
        key, digest = (f"{ref.key}@{ref.version}", ref.digest) if ref is not None else (f"input {number}", "")
        return Part(dataset, frames, n_atoms, np.full(len(frames), self._number(key, digest)), frames)

    def _number(self, key: str, digest: str) -> int:
        return self._sources.setdefault((key, digest), len(self._sources))

    @property
    def is_known(self) -> bool:
        """Whether all sources are known by key and digest, so that records can refer to them."""
        return all(self.source_digest)

    def where(self, frame: int) -> str:
        """The place of a frame, for messages."""
        return f"{self.source_key[int(self.source[frame])]}, frame {int(self.source_frame[frame])}"

    def elements(self) -> dict[int, str]:
        """Atomic numbers of all frames, each with a place where it occurs."""
        found: dict[int, str] = {}
        for part in self.parts:
            if len(part.frames):
                numbers = np.unique(part.dataset["atomic_numbers"].to_numpy())
                place = self.source_key[int(part.source[0])]
                found = {**{int(z): place for z in numbers}, **found}
        return dict(sorted(found.items()))

    @functools.cached_property
    def energies(self) -> NDArray[np.float64] | None:
        """Total energies (eV) that the inputs have; None unless all have them."""
        if any("energy" not in part.dataset for part in self.parts):
            return None
        return np.concatenate([part.dataset["energy"].to_numpy()[part.frames] for part in self.parts])

    def batches(self, n_atoms: int) -> Iterator[tuple[int, int]]:
        """First and last (exclusive) frame of each batch: as many as fit, but at least one."""
        first, size = 0, 0
        for frame, count in enumerate(self.n_atoms.tolist()):
            if size and size + count > n_atoms:
                yield first, frame
                first, size = frame, 0
            size += count
        yield first, len(self.n_atoms)

    def groups(self, n_atoms: int, count: int) -> Iterator[list[tuple[int, int]]]:
        """So many batches at a time; which ones does not depend on where a run goes on."""
        batches = self.batches(n_atoms)
        while group := list(itertools.islice(batches, count)):
            yield group

    def systems(self, first: int = 0) -> Iterator[Atoms]:
        """Structures from a frame on, read in blocks."""
        for part in self.parts:
            if first < len(part.frames):
                yield from iterate_atoms(part.dataset, part.frames[first:])
            first = max(0, first - len(part.frames))

    def molecules(self, first: int = 0, *, bond_scale: float) -> Iterator[Integers]:
        """Molecule of each atom, frame by frame from a frame on.

        Clusters say it themselves. The molecules of a trajectory are those of its first frame that is taken, so that
        they keep their numbers; those of loose structures are found in each.
        """
        for part in self.parts:
            if first < len(part.frames):
                yield from _molecules_of(part, first, bond_scale)
            first = max(0, first - len(part.frames))


def _molecules_of(part: Part, start: int, bond_scale: float) -> Iterator[Integers]:
    dataset, frames = part.dataset, part.frames[start:]
    if "molecule" in dataset:
        counts = dataset["n_atoms"].to_numpy()
        starts = np.cumsum(counts) - counts
        molecule = dataset["molecule"].to_numpy()
        for frame in frames:
            yield molecule[starts[frame] : starts[frame] + counts[frame]]
    elif "n_atoms" in dataset:
        for atoms in iterate_atoms(dataset, frames):
            yield detect_molecules(atoms, bond_scale=bond_scale).molecule_of_atom
    else:
        first = detect_molecules(atoms_of(dataset, int(part.frames[0])), bond_scale=bond_scale).molecule_of_atom
        for _ in frames:
            yield first


def mean_over(values: NDArray[Any], group: Integers) -> NDArray[Any]:
    """Means of rows over groups 0, 1, 2 ... that all occur."""
    order = np.argsort(group, kind="stable")
    counts = np.bincount(group)
    starts = np.cumsum(counts) - counts
    sums: NDArray[Any] = np.add.reduceat(values[order], starts, axis=0)
    return sums / counts[:, None]
