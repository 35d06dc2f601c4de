"""The thermodynamics of the quasi-harmonic approximation on crystals whose answer is known in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase.units import GPa
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq

from h5ml.compute.lattice.equation_of_state import birch_murnaghan
from h5ml.compute.lattice.harmonic import entropy, free_energy, heat_capacity
from h5ml.compute.quasi_harmonic_config import QuasiHarmonic
from h5ml.compute.quasi_harmonic_thermodynamics import (
    Row,
    Surface,
    completed,
    fits_table,
    fitted_rows,
    fixed_volume_rows,
    thermodynamics_table,
)
from h5ml.compute.quasi_harmonic_volumes import Sample, sampled_table

STATIC = (-3.0, 16.0, 75.0 * GPa, 4.5)  # energy, volume, bulk modulus and its derivative of a soft metal
GAMMA = 2.1
TEMPERATURES = tuple(np.linspace(0.0, 600.0, 25))


def frequency(volume: float) -> float:
    """Every mode of the crystal has this frequency (THz): Grueneisen's law with one parameter."""
    return float(6.0 * (volume / STATIC[1]) ** -GAMMA)


def crystal(volume: float, **more: Any) -> Sample:
    return Sample(
        label=f"V={volume:.3f}",
        asked=volume / STATIC[1],
        volume=volume,
        energy=float(birch_murnaghan(np.array(volume), *STATIC)),
        space_group="Fm-3m",
        cell=np.eye(3) * volume ** (1.0 / 3.0),
        n_atoms=1,
        frequencies=np.full((4, 3), frequency(volume)),
        weights=np.array([1.0, 2.0, 2.0, 3.0]),
        **more,
    )


def settings(**more: Any) -> QuasiHarmonic:
    return QuasiHarmonic(**{"temperatures_K": TEMPERATURES, "equation_of_state": "birch_murnaghan", **more})


def true_volume(temperature: float, pressure_GPa: float) -> float:
    """Where the derivative of the Gibbs energy vanishes, by finite differences and bisection."""

    def slope(volume: float) -> float:
        def gibbs(v: float) -> float:
            static = float(birch_murnaghan(np.array(v), *STATIC))
            return static + 3.0 * float(free_energy(frequency(v), temperature)) + pressure_GPa * GPa * v

        return (gibbs(volume + 1e-3) - gibbs(volume - 1e-3)) / 2e-3

    return float(brentq(slope, 13.0, 19.0, xtol=1e-10))


VOLUMES = STATIC[1] * np.linspace(0.94, 1.10, 17)


@pytest.mark.parametrize("form", ["birch_murnaghan", "vinet", "spline"])
@pytest.mark.parametrize("pressure", [1e-4, 2.0])
def test_the_crystal_of_einstein_and_grueneisen_expands_as_it_must(form: str, pressure: float) -> None:
    config = settings(equation_of_state=form, pressure_GPa=pressure)
    rows = completed(fitted_rows(Surface([crystal(v) for v in VOLUMES], config)))
    for row in rows:
        v, nu = row.values, frequency(row.values["volume"])
        # The sum of a Birch-Murnaghan energy and the vibrations is no longer of that form, nor of Vinet's.
        assert v["volume"] == pytest.approx(true_volume(row.temperature, pressure), rel=2e-5)
        assert row.temperature < 40.0 or v["grueneisen_parameter"] == pytest.approx(GAMMA, rel=1e-3)
        capacity = 3.0 * float(heat_capacity(nu, row.temperature))
        assert v["heat_capacity"] == pytest.approx(capacity, rel=1e-5, abs=1e-12)
        assert v["entropy"] == pytest.approx(3.0 * float(entropy(nu, row.temperature)), rel=1e-5, abs=1e-12)
        assert v["thermal_pressure"] * GPa * v["volume"] == pytest.approx(GAMMA * v["internal_energy"], rel=1e-3)
    inside = [row.values for row in rows[2:-1]]
    direct = np.array([v["thermal_expansion"] for v in inside])
    from_entropy = np.array([v["thermal_expansion_from_entropy"] for v in inside])
    assert np.allclose(direct, from_entropy, rtol=0.03, atol=2e-7)
    assert rows[0].values["thermal_expansion"] == 0.0


def test_the_heat_capacity_at_constant_pressure_is_the_slope_of_the_enthalpy() -> None:
    rows = completed(fitted_rows(Surface([crystal(v) for v in VOLUMES], settings())))
    temperatures = np.array([row.temperature for row in rows])
    slope = CubicSpline(temperatures, [row.values["enthalpy"] for row in rows])(temperatures, 1)
    found = np.array([row.values["heat_capacity_p"] for row in rows])
    assert np.allclose(found[5:-1], slope[5:-1], rtol=3e-3)
    for row in rows[1:]:
        v = row.values
        assert v["gibbs_energy"] == pytest.approx(v["enthalpy"] - row.temperature * v["entropy"], abs=1e-9)
        assert v["bulk_modulus_adiabatic"] / v["bulk_modulus"] == pytest.approx(
            v["heat_capacity_p"] / v["heat_capacity"]
        )


def test_the_error_of_the_volume_covers_the_noise_of_the_energies() -> None:
    """Over 100 draws; standard deviations agree within four of their own errors of 7 %."""
    rng = np.random.default_rng(8)
    config = settings(temperatures_K=(300.0,), eos_weight_half_width=None)
    volumes, errors = [], []
    for _ in range(100):
        noisy = [crystal(v) for v in VOLUMES]
        noisy = [Sample(**{**_fields(s), "energy": s.energy + rng.normal(scale=2e-5)}) for s in noisy]
        [row] = fitted_rows(Surface(noisy, config))
        volumes.append(row.values["volume"])
        errors.append(row.values["volume_error"])
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(volumes), rel=0.3)


def _fields(sample: Sample) -> dict[str, Any]:
    return {name: getattr(sample, name) for name in Sample.__slots__}


def test_a_minimum_outside_the_volumes_is_a_nan_row_with_a_reason() -> None:
    narrow = [crystal(v) for v in STATIC[1] * np.linspace(0.98, 1.015, 6)]
    rows = completed(fitted_rows(Surface(narrow, settings(temperatures_K=(0.0, 50.0, 600.0)))))
    assert [bool(row.reason) for row in rows] == [False, False, True]
    assert "outside the volumes" in rows[2].reason
    table = thermodynamics_table(rows, {}, expansion=True)
    assert np.isnan(table["volume"][2])
    assert np.isnan(table["gibbs_energy"][2])
    assert str(table["reason"][2].item()) == rows[2].reason
    fits = fits_table(rows)
    assert list(fits["minimum_inside"].to_numpy()) == [1, 1, 0]
    assert np.isfinite(fits["volume"][2])  # the fit itself is kept
    kept = fitted_rows(Surface(narrow, settings(temperatures_K=(600.0,), filter_out_extrapolated_minimum=False)))
    assert kept[0].values["volume"] == pytest.approx(true_volume(600.0, 1e-4), rel=5e-3)


def test_too_few_usable_volumes_are_nan_rows_that_name_what_is_left_out() -> None:
    samples = [crystal(15.0), crystal(16.0), crystal(17.0).failed("imaginary optical mode of -1.234 THz")]
    rows = completed(fitted_rows(Surface(samples, settings(temperatures_K=(100.0, 200.0)))))
    assert all("2 usable volumes" in row.reason and "-1.234 THz" in row.reason for row in rows)
    assert fits_table(rows)["form"].values.tolist() == ["none", "none"]
    table = sampled_table(samples, settings(), samples[0])
    assert table["used"].values.tolist() == [1, 1, 0]
    assert np.isfinite(table["volume"]).all()


def test_one_volume_gives_the_harmonic_functions() -> None:
    config = settings(pressure_GPa=(0.0, 1.0), temperatures_K=(0.0, 300.0))
    rows = completed(fixed_volume_rows(crystal(16.0), config))
    assert [(row.temperature, row.pressure) for row in rows] == [(0.0, 0.0), (300.0, 0.0), (0.0, 1.0), (300.0, 1.0)]
    assert rows[3].values["gibbs_energy"] - rows[1].values["gibbs_energy"] == pytest.approx(16.0 * GPa)
    assert rows[0].values["free_energy"] == pytest.approx(3.0 * float(free_energy(6.0, 0.0)))
    failed = completed([Row(300.0, 0.0).failed("nothing")])
    assert failed[0].reason == "nothing"
    assert not failed[0].values
