"""Errors of predictions, gathered frame by frame and summed up by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MEASURES = ("mae", "rmse")
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


@dataclass(slots=True)
class Collected:
    """What is kept of every frame and every atom; errors are predictions minus labels.

    Attributes
    ----------
    frames : dict of str to list of array
        ``n_atoms``, ``energy_reference``, ``energy_predicted`` (eV), ``stress_reference``, ``stress_predicted``,
        ``energy_spread`` (eV) ...
    atoms : dict of str to list of array
        ``number``, ``force_error`` (atoms, 3), ``force_spread`` (eV/Angstrom).
    """

    frames: dict[str, list[Any]] = field(default_factory=dict)
    atoms: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, frames: Mapping[str, Any], atoms: Mapping[str, Any]) -> None:
        """Take some more."""
        for kept, new in ((self.frames, frames), (self.atoms, atoms)):
            for name, values in new.items():
                kept.setdefault(name, []).append(values)

    def of_frames(self, name: str) -> NDArray[Any]:
        """All frames, end to end."""
        return np.concatenate(self.frames[name])

    def of_atoms(self, name: str) -> NDArray[Any]:
        """All atoms, end to end."""
        return np.concatenate(self.atoms[name])


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
    force, number = collected.of_atoms("force_error"), collected.of_atoms("number")
    frame_of_atom = np.repeat(np.arange(len(n_atoms)), n_atoms)
    everything = np.ones(len(n_atoms), dtype=bool)
    rows = [("all", "all", _errors(energy, force, stress))]
    for kind, names in labels.items():
        of_frame = np.asarray(names, dtype=str)
        for name in dict.fromkeys(of_frame.tolist()):
            mine = everything & (of_frame == name)
            rows.append((kind, name, _errors(energy[mine], force[mine[frame_of_atom]], stress[mine])))
    for z in np.unique(number).tolist():
        mine = number == z
        empty = np.full((0, 6), np.nan)
        has = np.zeros(len(n_atoms), dtype=np.int64)
        np.add.at(has, frame_of_atom[mine], 1)
        counted = _errors(np.full(int((has > 0).sum()), np.nan), force[mine], empty)
        rows.append(("element", chemical_symbols[z], counted | {"n_frames": int((has > 0).sum())}))
    table: dict[str, NDArray[Any]] = {
        "group_type": np.array([kind for kind, _, _ in rows], dtype=object),
        "group_name": np.array([name for _, name, _ in rows], dtype=object),
    }
    return table | {name: np.array([row[name] for _, _, row in rows]) for name in _COLUMNS}


def _errors(energy: Floats, force: Floats, stress: Floats) -> dict[str, Any]:
    known = np.isfinite(force).all(axis=1)
    found: dict[str, Any] = {"n_frames": len(energy), "n_atoms": int(known.sum())}
    for name, values in (("energy", energy), ("force", force), ("stress", stress)):
        finite = values[np.isfinite(values)]
        found[f"{name}_mae"] = float(np.abs(finite).mean()) if finite.size else np.nan
        found[f"{name}_rmse"] = float(np.sqrt(np.mean(finite**2))) if finite.size else np.nan
    return found
