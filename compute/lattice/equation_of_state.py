"""Equations of state: free energy against volume, its minimum, and how well the minimum is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEAST_POINTS", "PARAMETERS", "EquationOfState", "EquationOfStateFit", "birch_murnaghan", "fit", "vinet"]

EquationOfState = Literal["spline", "polynomial", "vinet", "birch_murnaghan"]
FloatArray = NDArray[np.float64]
Curve = Callable[[FloatArray], FloatArray]

LEAST_POINTS = {"spline": 4, "polynomial": 3, "vinet": 4, "birch_murnaghan": 4}
PARAMETERS = ("energy", "volume", "bulk_modulus", "bulk_modulus_derivative")
_CUBIC_FROM = 5


@dataclass(frozen=True, slots=True)
class EquationOfStateFit:
    """A curve through (volume, energy) points and its minimum.

    Attributes
    ----------
    form : str
        The form that was fitted: ``polynomial`` where another one could not be.
    parameters : array (4,)
        Energy (eV), volume (Angstrom^3), bulk modulus (eV/Angstrom^3) and its derivative with pressure at the minimum;
        NaN where there is no minimum.
    covariance : array (4, 4)
        Their covariance from the scatter of the points about the curve; NaN where there are no more points than
        parameters, and for a spline, which goes through every point.
    residual : float
        Root mean square distance of the points from the curve (eV), with the weights of the fit.
    inside : bool
        Whether the minimum lies within the volumes that were fitted.
    note : str
        Why the form is another one than asked for, or why there is no minimum; else empty.
    """

    form: EquationOfState
    parameters: FloatArray
    covariance: FloatArray
    residual: float
    inside: bool
    note: str = ""

    @property
    def found(self) -> bool:
        """Whether the curve has a minimum."""
        return bool(np.all(np.isfinite(self.parameters)))

    @property
    def volume(self) -> float:
        """Volume at the minimum (Angstrom^3)."""
        return float(self.parameters[1])


def birch_murnaghan(volume: FloatArray, e0: float, v0: float, b0: float, b1: float) -> FloatArray:
    """Third-order Birch-Murnaghan energy (F. Birch, Phys. Rev. 71, 809 (1947)), in the units of its parameters."""
    x = (v0 / volume) ** (2.0 / 3.0) - 1.0
    return e0 + 9.0 / 16.0 * v0 * b0 * x**2 * (2.0 + (b1 - 4.0) * x)


def vinet(volume: FloatArray, e0: float, v0: float, b0: float, b1: float) -> FloatArray:
    """Vinet energy (P. Vinet et al., J. Phys.: Condens. Matter 1, 1941 (1989)), in the units of its parameters.

    Written as ``E0 + 9 B0 V0 y^2 g(a y)`` with ``y = (V/V0)^(1/3) - 1``, ``a = 3/2 (B1 - 1)`` and
    ``g(z) = (1 - (1 + z) exp(-z)) / z^2``, which stays exact when ``a y`` is small.
    """
    y = np.cbrt(volume / v0) - 1.0
    z = 1.5 * (b1 - 1.0) * y
    small = np.abs(z) < 1e-2
    safe = np.where(small, 1.0, z)
    series = 0.5 - z / 3.0 + z**2 / 8.0 - z**3 / 30.0 + z**4 / 144.0 - z**5 / 840.0 + z**6 / 5760.0
    g = np.where(small, series, (-np.expm1(-safe) - safe * np.exp(-safe)) / safe**2)
    return e0 + 9.0 * b0 * v0 * y**2 * g


def fit(
    volumes: FloatArray,
    energies: FloatArray,
    form: EquationOfState = "birch_murnaghan",
    *,
    half_width: float | None = None,
) -> EquationOfStateFit:
    """Fit an equation of state and find its minimum.

    Parameters
    ----------
    volumes, energies : array (n,)
        Distinct volumes (Angstrom^3) in any order, and energies (eV).
    form : {"spline", "polynomial", "vinet", "birch_murnaghan"}
        ``polynomial`` is cubic in the volume from 5 points on, else quadratic. With fewer points than the form needs,
        or where a fit does not converge, a polynomial takes its place and ``note`` says so.
    half_width : float, optional
        Relative distance from the lowest point at which the weight of a point is one half (a Gaussian); by default all
        weigh the same. A spline has no weights.

    Returns
    -------
    EquationOfStateFit

    Raises
    ------
    ValueError
        On less than 3 points, or a value that is not finite.

    Notes
    -----
    The covariance is ``s^2 (J^T W J)^-1`` with ``s^2 = sum w r^2 / (n - p)``; that of a polynomial is carried over from
    its coefficients to the minimum by the derivatives of the minimum with respect to them.
    """
    order = np.argsort(volumes)
    v, e = np.asarray(volumes, dtype=np.float64)[order], np.asarray(energies, dtype=np.float64)[order]
    if len(v) < LEAST_POINTS["polynomial"] or not (np.all(np.isfinite(v)) and np.all(np.isfinite(e))):
        raise ValueError(f"an equation of state needs 3 or more finite points; found {len(v)}")
    weights = np.ones_like(v)
    if half_width is not None and form != "spline":
        centre = v[int(np.argmin(e))]
        weights = np.exp(-np.log(2.0) * ((v / centre - 1.0) / half_width) ** 2)
    if len(v) < LEAST_POINTS[form]:
        return _polynomial(v, e, weights, f"{form} needs {LEAST_POINTS[form]} points, there are {len(v)}")
    if form == "spline":
        return _spline(v, e)
    if form == "polynomial":
        return _polynomial(v, e, weights)
    return _nonlinear(v, e, weights, form)


def _nonlinear(
    v: FloatArray, e: FloatArray, weights: FloatArray, form: Literal["vinet", "birch_murnaghan"]
) -> EquationOfStateFit:
    """Least squares in scaled variables, from the minimum of a polynomial."""
    from scipy.optimize import OptimizeWarning, least_squares

    curve = vinet if form == "vinet" else birch_murnaghan
    start = _polynomial(v, e, weights)
    if not start.found:
        return _replace_note(start, f"{form}: no minimum to start from")
    e0, v0, b0, b1 = start.parameters
    scale = np.array([b0 * v0, v0, b0, 1.0])
    root = np.sqrt(weights)

    def residuals(x: FloatArray) -> FloatArray:
        found: FloatArray = root * (curve(v, x[0] * scale[0], *(x[1:] * scale[1:])) - (e - e0)) / scale[0]
        return found

    guess = np.array([0.0, 1.0, 1.0, b1 if 1.5 < b1 < 12.0 else 4.0])
    try:
        with np.errstate(all="ignore"):
            found = least_squares(residuals, guess, method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=2000)
    except (ValueError, OptimizeWarning) as error:
        return _replace_note(start, f"{form} could not be fitted: {error}")
    parameters = found.x * scale + np.array([e0, 0.0, 0.0, 0.0])
    if not (np.all(np.isfinite(parameters)) and parameters[1] > 0.0 and parameters[2] > 0.0):
        return _replace_note(start, f"{form} could not be fitted: no minimum")
    inverse = np.linalg.pinv(found.jac.T @ found.jac)
    scatter = float(found.fun @ found.fun)
    free = len(v) - 4
    covariance = inverse * (scatter / free) * np.outer(scale, scale) if free > 0 else np.full((4, 4), np.nan)
    residual = scale[0] * np.sqrt(scatter / weights.sum())
    return EquationOfStateFit(form, parameters, covariance, float(residual), _within(v, parameters[1]))


def _polynomial(v: FloatArray, e: FloatArray, weights: FloatArray, note: str = "") -> EquationOfStateFit:
    """A polynomial in ``x = V / V_mean - 1``, its minimum, and the covariance of the minimum."""
    degree = 3 if len(v) >= _CUBIC_FROM else 2
    mean = float(v.mean())
    x = v / mean - 1.0
    design = np.vander(x, degree + 1, increasing=True)
    root = np.sqrt(weights)
    offset = float(e.min())
    coefficients = np.linalg.lstsq(root[:, None] * design, root * (e - offset), rcond=None)[0]
    misfit = root * (design @ coefficients - (e - offset))
    scatter = float(misfit @ misfit)
    residual = float(np.sqrt(scatter / weights.sum()))
    c = np.zeros(4)
    c[: degree + 1] = coefficients
    at = _lowest_point(c)
    if at is None:
        return EquationOfStateFit("polynomial", *_nothing(), residual, False, note or "the polynomial has no minimum")
    parameters = _at_minimum(c, at, mean)
    parameters[0] += offset
    free = len(v) - degree - 1
    covariance = np.full((4, 4), np.nan)
    if free > 0:
        spread = np.linalg.inv((design * weights[:, None]).T @ design) * scatter / free
        jacobian = _derivatives(c, at, mean)[:, : degree + 1]
        covariance = jacobian @ spread @ jacobian.T
    return EquationOfStateFit("polynomial", parameters, covariance, residual, _within(v, parameters[1]), note)


def _lowest_point(c: FloatArray) -> float | None:
    """Where the cubic ``c`` has its minimum, in the reduced volume; None where it has none above zero volume."""
    discriminant = c[2] ** 2 - 3.0 * c[1] * c[3]
    if discriminant <= 0.0:
        return None
    slope = c[2] + np.sqrt(discriminant)  # the root with positive curvature, free of cancellation for small c[3]
    if slope == 0.0:
        return None
    at = float(-c[1] / slope)
    return at if at > -1.0 and 2.0 * c[2] + 6.0 * c[3] * at > 0.0 else None


def _at_minimum(c: FloatArray, at: float, mean: float) -> FloatArray:
    """Energy, volume, ``V E''`` and ``-1 - V E''' / E''`` at a stationary point of a polynomial in V."""
    energy = c[0] + at * (c[1] + at * (c[2] + at * c[3]))
    second = 2.0 * c[2] + 6.0 * c[3] * at
    return np.array([energy, mean * (1.0 + at), (1.0 + at) * second / mean, -1.0 - (1.0 + at) * 6.0 * c[3] / second])


def _derivatives(c: FloatArray, at: float, mean: float) -> FloatArray:
    """Derivatives (4, 4) of ``_at_minimum`` with respect to the coefficients, the minimum moving with them."""
    powers = at ** np.arange(4)
    slope = np.array([0.0, 1.0, 2.0 * at, 3.0 * at**2])
    curvature = np.array([0.0, 0.0, 2.0, 6.0 * at])
    second, third = 2.0 * c[2] + 6.0 * c[3] * at, 6.0 * c[3]
    shift = -slope / second
    d_second = curvature + third * shift
    d_third = np.array([0.0, 0.0, 0.0, 6.0])
    bulk = (shift * second + (1.0 + at) * d_second) / mean
    prime = -(shift * third + (1.0 + at) * d_third) / second + (1.0 + at) * third * d_second / second**2
    return np.stack([powers, mean * shift, bulk, prime])


def _spline(v: FloatArray, e: FloatArray) -> EquationOfStateFit:
    """A cubic spline through all points ("not-a-knot"), and its lowest minimum between them."""
    from scipy.interpolate import CubicSpline

    curve: Any = CubicSpline(v, e)
    slope = curve.derivative()
    stationary = [float(x) for x in slope.roots(extrapolate=False) if v[0] < x < v[-1] and curve(x, 2) > 0.0]
    if not stationary:
        return EquationOfStateFit("spline", *_nothing(), 0.0, False, "the spline has no minimum between the volumes")
    at = min(stationary, key=lambda x: float(curve(x)))
    second, third = float(curve(at, 2)), float(curve(at, 3))
    parameters = np.array([float(curve(at)), at, at * second, -1.0 - at * third / second])
    return EquationOfStateFit("spline", parameters, np.full((4, 4), np.nan), 0.0, True)


def _nothing() -> tuple[FloatArray, FloatArray]:
    return np.full(4, np.nan), np.full((4, 4), np.nan)


def _within(v: FloatArray, volume: float) -> bool:
    return bool(v[0] < volume < v[-1])


def _replace_note(found: EquationOfStateFit, note: str) -> EquationOfStateFit:
    return EquationOfStateFit(found.form, found.parameters, found.covariance, found.residual, found.inside, note)
