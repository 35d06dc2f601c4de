"""Lazy arrays: xarray variables that read from the store when looked at, and hold no file open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from .engine import TEXT, Array, GroupLayout, Selection

if TYPE_CHECKING:
    from collections.abc import Iterable


class Source(Protocol):
    """Where a lazy array reads from: a key and version, wherever it lies by then."""

    def read(self, name: str, selection: Selection) -> Array:
        """Read a part of one variable."""
        ...


class LazyArray(BackendArray):
    """One variable of a stored dataset.

    Parameters
    ----------
    source : Source
        Opens, reads and closes at each access.
    name : str
        The variable.
    shape, dtype : tuple of int, numpy.dtype
        As committed when the dataset was opened; rows appended later do not show.
    """

    def __init__(self, source: Source, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.source = source
        self.name = name
        self.shape = shape
        self.dtype = dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Read a part, by xarray's indexers."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> Array:
        bounded = tuple(_bounded(part, length) for part, length in zip(key, self.shape, strict=True))
        return self.source.read(self.name, bounded)


def _bounded(part: Any, length: int) -> Any:
    """Keep open-ended slices within the rows that were there at opening."""
    if isinstance(part, slice):
        start, stop, step = part.indices(length)
        return slice(start, None if stop < 0 else stop, step)
    return part


def lazy_dataset(
    source: Source, layout: GroupLayout, attributes: Mapping[str, Any], skip: Iterable[str] = ()
) -> xr.Dataset:
    """A dataset whose variables read when looked at.

    Parameters
    ----------
    source : Source
        Reads the values.
    layout : GroupLayout
        What the group holds.
    attributes : mapping
        Attributes of the dataset.
    skip : iterable of str
        Variables to leave out.
    """
    skipped = set(skip)
    variables = {}
    for name, array in layout.arrays.items():
        if name in skipped:
            continue
        dtype = np.dtype(object) if array.dtype == TEXT else np.dtype(array.dtype)
        data: Any = (
            indexing.LazilyIndexedArray(LazyArray(source, name, array.shape, dtype))
            if array.shape
            else np.asarray(source.read(name, ()), dtype=dtype)
        )
        variables[name] = xr.Variable(array.dims, data, dict(array.attributes))
    return xr.Dataset(variables, attrs=dict(attributes))
