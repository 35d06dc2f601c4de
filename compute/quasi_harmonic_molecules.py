"""Molecules of a crystal in the gas phase, and sublimation.

For a formula unit of ``nu_i`` molecules of kind ``i``, of which the cell holds ``Z``::

    E_latt = E_crystal / Z - sum_i nu_i E_i
    H_sub  = sum_i nu_i H_i(T) - H_crystal(T, p) / Z
    G_sub  = sum_i nu_i G_i(T, p) - G_crystal(T, p) / Z

Each gas is ideal and has the pressure ``p`` of the crystal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schemas.errors import ComputeFailed, InvalidConfig
from ..schemas.kinds_lattice import THERMODYNAMICS
from .lattice.molecule import GasMolecule, IdealGas, gas_molecule, hessian_items, hessian_of, hessian_rows, ideal_gas
from .module import Map, Request
from .quasi_harmonic_config import QuasiHarmonic
from .quasi_harmonic_thermodynamics import Row
from .structure.evaluation import evaluated
from .structure.frames import atoms_of, iterate_atoms, structures_dataset
from .structure.molecules import detect_molecules
from .structure.relaxation import Goal, check_apart, relax

if TYPE_CHECKING:
    import xarray as xr
    from ase import Atoms


@dataclass(frozen=True, slots=True)
class FormulaUnit:
    """What a crystal is made of.

    Attributes
    ----------
    formulas : tuple of str
        Of the kinds of molecules.
    counts : tuple of int
        How many of each a formula unit has.
    n_atoms : int
        Atoms of a formula unit.
    """

    formulas: tuple[str, ...]
    counts: tuple[int, ...]
    n_atoms: int


@dataclass(frozen=True, slots=True)
class Gas:
    """One kind of molecule in vacuum.

    Attributes
    ----------
    formula : str
        In Hill's order.
    structure : xarray.Dataset
        The relaxed molecule (or the given one, where it could not be relaxed).
    molecule : GasMolecule or None
        None where it could not be computed.
    reason : str
        Why not.
    """

    formula: str
    structure: xr.Dataset
    molecule: GasMolecule | None
    reason: str = ""


def given_molecules(inputs: Sequence[xr.Dataset], config: QuasiHarmonic) -> list[Atoms]:
    """All molecules of the input, one after another.

    Raises
    ------
    InvalidConfig
        If one is periodic, or the symmetry numbers are not as many as the molecules.
    """
    molecules = [atoms for dataset in inputs for atoms in iterate_atoms(dataset)]
    for index, atoms in enumerate(molecules):
        if atoms.pbc.any():
            raise InvalidConfig(
                "A molecule must be free: it has no periodic directions.",
                expected="pbc open along all three cell vectors",
                found=f"molecule {index} ({atoms.symbols.get_chemical_formula()}), periodic: {atoms.pbc.tolist()}",
            )
        check_apart(atoms)
    numbers = config.rotational_symmetry_numbers
    if numbers and len(numbers) != len(molecules):
        raise InvalidConfig(
            "There must be one rotational symmetry number for each molecule.",
            expected=f"{len(molecules)} numbers",
            found=f"rotational_symmetry_numbers = {list(numbers)}",
        )
    return molecules


def formula_unit(crystal: Atoms, molecules: Sequence[Atoms]) -> FormulaUnit:
    """How many of each given molecule a formula unit of the crystal has.

    Raises
    ------
    InvalidConfig
        If two given molecules have one formula, or the crystal is not made of exactly these molecules.
    """
    formulas = [str(atoms.symbols.get_chemical_formula(mode="hill")) for atoms in molecules]
    found = Counter(detect_molecules(crystal).formulas)
    if len(set(formulas)) < len(formulas) or set(found) != set(formulas):
        raise InvalidConfig(
            "The given molecules are not those of the crystal.",
            expected="one molecule of each formula: " + ", ".join(f"{n} {name}" for name, n in sorted(found.items())),
            found=", ".join(formulas),
            hint="give each kind of molecule once, whatever its number in the cell",
        )
    common = gcd(*found.values())
    counts = tuple(found[name] // common for name in formulas)
    n_atoms = sum(count * len(atoms) for count, atoms in zip(counts, molecules, strict=True))
    return FormulaUnit(tuple(formulas), counts, n_atoms)


def gas_phase(index: int, atoms: Atoms, potential: Any, config: QuasiHarmonic) -> Generator[Request, Any, Gas]:
    """Relax a molecule in vacuum and find its vibrations; a failure is a reason, not an error.

    Yields
    ------
    Map
        The relaxation, then the rows of the Hessian, one task an atom.
    """
    formula = str(atoms.symbols.get_chemical_formula(mode="hill"))
    structure = structures_dataset([atoms])
    goal = Goal("only_atoms", config.max_force_on_atom_eV_A, keep_symmetry=False)
    task = {"atoms": atoms, "potential": potential, "goal": goal, "max_n_steps": config.max_n_steps}
    try:
        [structure] = yield Map(relax_molecule, [task], name=f"molecule {index}: relaxation")
        if int(structure.attrs["converged"]) != 1:
            force = float(structure.attrs["max_residual_force_eV_A"])
            return Gas(formula, structure, None, f"not relaxed: residual force {force:.2g} eV/Angstrom")
        relaxed = atoms_of(structure, None)
        hessian = np.zeros((3, 3))
        if len(atoms) > 1:
            items = hessian_items(relaxed, potential, config.molecule_displacement)
            hessian = hessian_of((yield Map(hessian_rows, items, name=f"molecule {index}: vibrations")))
    except ComputeFailed as error:
        return Gas(formula, structure, None, " ".join(filter(None, (error.message, error.found))))
    numbers = config.rotational_symmetry_numbers
    found = gas_molecule(
        relaxed, float(structure["energy"][0]), hessian, symmetry_number=numbers[index] if numbers else None
    )
    lowest = float(found.frequencies.min(initial=np.inf))
    reason = f"imaginary mode of {lowest:.3f} THz" if lowest < config.imaginary_mode_threshold else ""
    return Gas(formula, structure, found, reason)


def relax_molecule(item: Mapping[str, Any]) -> xr.Dataset:
    """Relax a molecule in vacuum: a task of a map."""
    atoms, point, steps = relax(item["atoms"], item["potential"], item["goal"], max_n_steps=item["max_n_steps"])
    found = evaluated(atoms, item["potential"])
    more: dict[str, Any] = {"energy": [found["energy"]], "forces": found["forces"]}
    if atoms.has("initial_charges"):
        more["charge"] = [float(atoms.get_initial_charges().sum())]
    if atoms.has("initial_magmoms"):
        more["spin_multiplicity"] = [round(abs(float(atoms.get_initial_magnetic_moments().sum()))) + 1]
    force = float(np.sqrt((found["forces"] ** 2).sum(axis=1).max()))
    return structures_dataset(
        [atoms],
        more,
        {"converged": int(point.meets(item["goal"])), "max_residual_force_eV_A": force, "n_steps": steps},
    )


def structures_of(gases: Sequence[Gas]) -> xr.Dataset:
    """The relaxed molecules, energies and forces NaN where there are none."""
    atoms = [atoms_of(gas.structure, None) for gas in gases]
    energies = [float(gas.structure["energy"][0]) if "energy" in gas.structure else np.nan for gas in gases]
    forces = [
        gas.structure["forces"].to_numpy() if "forces" in gas.structure else np.full((len(one), 3), np.nan)
        for gas, one in zip(gases, atoms, strict=True)
    ]
    more: dict[str, Any] = {"energy": np.array(energies), "forces": np.concatenate([np.zeros((0, 3)), *forces])}
    more["charge"] = np.array([float(one.get_initial_charges().sum()) for one in atoms])
    more["label"] = np.array([gas.formula for gas in gases], dtype=object)
    return structures_dataset(atoms, more)


def molecules_table(gases: Sequence[Gas], config: QuasiHarmonic) -> xr.Dataset:
    """Ideal gas of each molecule along temperature and pressure; no rows without molecules."""
    rows = [(gas, *_ideal(gas, *state), state) for gas in gases for state in config.states()]
    units = {"vibrational_energy": "eV", "enthalpy": "eV", "gibbs_energy": "eV"}
    units |= {"entropy": "eV/K", "heat_capacity_p": "eV/K"}
    columns: dict[str, Any] = {
        name: (("state",), np.array([getattr(found, name, np.nan) for _, found, _, _ in rows], float), {"units": unit})
        for name, unit in units.items()
    }
    numbers = [0 if gas.molecule is None else gas.molecule.symmetry_number for gas, *_ in rows]
    potential = [_potential_energy(gas) for gas, *_ in rows]
    columns |= {
        "formula": (("state",), np.array([gas.formula for gas, *_ in rows], dtype=object)),
        "temperature": (("state",), np.array([state[0] for *_, state in rows], float), {"units": "K"}),
        "pressure": (("state",), np.array([state[1] for *_, state in rows], float), {"units": "GPa"}),
        "potential_energy": (("state",), np.array(potential, float), {"units": "eV"}),
        "rotational_symmetry_number": (("state",), np.array(numbers, dtype=np.int64), {"units": "1"}),
        "reason": (("state",), np.array([reason for _, _, reason, _ in rows], dtype=object)),
    }
    return THERMODYNAMICS.dataset(columns)


def sublimation_table(rows: Sequence[Row], gases: Sequence[Gas], unit: FormulaUnit | None, n_atoms: int) -> xr.Dataset:
    """Lattice energy and functions of sublimation along the states of the crystal; no rows without molecules.

    Parameters
    ----------
    rows : sequence of Row
        States of the crystal's cell.
    gases : sequence of Gas
        Its molecules.
    unit : FormulaUnit or None
        How many of each a formula unit has.
    n_atoms : int
        Atoms of the cell.
    """
    names = ("lattice_energy", "sublimation_enthalpy", "sublimation_free_energy", "vibrational_energy_change")
    found = [] if unit is None else [_sublimation(row, gases, unit, n_atoms) for row in rows]
    states = rows if unit is not None else ()
    columns: dict[str, Any] = {
        "temperature": (("state",), np.array([row.temperature for row in states], float), {"units": "K"}),
        "pressure": (("state",), np.array([row.pressure for row in states], float), {"units": "GPa"}),
        "reason": (("state",), np.array([reason for _, reason in found], dtype=object)),
    }
    for at, name in enumerate(names):
        values = np.array([one[at] for one, _ in found], dtype=float)
        columns[name] = (("state",), values, {"units": "eV"})
        if unit is not None:
            columns[f"{name}_per_molecule"] = (("state",), values / sum(unit.counts), {"units": "eV"})
    attributes: dict[str, Any] = {}
    if unit is not None:
        attributes = {
            "formula_unit": " ".join(f"{n} {name}" for n, name in zip(unit.counts, unit.formulas, strict=True)),
            "molecules_per_formula_unit": sum(unit.counts),
            "formula_units_per_cell": n_atoms // unit.n_atoms,
            "energies_are_per": "formula unit",
        }
    return THERMODYNAMICS.dataset(columns, attributes)


def _sublimation(row: Row, gases: Sequence[Gas], unit: FormulaUnit, n_atoms: int) -> tuple[list[float], str]:
    """The four columns of a state, and why they are NaN; the lattice energy needs no vibrations."""
    ideal = [_ideal(gas, row.temperature, row.pressure) for gas in gases]
    said = [f"{gas.formula}: {reason}" for gas, (_, reason) in zip(gases, ideal, strict=True) if reason]
    reason = "; ".join([row.reason, *said] if row.reason else said)
    cells = unit.n_atoms / n_atoms
    v = row.values
    gas_energy = [count * _potential_energy(gas) for count, gas in zip(unit.counts, gases, strict=True)]
    lattice = cells * v.get("static_energy", np.nan) - sum(gas_energy)
    if reason:
        return [lattice, np.nan, np.nan, np.nan], reason
    enthalpy, gibbs, vibrational = (-cells * v[name] for name in ("enthalpy", "gibbs_energy", "internal_energy"))
    for count, (state, _) in zip(unit.counts, ideal, strict=True):
        assert state is not None
        enthalpy += count * state.enthalpy
        gibbs += count * state.gibbs_energy
        vibrational += count * state.vibrational_energy
    return [lattice, enthalpy, gibbs, vibrational], ""


def _potential_energy(gas: Gas) -> float:
    return np.nan if gas.molecule is None else gas.molecule.energy


def _ideal(gas: Gas, temperature: float, pressure: float) -> tuple[IdealGas | None, str]:
    if gas.molecule is None or gas.reason:
        return None, gas.reason
    if pressure <= 0.0:
        return None, f"no ideal gas at a pressure of {pressure:g} GPa"
    return ideal_gas(gas.molecule, temperature, pressure), ""
