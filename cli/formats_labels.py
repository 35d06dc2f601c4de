"""Labels that were computed elsewhere: extxyz with ``REF_`` names, and outputs that ASE reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..compute.levels.labelling import Limits, absurdity, joined, row_of
from ..compute.levels.level import ABSURD, DONE, UNDEFINED, System, identity_of, level_id, level_text
from ..schemas.errors import InvalidConfig, InvalidData
from ..schemas.units import FAMILIES, factor
from .formats_read import Tell, _silent, read_images

if TYPE_CHECKING:
    import xarray as xr
    from ase import Atoms

_PREFIX = "REF_"
_NAMES = ("energy", "forces", "stress", "dipole", "charges")
_LIMITS = Limits(max_force_eV_A=100.0, max_energy_per_atom_eV=1e6)
_THOMAS_FERMI_EV = 20.92
"""Energy of a neutral atom over Z^(7/3) in the Thomas-Fermi model, negative (eV); true ones are smaller or near."""
_SLACK = 1.5
_NEAR_A = 0.3
_LEAST_PAIRS = 3
_AGREES = 0.25
_EXPLAINS = 0.9
_WHOLE = 1e-6
_SAME_EV = 1e-6
_SHAPES: Mapping[str, tuple[int | None, ...]] = MappingProxyType(
    {"energy": (), "forces": (None, 3), "stress": (6,), "dipole": (3,), "charges": (None,)}
)
"""Of each property; None: the number of atoms."""


@dataclass(frozen=True, slots=True)
class Stated:
    """What the user says of a file.

    Attributes
    ----------
    level : str
        The level of theory, in words or as the JSON text of a key of labels.
    energy_unit, forces_unit : str
        Units of the file.
    """

    level: str
    energy_unit: str = "eV"
    forces_unit: str = "eV/Angstrom"

    def theory(self) -> dict[str, Any]:
        """The level of theory; labels that h5ml computed and wrote to a file keep theirs."""
        text = self.level.strip()
        if not text:
            raise InvalidConfig("Labels need a level of theory.", key="--level", expected="for example PBE/def2-SVP")
        if text.startswith("{"):
            try:
                found = json.loads(text)
            except json.JSONDecodeError as error:
                raise InvalidConfig(
                    "This level of theory is no JSON.", key="--level", expected="words, or JSON", found=str(error)
                ) from None
            return dict(found)
        return {"engine": "imported", "method": text}


def read_labels(
    path: Path, stated: Stated, *, tell: Tell = _silent, name: str | None = None, index: str = ":"
) -> xr.Dataset:
    """Read structures with energies, forces and stresses as labels.

    Parameters
    ----------
    path : pathlib.Path
        An extxyz file, or any output that ASE reads (OUTCAR, aims.out, ORCA, CP2K ...).
    stated : Stated
        The level of theory, and the units of energies and forces.
    tell : callable
        Receives remarks.
    name, index : str, optional
        ASE's name of the format, and which structures.

    Returns
    -------
    xarray.Dataset
        Of the kind ``labels``. ``REF_energy`` comes before ``energy``, and so on. A frame without an energy is marked
        as undefined.

    Raises
    ------
    InvalidData
        If no frame has an energy, a frame has no atoms, charge and spin do not fit, a label is no number or of the
        wrong shape, or the numbers cannot be in the units that were stated.
    """
    theory = stated.theory()
    identity = level_id(theory)
    images = read_images(path, name, index)
    prefixed = {name for name in _NAMES if any(_PREFIX + name in {*a.info, *a.arrays} for a in images)}
    if "energy" in prefixed and any(_of_calculator(atoms, "energy") is not None for atoms in images):
        tell("REF_energy is taken; the file has other energies too, which are left out")
    units = {"energy": factor(stated.energy_unit, "eV"), "forces": factor(stated.forces_unit, "eV/Angstrom")}
    found = [_values(atoms, prefixed, units, f"{path}, frame {i}") for i, atoms in enumerate(images)]
    properties = [name for name in _NAMES if any(name in values for values in found)]
    if "energy" not in properties:
        raise _without_energies(path, images)
    systems = [_system(atoms, f"{path}, frame {i}") for i, atoms in enumerate(images)]
    _check(path, systems, found, stated, tell)
    rows = []
    for system, values in zip(systems, found, strict=True):
        why = absurdity(values, _LIMITS, len(system.numbers)) if "energy" in values else ""
        known = "energy" in values
        status = (ABSURD if why else DONE) if known else UNDEFINED
        extra = {"iterations": -1, "attempt": -1, "message": why, "reused_from": "", "wall_time": np.nan}
        flags = {"converged": int(known), "status": status, "identity": identity_of(system, identity)}
        rows.append({**row_of(system, values, properties), **flags, **extra})
    _remarks(rows, found, tell)
    attributes = {"engine": str(theory.get("engine", "")), "method": str(theory.get("method", ""))}
    attributes |= {"level_of_theory": level_text(theory), "level_of_theory_id": identity, "kind": "labels"}
    return joined(rows, attributes)


def _values(atoms: Atoms, prefixed: set[str], units: dict[str, float], where: str) -> dict[str, Any]:
    """What one frame has, in our units and shapes; numbers that are not finite count as absent."""
    found: dict[str, Any] = {}
    for name in _NAMES:
        if name in prefixed:
            value = atoms.info.get(_PREFIX + name, atoms.arrays.get(_PREFIX + name))
        else:
            value = _of_calculator(atoms, name)
        if value is None:
            continue
        array = _numbers(value, _PREFIX + name if name in prefixed else name, where)
        if not np.isfinite(array).all():
            continue
        if name == "stress" and array.size == 9:
            array = array.reshape(9)[[0, 4, 8, 5, 2, 1]]
        expected = tuple(len(atoms) if size is None else size for size in _SHAPES[name])
        if array.size != int(np.prod(expected)):
            raise InvalidData(
                "A label has the wrong shape.",
                key=where,
                expected=f"{name} of shape {expected} for {len(atoms)} atoms",
                found=f"shape {array.shape}",
            )
        found[name] = array.reshape(expected) * units.get(name, 1.0)
    return found


def _numbers(value: Any, name: str, where: str) -> Any:
    try:
        return np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise InvalidData(
            "This is no number.", key=where, expected=f"numbers in {name}", found=repr(value)[:100]
        ) from None


def _of_calculator(atoms: Atoms, name: str) -> Any:
    return getattr(atoms.calc, "results", {}).get(name) if atoms.calc is not None else None


def _system(atoms: Atoms, where: str) -> System:
    """The structure with its charge and spin; where the file states them, they must fit the electrons."""
    if not len(atoms):
        raise InvalidData("A frame has no atoms.", key=where, expected="at least one atom", found="none")
    whole: dict[str, int | None] = {}
    for name in ("charge", "spin_multiplicity"):
        value = atoms.info.get(name)
        number = None if value is None else float(_numbers(value, name, where))
        if number is not None and abs(number - round(number)) > _WHOLE:
            raise InvalidData(
                "This must be a whole number.", key=where, expected=f"a whole {name}", found=f"{number:g}"
            )
        whole[name] = None if number is None else round(number)
    system = System.of(atoms, whole["charge"], whole["spin_multiplicity"])
    unfit = system.unfit_electrons() if any(number is not None for number in whole.values()) else ""
    if unfit:
        raise InvalidData(
            "Charge and spin do not fit.", key=where, expected="charge and spin_multiplicity that fit", found=unfit
        )
    return system


def _without_energies(path: Path, images: Sequence[Atoms]) -> InvalidData:
    names = {str(n) for a in images for n in (*a.info, *a.arrays, *getattr(a.calc, "results", {}))}
    has = bool({"energy", f"{_PREFIX}energy"} & names)
    return InvalidData(
        "The file has no energies.",
        key=path,
        expected="REF_energy, or an energy that ASE knows",
        found=f"energies, but none of {len(images)} is finite" if has else ", ".join(sorted(names)) or "no frames",
        hint="import it as structures: leave --kind out",
    )


def _remarks(rows: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]], tell: Tell) -> None:
    """Say what the frames lack, which ones are absurd, and which occur again."""
    known = sum("energy" in values for values in found)
    if known < len(rows):
        tell(f"{len(rows) - known} of {len(rows)} frames have no energy; they are marked as undefined")
    without = sum("energy" in values and "forces" not in values for values in found)
    if without:
        tell(f"{without} of {len(rows)} frames have an energy but no forces; training sets leave them out")
    absurd = [row["message"] for row in rows if row["status"] == ABSURD]
    if absurd:
        tell(f"{len(absurd)} of {len(rows)} frames are marked as absurd; the first: {absurd[0]}")
    energies: dict[str, list[float]] = {}
    for row in rows:
        energies.setdefault(row["identity"], []).append(float(row["energy"]))
    again = len(rows) - len(energies)
    if again:
        spread = max(float(np.ptp(one)) for one in energies.values())
        other = f", with energies that differ by up to {spread:.3g} eV" if spread > _SAME_EV else ""
        tell(f"{again} of {len(rows)} frames equal one before{other}; training sets keep the first")


# --- whether the numbers can be what they are said to be ----------------------------------------------------------


def _check(path: Path, systems: Sequence[System], found: Sequence[dict[str, Any]], stated: Stated, tell: Tell) -> None:
    """Refuse energies and forces that are in other units, as far as one can tell."""
    for frame, (system, values) in enumerate(zip(systems, found, strict=True)):
        if "energy" in values:
            _check_energy(path, frame, system, float(values["energy"]), stated)
    forces = [values["forces"] for values in found if "forces" in values]
    typical = float(np.sqrt(np.mean(np.concatenate(forces) ** 2))) if forces else 0.0
    if typical > _LIMITS.max_force_eV_A:
        raise InvalidData(
            "The forces are too large for their unit.",
            key=path,
            expected=f"less than {_LIMITS.max_force_eV_A:g} eV/Angstrom, root mean square",
            found=f"{typical:.4g} eV/Angstrom, taken as {stated.forces_unit}",
            hint="name the unit of the file: --forces-unit meV/Angstrom, ...",
        )
    pairs = list(_pairs(systems, found))
    if len(pairs) < _LEAST_PAIRS:
        tell(f"units are checked by their size alone: taken as {stated.energy_unit} and {stated.forces_unit}")
    _check_slope(path, pairs, stated)


def _check_energy(path: Path, frame: int, system: System, energy: float, stated: Stated) -> None:
    """No energy lies far below that of all electrons, or far above free atoms."""
    lowest = -_SLACK * _THOMAS_FERMI_EV * float((system.numbers.astype(float) ** (7 / 3)).sum())
    highest = 1000.0 * len(system.numbers)
    if not lowest <= energy <= highest:
        raise InvalidData(
            "An energy is of the wrong order of magnitude for its unit.",
            key=f"{path}, frame {frame}",
            expected=f"a total energy from {lowest:.6g} to {highest:.6g} eV for these elements",
            found=f"{energy:.8g} eV, taken as {stated.energy_unit}",
            hint="name the unit of the file: --energy-unit Hartree, kcal/mol, kJ/mol, ...",
        )


def _pairs(systems: Sequence[System], found: Sequence[dict[str, Any]]) -> Iterator[tuple[float, float]]:
    """Of frames next to each other that differ a little: change of energy, and what the forces say it is (eV)."""
    for (a, have_a), (b, have_b) in pairwise(zip(systems, found, strict=True)):
        if not {"energy", "forces"} <= set(have_a) & set(have_b) or not np.array_equal(a.numbers, b.numbers):
            continue
        step = b.positions - a.positions
        same_cell = np.array_equal(a.cell, b.cell) and np.array_equal(a.pbc, b.pbc) and a.charge == b.charge
        if same_cell and 0.0 < np.abs(step).max() < _NEAR_A:
            work = -float((0.5 * (have_a["forces"] + have_b["forces"]) * step).sum())
            yield float(have_b["energy"] - have_a["energy"]), work


def _check_slope(path: Path, pairs: Sequence[tuple[float, float]], stated: Stated) -> None:
    """Compare changes of the energy with the work of the forces: their ratio is 1 in one system of units."""
    if len(pairs) < _LEAST_PAIRS:
        return
    change, work = np.array(pairs).T
    if not work.any() or not change.any():
        return
    slope = float(change @ work / (work @ work))
    explained = float((change @ work) ** 2 / ((work @ work) * (change @ change)))
    if explained < _EXPLAINS or abs(slope - 1.0) < _AGREES:
        return
    raise InvalidData(
        "Energies and forces of the file do not belong together in these units.",
        key=path,
        expected="energies that change by the work of the forces between neighbouring frames",
        found=f"{slope:.4g} times that, in {len(pairs)} pairs of frames",
        hint=_guess(slope, stated) or "look up the units, and name them with --energy-unit and --forces-unit",
    )


def _guess(slope: float, stated: Stated) -> str:
    """Which units would explain a ratio."""
    if slope <= 0.0:
        return "are the forces gradients, of the other sign?"
    here = factor(stated.energy_unit, "eV") / factor(stated.forces_unit, "eV/Angstrom")
    fits = [
        f"--energy-unit {energy} --forces-unit {forces}"
        for energy, per_eV in FAMILIES["energy"].items()
        for forces, per_force in FAMILIES["force"].items()
        if abs(np.log(slope / here * per_eV / per_force)) < np.log(1.0 + _AGREES)
    ]
    return f"they would with {' or '.join(fits)}" if fits else "are the energies per atom?"
