"""A molecule in the gas phase: its vibrations by finite differences, and the ideal gas of rigid rotors that vibrate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import units
from numpy.typing import NDArray

from ..structure.symmetry import is_linear, rotational_symmetry_number
from .harmonic import AMU_KG, BOLTZMANN_EV, CHARGE_C, QUANTUM_EV, thermodynamics

if TYPE_CHECKING:
    import xarray as xr
    from ase import Atoms

__all__ = ["GasMolecule", "IdealGas", "gas_molecule", "hessian_items", "hessian_of", "hessian_rows", "ideal_gas"]

FloatArray = NDArray[np.float64]

_THZ = np.sqrt(CHARGE_C / (AMU_KG * 1e-20)) / (2.0e12 * np.pi)  # of sqrt(eV / (amu Angstrom^2))
_HBAR_SQUARED = (QUANTUM_EV * _THZ) ** 2  # eV amu Angstrom^2


@dataclass(frozen=True, slots=True)
class GasMolecule:
    """What the ideal gas of a molecule follows from.

    Attributes
    ----------
    energy : float
        Potential energy at the minimum (eV).
    mass : float
        Total mass (amu).
    moments : array (3,)
        Principal moments of inertia (amu Angstrom^2); the first is about zero where linear, all where a single atom.
    frequencies : array (3N - 6, 3N - 5 or 0,)
        Frequencies (THz), negative where imaginary, with translations and rotations projected out.
    symmetry_number : int
        Rotations that map the molecule on itself.
    multiplicity : int
        Degeneracy of the electronic ground state, 2S + 1.
    """

    energy: float
    mass: float
    moments: FloatArray
    frequencies: FloatArray
    symmetry_number: int
    multiplicity: int = 1

    @property
    def n_rotations(self) -> int:
        """Rotational degrees of freedom: 0, 2 or 3."""
        largest = float(self.moments.max())
        if largest < 1e-10:
            return 0
        return 2 if self.moments.min() < 1e-5 * largest else 3


@dataclass(frozen=True, slots=True)
class IdealGas:
    """Thermodynamic functions of one molecule in its ideal gas.

    Attributes
    ----------
    vibrational_energy : float
        With that of the zero point (eV).
    enthalpy, gibbs_energy : float
        With the potential energy (eV).
    entropy, heat_capacity_p : float
        In eV/K.
    """

    vibrational_energy: float
    enthalpy: float
    entropy: float
    gibbs_energy: float
    heat_capacity_p: float


def hessian_items(atoms: Atoms, potential: Any, displacement: float) -> list[dict[str, Any]]:
    """Tasks of ``hessian_rows``, one for each atom.

    Parameters
    ----------
    atoms : Atoms
        A molecule at its minimum.
    potential : Potential
        Engine.
    displacement : float
        Length of each displacement (Angstrom).
    """
    plain = atoms.copy()
    plain.calc = None
    return [
        {"atoms": plain, "potential": potential, "atom": i, "displacement": displacement} for i in range(len(atoms))
    ]


def hessian_rows(item: Mapping[str, Any]) -> xr.Dataset:
    """Rows of the Hessian that belong to one atom, by central differences of forces from cold engines.

    Returns
    -------
    xarray.Dataset
        ``rows`` (xyz, component) in eV/Angstrom^2.
    """
    import xarray as xr

    from ..structure.evaluation import evaluated

    rows = np.zeros((3, 3 * len(item["atoms"])))
    for direction in range(3):
        forces = []
        for sign in (1.0, -1.0):
            moved = item["atoms"].copy()
            moved.positions[item["atom"], direction] += sign * item["displacement"]
            forces.append(evaluated(moved, item["potential"])["forces"])
        rows[direction] = -(forces[0] - forces[1]).ravel() / (2.0 * item["displacement"])
    return xr.Dataset({"rows": (("xyz", "component"), rows, {"units": "eV/Angstrom^2"})})


def hessian_of(rows: Sequence[xr.Dataset]) -> FloatArray:
    """The symmetric Hessian (3N, 3N) in eV/Angstrom^2 from the rows of all atoms in their order."""
    found = np.concatenate([one["rows"].to_numpy() for one in rows])
    return np.asarray(0.5 * (found + found.T), dtype=np.float64)


def gas_molecule(
    atoms: Atoms,
    energy: float,
    hessian: FloatArray,
    *,
    symmetry_number: int | None = None,
) -> GasMolecule:
    """What is needed of a molecule for its ideal gas.

    Parameters
    ----------
    atoms : Atoms
        The molecule at its minimum; its initial magnetic moments give the multiplicity.
    energy : float
        Its potential energy (eV).
    hessian : array (3N, 3N)
        Second derivatives of the energy (eV/Angstrom^2).
    symmetry_number : int, optional
        Overrides the one found from the geometry.

    Notes
    -----
    Frequencies are those of the mass-weighted Hessian within the space orthogonal to translations and infinitesimal
    rotations (E. B. Wilson, J. C. Decius, P. C. Cross, Molecular Vibrations (1955), chapter 2), so that exactly 3N - 6
    remain, or 3N - 5 of a linear molecule.
    """
    masses = atoms.get_masses()
    positions = atoms.positions - atoms.get_center_of_mass()
    moments = np.linalg.eigvalsh(np.einsum("i,ixy->xy", masses, _inertia(positions)))
    if len(atoms) == 1:
        frequencies = np.zeros(0)
    else:
        free = _internal_space(positions, masses)
        weighted = hessian / np.sqrt(np.outer(np.repeat(masses, 3), np.repeat(masses, 3)))
        squares = np.linalg.eigvalsh(free.T @ weighted @ free)
        frequencies = np.sign(squares) * np.sqrt(np.abs(squares)) * _THZ
    number = rotational_symmetry_number(atoms) if symmetry_number is None else symmetry_number
    multiplicity = round(abs(float(atoms.get_initial_magnetic_moments().sum()))) + 1
    return GasMolecule(energy, float(masses.sum()), np.maximum(moments, 0.0), frequencies, number, multiplicity)


def _inertia(positions: FloatArray) -> FloatArray:
    squares = np.einsum("ix,ix->i", positions, positions)
    return np.asarray(squares[:, None, None] * np.eye(3) - np.einsum("ix,iy->ixy", positions, positions))


def _internal_space(positions: FloatArray, masses: FloatArray) -> FloatArray:
    """Orthonormal columns (3N, 3N - 6 or 3N - 5) orthogonal to translations and rotations, in mass-weighted space."""
    root = np.sqrt(masses)[:, None]
    rigid = [(root * axis).ravel() for axis in np.eye(3)]
    rigid += [(root * np.cross(axis, positions)).ravel() for axis in np.eye(3)]
    vectors, _, _ = np.linalg.svd(np.stack(rigid, axis=1), full_matrices=True)
    return np.asarray(vectors[:, 5 if is_linear(positions) else 6 :])


def ideal_gas(molecule: GasMolecule, temperature: float, pressure_GPa: float) -> IdealGas:
    """The ideal gas of a rigid rotor with harmonic vibrations.

    Parameters
    ----------
    molecule : GasMolecule
        The molecule.
    temperature : float
        In K; 0 gives the energy with that of the zero point.
    pressure_GPa : float
        Partial pressure, above zero.

    Raises
    ------
    ValueError
        On a pressure that is not above zero.

    Notes
    -----
    Sackur-Tetrode translation, classical rotation (right where kT is above the rotational constants, so not for H2 at
    low temperature), harmonic vibration, and a degenerate electronic ground state: D. A. McQuarrie, Statistical
    Mechanics (1976), chapters 5 to 8. Imaginary modes are left out.
    """
    if not pressure_GPa > 0.0:
        raise ValueError(f"an ideal gas needs a pressure above zero; found {pressure_GPa:g} GPa")
    vibrational, vibrational_entropy, vibrational_capacity = _vibrations(molecule.frequencies, temperature)
    zero = molecule.energy
    if temperature == 0.0:
        return IdealGas(vibrational, zero + vibrational, 0.0, zero + vibrational, 0.0)
    kt = BOLTZMANN_EV * temperature
    mean_square = 2.0 * np.pi * _HBAR_SQUARED / (molecule.mass * kt)  # square of the thermal wavelength
    log_volume = np.log(kt / (pressure_GPa * units.GPa)) - 1.5 * np.log(mean_square)
    entropy = log_volume + 2.5 + np.log(molecule.multiplicity)
    rotations = molecule.n_rotations
    if rotations:
        reduced = 2.0 * molecule.moments[3 - rotations :] * kt / _HBAR_SQUARED
        log_rotations = np.log(reduced[0]) if rotations == 2 else 0.5 * (np.log(np.pi) + np.log(reduced).sum())
        entropy += log_rotations - np.log(molecule.symmetry_number) + 0.5 * rotations
    entropy = BOLTZMANN_EV * entropy + vibrational_entropy
    enthalpy = zero + vibrational + (2.5 + 0.5 * rotations) * kt
    capacity = (2.5 + 0.5 * rotations) * BOLTZMANN_EV + vibrational_capacity
    return IdealGas(vibrational, enthalpy, entropy, enthalpy - temperature * entropy, capacity)


def _vibrations(frequencies: FloatArray, temperature: float) -> tuple[float, float, float]:
    """Energy (eV), entropy and heat capacity (eV/K) of the modes above zero."""
    if len(frequencies) == 0:
        return 0.0, 0.0, 0.0
    found = thermodynamics(frequencies[None, :], [1.0], temperature)
    return float(found.energy[0]), float(found.entropy[0]), float(found.heat_capacity[0])
