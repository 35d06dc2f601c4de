"""At most so many rows of a stream, drawn at random, so that memory stays bounded whatever the stream's length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Sample:
    """Rows drawn without replacement: every set of so many is equally likely.

    Parameters
    ----------
    most : int
        Rows that are kept; where the stream has no more, all of them.
    rng : numpy.random.Generator
        Gives every row a number; the rows of the smallest numbers are kept.

    Notes
    -----
    Which rows these are depends on the stream and the generator alone, not on the blocks in which it comes.
    """

    def __init__(self, most: int, rng: np.random.Generator) -> None:
        self._most, self._rng = most, rng
        self._keys: NDArray[np.float64] = np.zeros(0)
        self._columns: dict[str, Array] = {}

    def add(self, columns: Mapping[str, Array], counts: NDArray[np.bool_]) -> None:
        """Take some more rows.

        Parameters
        ----------
        columns : mapping of str to array (rows, ...)
            Their values; the same names each time.
        counts : array (rows,) of bool
            Those that may be drawn.
        """
        drawn = self._rng.random(len(counts))[counts]
        keys = np.concatenate([self._keys, drawn])
        joined = {
            name: np.concatenate([self._columns.get(name, new[:0]), new[counts]]) for name, new in columns.items()
        }
        if len(keys) > self._most:
            kept = np.sort(np.argpartition(keys, self._most - 1)[: self._most])
            keys, joined = keys[kept], {name: values[kept] for name, values in joined.items()}
        self._keys, self._columns = keys, joined

    def __getitem__(self, name: str) -> Array:
        return self._columns[name]
