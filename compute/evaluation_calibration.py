"""Whether the spread of an ensemble tells its error, and the factor that makes it do so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_BINS = 10


@dataclass(frozen=True, slots=True)
class Calibration:
    """How uncertainties relate to errors.

    Attributes
    ----------
    factor : float
        Conformal factor: uncertainties times this cover a share ``1 - alpha`` of the errors. Infinite where there are
        too few.
    coverage : float
        Share that is covered on frames that a factor was not derived from.
    plain_coverage : float
        Share of errors below the uncertainty itself; 0.683 for a Gaussian one.
    correlation : float
        Spearman's rank correlation of uncertainty and error; NaN where one of them is constant.
    bin_spread, bin_error : array (10,)
        Root mean squares of uncertainty and error in ten parts of equal number, by rising uncertainty.
    """

    factor: float
    coverage: float
    plain_coverage: float
    correlation: float
    bin_spread: Floats
    bin_error: Floats


def spread(predictions: NDArray[Any]) -> Floats:
    """Uncertainty of vectors or scalars: the root of the variance over members, averaged over components.

    Parameters
    ----------
    predictions : array (members, items) or (members, items, components)
        Of every member. The variance is that of the population, per component.
    """
    deviation = predictions - predictions.mean(axis=0)
    squares = np.mean(deviation**2, axis=0)
    found: Floats = np.sqrt(squares if squares.ndim == 1 else squares.mean(axis=1))
    return found


def conformal_factor(error: Floats, uncertainty: Floats, alpha: float) -> float:
    """The smallest factor that covers errors with a probability of at least ``1 - alpha``.

    Parameters
    ----------
    error, uncertainty : array (n,)
        Absolute errors and their uncertainties.
    alpha : float
        Share that may lie outside.

    Returns
    -------
    float
        The ``ceil((n + 1) (1 - alpha))``-th smallest of the scores ``error / uncertainty``; infinite where ``n`` is
        too small for that.

    Notes
    -----
    Split conformal prediction: V. Vovk et al., Algorithmic Learning in a Random World (2005), ch. 2; A. Angelopoulos
    and S. Bates, arXiv:2107.07511, sec. 2.3.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = np.where(error == 0.0, 0.0, error / uncertainty)
    rank = int(np.ceil((len(scores) + 1) * (1.0 - alpha) - 1e-9))
    return float(np.sort(scores)[rank - 1]) if 0 < rank <= len(scores) else float("inf")


def calibrate(
    error: Floats, uncertainty: Floats, frame: NDArray[np.int64], alpha: float, rng: np.random.Generator
) -> Calibration:
    """Compare uncertainties with errors.

    Parameters
    ----------
    error, uncertainty : array (n,)
        Absolute errors and their uncertainties; pairs that are not finite do not count.
    frame : array (n,) of int
        The frame of each: a frame counts wholly on one side where the coverage is measured.
    alpha : float
        Share of errors that may be larger than the calibrated uncertainty.
    rng : numpy.random.Generator
        Which frames the coverage is measured on.
    """
    known = np.isfinite(error) & np.isfinite(uncertainty)
    error, uncertainty, frame = error[known], uncertainty[known], frame[known]
    if not len(error):
        nothing = np.full(_BINS, np.nan)
        return Calibration(float("inf"), *(float("nan"),) * 3, nothing, nothing)
    frames = np.unique(frame)
    first = np.isin(frame, rng.permutation(frames)[: len(frames) // 2])
    halves = []
    for mine in (first, ~first):
        factor = conformal_factor(error[mine], uncertainty[mine], alpha)
        if np.isfinite(factor) and (~mine).any():
            halves.append(float(np.mean(error[~mine] <= factor * uncertainty[~mine])))
    order = np.argsort(uncertainty, kind="stable")
    parts = np.array_split(order, _BINS)
    return Calibration(
        conformal_factor(error, uncertainty, alpha),
        float(np.mean(halves)) if halves else float("nan"),
        float(np.mean(error <= uncertainty)),
        _rank_correlation(error, uncertainty),
        np.array([_rms(uncertainty[part]) for part in parts]),
        np.array([_rms(error[part]) for part in parts]),
    )


def _rank_correlation(one: Floats, other: Floats) -> float:
    from scipy.stats import rankdata

    ranks = rankdata(one), rankdata(other)
    if min(float(np.ptp(values)) for values in ranks) == 0.0:
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(values**2))) if len(values) else float("nan")
