"""Predictions of one or several models for some frames."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from ase.calculators.calculator import PropertyNotImplementedError
from ase.data import chemical_symbols
from numpy.typing import NDArray

from ..schemas.errors import H5mlError, InvalidData
from .potentials.elements import known_elements
from .structure.frames import iterate_atoms

if TYPE_CHECKING:
    from ase import Atoms

    from .potentials import Potential
    from .potentials.mace_batch import LearnedModel

Floats = NDArray[np.float64]

_ENGINE_ERRORS = (RuntimeError, ValueError, ArithmeticError, LookupError, NotImplementedError)


@dataclass(frozen=True, slots=True)
class Task:
    """Frames to predict.

    Attributes
    ----------
    models : tuple of Potential
        One, or the members of an ensemble.
    dataset : xarray.Dataset
        With the frames.
    frames : array of int
        Which of them.
    batch_size : int
        Atoms of one forward pass.
    """

    models: tuple[Potential, ...]
    dataset: xr.Dataset
    frames: NDArray[np.int64]
    batch_size: int


def members_of(potential: Potential) -> tuple[Potential, ...]:
    """The members of a stored committee, each a potential of its own; of any other potential, itself."""
    checkpoint = getattr(potential.build, "checkpoint", None)
    if checkpoint is None or len(checkpoint.models) == 1:
        return (potential,)
    from .potentials.checkpoint import Checkpoint, potential_of

    parts = enumerate(checkpoint.models)
    return tuple(potential_of(Checkpoint((m,), checkpoint.baseline), f"{potential.spec}#{i}", "") for i, m in parts)


def check_elements(potential: Potential, elements: Mapping[int, str]) -> None:
    """Refuse frames with elements that a model was not trained on.

    Parameters
    ----------
    potential : Potential
        The model.
    elements : mapping of int to str
        Atomic numbers of the frames, each with a place where it occurs.

    Raises
    ------
    InvalidData
        Names the element and where it occurs.
    """
    known = known_elements(potential)
    if known is None:
        return
    for number, place in elements.items():
        if number not in known:
            raise InvalidData(
                f"The model {potential.spec} was not trained on an element of these labels.",
                key=place,
                expected=" ".join(chemical_symbols[z] for z in sorted(known)),
                found=chemical_symbols[number],
                hint="leave these frames out, or train a model on frames with this element",
            )


def predict(task: Task) -> xr.Dataset:
    """Predictions of all models of a task.

    Parameters
    ----------
    task : Task
        Frames and models.

    Returns
    -------
    xarray.Dataset
        ``energy`` (member, frame), ``forces`` (member, atom, xyz), ``stress`` (member, frame, voigt), NaN where a
        model fails or has none, and ``seconds`` that each member took.
    """
    found, seconds = [], []
    for potential in task.models:
        start = time.perf_counter()
        systems = iterate_atoms(task.dataset, task.frames)
        found.append(_learned(potential.module(), systems, task) if potential.is_learned else _loop(potential, systems))
        seconds.append(time.perf_counter() - start)
    dims = {"energy": ("frame",), "forces": ("atom", "xyz"), "stress": ("frame", "voigt")}
    values = {n: (("member", *d), np.stack([one[n] for one in found])) for n, d in dims.items()}
    return xr.Dataset({**values, "seconds": (("member",), np.array(seconds))})


def _learned(model: LearnedModel, systems: Iterator[Atoms], task: Task) -> dict[str, Floats]:
    """In batches of one forward and one backward pass each."""
    parts = [model.evaluate(batch, stresses=True) for batch in _batches(systems, task.batch_size)]
    forces = [part.forces for part in parts if part.forces is not None]
    stresses = [part.stresses for part in parts if part.stresses is not None]
    return {
        "energy": np.concatenate([part.energies for part in parts]),
        "forces": np.concatenate(forces),
        "stress": np.concatenate(stresses),
    }


def _batches(systems: Iterator[Atoms], n_atoms: int) -> Iterator[Sequence[Atoms]]:
    batch: list[Atoms] = []
    size = 0
    for atoms in systems:
        if batch and size + len(atoms) > n_atoms:
            yield batch
            batch, size = [], 0
        batch.append(atoms)
        size += len(atoms)
    yield batch


def _loop(potential: Potential, systems: Iterator[Atoms]) -> dict[str, Floats]:
    """One by one, each from a cold engine; a frame at which it fails is NaN."""
    energies, forces, stresses = [], [], []
    for atoms in systems:
        energy, force, stress = np.nan, np.full((len(atoms), 3), np.nan), np.full(6, np.nan)
        atoms.calc = potential.fresh()
        try:
            energy, force = float(atoms.get_potential_energy()), np.asarray(atoms.get_forces(), dtype=np.float64)
            if atoms.pbc.all():
                stress = _stress(atoms)
        except H5mlError:
            raise
        except _ENGINE_ERRORS:
            energy = np.nan
        energies.append(energy)
        forces.append(force)
        stresses.append(stress)
    return {"energy": np.array(energies), "forces": np.concatenate(forces), "stress": np.array(stresses)}


def _stress(atoms: Atoms) -> Any:
    try:
        return atoms.get_stress()
    except (PropertyNotImplementedError, NotImplementedError):
        return np.full(6, np.nan)
