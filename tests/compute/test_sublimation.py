"""The enthalpy of sublimation against analytic results, its terms one by one, and its refusals."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import xarray as xr
from ase import Atoms, units
from ase.build import bulk

from h5ml.compute.sublimation import MODULE
from h5ml.schemas.errors import InvalidConfig, InvalidData
from h5ml.schemas.kinds import TRAJECTORY
from h5ml.tests.kits.dynamics import drive, settings
from h5ml.tests.kits.runner import FakeRunner

T = 300.0
KT = units.kB * T
WATER, AMMONIA = [8, 1, 1], [7, 1, 1, 1]


def modes(count: int, frames: int, rng: np.random.Generator, phi: float = 0.8) -> np.ndarray:
    """Energy (eV) of harmonic modes at T along time: each coordinate is a correlated gaussian."""
    noise = rng.normal(size=(frames, count))
    x = noise.copy()
    for t in range(1, frames):
        x[t] = phi * x[t - 1] + np.sqrt(1 - phi**2) * noise[t]
    return 0.5 * KT * (x**2).sum(axis=1)


def trajectory(
    numbers: list[int],
    lowest: float,
    *,
    cell: float = 0.0,
    frames: int = 2000,
    still: int = 3,
    soft: int | None = None,
    seed: int = 0,
    attributes: dict[str, Any] | None = None,
    **changed: Any,
) -> xr.Dataset:
    """A harmonic solid or molecule with energy ``lowest`` at its minimum.

    ``still`` degrees of freedom do not move, ``soft`` have no potential energy (by default as many).
    """
    rng = np.random.default_rng([seed, len(numbers)])
    n = len(numbers)
    kinetic = modes(3 * n - still, frames, rng)
    equilibration = np.arange(frames) < frames // 10
    values: dict[str, Any] = {
        "positions": np.zeros((frames, n, 3)),
        "velocities": np.zeros((frames, n, 3)),
        "forces": np.zeros((frames, n, 3)),
        "energy": lowest + modes(3 * n - (still if soft is None else soft), frames, rng) + 1e3 * equilibration,
        "kinetic_energy": kinetic,
        "temperature": 2 * kinetic / ((3 * n - still) * units.kB),
        "cell": np.broadcast_to(np.eye(3) * cell, (frames, 3, 3)),
        "time": np.arange(frames) * 10.0,
        "step": np.arange(frames) * 10,
        "equilibration": equilibration,
        "target_temperature": np.full(frames, T),
        "atomic_numbers": numbers,
        "masses": np.ones(n),
        "pbc": [int(cell > 0)] * 3,
        **changed,
    }
    return TRAJECTORY.dataset(values, {"ensemble": "NVT", "n_degrees_of_freedom": 3 * n - still, **(attributes or {})})


def crystal(numbers: list[int], lowest: float = -100.0, **more: Any) -> xr.Dataset:
    facts = {"ensemble": "NPT", "pressure_GPa": 1e-4, **more.pop("attributes", {})}
    return trajectory(numbers, lowest, cell=8.0, attributes=facts, **more)


def run(solid: xr.Dataset, *molecules: xr.Dataset, **config: Any) -> xr.Dataset:
    return FakeRunner(MODULE, config, {"crystal": solid, "molecule": list(molecules)}).run().outputs["thermodynamics"]


def harmonic_enthalpy(solid: float, gas: float, cells: int, atoms: int = 3, pressure_GPa: float = 1e-4) -> float:
    """Classical harmonic enthalpy of sublimation of a crystal of ``cells`` molecules, by equipartition."""
    n = cells * atoms
    molecule = gas + (3 * atoms - 6) * KT / 2 + 3 * atoms * KT / 2 + KT
    inside = solid + (3 * n - 3) * KT / 2 + 3 * n * KT / 2 + pressure_GPa * units.GPa * 8.0**3
    return molecule - inside / cells


def test_a_harmonic_crystal_and_molecule_give_the_analytic_enthalpy() -> None:
    deviations = []
    for seed in range(6):
        found = run(crystal(WATER * 4, -44.0, seed=seed), trajectory(WATER, -10.0, soft=6, seed=seed))
        assert (found["plateau"] == 1).all()
        error = float(found["sublimation_enthalpy_error"][0])
        deviations.append((float(found["sublimation_enthalpy"][0]) - harmonic_enthalpy(-44.0, -10.0, 4)) / error)
        assert 0.001 < error < 0.02
    assert np.abs(deviations).max() < 3.0
    assert 0.2 < np.std(deviations) < 2.0  # errors that are far too large would make these tiny


def test_units_molecules_and_terms_add_up() -> None:
    found = run(crystal(WATER * 4), trajectory(WATER, -10.0, soft=6))
    value = float(found["sublimation_enthalpy"][0])
    assert float(found["sublimation_enthalpy_kJ_per_mol"][0]) == pytest.approx(value * units.mol / units.kJ, rel=1e-6)
    assert float(found["sublimation_enthalpy_per_molecule"][0]) == value
    parts = found["potential_energy"] + found["kinetic_energy"] + found["pressure_volume"]
    np.testing.assert_allclose(parts, found["enthalpy"], rtol=1e-12)
    assert float(parts[1] - parts[0]) == pytest.approx(value)
    np.testing.assert_allclose(found["kinetic_energy"], 9 * KT / 2, rtol=0.03)
    assert list(found["n_frames"].values) == [1800, 1800]
    assert found.attrs["formula_units"] == 4
    chosen = [list(found["tried_block_size"].values).index(size) for size in found["block_size"].values]
    curve = [float(found["blocked_error"][i, level]) for i, level in enumerate(chosen)]
    np.testing.assert_allclose(curve, found["enthalpy_error"])


def test_a_molecule_that_was_kept_from_rotating_gives_the_same_enthalpy() -> None:
    free = run(crystal(WATER * 4), trajectory(WATER, -10.0, soft=6), kinetic_energy="equipartition")
    held = run(crystal(WATER * 4), trajectory(WATER, -10.0, still=6, soft=6), kinetic_energy="equipartition")
    sampled = run(crystal(WATER * 4), trajectory(WATER, -10.0, still=6, soft=6))
    errors = np.array([float(x["sublimation_enthalpy_error"][0]) for x in (free, held, sampled)])
    values = np.array([float(x["sublimation_enthalpy"][0]) for x in (free, held, sampled)])
    assert np.abs(values - values[0]).max() < 3 * np.sqrt(2) * errors.max()
    assert errors[1] < errors[2]  # sampled kinetic energies add their noise
    imported = trajectory(WATER, -10.0, still=6, soft=6)
    del imported.attrs["n_degrees_of_freedom"]
    assert float(run(crystal(WATER * 4), imported)["sublimation_enthalpy"][0]) == values[2]


def test_the_volume_term_takes_the_pressure_of_the_barostat() -> None:
    molecule = trajectory(WATER, -10.0)
    low, high = (run(crystal(WATER * 4, attributes={"pressure_GPa": p}), molecule) for p in (0.0, 2.0))
    assert float(high["pressure"][0]) == 2.0
    difference = float((low["sublimation_enthalpy"] - high["sublimation_enthalpy"])[0])
    assert difference == pytest.approx(2.0 * units.GPa * 8.0**3 / 4)
    assert float(run(crystal(WATER * 4), molecule, pressure_GPa=2.0)["pressure"][0]) == 2.0


def test_at_constant_volume_the_pressure_is_that_of_the_frames_with_all_momenta() -> None:
    pressures = 1.0 + 0.1 * np.random.default_rng(0).normal(size=2000)
    solid = crystal(WATER * 4, attributes={"ensemble": "NVT"}, pressure=pressures)
    found = run(solid, trajectory(WATER, -10.0))
    expected = (pressures[200:].mean() * units.GPa * 8.0**3 + KT) / 4
    assert float(found["pressure_volume"][0]) == pytest.approx(expected)
    with pytest.raises(InvalidData, match="pressure"):
        run(solid.drop_vars("pressure"), trajectory(WATER, -10.0))


def test_a_cocrystal_counts_its_molecules_by_composition() -> None:
    molecules = trajectory(WATER, -10.0, soft=6), trajectory(AMMONIA, -20.0, soft=6)
    found = run(crystal((WATER + 2 * AMMONIA) * 2), *molecules)
    assert list(found["count"].values) == [1, 1, 2]
    assert found.attrs["formula_units"] == 2
    assert found.attrs["formula_unit"] == "1 H2O + 2 H3N"
    total = float(found["sublimation_enthalpy"][0])
    assert float(found["sublimation_enthalpy_per_molecule"][0]) == pytest.approx(total / 3)
    assert total == pytest.approx(float((found["count"] * found["enthalpy"] * [-1, 1, 1]).sum()))
    same = run(crystal((WATER + 2 * AMMONIA) * 2), *molecules, counts=(1, 2))
    assert float(same["sublimation_enthalpy"][0]) == pytest.approx(total)


def test_compositions_that_do_not_divide_are_refused() -> None:
    water, ammonia = trajectory(WATER, -10.0), trajectory(AMMONIA, -10.0)
    with pytest.raises(InvalidConfig, match="whole formula units") as caught:
        run(crystal([*WATER * 4, 6]), water)
    assert "C" in str(caught.value.found)
    with pytest.raises(InvalidConfig, match="whole formula units"):
        run(crystal(WATER * 4), water, ammonia)
    with pytest.raises(InvalidConfig, match="setting counts") as caught:
        run(crystal(WATER * 4), water, water)
    assert run(crystal(WATER * 4), water, water, counts=(1, 1)).attrs["formula_units"] == 2
    with pytest.raises(InvalidConfig, match="counts does not fit"):
        run(crystal(WATER * 4), water, counts=(1, 1))
    with pytest.raises(InvalidConfig, match="whole formula units"):
        run(crystal(WATER * 4), water, counts=(3,))


def test_trajectories_that_do_not_belong_together_are_refused() -> None:
    water = trajectory(WATER, -10.0)
    hot = trajectory(WATER, -10.0, target_temperature=np.full(2000, 310.0))
    ramp = trajectory(WATER, -10.0, target_temperature=np.linspace(300, 310, 2000))
    free = trajectory(WATER, -10.0, target_temperature=None, attributes={"ensemble": "NVE"})
    start = trajectory(WATER, -10.0, equilibration=np.ones(2000))
    for molecule, message in (
        (hot, "different temperatures"),
        (ramp, "changes"),
        (free, "not held at a temperature"),
        (start, "too few production frames"),
        (water.assign_attrs(fixed_atoms=[0, 1]), "fixed"),
    ):
        with pytest.raises(InvalidData, match=message):
            run(crystal(WATER * 4), molecule)
    with pytest.raises(InvalidData, match="not periodic"):
        run(water, water)
    assert run(crystal(WATER * 4), hot, temperature_tolerance_K=20.0)["temperature"][0] == 300.0
    assert run(crystal(WATER * 4), start, time_equilibration_fs=5000.0)["n_frames"][1] == 1500


def test_what_is_doubtful_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    run(crystal(WATER * 4, frames=12), trajectory(WATER, -10.0, cell=20.0))
    assert "no plateau" in caplog.text
    assert "is periodic" in caplog.text
    caplog.clear()
    run(crystal(WATER * 4), trajectory(WATER, -10.0, temperature=np.full(2000, 250.0)))
    assert "was it equilibrated" in caplog.text


def test_molecular_dynamics_of_springs_gives_the_harmonic_result() -> None:
    """Pairs of argon held by springs that fit: 24 bonds of two cells of pairs against one bond of each pair."""
    model = "harmonic:springs?k=1.0&r0=3.75&rc=4.5"
    common: dict[str, Any] = {"temperature_K": 5.0, "time_step_fs": 5.0, "sampling_interval_fs": 20.0}
    common |= {"time_equilibration_fs": 1000.0, "block_frames": 200, "langevin_friction_per_fs": 0.005}
    solid = bulk("Ar", "fcc", a=3.75 * np.sqrt(2.0), cubic=True)
    pair = Atoms("Ar2", [[0, 0, 0], [3.75, 0, 0]])
    sampling = settings("langevin", time_total_fs=7000.0, **common)
    found = run(*(drive(sampling, system, model).trajectory for system in (solid, pair)), pressure_GPa=0.0)
    kT = 5.0 * units.kB
    bond = -0.5 * (4.5 - 3.75) ** 2  # springs end at rc, where their energy is zero
    expected = bond - 24 * bond / 2 + (1 + 6 + 2) * kT / 2 - (9 + 12) * kT / 2 / 2
    error = float(found["sublimation_enthalpy_error"][0])
    # anharmonic terms are near (thermal amplitude / distance)**2 = 3e-5 of kT; only the sampling error counts
    assert abs(float(found["sublimation_enthalpy"][0]) - expected) < 3 * error
    assert error < 0.4 * kT
