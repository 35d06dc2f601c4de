"""Equations of state: exact parameters back, honest covariances, and a word where there is no minimum."""

from __future__ import annotations

import numpy as np
import pytest
from ase.units import GPa
from phonopy.qha.eos import fit_to_eos, get_eos

from h5ml.compute.lattice.equation_of_state import EquationOfState, birch_murnaghan, fit, vinet

TRUE = np.array([-3.7, 11.8, 140.0 * GPa, 5.2])  # eV, Angstrom^3, eV/Angstrom^3, 1: copper
VOLUMES = TRUE[1] * np.linspace(0.92, 1.10, 10)
CURVES = {"birch_murnaghan": birch_murnaghan, "vinet": vinet}


@pytest.mark.parametrize("form", ["birch_murnaghan", "vinet"])
def test_the_curves_are_those_of_phonopy(form: str) -> None:
    e0, v0, b0, b1 = TRUE
    theirs = get_eos(form)(VOLUMES, np.array([e0, b0, b1, v0]))
    assert np.allclose(CURVES[form](VOLUMES, *TRUE), theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["birch_murnaghan", "vinet"])
@pytest.mark.parametrize("half_width", [None, 0.04])
def test_exact_data_give_their_parameters_back(form: EquationOfState, half_width: float | None) -> None:
    found = fit(VOLUMES[::-1], CURVES[form](VOLUMES[::-1], *TRUE), form, half_width=half_width)
    assert found.inside
    assert np.allclose(found.parameters, TRUE, rtol=1e-8)
    assert found.residual < 1e-10
    assert np.sqrt(np.diag(found.covariance)) == pytest.approx(np.zeros(4), abs=1e-6)


def test_a_cubic_and_a_quadratic_are_found_exactly() -> None:
    x = VOLUMES / 12.0 - 1.0
    cubic = fit(VOLUMES, 0.3 - 0.01 * x + 9.0 * x**2 - 20.0 * x**3, "polynomial")
    at = (9.0 - np.sqrt(81.0 - 0.6)) / 60.0  # the stationary point of smaller volume is the minimum
    assert cubic.volume == pytest.approx(12.0 * (1.0 + at), rel=1e-10)
    curvature = 18.0 - 120.0 * at
    assert cubic.parameters[2] == pytest.approx((1.0 + at) * curvature / 12.0, rel=1e-9)
    assert cubic.parameters[3] == pytest.approx(-1.0 + (1.0 + at) * 120.0 / curvature, rel=1e-8)
    quadratic = fit(VOLUMES[:3], 2.0 + (VOLUMES[:3] - 11.0) ** 2, "polynomial")
    assert quadratic.parameters == pytest.approx([2.0, 11.0, 22.0, -1.0])
    assert np.isnan(quadratic.covariance).all()  # three points, three parameters: nothing is known of their scatter


def test_all_forms_agree_on_a_smooth_curve() -> None:
    energies = vinet(VOLUMES, *TRUE)
    for form, volume, bulk in [("spline", 1e-4, 1e-2), ("polynomial", 2e-3, 3e-2), ("birch_murnaghan", 1e-4, 3e-3)]:
        found = fit(VOLUMES, energies, form)  # type: ignore[arg-type]
        assert found.volume == pytest.approx(TRUE[1], rel=volume)
        assert found.parameters[2] == pytest.approx(TRUE[2], rel=bulk)


@pytest.mark.parametrize("form", ["birch_murnaghan", "vinet", "polynomial"])
def test_the_covariance_is_the_scatter_of_repeated_fits(form: EquationOfState) -> None:
    """Over 200 draws a standard deviation is known to 5 %, a variance to 10 %; 4 sigmas are allowed."""
    rng = np.random.default_rng(3)
    noise = 1e-4
    if form == "polynomial":
        x = VOLUMES / TRUE[1] - 1.0
        exact = 5.0 * x**2 - 8.0 * x**3
    else:
        exact = CURVES[form](VOLUMES, *TRUE)
    fits = [fit(VOLUMES, exact + rng.normal(scale=noise, size=len(VOLUMES)), form) for _ in range(200)]
    scatter = np.cov([found.parameters for found in fits], rowvar=False)
    predicted = np.mean([found.covariance for found in fits], axis=0)
    assert np.allclose(np.diag(predicted) / np.diag(scatter), 1.0, atol=0.4)
    correlation = scatter / np.sqrt(np.outer(np.diag(scatter), np.diag(scatter)))
    expected = predicted / np.sqrt(np.outer(np.diag(predicted), np.diag(predicted)))
    assert np.allclose(correlation, expected, atol=0.2)
    residuals = np.array([found.residual for found in fits])
    assert np.sqrt(np.mean(residuals**2)) == pytest.approx(noise * np.sqrt(1.0 - 4.0 / len(VOLUMES)), rel=0.1)


def test_a_noisy_fit_equals_that_of_phonopy() -> None:
    energies = vinet(VOLUMES, *TRUE) + np.random.default_rng(1).normal(scale=1e-4, size=len(VOLUMES))
    e0, b0, b1, v0 = fit_to_eos(VOLUMES, energies, get_eos("vinet"))
    assert fit(VOLUMES, energies, "vinet").parameters == pytest.approx([e0, v0, b0, b1], rel=1e-4)


@pytest.mark.parametrize("form", ["birch_murnaghan", "vinet", "polynomial", "spline"])
def test_a_minimum_outside_the_volumes_is_said(form: EquationOfState) -> None:
    beyond = TRUE[1] * np.linspace(1.02, 1.10, 6)
    found = fit(beyond, vinet(beyond, *TRUE), form)
    assert not found.inside
    assert found.found == (form != "spline")
    assert not found.found or found.volume < beyond[0]


def test_what_cannot_be_fitted_is_a_polynomial_or_nothing_and_says_why() -> None:
    three = fit(VOLUMES[3:6], vinet(VOLUMES[3:6], *TRUE), "vinet")
    assert (three.form, three.note) == ("polynomial", "vinet needs 4 points, there are 3")
    hill = fit(VOLUMES, -vinet(VOLUMES, *TRUE), "birch_murnaghan")
    assert not hill.inside
    with pytest.raises(ValueError, match="3 or more"):
        fit(VOLUMES[:2], VOLUMES[:2])
    with pytest.raises(ValueError, match="finite"):
        fit(VOLUMES[:3], np.array([1.0, np.nan, 2.0]))
