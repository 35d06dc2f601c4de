"""Batches of rows straight from a memory map: no HDF5 call, no lock, no copy but the batch itself."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .engine import TEXT, Array
from .hdf5_layout import Stored
from .hdf5_select import wrapped
from .hdf5_session import SessionFile
from .wal import PAGE

_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
"""So that a file larger than the memory can be mapped."""

Read = Callable[[str, Array], Array]


class Table:
    """Where the rows of one array lie in the mapped file.

    Parameters
    ----------
    window : numpy.ndarray
        The file as overlapping records of one row each, one starting at every byte.
    bases : numpy.ndarray
        Byte offset of each chunk (of one for a contiguous array).
    chunk : int
        Rows per chunk.
    dtype : numpy.dtype
        Of an element, in the byte order of the file.
    shape : tuple of int
        Of the array.
    """

    def __init__(self, window: Array, bases: Array, chunk: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self._window = window
        self._bases = bases
        self._chunk = chunk
        self._dtype = dtype
        self._shape = shape
        self._row = window.dtype.itemsize

    def gather(self, rows: Array) -> Array:
        """Rows by checked indices."""
        if len(self._bases) == 1:
            places = rows * self._row + self._bases[0]
        else:
            number = rows // self._chunk
            places = self._bases[number] + (rows - number * self._chunk) * self._row
        values: Array = self._window[places].view(self._dtype)
        return values.reshape(len(rows), *self._shape[1:])


class MappedRows:
    """Rows of a group's arrays, see `h5ml.store.engine.RowReader`.

    Parameters
    ----------
    tables : mapping
        Where the rows of an array lie, or None if HDF5 must read them (compressed data, text).
    lengths : mapping
        Rows of each array.
    read : callable
        Reads rows through HDF5, by name and indices.
    """

    def __init__(self, tables: Mapping[str, Table | None], lengths: Mapping[str, int], read: Read) -> None:
        self._tables = dict(tables)
        self._lengths = dict(lengths)
        self._read = read

    def take(self, name: str, rows: Array) -> Array:
        """Rows of an array by a sorted or unsorted integer array."""
        table = self._tables[name]
        rows = wrapped(np.asarray(rows), self._lengths[name])
        return self._read(name, rows) if table is None else table.gather(rows)

    def ranges(self, name: str, starts: Array, counts: Array) -> Array:
        """Several stretches of rows, end to end."""
        starts, counts = np.asarray(starts, np.int64), np.asarray(counts, np.int64)
        ends = counts.cumsum()
        total = int(ends[-1]) if len(ends) else 0
        if len(counts) and (counts.min() < 0 or starts.min() < 0 or int((starts + counts).max()) > self._lengths[name]):
            raise IndexError(f"a stretch of rows goes beyond the {self._lengths[name]} rows of {name!r}")
        rows = np.arange(total) + (starts - ends + counts).repeat(counts)
        table = self._tables[name]
        return self._read(name, rows) if table is None else table.gather(rows)

    def close(self) -> None:
        """Release the memory map."""
        self._tables.clear()


def map_file(paged: SessionFile) -> mmap.mmap:
    """Map the data file; pages that wait in the redo log are laid over it, in this map's memory only.

    Committed bytes never move or change within a file, so the map needs no lock once it is made.
    """
    size = os.fstat(paged.fileno()).st_size
    waiting = paged.waiting_pages()
    if not waiting:
        return mmap.mmap(paged.fileno(), size, access=mmap.ACCESS_READ)
    mapped = mmap.mmap(
        paged.fileno(), size, flags=mmap.MAP_PRIVATE | _NO_RESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE
    )
    for page in waiting:
        end = min((page + 1) * PAGE, size)
        if page * PAGE < end:
            paged.seek(page * PAGE)
            contents = paged.read(end - page * PAGE)
            mapped[page * PAGE : page * PAGE + len(contents)] = contents
    return mapped


def locate(stored: Stored, mapped: mmap.mmap) -> Table | None:
    """Find where the rows of an array lie.

    Returns
    -------
    Table or None
        None if they are not plain bytes in the file, one row after the other.
    """
    layout = stored.layout
    if layout.dtype == TEXT or layout.compression is not None or not layout.shape or 0 in layout.shape:
        return None
    dtype = stored.id.dtype
    if dtype != np.dtype(layout.dtype) or stored.id.get_create_plist().get_nfilters():
        return None
    row = dtype.itemsize * int(np.prod(layout.shape[1:]))
    if layout.chunks is None:
        chunk, bases = layout.shape[0], np.array([-1 if (at := stored.id.get_offset()) is None else at])
    elif layout.chunks[1:] == layout.shape[1:]:
        chunk, bases = layout.chunks[0], _chunk_offsets(stored, layout.chunks[0])
    else:
        return None
    last = layout.shape[0] - (len(bases) - 1) * chunk
    if bases.min() < 0 or max(int(bases[:-1].max(initial=0)) + chunk * row, int(bases[-1]) + last * row) > len(mapped):
        return None
    window = np.ndarray((len(mapped) - row + 1,), dtype=f"V{row}", buffer=mapped, strides=(1,))
    return Table(window, bases, chunk, dtype, layout.shape)


def _chunk_offsets(stored: Stored, chunk: int) -> Array:
    """Byte offsets of the chunks along the first axis; -1 for one that was never written."""
    bases = np.full(-(-stored.layout.shape[0] // chunk), -1, np.int64)

    def note(info: Any) -> None:
        if info.byte_offset is not None and info.chunk_offset[0] // chunk < len(bases):
            bases[info.chunk_offset[0] // chunk] = info.byte_offset

    stored.id.chunk_iter(note)
    return bases
