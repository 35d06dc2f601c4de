"""Splits of training sets, drawn anew for one training: what the training does and what lineage tells of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import xarray as xr

Integers = NDArray[np.int64]

TRAIN, VALID = 0, 1


def drawn_anew(split: Integers, groups: Integers, seed: int) -> Integers:
    """Exchange training and validation frames, by whole groups; test frames stay where they are.

    Parameters
    ----------
    split : array (frame,)
        0 train, 1 valid, 2 test.
    groups : array (frame,)
        Frames of one number (a trajectory, a block of time) stay together.
    seed : int
        Of the draw.

    Returns
    -------
    array (frame,)
        At least as many validation frames as before, and at most all groups but one.
    """
    free = np.isin(split, (TRAIN, VALID))
    names, sizes = np.unique(groups[free], return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))[:-1]
    frames = np.concatenate([[0], np.cumsum(sizes[order])])  # in the first groups of the order
    chosen = names[order[: np.searchsorted(frames, (split == VALID).sum())]]
    drawn = split.copy()
    drawn[free] = np.where(np.isin(groups[free], chosen), VALID, TRAIN)
    return drawn


def groups_of(dataset: xr.Dataset, split: Integers) -> Integers:
    """Frames that stay together: groups of a training set, or neighbours in one source that it put into one split.

    Parameters
    ----------
    dataset : xarray.Dataset
        A training set, gathered or not: ``group``, or ``source`` and ``source_frame``.
    split : array (frame,)
        As the set has it.
    """
    if "group" in dataset:
        return dataset["group"].to_numpy().astype(np.int64)
    if "source" not in dataset:
        return np.arange(len(split), dtype=np.int64)
    source, frame = dataset["source"].to_numpy(), dataset["source_frame"].to_numpy()
    order = np.lexsort((frame, source))
    starts = np.ones(len(split), dtype=bool)
    starts[1:] = (np.diff(source[order]) != 0) | (np.diff(split[order]) != 0)
    groups = np.empty(len(split), dtype=np.int64)
    groups[order] = np.cumsum(starts)
    return groups
