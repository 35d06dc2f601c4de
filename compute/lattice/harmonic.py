"""Thermodynamics of harmonic oscillators, accurate from zero kelvin to the classical limit.

All functions take frequencies (THz) and temperatures (K) of any shapes that broadcast. With ``x = h nu / k_B T``::

    F = h nu / 2 + k_B T ln(1 - exp(-x))             free energy
    E = h nu / 2 + h nu / (exp(x) - 1)               energy
    S = k_B (x / (exp(x) - 1) - ln(1 - exp(-x)))     entropy
    C = k_B x^2 exp(x) / (exp(x) - 1)^2              heat capacity at constant volume

(any textbook of statistical mechanics, such as D. A. McQuarrie, *Statistical Mechanics*, section 5-2). Each is
written without the difference of nearly equal numbers and without an exponential that overflows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# phonopy's constants, so that its frequencies and ours belong together. Those of the SI of 2019 differ by 6e-7.
QUANTUM_EV = 4.13566733e-3
"""Energy of a quantum of 1 THz (eV)."""

CHARGE_C = 1.60217733e-19
AMU_KG = 1.6605402e-27

BOLTZMANN_EV = 1.3806504e-23 / CHARGE_C
"""Boltzmann constant (eV/K)."""

KJ_PER_MOL = CHARGE_C * 6.02214179e23 / 1000.0
"""One eV per particle (kJ/mol)."""

_FROZEN = 1e300  # stands for h nu / k_B T at zero kelvin: exp(-x) is exactly zero
_LOG_2 = float(np.log(2.0))


def reduced_frequency(frequency_THz: ArrayLike, temperature_K: ArrayLike) -> Floats:
    """``h nu / k_B T``; a very large number at zero kelvin."""
    nu, T = np.broadcast_arrays(np.asarray(frequency_THz, dtype=float), np.asarray(temperature_K, dtype=float))
    if np.any(nu <= 0.0) or np.any(T < 0.0):
        raise ValueError("frequencies must be positive, and temperatures at least 0 K")
    x = np.full(nu.shape, _FROZEN)
    with np.errstate(over="ignore"):
        np.divide(QUANTUM_EV / BOLTZMANN_EV * nu, T, out=x, where=T > 0.0)
    found: Floats = np.minimum(x, _FROZEN)
    return found


def _log_one_minus_exp(x: Floats) -> Floats:
    """``ln(1 - exp(-x))`` to full precision (M. Maechler, *Accurately computing log(1 - exp(-|a|))*, 2012)."""
    small = x < _LOG_2
    found = np.log1p(-np.exp(-np.where(small, _LOG_2, x)))
    return np.where(small, np.log(-np.expm1(-np.where(small, x, _LOG_2))), found)


def _occupation(x: Floats) -> Floats:
    return np.exp(-x) / -np.expm1(-x)


def zero_point_energy(frequency_THz: ArrayLike) -> Floats:
    """Energy at zero kelvin (eV)."""
    return 0.5 * QUANTUM_EV * np.asarray(frequency_THz, dtype=float)


def occupation(frequency_THz: ArrayLike, temperature_K: ArrayLike) -> Floats:
    """Mean number of quanta, the Bose-Einstein distribution."""
    return _occupation(reduced_frequency(frequency_THz, temperature_K))


def free_energy(frequency_THz: ArrayLike, temperature_K: ArrayLike) -> Floats:
    """Helmholtz energy (eV), with the zero point."""
    x = reduced_frequency(frequency_THz, temperature_K)
    return zero_point_energy(frequency_THz) + BOLTZMANN_EV * np.asarray(temperature_K) * _log_one_minus_exp(x)


def energy(frequency_THz: ArrayLike, temperature_K: ArrayLike) -> Floats:
    """Mean energy (eV), with the zero point."""
    nu = np.asarray(frequency_THz, dtype=float)
    return QUANTUM_EV * nu * (0.5 + occupation(nu, temperature_K))


def entropy(frequency_THz: ArrayLike, temperature_K: ArrayLike) -> Floats:
    """Entropy (eV/K)."""
    x = reduced_frequency(frequency_THz, temperature_K)
    return BOLTZMANN_EV * (x * _occupation(x) - _log_one_minus_exp(x))


def heat_capacity(frequency_THz: ArrayLike, temperature_K: ArrayLike) -> Floats:
    """Heat capacity at constant volume (eV/K)."""
    x = reduced_frequency(frequency_THz, temperature_K)
    root: Floats = x * np.exp(-0.5 * x) / -np.expm1(-x)
    found: Floats = BOLTZMANN_EV * root * root
    return found


def mean_square_amplitude(frequency_THz: ArrayLike, temperature_K: ArrayLike, mass_amu: ArrayLike) -> Floats:
    """Mean square displacement of an oscillator along its coordinate, ``E / (m omega^2)`` (Angstrom^2)."""
    nu = np.asarray(frequency_THz, dtype=float)
    unit = CHARGE_C / (AMU_KG * (2.0 * np.pi * 1e12) ** 2) * 1e20  # eV / (amu THz^2) in Angstrom^2
    found: Floats = unit * energy(nu, temperature_K) / (np.asarray(mass_amu, dtype=float) * nu**2)
    return found


@dataclass(frozen=True, slots=True)
class Thermodynamics:
    """Functions of all modes of a cell, along temperature.

    Attributes
    ----------
    temperature : array (T,)
        Temperatures (K).
    free_energy, energy : array (T,)
        Helmholtz energy and mean energy of a primitive cell (eV).
    entropy, heat_capacity : array (T,)
        Of a primitive cell (eV/K).
    zero_point_energy : float
        Of a primitive cell (eV).
    n_excluded : int
        Modes (of the q-points given, without weights) at or below the cutoff, which were left out.
    excluded_fraction : float
        Their share of all modes, with weights.
    """

    temperature: Floats
    free_energy: Floats
    energy: Floats
    entropy: Floats
    heat_capacity: Floats
    zero_point_energy: float
    n_excluded: int
    excluded_fraction: float


def thermodynamics(
    frequency_THz: ArrayLike, weight: ArrayLike, temperature_K: ArrayLike, *, cutoff_THz: float = 0.0
) -> Thermodynamics:
    """Sum over the modes of a mesh.

    Parameters
    ----------
    frequency_THz : array (q, mode)
        Frequencies (THz); negative means imaginary.
    weight : array (q,)
        Weights of the q-points, of any sum.
    temperature_K : array (T,)
        Temperatures (K), at least 0.
    cutoff_THz : float
        Only frequencies above it count. The three translations at Gamma come out as noise of some 1e-6 THz.

    Returns
    -------
    Thermodynamics
        For one primitive cell.
    """
    nu = np.asarray(frequency_THz, dtype=float)
    of_point = np.asarray(weight, dtype=float)
    share = np.broadcast_to((of_point / of_point.sum())[:, None], nu.shape)
    T = np.atleast_1d(np.asarray(temperature_K, dtype=float))
    keep = nu > max(cutoff_THz, 0.0)
    kept, w = nu[keep], share[keep]

    def total(function: Any) -> Floats:
        return np.array([np.sum(w * function(kept, one)) for one in T])

    return Thermodynamics(
        T,
        total(free_energy),
        total(energy),
        total(entropy),
        total(heat_capacity),
        float(np.sum(w * zero_point_energy(kept))),
        int(np.count_nonzero(~keep)),
        float(np.sum(share[~keep]) / nu.shape[1]),
    )
