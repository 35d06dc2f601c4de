"""Integrators: everything that they carry is saved, and they keep the temperature that they should."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.constraints import FixAtoms

from h5ml.compute.md_state import (
    SCRATCH,
    STATE,
    IntegratorSettings,
    array_to_rng,
    build_integrator,
    conserved_energy,
    degrees_of_freedom,
    draw_momenta,
    kinetic_temperature,
    restore_state,
    rng_to_array,
    save_state,
    set_target_temperature,
)
from h5ml.compute.potentials import resolve_potential
from h5ml.tests.kits.dynamics import LENNARD_JONES, SPRINGS, argon

ALL = tuple(STATE)
NOT_STATE = {"atoms", "observers", "comm", "logfile", "rng", "nsteps", "max_steps"}


def system(model: str = SPRINGS, repeat: int = 2, temperature: float = 40.0) -> Atoms:
    atoms = argon(repeat)
    atoms.rattle(0.02, seed=5)
    atoms.calc = resolve_potential(model).fresh()
    draw_momenta(atoms, temperature, np.random.default_rng(1))
    return atoms


def integrator(algorithm: Any, atoms: Atoms, seed: int = 2, **more: Any) -> tuple[Any, np.random.Generator]:
    rng = np.random.default_rng(seed)
    given = {"time_step_fs": 4.0, "temperature_K": 40.0, **more}
    return build_integrator(atoms, IntegratorSettings(algorithm=algorithm, **given), rng), rng


def steps(dyn: Any, count: int) -> None:
    for _ in range(count):
        dyn.step()
        dyn.nsteps += 1


def walk(owner: Any, path: str = "") -> dict[str, Any]:
    """All attributes below an object by their dotted path, except what is the atoms', the user's or the counters'."""
    found: dict[str, Any] = {}
    for name, value in vars(owner).items():
        if not path and name in NOT_STATE:
            continue
        if type(value).__module__.startswith("ase.md"):
            found |= walk(value, f"{path}{name}.")
        else:
            found[f"{path}{name}"] = copy.deepcopy(value)
    return found


@pytest.mark.parametrize("algorithm", ALL)
def test_every_attribute_that_changes_is_saved(algorithm):
    dyn, _ = integrator(algorithm, system())
    steps(dyn, 1)
    before = walk(dyn)
    steps(dyn, 3)
    after = walk(dyn)
    assert before.keys() == after.keys()
    changed = {name for name in after if not np.array_equal(before[name], after[name])}
    assert changed <= {*STATE[algorithm], *SCRATCH.get(algorithm, ())}
    carried = set(STATE[algorithm]) - {"_cell0", "_volume0"}  # constant, but not those of the atoms at a restart
    assert carried <= changed


def test_the_check_above_finds_an_attribute_that_nobody_saves():
    dyn, _ = integrator("csvr", system())
    dyn.hidden = 0
    before = walk(dyn)
    dyn.hidden = 1
    after = walk(dyn)
    assert {n for n in after if not np.array_equal(before[n], after[n])} == {"hidden"}


@pytest.mark.parametrize("algorithm", ALL)
@pytest.mark.parametrize("flat", [False, True])
def test_a_restored_integrator_goes_on_bit_for_bit(algorithm, flat):
    dyn, rng = integrator(algorithm, system())
    steps(dyn, 7)
    state = save_state(dyn, algorithm, rng)
    assert state.keys() == {"positions", "momenta", "cell", "nsteps", "rng", *STATE[algorithm]}
    steps(dyn, 9)
    final = save_state(dyn, algorithm, rng)
    if flat:
        state = {name: value.ravel() for name, value in state.items()}
    atoms = system(temperature=90.0)
    atoms.rattle(0.1, seed=8)
    again, other = integrator(algorithm, atoms, seed=77)
    restore_state(again, algorithm, other, state)
    steps(again, 9)
    for name, value in save_state(again, algorithm, other).items():
        np.testing.assert_array_equal(value, final[name], err_msg=name)


def test_scratch_arrays_of_langevin_do_not_matter():
    runs = []
    for spoiled in (False, True):
        dyn, rng = integrator("langevin", system())
        steps(dyn, 3)
        if spoiled:
            for name in SCRATCH["langevin"]:
                setattr(dyn, name, np.full((32, 3), np.nan))
        steps(dyn, 3)
        runs.append(save_state(dyn, "langevin", rng))
    np.testing.assert_array_equal(runs[0]["positions"], runs[1]["positions"])


def test_a_state_is_a_copy():
    dyn, rng = integrator("mtk_full", system())
    state = save_state(dyn, "mtk_full", rng)
    kept = {name: value.copy() for name, value in state.items()}
    steps(dyn, 3)
    for name, value in state.items():
        np.testing.assert_array_equal(value, kept[name], err_msg=name)


def test_random_numbers_survive_with_their_spare_half():
    rng = np.random.default_rng(3)
    rng.integers(0, 10, dtype=np.uint32)  # leaves half a word behind
    array = rng_to_array(rng)
    assert array.dtype == np.int64
    assert array[8] == 1
    other = np.random.default_rng(99)
    array_to_rng(array.astype(np.float64), other)  # even through a float
    np.testing.assert_array_equal(
        rng.integers(0, 2**31, 5, dtype=np.uint32), other.integers(0, 2**31, 5, dtype=np.uint32)
    )
    np.testing.assert_array_equal(rng.standard_normal(9), other.standard_normal(9))


def test_other_generators_are_refused():
    with pytest.raises(TypeError, match="PCG64"):
        rng_to_array(np.random.Generator(np.random.MT19937(1)))


def test_degrees_of_freedom():
    atoms = argon(2)
    assert degrees_of_freedom(atoms) == 93
    atoms.set_constraint(FixAtoms([0, 1]))
    assert degrees_of_freedom(atoms) == 90


@pytest.mark.parametrize("exact", [False, True])
def test_drawn_momenta(exact):
    atoms = argon(2)
    temperatures = []
    for seed in range(300):
        draw_momenta(atoms, 100.0, np.random.default_rng(seed), exact=exact)
        np.testing.assert_allclose(atoms.get_momenta().sum(axis=0), 0.0, atol=1e-12)
        temperatures.append(kinetic_temperature(atoms))
    spread = 0.0 if exact else 100.0 * np.sqrt(2.0 / 93.0)
    assert np.mean(temperatures) == pytest.approx(100.0, abs=1e-9 + 4 * spread / np.sqrt(300))
    assert np.std(temperatures) == pytest.approx(spread, rel=0.2, abs=1e-9)


def test_fixed_atoms_are_drawn_at_rest():
    atoms = argon(2)
    atoms.set_constraint(FixAtoms([3]))
    draw_momenta(atoms, 100.0, np.random.default_rng(0), exact=True)
    assert not atoms.get_momenta()[3].any()
    assert kinetic_temperature(atoms) == pytest.approx(100.0)


@pytest.mark.parametrize("algorithm", ["velocity_verlet", "csvr", "langevin", "nose_hoover_chain"])
def test_fixed_atoms_stay_and_carry_no_heat(algorithm):
    atoms = system()
    atoms.set_constraint(FixAtoms([0, 5]))
    draw_momenta(atoms, 40.0, np.random.default_rng(1))
    start = atoms.positions.copy()
    dyn, _ = integrator(algorithm, atoms)
    steps(dyn, 30)
    np.testing.assert_array_equal(atoms.positions[[0, 5]], start[[0, 5]])
    assert not atoms.get_momenta()[[0, 5]].any()
    if algorithm == "nose_hoover_chain":
        assert not dyn._p[[0, 5]].any()  # ASE's own class lets these grow


@pytest.mark.parametrize("algorithm", ALL)
def test_the_centre_of_mass_stays_at_rest(algorithm):
    atoms = system(LENNARD_JONES)
    dyn, _ = integrator(algorithm, atoms)
    steps(dyn, 50)
    np.testing.assert_allclose(atoms.get_momenta().sum(axis=0), 0.0, atol=1e-10)


@pytest.mark.parametrize("algorithm", [a for a in ALL if a != "langevin"])
def test_the_conserved_energy_is_conserved(algorithm):
    atoms = system()
    dyn, _ = integrator(algorithm, atoms, time_step_fs=2.0, barostat_time_fs=300.0)
    energies, conserved = [], []
    for _ in range(60):
        steps(dyn, 5)
        energies.append(atoms.get_total_energy())
        conserved.append(conserved_energy(dyn, algorithm, atoms.get_potential_energy()))
    assert np.ptp(conserved) < 2e-5
    if algorithm != "velocity_verlet":
        assert np.ptp(energies) > 50 * np.ptp(conserved)


def test_langevin_has_no_conserved_energy():
    dyn, _ = integrator("langevin", system())
    assert np.isnan(conserved_energy(dyn, "langevin", 0.0))


@pytest.mark.parametrize("algorithm", ["nose_hoover_chain", "mtk_full", "mtk_isotropic"])
def test_the_conserved_energy_is_that_of_ase(algorithm):
    atoms = system()
    dyn, _ = integrator(algorithm, atoms)
    steps(dyn, 5)
    assert conserved_energy(dyn, algorithm, atoms.get_potential_energy()) == pytest.approx(dyn.get_conserved_energy())


def test_energy_error_of_velocity_verlet_grows_with_the_square_of_the_step():
    errors = []
    for step in (2.0, 4.0, 8.0):
        atoms = system(temperature=60.0)
        dyn, _ = integrator("velocity_verlet", atoms, time_step_fs=step)
        energies = []
        for _ in range(round(2400 / step)):
            steps(dyn, 1)
            energies.append(atoms.get_total_energy())
        errors.append(np.std(energies))
    ratios = np.array(errors[1:]) / np.array(errors[:-1])
    np.testing.assert_allclose(ratios, 4.0, rtol=0.15)


@pytest.mark.parametrize("algorithm", ["csvr", "langevin", "nose_hoover_chain", "mtk_full"])
def test_the_target_temperature_can_be_changed(algorithm):
    dyn, _ = integrator(algorithm, system())
    reference, _ = integrator(algorithm, system(), temperature_K=70.0)
    set_target_temperature(dyn, 70.0)
    found, wanted = walk(dyn), walk(reference)
    for name in ("temp", "target_kinetic_energy", "c3", "_thermostat._kT", "_barostat._kT"):
        assert (name in found) == (name in wanted)
        if name in found:
            np.testing.assert_allclose(found[name], wanted[name])
    steps(dyn, 2)


def test_units_of_pressure_and_time():
    dyn, _ = integrator("mtk_isotropic", system(), pressure_GPa=2.0)
    assert dyn.dt == pytest.approx(4.0 * units.fs)
    assert dyn._pressure_au == pytest.approx(2.0 / 160.21766)
