"""What a training set must know of every labelled frame, read in blocks of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.formula import Formula
from blake3 import blake3
from numpy.typing import NDArray

from ..schemas.errors import InvalidData
from .structure.ragged import FrameBlock, frame_blocks, frame_sizes
from .training_set_levels import Level
from .training_set_split import fingerprint, order_matters

if TYPE_CHECKING:
    import xarray as xr

    from ..schemas.run import DataRef

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

_READ = ("positions", "atomic_numbers", "cell", "pbc", "energy", "forces", "charge", "spin_multiplicity")
_MEANING = {"positions": "<f8", "atomic_numbers": "<i8", "cell": "<f8", "pbc": "|i1"}
_STATES = {"charge": 0, "spin_multiplicity": 1}


@dataclass(frozen=True, slots=True)
class Source:
    """One labelled key.

    Attributes
    ----------
    name : str
        What it is called.
    dataset : xarray.Dataset
        Its frames with their labels.
    level : Level
        Its level of theory.
    fixed_split : int or None
        The split of all its frames, where it was given for one.
    weight : float
        Of its frames.
    ref : DataRef or None
        What was read; None where nobody knows.
    """

    name: str
    dataset: xr.Dataset
    level: Level
    fixed_split: int | None = None
    weight: float = 1.0
    ref: DataRef | None = None

    @property
    def n_frames(self) -> int:
        """How many frames it has."""
        return int(self.dataset.sizes["frame"])


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts of all frames of some sources, end to end.

    Attributes
    ----------
    part, frame : array (frames,) of int
        Source and frame within it.
    n_atoms : array (frames,) of int
        Sizes.
    composition : array (frames,) of int
        Index into ``formulas``.
    formulas : list of str
        In the Hill order.
    energy, max_force : array (frames,)
        Total energy (eV) and largest force on an atom (eV/Angstrom); NaN where unknown or partly unknown.
    status, converged, equilibration : array (frames,) of int
        As the labels say; 0, 1 and 0 where they say nothing.
    digest : list of bytes
        Of each structure with its charge and spin.
    prints : list of array
        Fingerprints of the structures; empty where they are not asked for.
    alike : list of bytes
        Equal for frames whose fingerprints can be compared.
    """

    part: Integers
    frame: Integers
    n_atoms: Integers
    composition: Integers
    formulas: list[str]
    energy: Floats
    max_force: Floats
    status: Integers
    converged: Integers
    equilibration: Integers
    digest: list[bytes]
    prints: list[NDArray[np.float32]]
    alike: list[bytes]

    def counts(self, elements: Sequence[int]) -> Integers:
        """Numbers of atoms of each formula (formulas, elements)."""
        from ase.data import chemical_symbols

        rows = [[Formula(text).count().get(chemical_symbols[z], 0) for z in elements] for text in self.formulas]
        return np.array(rows, dtype=np.int64).reshape(len(self.formulas), len(elements))

    def elements(self, chosen: Integers) -> list[int]:
        """Atomic numbers in some frames, ascending."""
        from ase.data import atomic_numbers

        used = (self.formulas[i] for i in np.unique(self.composition[chosen]))
        return sorted({atomic_numbers[symbol] for text in used for symbol in Formula(text).count()})


def facts_of(sources: Sequence[Source], *, prints: bool) -> Facts:
    """Read all frames of some sources once.

    Parameters
    ----------
    sources : sequence of Source
        With labels.
    prints : bool
        Whether fingerprints of the structures are wanted.

    Raises
    ------
    InvalidData
        If a source has no energies, or a frame no atoms.
    """
    columns: dict[str, list[Any]] = {name: [] for name in ("part", "frame", "n_atoms", "energy", "max_force")}
    columns |= {name: [] for name in ("composition", "status", "converged", "equilibration")}
    digests: list[bytes] = []
    found: list[NDArray[np.float32]] = []
    alike: list[bytes] = []
    formulas: dict[str, int] = {}
    names: dict[bytes, int] = {}
    for number, source in enumerate(sources):
        if "energy" not in source.dataset:
            raise InvalidData(
                "These frames have no energies.",
                key=source.name,
                expected="labels, or frames with energies",
                found=", ".join(map(str, source.dataset.variables)),
                hint="label them with `h5ml compute dft`",
            )
        count, sizes = source.n_frames, frame_sizes(source.dataset)
        if not sizes.all():
            place = f"{source.name}, frame {int(np.flatnonzero(sizes == 0)[0])}"
            raise InvalidData("A frame has no atoms.", key=place, expected="at least one atom", found="none")
        columns["part"].append(np.full(count, number, dtype=np.int64))
        columns["frame"].append(np.arange(count, dtype=np.int64))
        columns["n_atoms"].append(sizes)
        for name, default in (("status", 0), ("converged", 1), ("equilibration", 0)):
            known = name in source.dataset
            values = source.dataset[name].to_numpy() if known else np.full(count, default)
            columns[name].append(values.astype(np.int64))
        for block in frame_blocks(source.dataset, _READ):
            columns["energy"].append(block.values["energy"].astype(np.float64))
            columns["max_force"].append(_largest_forces(block))
            columns["composition"].append(_compositions(block, names, formulas))
            _describe(block, digests, found, alike, prints=prints)
    joined: dict[str, Any] = {name: np.concatenate(parts) if parts else np.zeros(0) for name, parts in columns.items()}
    return Facts(**joined, formulas=list(formulas), digest=digests, prints=found, alike=alike)


def _largest_forces(block: FrameBlock) -> Floats:
    if "forces" not in block.values:
        return np.full(len(block.n_atoms), np.nan)
    norms = np.linalg.norm(block.values["forces"], axis=1)
    return np.asarray(np.maximum.reduceat(norms, block.starts), dtype=np.float64)


def _compositions(block: FrameBlock, names: dict[bytes, int], formulas: dict[str, int]) -> Integers:
    """Index of the formula of each frame; ``names`` remembers sequences of atomic numbers."""
    numbers, starts = block.values["atomic_numbers"], block.starts
    found = np.empty(len(starts), dtype=np.int64)
    for i, (start, count) in enumerate(zip(starts.tolist(), block.n_atoms.tolist(), strict=True)):
        mine = numbers[start : start + count]
        key = mine.tobytes()
        if key not in names:
            from ase.symbols import Symbols

            text = Symbols(mine).get_chemical_formula("hill")
            names[key] = formulas.setdefault(text, len(formulas))
        found[i] = names[key]
    return found


def _describe(
    block: FrameBlock, digests: list[bytes], found: list[NDArray[np.float32]], alike: list[bytes], *, prints: bool
) -> None:
    """Digest of each structure and, where wanted, its fingerprint."""
    read = {name: np.asarray(block.values[name], dtype=kind) for name, kind in _MEANING.items()}
    for i in range(len(block.n_atoms)):
        rows = block.atoms(i)
        numbers, positions = read["atomic_numbers"][rows], read["positions"][rows]
        hasher = blake3(numbers.tobytes())
        for values in (positions, read["cell"][i], read["pbc"][i]):
            hasher.update((values + 0).tobytes())  # -0.0 + 0 is 0.0
        states = [
            float(block.values[name][i]) if name in block.values else default for name, default in _STATES.items()
        ]
        hasher.update(np.array(states, dtype="<f8").tobytes())
        digests.append(hasher.digest())
        if prints:
            found.append(fingerprint(numbers, positions, read["cell"][i], read["pbc"][i]))
            order = numbers if order_matters(numbers) else np.sort(numbers)
            alike.append(order.tobytes() + read["pbc"][i].tobytes())


def origins(sources: Sequence[Source], facts: Facts) -> tuple[Integers, Integers]:
    """The trajectory that each frame came from, by a number, and its place there.

    Labels say which frames they were made of, clusters which frame they were cut from, gathered frames which ones
    they are; all others are their own origin.
    """
    numbers: dict[str, int] = {}
    origin, place = np.zeros(len(facts.part), dtype=np.int64), facts.frame.copy()
    for number, source in enumerate(sources):
        mine, dataset = facts.part == number, source.dataset
        own = source.ref.digest if source.ref is not None else source.name
        if "source_frame" in dataset and dataset["source_frame"].dims == ("frame",):
            place[mine] = dataset["source_frame"].to_numpy()
        if all(name in dataset for name in ("source", "source_digest", "source_frame")):
            digests = [
                numbers.setdefault(str(text) or own, len(numbers)) for text in dataset["source_digest"].to_numpy()
            ]
            origin[mine] = np.array(digests, dtype=np.int64)[dataset["source"].to_numpy()]
        else:
            origin[mine] = numbers.setdefault(own, len(numbers))
    return origin, place
