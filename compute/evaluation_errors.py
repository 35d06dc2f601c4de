"""Errors of predictions: of forces as sums by frame and element, all others frame by frame; then by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_COLUMNS = (
    "n_frames",
    "n_atoms",
    "energy_mae",
    "energy_rmse",
    "force_mae",
    "force_rmse",
    "stress_mae",
    "stress_rmse",
)
_SUMS = ("absolute", "square", "components", "atoms")
_NUMBERS = 256


@dataclass(slots=True)
class Collected:
    """What is kept of every frame, and of every element of a frame; nothing is kept of an atom.

    Attributes
    ----------
    frames : dict of str to list of array
        ``n_atoms``, ``energy_reference``, ``energy_predicted`` (eV), ``stress_reference``, ``stress_predicted``
        (eV/Angstrom^3), ``energy_spread`` (eV) ...
    forces : dict of str to list of array
        Of one element of one frame: ``frame``, ``number``, and of the errors of its forces, predictions minus labels:
        sums of magnitudes ``absolute`` (eV/Angstrom) and of squares ``square``, how many ``components`` these are, and
        ``atoms`` with a whole vector.
    """

    frames: dict[str, list[Any]] = field(default_factory=dict)
    forces: dict[str, list[Any]] = field(default_factory=dict)
    _n_frames: int = 0

    def add(self, frames: Mapping[str, Any], numbers: Integers, force_error: Floats) -> None:
        """Take some more.

        Parameters
        ----------
        frames : mapping of str to array (frames, ...)
            What is kept as it is; ``n_atoms`` among it.
        numbers, force_error : array (atoms,) and (atoms, 3)
            Atomic numbers, and errors of forces (eV/Angstrom; NaN where unknown), of the frames end to end.
        """
        n_atoms = frames["n_atoms"]
        for kept, new in ((self.frames, frames), (self.forces, self._sums(n_atoms, numbers, force_error))):
            for name, values in new.items():
                kept.setdefault(name, []).append(values)
        self._n_frames += len(n_atoms)

    def of_frames(self, name: str) -> NDArray[Any]:
        """All frames, end to end."""
        return np.concatenate(self.frames[name])

    def _sums(self, n_atoms: Integers, numbers: Integers, error: Floats) -> dict[str, NDArray[Any]]:
        frame = np.repeat(np.arange(len(n_atoms)), n_atoms)
        pairs, place = np.unique(frame * _NUMBERS + numbers, return_inverse=True)
        known = np.isfinite(error)
        finite = np.where(known, error, 0.0)
        of_atoms = (np.abs(finite).sum(axis=1), (finite**2).sum(axis=1), known.sum(axis=1), known.all(axis=1))
        sums = {
            name: np.bincount(place, weights=values, minlength=len(pairs))
            for name, values in zip(_SUMS, of_atoms, strict=True)
        }
        return {"frame": self._n_frames + pairs // _NUMBERS, "number": pairs % _NUMBERS, **sums}


def error_table(collected: Collected, labels: Mapping[str, Sequence[Any]]) -> dict[str, NDArray[Any]]:
    """Mean absolute and root mean square errors, in all and by group.

    Parameters
    ----------
    collected : Collected
        All frames.
    labels : mapping
        Type of a group (``source``, ``composition``) to the name of the group of every frame.

    Returns
    -------
    dict of str to array (groups,)
        ``group_type``, ``group_name`` and the columns of the kind ``evaluation``: of the energy per atom, of the
        components of forces and of stresses. Groups of elements have forces alone.
    """
    n_atoms = collected.of_frames("n_atoms")
    energy = (collected.of_frames("energy_predicted") - collected.of_frames("energy_reference")) / n_atoms
    stress = collected.of_frames("stress_predicted") - collected.of_frames("stress_reference")
    forces = {name: np.concatenate(values) for name, values in collected.forces.items()}
    frame, number = forces.pop("frame"), forces.pop("number")

    def of(chosen: NDArray[np.bool_]) -> dict[str, Any]:
        found = {"n_frames": int(chosen.sum()), **_means("energy", energy[chosen]), **_means("stress", stress[chosen])}
        return found | _of_forces(forces, chosen[frame])

    rows = [("all", "all", of(np.ones(len(n_atoms), dtype=bool)))]
    for kind, names in labels.items():
        of_frame = np.asarray(names, dtype=str)
        rows += [(kind, name, of(of_frame == name)) for name in dict.fromkeys(of_frame.tolist())]
    nothing = np.zeros(0)
    for z in np.unique(number).tolist():
        found = {"n_frames": int((number == z).sum()), **_means("energy", nothing), **_means("stress", nothing)}
        rows.append(("element", chemical_symbols[z], found | _of_forces(forces, number == z)))
    table: dict[str, NDArray[Any]] = {
        "group_type": np.array([kind for kind, _, _ in rows], dtype=object),
        "group_name": np.array([name for _, name, _ in rows], dtype=object),
    }
    return table | {name: np.array([row[name] for _, _, row in rows]) for name in _COLUMNS}


def _means(name: str, error: Floats) -> dict[str, float]:
    finite = error[np.isfinite(error)]
    absolute, square = (float(np.mean(f(finite))) if finite.size else np.nan for f in (np.abs, np.square))
    return {f"{name}_mae": absolute, f"{name}_rmse": float(np.sqrt(square))}


def _of_forces(forces: Mapping[str, Floats], chosen: NDArray[np.bool_]) -> dict[str, Any]:
    absolute, square, components, atoms = (float(forces[name][chosen].sum()) for name in _SUMS)
    many = components or np.nan
    return {"n_atoms": int(atoms), "force_mae": absolute / many, "force_rmse": float(np.sqrt(square / many))}
