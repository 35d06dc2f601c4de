"""Batches for MACE models straight from arrays: what mace-torch makes frame by frame, made for a batch at once."""

from __future__ import annotations

import math
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
    from mace.tools.torch_geometric.batch import Batch
    from matscipy.neighbours import neighbour_list  # type: ignore[import-untyped]

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
class Graph:
    """What mace-torch derives from one structure, in the precision of the model.

    Attributes
    ----------
    edges : array (2, edges) of int32
        Sender and receiver.
    unit_shifts : array (edges, 3) of int8 or int32
        Periodic image of the receiver.
    shifts : array (edges, 3)
        Vector to that image (Angstrom).
    cell, reciprocal : array (3, 3)
        The cell of mace-torch, extended along directions that are not periodic (Angstrom), and 2 pi times its inverse.
    volume : float
        Its volume (Angstrom^3).
    """

    edges: NDArray[np.int32]
    unit_shifts: Array
    shifts: Array
    cell: Array
    reciprocal: Array
    volume: float

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return int(self.edges.nbytes + self.unit_shifts.nbytes + self.shifts.nbytes + 2 * self.cell.nbytes)


def neighbours(positions: Array, cell: Array, pbc: Array, cutoff: float) -> tuple[Array, Array, Array]:
    """Neighbours within a cutoff: what ``mace.data.get_neighborhood`` finds, in its order.

    Parameters
    ----------
    positions : array (atoms, 3)
        Angstrom.
    cell : array (3, 3)
        Angstrom.
    pbc : array (3,)
        Which directions are periodic.
    cutoff : float
        Angstrom.

    Returns
    -------
    edges : array (2, edges) of int32
        Sender and receiver.
    unit_shifts : array (edges, 3) of int8 or int32
        Periodic image of the receiver.
    cell : array (3, 3)
        As it is, the identity where there is none, and long along directions that are not periodic.

    Notes
    -----
    Both call matscipy. mace-torch then looks at the images of all pairs for those of an atom with itself; here only
    those of an atom with itself or an image of it are looked at.
    """
    whole = np.array(cell, dtype=np.float64)
    if not whole.any():
        whole = np.identity(3)
    periodic = np.asarray(pbc) != 0
    whole[~periodic] = ((np.abs(positions).max() + 1) * 5 * cutoff * np.identity(3))[~periodic]
    sender, receiver, images = neighbour_list("ijS", pbc=periodic, cell=whole, positions=positions, cutoff=cutoff)
    of_itself = np.flatnonzero(sender == receiver)
    unmoved = of_itself[~images[of_itself].any(axis=1)]
    if unmoved.size:
        sender, receiver, images = (np.delete(one, unmoved, axis=0) for one in (sender, receiver, images))
    small = np.abs(images).max(initial=0) < 128
    return np.stack((sender, receiver)), images.astype(np.int8) if small else images, whole


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
        Index of the head of all frames that do not say theirs.

    Notes
    -----
    Labels that are absent or NaN have the weight zero, as mace-torch gives frames of a file without them.
    """

    def __init__(
        self, numbers: Iterable[int], cutoff: float, *, dtype: torch.dtype = torch.float64, head: int = 0
    ) -> None:
        self.numbers = sorted(int(z) for z in numbers)
        self.cutoff, self.dtype, self.head = float(cutoff), dtype, head
        self._real_type = np.dtype(str(dtype).removeprefix("torch."))
        self._column = np.full(max(self.numbers, default=0) + 1, -1, dtype=np.int64)
        self._column[self.numbers] = np.arange(len(self.numbers))

    def graphs(self, frames: Mapping[str, Array], chosen: Sequence[int] | None = None) -> list[Graph]:
        """The graphs of some frames that lie end to end, or of those chosen among them."""
        ends = np.cumsum(frames["n_atoms"])
        places = range(len(ends)) if chosen is None else chosen
        found = []
        for i in places:
            positions = frames["positions"][ends[i] - frames["n_atoms"][i] : ends[i]]
            edges, images, cell = neighbours(positions, frames["cell"][i], frames["pbc"][i], self.cutoff)
            found.append((edges, images, self._as_real(np.dot(images, cell)), self._as_real(cell)))
        cells = torch.from_numpy(np.stack([one[-1] for one in found]))
        reciprocals, volumes = 2 * torch.pi * torch.linalg.inv(cells.mT), torch.linalg.det(cells)
        return [
            Graph(*one, reciprocal.numpy(), float(volume))
            for one, reciprocal, volume in zip(found, reciprocals, volumes, strict=True)
        ]

    def batch(self, frames: Mapping[str, Array], graphs: Sequence[Graph] | None = None) -> Batch:
        """Frames as a batch of mace-torch.

        Parameters
        ----------
        frames : mapping
            ``n_atoms``, ``positions``, ``atomic_numbers``, ``cell`` and ``pbc``; where known ``energy``, ``forces``,
            ``stress`` (Voigt), ``dipole``, ``charges``, ``charge``, ``spin_multiplicity``, ``weight`` and ``head``.
        graphs : sequence of Graph, optional
            Of each frame, where they are known already.

        Raises
        ------
        InvalidData
            If the model does not know an element.
        """
        n_atoms = np.asarray(frames["n_atoms"], dtype=np.int64)
        ptr = np.concatenate([[0], np.cumsum(n_atoms)])
        values = self._structure(frames, self.graphs(frames) if graphs is None else graphs, ptr[:-1])
        batch = Batch(
            batch=torch.from_numpy(np.repeat(np.arange(len(n_atoms)), n_atoms)),
            ptr=torch.from_numpy(ptr),
            **values,
            **self._labels(frames, n_atoms),
        )
        batch.num_nodes = int(ptr[-1])
        batch.__num_graphs__ = len(n_atoms)
        return batch

    def _as_real(self, values: Any) -> Array:
        """In the precision of the model, straight from double precision."""
        return np.ascontiguousarray(np.asarray(values, dtype=np.float64), dtype=self._real_type)

    def _real(self, values: Any) -> torch.Tensor:
        return torch.from_numpy(self._as_real(values))

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=self.dtype)

    def _structure(
        self, frames: Mapping[str, Array], graphs: Sequence[Graph], starts: Array
    ) -> dict[str, torch.Tensor]:
        edges = np.concatenate([graph.edges for graph in graphs], axis=1, dtype=np.int64)
        edges += np.repeat(starts, [graph.edges.shape[1] for graph in graphs])
        unit_shifts = np.concatenate([graph.unit_shifts for graph in graphs], dtype=self._real_type)
        heads = np.asarray(frames.get("head", np.full(len(graphs), self.head)), dtype=np.int64)
        return {
            "positions": self._real(frames["positions"]),
            "node_attrs": self._one_hot(frames["atomic_numbers"]),
            "edge_index": torch.from_numpy(edges),
            "shifts": torch.from_numpy(np.concatenate([graph.shifts for graph in graphs])),
            "unit_shifts": torch.from_numpy(unit_shifts),
            "cell": torch.from_numpy(np.concatenate([graph.cell for graph in graphs])),
            "rcell": torch.from_numpy(np.concatenate([graph.reciprocal for graph in graphs])),
            "volume": self._real([graph.volume for graph in graphs]),
            "pbc": torch.from_numpy(np.asarray(frames["pbc"]) != 0),
            "head": torch.from_numpy(heads),
        }

    def _one_hot(self, atomic_numbers: Array) -> torch.Tensor:
        numbers = np.asarray(atomic_numbers, dtype=np.int64)
        columns = self._column[np.minimum(numbers, len(self._column) - 1)]
        unknown = numbers[(columns < 0) | (numbers >= len(self._column))]
        if unknown.size:
            raise InvalidData(
                "An element is unknown to the model.",
                expected=" ".join(chemical_symbols[z] for z in self.numbers),
                found=chemical_symbols[int(unknown.min())],
                hint="take a model that was trained on this element",
            )
        found = self._zeros(len(numbers), len(self.numbers))
        found[torch.arange(len(numbers)), torch.from_numpy(columns)] = 1.0
        return found

    def _labels(self, frames: Mapping[str, Array], n_atoms: Array) -> dict[str, torch.Tensor]:
        """Labels with their weights; what mace-torch asks for and nobody knows is zero, of weight zero."""
        n, total = len(n_atoms), int(n_atoms.sum())
        shapes = {"energy": (n,), "stress": (n, 6), "dipole": (n, 3), "forces": (total, 3), "charges": (total,)}
        values: dict[str, Array] = {}
        weights: dict[str, Array] = {}
        for name, shape in shapes.items():
            if name in frames:
                read = np.array(frames[name], dtype=np.float64).reshape(shape)
                values[name], weights[name] = (
                    read,
                    _known(read, n_atoms if name in _OF_ATOMS else np.ones_like(n_atoms)),
                )
            else:
                values[name], weights[name] = np.zeros(shape), np.zeros(n)
        stress = values.pop("stress")[:, _VOIGT].reshape(n, 3, 3)
        found = {name: self._real(value) for name, value in values.items()}
        found |= {f"{name}_weight": self._real(weights[name]) for name in ("energy", "forces", "stress", "charges")}
        return found | {
            "stress": self._real(stress),
            "dipole_weight": self._real(np.repeat(weights["dipole"][:, None], 3, axis=1)),
            "weight": self._real(frames.get("weight", np.ones(n))),
            "total_charge": self._real(frames.get("charge", np.zeros(n))),
            "total_spin": self._real(frames.get("spin_multiplicity", np.ones(n))),
            "virials_weight": self._zeros(n),
            "density_coefficients": self._zeros(total, 1),
            "external_field": self._zeros(n, 3),
            **{name: self._zeros(n, 3, 3) for name in ("virials", "polarizability", "polarizability_weight")},
            **{name: self._zeros(n) for name in ("elec_temp", "fermi_level")},
        }


_OF_ATOMS = ("forces", "charges")


def _known(values: Array, rows: Array) -> Array:
    """Which frames know all of a label, 1 or 0; in place, the others get zeros. ``rows`` are those of each frame."""
    finite = np.isfinite(values)
    if finite.all():
        return np.ones(len(rows))
    known = np.logical_and.reduceat(finite.reshape(len(values), -1).all(axis=1), np.cumsum(rows) - rows)
    values[~np.repeat(known, rows)] = 0.0
    return np.asarray(known, dtype=np.float64)


class MaceBatches(torch.utils.data.Dataset[Batch]):
    """Frames as batches of mace-torch, without an intermediate file.

    Parameters
    ----------
    frames : FrameSource
        For example ``h5ml.torch_dataset(store, key, split="train")``.
    builder : GraphBuilder
        Of the model.
    cache_bytes : int, optional
        How much memory graphs may take that are kept from one epoch to the next (about 35 bytes for each pair of
        neighbours; those of mace-torch take 64); the others are built in each. None: all are kept.
    """

    def __init__(self, frames: FrameSource, builder: GraphBuilder, *, cache_bytes: int | None = _CACHE) -> None:
        self.frames, self.builder = frames, builder
        self._left = math.inf if cache_bytes is None else cache_bytes
        self._known: dict[int, Graph] = {}

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Batch:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} frames")
        return self.__getitems__([index % len(self)])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """A batch of some frames; torch's loader calls this."""
        frames = self.frames.take(indices)
        return self.builder.batch(frames, self._graphs(indices, frames))

    def _graphs(self, indices: Sequence[int], frames: Mapping[str, Array]) -> list[Graph]:
        found = [self._known.get(index) for index in indices]
        missing = [place for place, graph in enumerate(found) if graph is None]
        if missing:
            for place, graph in zip(missing, self.builder.graphs(frames, missing), strict=True):
                found[place] = graph
                if indices[place] not in self._known and graph.nbytes <= self._left:
                    self._left -= graph.nbytes
                    self._known[indices[place]] = graph
        return [graph for graph in found if graph is not None]

    def loader(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        generator: torch.Generator | None = None,
        pin_memory: bool = False,
    ) -> torch.utils.data.DataLoader[Batch]:
        """Torch's loader over the batches, as mace-torch's training loop takes it.

        Parameters
        ----------
        batch_size, shuffle, drop_last, generator
            As those of ``torch.utils.data.DataLoader``; the frames come in its order.
        pin_memory : bool
            Whether batches lie where a GPU reads them fast.
        """
        return torch.utils.data.DataLoader(
            self,
            batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            generator=generator,
            pin_memory=pin_memory,
            collate_fn=_as_it_is,
        )


def _as_it_is(batch: Any) -> Any:
    return batch
