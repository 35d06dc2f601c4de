"""Block averaging against the known errors of correlated series."""

from __future__ import annotations

import numpy as np
import pytest

from h5ml.compute.structure.blocking import reblock


def autoregressive(phi: float, n: int, seed: int) -> np.ndarray:
    """A stationary series of variance 1 with the autocorrelation ``phi**t``."""
    noise = np.random.default_rng(seed).normal(size=n)
    series = np.empty(n)
    series[0] = noise[0]
    for t in range(1, n):
        series[t] = phi * series[t - 1] + np.sqrt(1 - phi**2) * noise[t]
    return series


def exact_error(phi: float, n: int) -> float:
    """Standard error of the mean of such a series, with the sum over all lags done."""
    lags = np.arange(1, n)
    return float(np.sqrt((1 + 2 * np.sum((1 - lags / n) * phi**lags)) / n))


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9, 0.97])
def test_the_error_is_right_within_its_own_uncertainty(phi: float) -> None:
    n, found = 8192, []
    for seed in range(12):
        blocks = reblock(autoregressive(phi, n, seed) + 1e5)
        assert blocks.plateau
        found.append((blocks.error - exact_error(phi, n)) / blocks.error_uncertainty)
    # deviations in units of their own standard error: blocks are a little too short by design (a bias below half a
    # standard error), and of twelve none should lie beyond four
    assert np.abs(np.mean(found)) < 1.2
    assert np.abs(found).max() < 4.0
    assert 0.4 < np.std(found) < 2.0


def test_the_inefficiency_is_that_of_the_correlation() -> None:
    found = [reblock(autoregressive(0.8, 16384, seed)).statistical_inefficiency for seed in range(10)]
    # (1 + phi) / (1 - phi) = 9; the spread of one estimate is near 20 %, of the mean of ten near 6 %
    assert np.mean(found) == pytest.approx(9.0, rel=0.2)


def test_independent_values_have_the_textbook_error() -> None:
    values = np.random.default_rng(3).normal(size=4096)
    blocks = reblock(values)
    assert blocks.naive_error == pytest.approx(values.std(ddof=1) / 64)
    assert blocks.error == pytest.approx(blocks.naive_error, rel=0.15)


def test_a_series_shorter_than_its_correlation_has_no_plateau() -> None:
    assert not any(reblock(autoregressive(0.999, 256, seed)).plateau for seed in range(10))


def test_a_constant_has_no_error() -> None:
    blocks = reblock(np.full(10, 3.25))
    assert (blocks.mean, blocks.error, blocks.statistical_inefficiency, blocks.plateau) == (3.25, 0.0, 1.0, True)


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0], [1.0, np.nan, 2.0, 3.0], []])
def test_too_few_values_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite values"):
        reblock(np.array(values))
