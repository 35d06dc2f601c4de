"""One oscillator against 50-digit arithmetic, and the sum over a mesh."""

from __future__ import annotations

from itertools import product

import mpmath
import numpy as np
import pytest
from phonopy.physical_units import get_physical_units

from h5ml.compute.lattice import harmonic

FREQUENCIES = (0.1, 0.3, 1.0, 7.7, 50.0)
TEMPERATURES = np.logspace(-12, 6, 37)


def exact(name: str, nu: float, T: float) -> mpmath.mpf:
    """The same function with 50 digits."""
    with mpmath.workdps(50):
        h, k = mpmath.mpf("4.13566733e-3"), mpmath.mpf("1.3806504e-23") / mpmath.mpf("1.60217733e-19")
        quantum, x = h * mpmath.mpf(nu), h * mpmath.mpf(nu) / (k * mpmath.mpf(T))
        n = 1 / mpmath.expm1(x)  # log1p and expm1 keep the 50 digits where exp(-x) is far below 1e-50
        found = {
            "free_energy": quantum / 2 + k * mpmath.mpf(T) * mpmath.log1p(-mpmath.exp(-x)),
            "energy": quantum * (n + mpmath.mpf(1) / 2),
            "entropy": k * (x * n - mpmath.log1p(-mpmath.exp(-x))),
            "heat_capacity": k * x**2 * n * (n + 1),
        }
        return +found[name]


@pytest.mark.parametrize("name", ["free_energy", "energy", "entropy", "heat_capacity"])
def test_an_oscillator_is_exact_to_ten_digits_from_a_picokelvin_to_a_million_kelvin(name: str) -> None:
    for nu, T in product(FREQUENCIES, TEMPERATURES):
        wanted = exact(name, nu, float(T))
        found = float(getattr(harmonic, name)(nu, float(T)))
        if abs(wanted) < 1e-290:  # below the smallest number that a double holds with all digits
            assert abs(found) < 1e-289
        else:
            assert abs((mpmath.mpf(found) - wanted) / wanted) < 1e-10, (nu, T)


def test_one_mode_has_the_published_energies_and_amplitude() -> None:
    values = [
        harmonic.energy(1.0, 298.15) * harmonic.KJ_PER_MOL,
        harmonic.free_energy(1.0, 298.15) * harmonic.KJ_PER_MOL,
        harmonic.entropy(1.0, 298.15) * harmonic.KJ_PER_MOL * 1e3,
        harmonic.heat_capacity(1.0, 298.15) * harmonic.KJ_PER_MOL * 1e3,
        np.sqrt(harmonic.mean_square_amplitude(1.0, 298.15, 12.011)),
    ]
    # The tolerance is one half of the last digit, and the 2e-8 by which units of mass differ between tables.
    assert values == pytest.approx([2.484310, -4.525279, 23.510277, 8.296543, 0.723825], abs=5.2e-7, rel=0)


def test_the_constants_are_those_of_phonopy() -> None:
    theirs = get_physical_units()
    assert (theirs.THzToEv, theirs.KB) == (harmonic.QUANTUM_EV, harmonic.BOLTZMANN_EV)
    assert (theirs.EV, theirs.AMU, theirs.EvTokJmol) == (harmonic.CHARGE_C, harmonic.AMU_KG, harmonic.KJ_PER_MOL)


def test_at_zero_kelvin_only_the_zero_point_is_left() -> None:
    nu = np.array([0.1, 5.0])
    assert np.array_equal(harmonic.free_energy(nu, 0.0), harmonic.zero_point_energy(nu))
    assert np.array_equal(harmonic.energy(nu, 0.0), harmonic.zero_point_energy(nu))
    assert not harmonic.entropy(nu, 0.0).any()
    assert not harmonic.heat_capacity(nu, 0.0).any()
    with pytest.raises(ValueError, match="positive"):
        harmonic.energy(0.0, 300.0)


def test_the_sum_over_a_mesh_weighs_points_and_counts_what_it_leaves_out() -> None:
    frequency = np.array([[1.0, 2.0], [-0.5, 1e-6]])
    found = harmonic.thermodynamics(frequency, [3, 1], [0.0, 300.0], cutoff_THz=1e-3)
    one = harmonic.entropy([1.0, 2.0], 300.0).sum()
    assert found.entropy == pytest.approx([0.0, 0.75 * one], rel=1e-14)
    assert found.free_energy[0] == found.zero_point_energy
    assert (found.n_excluded, found.excluded_fraction) == (2, 0.25)
    assert np.allclose(found.free_energy, found.energy - found.temperature * found.entropy, rtol=1e-12)
