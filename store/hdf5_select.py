"""Reading parts of an HDF5 dataset with numpy's rules: steps backwards, repeated and unsorted indices."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from h5py import h5s

from .engine import TEXT, Array, Selection
from .hdf5_layout import Stored

_GAP_BYTES = 1 << 14
"""Rows this near to each other are read in one piece."""


def read_selection(stored: Stored, selection: Selection) -> Array:
    """Read a part of an array.

    Parameters
    ----------
    stored : Stored
        The open array.
    selection : tuple
        A slice, an integer or one array of integers per axis; missing axes are taken whole.

    Returns
    -------
    numpy.ndarray
        As numpy would give it; text as an object array of str.

    Raises
    ------
    IndexError
        If an index lies outside.
    """
    shape = stored.layout.shape
    if len(selection) > len(shape):
        raise IndexError(f"{len(selection)} indices for {len(shape)} axes")
    starts, counts, steps, gathers = [], [], [], []
    after: list[Any] = []
    for axis, size in enumerate(shape):
        part = selection[axis] if axis < len(selection) else slice(None)
        if isinstance(part, slice):
            start, count, step, flip = _stretch(part, size)
            after.append(slice(None, None, -1) if flip else slice(None))
        elif np.ndim(part) == 0:
            start, count, step = _inside(int(part), size, axis), 1, 1
            after.append(0)
        else:
            rows = wrapped(np.asarray(part), size, axis)
            gathers.append((axis, rows))
            start, count, step = 0, len(rows), 1
            after.append(slice(None))
        starts.append(start)
        counts.append(count)
        steps.append(step)
    if len(gathers) > 1:
        raise IndexError("only one axis can be selected by an array of indices")
    if gathers and len(gathers[0][1]):
        values = _gather(stored, starts, counts, steps, *gathers[0])
    else:
        values = _slab(stored, starts, counts, steps)
    return np.asarray(values[(*after, ...)], order="C") if _matters(after) else values


def _matters(after: list[Any]) -> bool:
    return any(part != slice(None) for part in after)


def _stretch(part: slice, size: int) -> tuple[int, int, int, bool]:
    """Start, count and positive step of a slice, and whether the result is turned round."""
    indices = range(*part.indices(size))
    if not indices:
        return 0, 0, 1, False
    if indices.step < 0:
        return indices[-1], len(indices), -indices.step, True
    return indices.start, len(indices), indices.step, False


def _inside(index: int, size: int, axis: int) -> int:
    if not -size <= index < size:
        raise IndexError(f"index {index} is out of bounds for axis {axis} with size {size}")
    return index + size if index < 0 else index


def wrapped(rows: Array, size: int, axis: int = 0) -> Array:
    """Check an array of indices, and count negative ones from the end."""
    if rows.dtype.kind == "b" and rows.shape == (size,):
        rows = np.flatnonzero(rows)
    if rows.size == 0:
        return np.zeros(0, np.int64)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise IndexError("an array of indices has one axis and whole numbers")
    low, high = int(rows.min()), int(rows.max())
    if low < -size or high >= size:
        raise IndexError(f"index {low if low < -size else high} is out of bounds for axis {axis} with size {size}")
    rows = rows.astype(np.int64, copy=False)
    return np.where(rows < 0, rows + size, rows) if low < 0 else rows


def _slab(stored: Stored, starts: list[int], counts: list[int], steps: list[int]) -> Array:
    """Read one regular piece."""
    text = stored.layout.dtype == TEXT
    values = np.empty(tuple(counts), dtype=stored.id.dtype if text else stored.layout.dtype)
    if values.size:
        memory = None if text else stored.memory_type
        if tuple(counts) == stored.layout.shape:
            stored.id.read(h5s.ALL, h5s.ALL, values, memory)
        else:
            space = stored.id.get_space()
            if all(step == 1 for step in steps):
                space.select_hyperslab(tuple(starts), tuple(counts))
            else:
                space.select_hyperslab(tuple(starts), tuple(counts), tuple(steps))
            stored.id.read(h5s.create_simple(tuple(counts)), space, values, memory)
    return _decoded(values) if text else values


def _decoded(values: Array) -> Array:
    result = np.empty(values.shape, dtype=object)
    texts = [v.decode("utf-8") if isinstance(v, bytes) else str(v or "") for v in values.reshape(-1).tolist()]
    if result.ndim:
        result.reshape(-1)[:] = texts
    else:
        result[()] = texts[0]
    return result


def _gather(stored: Stored, starts: list[int], counts: list[int], steps: list[int], axis: int, rows: Array) -> Array:
    """Read the rows of one axis in as few pieces as pay."""
    unique, inverse = np.unique(rows, return_inverse=True)
    sizes = [*counts[:axis], *counts[axis + 1 :]]
    item = 16 if stored.layout.dtype == TEXT else np.dtype(stored.layout.dtype).itemsize
    near = max(1, _GAP_BYTES // max(1, item * int(np.prod(sizes))))
    edges = [0, *(np.flatnonzero(np.diff(unique) > near) + 1).tolist(), len(unique)]
    pieces = []
    for first, end in itertools.pairwise(edges):
        low, high = int(unique[first]), int(unique[end - 1]) + 1
        starts[axis], counts[axis] = low, high - low
        piece = _slab(stored, starts, counts, steps)
        pieces.append(piece if high - low == end - first else piece.take(unique[first:end] - low, axis=axis))
    values = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=axis)
    return values if len(rows) == len(unique) and (inverse[:-1] < inverse[1:]).all() else values.take(inverse, axis)
