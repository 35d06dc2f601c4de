"""Means of correlated series and their standard errors, by block averaging."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_VALUES = 4
MIN_BLOCKS = 8


@dataclass(frozen=True, slots=True)
class Reblocking:
    """The mean of a correlated series and what block averaging says of its error.

    Attributes
    ----------
    mean : float
        Mean of all values, in their unit.
    error : float
        Standard error of the mean, from blocks of ``block_size``.
    error_uncertainty : float
        Standard error of ``error``.
    naive_error : float
        Standard error that uncorrelated values of the same spread would have.
    block_size : int
        Values in a block (a power of two).
    n_blocks : int
        Blocks of that size.
    plateau : bool
        Whether the error no longer grows with the block size, and enough blocks are left to say so.
    sizes : array (levels,)
        All block sizes that were tried.
    errors, uncertainties : array (levels,)
        Standard error of the mean from blocks of each size, and its own standard error.
    """

    mean: float
    error: float
    error_uncertainty: float
    naive_error: float
    block_size: int
    n_blocks: int
    plateau: bool
    sizes: NDArray[np.int64]
    errors: NDArray[np.float64]
    uncertainties: NDArray[np.float64]

    @property
    def statistical_inefficiency(self) -> float:
        """Values that count as much as one independent value, ``(error / naive_error)**2``; at least 1."""
        return max(1.0, (self.error / self.naive_error) ** 2) if self.naive_error > 0.0 else 1.0


def reblock(values: NDArray[np.float64]) -> Reblocking:
    """Average a correlated series by blocks of 1, 2, 4, ... values.

    Parameters
    ----------
    values : array (n,)
        The series, in the order of time, equally spaced; at least ``MIN_VALUES``.

    Returns
    -------
    Reblocking

    Raises
    ------
    ValueError
        If there are too few values, or some that are not finite.

    Notes
    -----
    For ``m`` blocks with the variance ``c0`` of their means, the error is ``sqrt(c0 / (m - 1))`` and its own standard
    error is smaller by ``sqrt(2 (m - 1))``; it grows with the block size until blocks are independent: H. Flyvbjerg and
    H. G. Petersen, J. Chem. Phys. 91, 461 (1989). The smallest block size ``B`` with
    ``B**3 > 2 n (error_B / error_1)**4`` is taken, which balances the bias of short blocks and the noise of long ones:
    R. M. Lee et al., Phys. Rev. E 83, 066706 (2011). Where no size fulfils this the largest error is taken. The plateau
    is confirmed if at least ``MIN_BLOCKS`` blocks are left and the next block size gives no error larger by more than
    two of its standard errors.
    """
    series = np.asarray(values, dtype=np.float64).ravel()
    if len(series) < MIN_VALUES or not np.isfinite(series).all():
        raise ValueError(f"block averaging needs {MIN_VALUES} finite values or more; found {len(series)} values")
    sizes, counts, errors = _levels(series - series[0])
    uncertainties = errors / np.sqrt(2.0 * (counts - 1.0))
    naive = float(errors[0])
    gains = (errors / naive) ** 2 if naive > 0.0 else np.ones(len(errors))
    good = np.flatnonzero(sizes.astype(np.float64) ** 3 > 2.0 * len(series) * gains**2)
    chosen = int(good[0]) if len(good) else int(np.argmax(errors))
    steady = chosen + 1 == len(sizes) or bool(errors[chosen + 1] <= errors[chosen] + 2.0 * uncertainties[chosen + 1])
    return Reblocking(
        mean=float(series.mean()),
        error=float(errors[chosen]),
        error_uncertainty=float(uncertainties[chosen]),
        naive_error=naive,
        block_size=int(sizes[chosen]),
        n_blocks=int(counts[chosen]),
        plateau=naive == 0.0 or (len(good) > 0 and int(counts[chosen]) >= MIN_BLOCKS and steady),
        sizes=sizes,
        errors=errors,
        uncertainties=uncertainties,
    )


def _levels(series: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Block sizes, numbers of blocks and errors, down to two blocks."""
    sizes: list[int] = []
    counts: list[int] = []
    errors: list[float] = []
    blocks, size = series, 1
    while len(blocks) >= 2:
        sizes.append(size)
        counts.append(len(blocks))
        errors.append(float(np.sqrt(blocks.var() / (len(blocks) - 1))))
        half = len(blocks) // 2
        blocks, size = 0.5 * (blocks[0 : 2 * half : 2] + blocks[1 : 2 * half : 2]), 2 * size
    return np.array(sizes, dtype=np.int64), np.array(counts, dtype=np.int64), np.array(errors, dtype=np.float64)
