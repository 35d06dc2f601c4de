"""Ensembles: distributions of the kinetic energy, pressure and volume against statistical mechanics."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import xarray as xr
from ase import Atoms, units
from ase.build import bulk

from h5ml.compute.md_config import MolecularDynamics
from h5ml.compute.potentials import Potential
from h5ml.compute.potentials.harmonic import PairCalculator
from h5ml.tests.kits.dynamics import ALGORITHMS, drive, soft_spheres

THERMOSTATS = [name for name, given in ALGORITHMS.items() if given["ensemble"] != "NVE"]
FLUID_T = 120.0


def fluid(count: int = 1) -> Atoms:
    """Eight soft spheres: few, so that a wrong number of degrees of freedom would show."""
    atoms = bulk("Ar", "fcc", a=5.0, cubic=True).repeat((2, count, 1))
    atoms.rattle(0.3, seed=0)
    return atoms


def sample(algorithm: str, time_ps: float, **more: Any) -> xr.Dataset:
    """A trajectory of the fluid without its first 2 ps."""
    given: dict[str, Any] = {
        "supercell_radius": None,
        "time_step_fs": 4.0,
        "sampling_interval_fs": 100.0,
        "time_total_fs": 1000.0 * time_ps,
        "time_equilibration_fs": 2000.0,
        "temperature_K": FLUID_T,
        "block_frames": 100,
        "pressure_GPa": 0.1,
        "barostat_time_fs": 400.0,
    }
    run = drive(MolecularDynamics(**{**given, **ALGORITHMS[algorithm], **more}), fluid(), soft_spheres(), seed=1)
    assert run.error is None
    return run.trajectory.isel(frame=run.trajectory["equilibration"].values == 0)


def deviations(found: xr.Dataset, temperature: float = FLUID_T, removed: int = 3) -> tuple[float, float]:
    """Mean and width of the kinetic energy against physical_validation, in standard errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import physical_validation as pv

        system = pv.data.UnitData(
            kb=units.kB,
            energy_str="eV",
            energy_conversion=units.mol / units.kJ,
            length_str="A",
            length_conversion=0.1,
            volume_str="A^3",
            volume_conversion=1e-3,
            temperature_str="K",
            temperature_conversion=1.0,
            pressure_str="eV/A^3",
            pressure_conversion=1.0 / (1e-4 * units.GPa),
            time_str="fs",
            time_conversion=1e-3,
        )
        count = found.sizes["atom"]
        data = pv.data.SimulationData(
            units=system,
            ensemble=pv.data.EnsembleData(
                "NVT", natoms=count, volume=float(found["volume"].mean()), temperature=temperature
            ),
            system=pv.data.SystemData(natoms=count, nconstraints=0, ndof_reduction_tra=removed, ndof_reduction_rot=0),
            observables=pv.data.ObservableData(kinetic_energy=found["kinetic_energy"].values),
        )
        result = pv.kinetic_energy.distribution(data, strict=False, verbosity=0)
    return float(result[0]), float(result[1])


def standard_error(values: np.ndarray, blocks: int = 20) -> float:
    means = [part.mean() for part in np.array_split(values, blocks)]
    return float(np.std(means, ddof=1) / np.sqrt(blocks))


@pytest.mark.parametrize("algorithm", [t for t in THERMOSTATS if not t.startswith("mtk")])
def test_kinetic_energy_is_canonical(algorithm):
    found = sample(algorithm, 24.0)
    assert max(deviations(found)) < 3.5
    assert int(found.attrs["n_degrees_of_freedom"]) == 21
    # 3N degrees of freedom instead of 3N - 3, as ASE counts, would be 14 percent too hot
    assert max(deviations(found, FLUID_T * 24 / 21)) > 3.0


@pytest.mark.long
@pytest.mark.parametrize("algorithm", [t for t in THERMOSTATS if t != "mtk_full"])  # a fluid has no shape to keep
def test_kinetic_energy_is_canonical_long(algorithm):
    found = sample(algorithm, 300.0)
    assert max(deviations(found)) < 3.5
    assert max(deviations(found, FLUID_T * 1.06)) > 3.5


@pytest.mark.long
@pytest.mark.parametrize("algorithm", ["csvr", "langevin", "nose_hoover_chain"])
def test_kinetic_energy_with_fixed_atoms(algorithm):
    found = sample(algorithm, 200.0, fixed_atoms=(0,))
    assert int(found.attrs["n_degrees_of_freedom"]) == 21
    assert max(deviations(found)) < 3.5


@pytest.mark.long
@pytest.mark.parametrize("algorithm", ["csvr", "langevin", "nose_hoover_chain"])
def test_potential_energies_of_two_temperatures_follow_boltzmann(algorithm):
    """ln P1(U)/P2(U) is linear in U with slope 1/kT2 - 1/kT1 (M. Shirts, J. Chem. Theory Comput. 9, 909 (2013))."""
    cold, hot = 120.0, 135.0
    energies = [sample(algorithm, 400.0, temperature_K=t)["energy"].values[::2] for t in (cold, hot)]
    slope, error = maximum_likelihood_slope(*energies)
    expected = 1.0 / (units.kB * cold) - 1.0 / (units.kB * hot)
    assert abs(slope - expected) < 3.5 * error


def maximum_likelihood_slope(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Logistic regression of which ensemble an energy came from, with a bootstrap of blocks for its error."""
    from scipy.optimize import minimize

    def fit(a: np.ndarray, b: np.ndarray) -> float:
        centre = np.concatenate([a, b]).mean()
        a, b = a - centre, b - centre

        def loss(x: np.ndarray) -> float:
            return float(np.logaddexp(0, -(x[0] - x[1] * a)).sum() + np.logaddexp(0, x[0] - x[1] * b).sum())

        return float(minimize(loss, np.array([0.0, 1.0]), method="Nelder-Mead", options={"xatol": 1e-5}).x[1])

    rng = np.random.default_rng(0)
    blocks = [np.array_split(x, 40) for x in (first, second)]
    draws = [fit(*(np.concatenate([parts[i] for i in rng.integers(0, 40, 40)]) for parts in blocks)) for _ in range(60)]
    return fit(first, second), float(np.std(draws))


def check_pressure(found: xr.Dataset, target_GPa: float, temperature: float = FLUID_T) -> None:
    pressure = found["pressure"].values
    assert abs(pressure.mean() - target_GPa) < 4.0 * standard_error(pressure) + 1e-3
    # the virial of the volume: <P V> = P0 <V> - kT for the conserved total momentum (3N - 3 degrees of freedom)
    work = (pressure * units.GPa - target_GPa * units.GPa) * found["volume"].values
    assert abs(work.mean() + units.kB * temperature) < 4.0 * standard_error(work)


def test_pressure_of_the_isotropic_barostat():
    check_pressure(sample("mtk_isotropic", 14.0, pressure_GPa=0.3), 0.3)


@pytest.mark.long
@pytest.mark.parametrize("target", [0.05, 0.1, 0.3])
def test_pressure_of_the_isotropic_barostat_long(target):
    check_pressure(sample("mtk_isotropic", 300.0, pressure_GPa=target), target)


class Argon(PairCalculator):
    """Lennard-Jones argon, cut and shifted in energy and force."""

    default_parameters = {"rc": 6.5, "sigma": 3.4, "epsilon": 0.0104}  # noqa: RUF012

    def pair(self, distance: Any) -> tuple[Any, Any]:
        at_cutoff = self._plain(np.array(float(self.parameters.rc)))
        energy, slope = self._plain(distance)
        return energy - at_cutoff[0] - at_cutoff[1] * (distance - self.parameters.rc), slope - at_cutoff[1]

    def _plain(self, distance: Any) -> tuple[Any, Any]:
        power = (self.parameters.sigma / distance) ** 6
        energy = 4.0 * self.parameters.epsilon
        return energy * (power**2 - power), -6.0 * energy * (2.0 * power**2 - power) / distance


@pytest.mark.parametrize("length", [14.0, pytest.param(150.0, marks=pytest.mark.long)])
def test_full_barostat_keeps_a_crystal_at_its_pressure(length):
    config = MolecularDynamics(
        ensemble="NPT",
        supercell_radius=None,
        time_step_fs=4.0,
        sampling_interval_fs=40.0,
        time_total_fs=1000.0 * length,
        time_equilibration_fs=2000.0,
        temperature_K=30.0,
        pressure_GPa=0.1,
        block_frames=100,
    )
    crystal = bulk("Ar", "fcc", a=5.3, cubic=True).repeat((2, 1, 1))
    run = drive(config, crystal, Potential("argon", "argon", Argon, {}), seed=3)
    assert run.error is None
    found = run.trajectory.isel(frame=run.trajectory["equilibration"].values == 0)
    check_pressure(found, 0.1, temperature=30.0)
    stress = found["stress"].values[:, :3]
    for axis in range(3):  # every direction for itself; the kinetic part is the same in all
        kinetic = 2.0 * found["kinetic_energy"].values / 3.0 / found["volume"].values
        along = (kinetic - stress[:, axis]) / units.GPa
        assert abs(along.mean() - 0.1) < 4.0 * standard_error(along) + 0.005
    angles = np.array([Atoms(cell=c).cell.angles() for c in found["cell"].values])
    assert np.ptp(angles) > 0.1  # the shape moves; eight atoms even slip into other cells of the same crystal


class IdealGas(PairCalculator):
    """No interaction at all."""

    default_parameters = {"rc": 1.0}  # noqa: RUF012

    def pair(self, distance: Any) -> tuple[Any, Any]:
        return 0.0 * distance, 0.0 * distance


@pytest.mark.parametrize("time_ps", [30.0, pytest.param(400.0, marks=pytest.mark.long)])
def test_volume_of_an_ideal_gas(time_ps):
    """With the total momentum at zero, P(V) ~ V**(N-1) exp(-P V / kT): <V> = N kT / P, variance N (kT / P)^2."""
    config = MolecularDynamics(
        ensemble="NPT",
        npt_algo="mtk_isotropic",
        supercell_radius=None,
        time_step_fs=10.0,
        sampling_interval_fs=200.0,
        time_total_fs=1000.0 * time_ps,
        time_equilibration_fs=4000.0,
        temperature_K=FLUID_T,
        pressure_GPa=0.02,
        block_frames=1000,
        barostat_time_fs=300.0,
        thermostat_time_fs=200.0,
    )
    run = drive(config, fluid(), Potential("ideal", "ideal", IdealGas, {}), seed=2)
    assert run.error is None
    volume = run.trajectory["volume"].values[20:]
    expected = 8 * units.kB * FLUID_T / (0.02 * units.GPa)
    assert abs(volume.mean() - expected) < 4.0 * standard_error(volume)
    assert volume.std() == pytest.approx(expected / np.sqrt(8), rel=0.35)


@pytest.mark.parametrize("time_ps", [4.0, pytest.param(100.0, marks=pytest.mark.long)])
def test_energy_does_not_drift_without_a_thermostat(time_ps):
    found = sample("velocity_verlet", time_ps, time_step_fs=2.0, time_equilibration_fs=0.0)
    energy = (found["energy"] + found["kinetic_energy"]).values
    slope = np.polyfit(found["time"].values, energy, 1)[0] * 1000.0  # eV/ps for 8 atoms
    assert abs(slope) < 2e-5 / np.sqrt(time_ps)
