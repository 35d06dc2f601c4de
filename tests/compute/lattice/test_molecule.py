"""Molecules in the gas phase: vibrations, symmetry numbers, and the ideal gas against published values and ASE."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.thermochemistry import IdealGasThermo
from ase.units import GPa, Pascal, kB
from ase.vibrations import Vibrations

from h5ml.compute.lattice.harmonic import BOLTZMANN_EV, QUANTUM_EV
from h5ml.compute.lattice.molecule import gas_molecule, hessian_items, hessian_of, hessian_rows, ideal_gas
from h5ml.compute.potentials import resolve_potential
from h5ml.compute.structure.relaxation import Goal, relax

BAR = 1e-4  # GPa
J_PER_MOL = 96485.33212  # of eV
THZ = 0.0299792458  # of 1/cm


GASES = {  # equilibrium bond lengths (Angstrom) and fundamentals (1/cm) as measured; entropies of CODATA (J/K/mol)
    "N2": (Atoms("N2", [[0, 0, 0], [0, 0, 1.0977]]), [2330.0], 191.609),
    "O2": (Atoms("O2", [[0, 0, 0], [0, 0, 1.2075]], magmoms=[1, 1]), [1556.4], 205.152),
    "CO2": (Atoms("OCO", [[0, 0, 0], [0, 0, 1.1600], [0, 0, 2.3200]]), [667.4, 667.4, 1333.0, 2349.1], 213.785),
    "H2O": (
        Atoms("OHH", [[0, 0, 0], [0, 0.7572, 0.5865], [0, -0.7572, 0.5865]]),
        [1594.7, 3657.1, 3755.9],
        188.834,
    ),
    "Ar": (Atoms("Ar"), [], 154.846),
}


@pytest.mark.parametrize("name", GASES)
def test_standard_entropies_are_those_of_codata(name: str) -> None:
    """At 298.15 K and 1 bar. What is neglected (anharmonic, stretching and quantum rotors) is worth 0.16 for water."""
    atoms, wavenumbers, entropy = GASES[name]
    plain = gas_molecule(atoms, 0.0, np.zeros((3 * len(atoms), 3 * len(atoms))))
    assert len(plain.frequencies) == len(wavenumbers)
    gas = replace(plain, frequencies=THZ * np.array(wavenumbers))
    assert ideal_gas(gas, 298.15, BAR).entropy * J_PER_MOL == pytest.approx(entropy, abs=0.2)


def test_the_ideal_gas_is_that_of_ase() -> None:
    atoms = molecule("CH3OH")
    vibrations = THZ * np.linspace(300.0, 3700.0, 12)
    plain = gas_molecule(atoms, -3.0, np.zeros((18, 18)))
    gas = replace(plain, frequencies=vibrations)
    reference = IdealGasThermo(
        vib_energies=QUANTUM_EV * vibrations,
        geometry="nonlinear",
        potentialenergy=-3.0,
        atoms=atoms,
        symmetrynumber=1,
        spin=0,
    )
    found = ideal_gas(gas, 350.0, 2.0 * BAR)
    # ASE has the constants of CODATA 2014: 1e-6 apart.
    assert found.enthalpy == pytest.approx(reference.get_enthalpy(350.0, verbose=False), abs=1e-5)
    assert found.entropy == pytest.approx(
        reference.get_entropy(350.0, 2.0 * BAR * GPa / Pascal, verbose=False), rel=1e-5
    )
    h = 0.5
    slope = (ideal_gas(gas, 350.0 + h, BAR).enthalpy - ideal_gas(gas, 350.0 - h, BAR).enthalpy) / (2.0 * h)
    assert found.heat_capacity_p == pytest.approx(slope, rel=1e-5)


def test_the_thermodynamics_of_an_atom_are_those_of_translation() -> None:
    atom = gas_molecule(Atoms("He"), -1.0, np.zeros((3, 3)))
    gas = ideal_gas(atom, 300.0, BAR)
    assert (atom.n_rotations, atom.symmetry_number) == (0, 1)
    assert gas.enthalpy == pytest.approx(-1.0 + 2.5 * kB * 300.0, rel=1e-6)
    assert gas.heat_capacity_p == pytest.approx(2.5 * BOLTZMANN_EV)
    assert ideal_gas(atom, 0.0, BAR).gibbs_energy == -1.0
    with pytest.raises(ValueError, match="pressure above zero"):
        ideal_gas(atom, 300.0, 0.0)


@pytest.mark.parametrize("name", ["H2O", "CO2"])
def test_vibrations_are_those_of_ase_without_translations_and_rotations(name: str, tmp_path: object) -> None:
    potential = resolve_potential("tblite:GFN1-xTB")
    atoms, point, _ = relax(molecule(name), potential, Goal("only_atoms", max_force=1e-3))
    rows = [hessian_rows(item) for item in hessian_items(atoms, potential, 0.01)]
    gas = gas_molecule(atoms, point.energy, hessian_of(rows))
    linear = name == "CO2"
    assert len(gas.frequencies) == 3 * len(atoms) - (5 if linear else 6)
    assert gas.n_rotations == (2 if linear else 3)
    atoms.calc = potential.fresh()
    reference = Vibrations(atoms, name=f"{tmp_path}/vib", delta=0.01)
    reference.run()
    theirs = np.sort(reference.get_frequencies().real)[-len(gas.frequencies) :] * THZ
    # ASE keeps the small mixing with rotations; its warm engine adds up to 1e-3 THz.
    assert np.allclose(gas.frequencies, theirs, atol=0.02)


def test_a_rotation_or_translation_never_appears_among_the_vibrations() -> None:
    """Adding stiffness along rigid motions leaves the frequencies where they are."""
    rng = np.random.default_rng(5)
    atoms = molecule("CH4")
    internal = rng.normal(size=(15, 15))
    hessian = internal @ internal.T
    before = gas_molecule(atoms, 0.0, hessian).frequencies
    masses, positions = np.repeat(atoms.get_masses(), 3), atoms.positions - atoms.get_center_of_mass()
    for axis in np.eye(3):
        for motion in (np.tile(axis, 5), np.cross(axis, positions).ravel()):
            momentum = masses * motion
            hessian = hessian + 3.0 * np.outer(momentum, momentum)
    assert np.allclose(gas_molecule(atoms, 0.0, hessian).frequencies, before, atol=1e-9)
