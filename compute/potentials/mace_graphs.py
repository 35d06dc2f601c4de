"""Batches for MACE models straight from arrays: what mace-torch makes frame by frame, made for a batch at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray

from ...schemas.errors import InvalidData
from .mace_engine import mace_guard

with mace_guard():
    from mace.data.neighborhood import get_neighborhood
    from mace.tools.torch_geometric.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Iterable

Array = NDArray[Any]

_CACHE = 2 * 2**30
_VOIGT = (0, 5, 4, 5, 1, 3, 4, 3, 2)
"""Where the nine components of a stress stand among xx yy zz yz xz xy."""


class FrameSource(Protocol):
    """Frames by number: what ``h5ml.torch_dataset`` gives."""

    def __len__(self) -> int:
        """How many."""

    def take(self, frames: Sequence[int] | Array, names: Sequence[str] | None = None) -> dict[str, Array]:
        """Some frames, end to end, with ``n_atoms``."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The neighbours in one structure, kept small.

    Attributes
    ----------
    edges : array (2, edges) of int32
        Sender and receiver.
    unit_shifts : array (edges, 3) of int8 or int64
        Periodic image of the receiver.
    cell : array (3, 3)
        The cell of mace-torch, extended along directions that are not periodic (Angstrom).
    """

    edges: NDArray[np.int32]
    unit_shifts: Array
    cell: NDArray[np.float64]

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return int(self.edges.nbytes + self.unit_shifts.nbytes + self.cell.nbytes)


def neighbours(positions: Array, cell: Array, pbc: Array, cutoff: float) -> Neighbours:
    """Neighbours within a cutoff (Angstrom), by mace-torch."""
    x, y, z = (bool(flag) for flag in pbc)
    cell = np.array(cell, dtype=np.float64)
    edges, _, shifts, whole = get_neighborhood(positions, cutoff, pbc=(x, y, z), cell=cell)
    small = np.abs(shifts).max(initial=0) < 128
    return Neighbours(edges.astype(np.int32), shifts.astype(np.int8 if small else np.int64), whole)


class GraphBuilder:
    """Makes batches for one model.

    Parameters
    ----------
    numbers : sequence of int
        Atomic numbers that the model knows, ascending.
    cutoff : float
        Its cutoff radius (Angstrom).
    dtype : torch.dtype
        Precision.
    head : int
        Index of the head of all frames.

    Notes
    -----
    Labels that are absent or NaN have the weight zero, as mace-torch gives frames of a file without them.
    """

    def __init__(
        self, numbers: Iterable[int], cutoff: float, *, dtype: torch.dtype = torch.float64, head: int = 0
    ) -> None:
        self.numbers = sorted(int(z) for z in numbers)
        self.cutoff, self.dtype, self.head = float(cutoff), dtype, head
        self._column = np.full(max(self.numbers, default=0) + 1, -1, dtype=np.int64)
        self._column[self.numbers] = np.arange(len(self.numbers))

    def neighbours(self, frames: Mapping[str, Array]) -> list[Neighbours]:
        """Neighbours in each of some frames that lie end to end."""
        ends = np.cumsum(frames["n_atoms"]).tolist()
        starts = [0, *ends[:-1]]
        parts = zip(starts, ends, frames["cell"], frames["pbc"], strict=True)
        return [neighbours(frames["positions"][a:b], cell, pbc, self.cutoff) for a, b, cell, pbc in parts]

    def batch(self, frames: Mapping[str, Array], graphs: Sequence[Neighbours] | None = None) -> Batch:
        """Frames as a batch of mace-torch.

        Parameters
        ----------
        frames : mapping
            ``n_atoms``, ``positions``, ``atomic_numbers``, ``cell`` and ``pbc``; where known ``energy``, ``forces``,
            ``stress`` (Voigt), ``dipole``, ``charges``, ``charge``, ``spin_multiplicity`` and ``weight``.
        graphs : sequence of Neighbours, optional
            Of each frame, where they are known already.

        Raises
        ------
        InvalidData
            If the model does not know an element.
        """
        found = self.neighbours(frames) if graphs is None else graphs
        n_atoms = np.asarray(frames["n_atoms"], dtype=np.int64)
        ptr = np.concatenate([[0], np.cumsum(n_atoms)])
        values = {**self._structure(frames, found, ptr[:-1]), **self._labels(frames, n_atoms)}
        batch = Batch(
            batch=torch.from_numpy(np.repeat(np.arange(len(n_atoms)), n_atoms)), ptr=torch.from_numpy(ptr), **values
        )
        batch.num_nodes = int(ptr[-1])
        batch.__num_graphs__ = len(n_atoms)
        return batch

    def _real(self, values: Any) -> torch.Tensor:
        return torch.as_tensor(np.ascontiguousarray(values, dtype=np.float64)).to(self.dtype)

    def _structure(
        self, frames: Mapping[str, Array], graphs: Sequence[Neighbours], starts: Array
    ) -> dict[str, torch.Tensor]:
        cells = np.concatenate([graph.cell for graph in graphs])
        shifts = np.concatenate([np.dot(graph.unit_shifts, graph.cell) for graph in graphs])
        edges = np.concatenate([graph.edges + start for graph, start in zip(graphs, starts, strict=True)], axis=1)
        matrices = self._real(cells).view(-1, 3, 3)
        volume = torch.linalg.det(matrices)
        reciprocal = 2 * torch.pi * torch.linalg.inv(matrices.mT)
        return {
            "positions": self._real(frames["positions"]),
            "node_attrs": self._one_hot(frames["atomic_numbers"]),
            "edge_index": torch.from_numpy(edges.astype(np.int64)),
            "shifts": self._real(shifts),
            "unit_shifts": self._real(np.concatenate([graph.unit_shifts for graph in graphs])),
            "cell": matrices.reshape(-1, 3),
            "rcell": reciprocal.reshape(-1, 3),
            "volume": volume,
            "pbc": torch.from_numpy(np.asarray(frames["pbc"]) != 0),
            "head": torch.full((len(graphs),), self.head, dtype=torch.long),
        }

    def _one_hot(self, atomic_numbers: Array) -> torch.Tensor:
        numbers = np.asarray(atomic_numbers, dtype=np.int64)
        unknown = np.setdiff1d(numbers, self.numbers)
        if unknown.size:
            raise InvalidData(
                "An element is unknown to the model.",
                expected=" ".join(chemical_symbols[z] for z in self.numbers),
                found=chemical_symbols[int(unknown[0])],
                hint="take a model that was trained on this element",
            )
        found = np.zeros((len(numbers), len(self.numbers)))
        found[np.arange(len(numbers)), self._column[numbers]] = 1.0
        return self._real(found)

    def _labels(self, frames: Mapping[str, Array], n_atoms: Array) -> dict[str, torch.Tensor]:
        """Labels with their weights; what mace-torch asks for and nobody knows is zero, of weight zero."""
        n, total = len(n_atoms), int(n_atoms.sum())
        shapes = {"energy": (n,), "stress": (n, 6), "dipole": (n, 3), "forces": (total, 3), "charges": (total,)}
        starts = np.cumsum(n_atoms) - n_atoms
        values: dict[str, Array] = {}
        weights: dict[str, Array] = {}
        for name, shape in shapes.items():
            read = np.array(frames[name], dtype=np.float64).reshape(shape) if name in frames else None
            if read is None:
                values[name], weights[name] = np.zeros(shape), np.zeros(n)
                continue
            finite = np.asarray(np.isfinite(read.reshape(len(read), -1)).all(axis=1))
            of_atoms = name in _OF_ATOMS
            known = np.asarray(np.logical_and.reduceat(finite, starts)) if of_atoms else finite
            rows = np.repeat(known, n_atoms) if of_atoms else known
            read[~rows] = 0.0
            values[name] = read
            weights[name] = known.astype(np.float64)
        stress = values.pop("stress")[:, _VOIGT].reshape(n, 3, 3)
        nothing = np.zeros((n, 3, 3))
        found = {name: self._real(value) for name, value in values.items()}
        found |= {f"{name}_weight": self._real(weights[name]) for name in ("energy", "forces", "stress", "charges")}
        states = {"total_charge": frames.get("charge", np.zeros(n))}
        states["total_spin"] = frames.get("spin_multiplicity", np.ones(n))
        return found | {
            "stress": self._real(stress),
            "virials": self._real(nothing),
            "polarizability": self._real(nothing),
            "virials_weight": self._real(np.zeros(n)),
            "polarizability_weight": self._real(nothing),
            "dipole_weight": self._real(np.repeat(weights["dipole"][:, None], 3, axis=1)),
            "weight": self._real(frames.get("weight", np.ones(n))),
            **{name: self._real(value) for name, value in states.items()},
            **{name: self._real(np.zeros(n)) for name in ("elec_temp", "fermi_level")},
            "external_field": self._real(np.zeros((n, 3))),
            "density_coefficients": self._real(np.zeros((total, 1))),
        }


_OF_ATOMS = ("forces", "charges")


class MaceBatches(torch.utils.data.Dataset[Batch]):
    """Frames as batches of mace-torch, without an intermediate file.

    Parameters
    ----------
    frames : FrameSource
        For example ``h5ml.torch_dataset(store, key, split="train")``.
    builder : GraphBuilder
        Of the model.
    cache_bytes : int
        How much memory neighbours may take that are kept from one epoch to the next.
    """

    def __init__(self, frames: FrameSource, builder: GraphBuilder, *, cache_bytes: int = _CACHE) -> None:
        self.frames, self.builder = frames, builder
        self._left = cache_bytes
        self._known: dict[int, Neighbours] = {}

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Batch:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} frames")
        return self.__getitems__([index % len(self)])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """A batch of some frames; torch's loader calls this."""
        frames = self.frames.take(indices)
        return self.builder.batch(frames, self._neighbours(indices, frames))

    def _neighbours(self, indices: Sequence[int], frames: Mapping[str, Array]) -> list[Neighbours]:
        ends = np.cumsum(frames["n_atoms"])
        found = []
        for place, index in enumerate(indices):
            graph = self._known.get(index)
            if graph is None:
                rows = slice(int(ends[place] - frames["n_atoms"][place]), int(ends[place]))
                cell, pbc = frames["cell"][place], frames["pbc"][place]
                graph = neighbours(frames["positions"][rows], cell, pbc, self.builder.cutoff)
                if graph.nbytes <= self._left:
                    self._left -= graph.nbytes
                    self._known[index] = graph
            found.append(graph)
        return found

    def loader(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        generator: torch.Generator | None = None,
    ) -> torch.utils.data.DataLoader[Batch]:
        """Torch's loader over the batches, as mace-torch's training loop takes it."""
        return torch.utils.data.DataLoader(
            self, batch_size, shuffle=shuffle, drop_last=drop_last, generator=generator, collate_fn=_as_it_is
        )


def _as_it_is(batch: Any) -> Any:
    return batch
