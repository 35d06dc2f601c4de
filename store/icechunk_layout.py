"""Between layouts and the ``zarr.json`` documents of a Zarr v3 hierarchy that plain xarray opens.

A leaf group is what xarray reads as one Dataset. A folder (a group that only holds groups) carries a mark, so that
one read tells it from a leaf. Which dimensions grow, a leaf says in a technical attribute that layouts do not show.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from ..schemas.errors import InvalidData, StoreDamaged
from .engine import TEXT, Array, ArrayLayout, GroupLayout, Selection

GROWS = "_h5ml_grows"
FOLDER = "_h5ml_folder"
DOCUMENT = "zarr.json"
LARGEST_PIECE = 32 << 20
GROWING_PIECE = 64 << 10
_TEXT_BYTES = 64
_LEVELS = {"zstd": {"level": 3, "checksum": False}, "gzip": {"level": 5}}
_NUMBERS = "iufcb"


@dataclass(slots=True)
class GroupDocument:
    """The parsed ``zarr.json`` files of a leaf group and of its arrays.

    Attributes
    ----------
    attributes : dict
        Of the group, technical ones among them.
    arrays : dict
        Name to the whole document of an array.
    """

    attributes: dict[str, Any]
    arrays: dict[str, dict[str, Any]]

    def layout(self, path: str) -> GroupLayout:
        """What an engine says of it."""
        try:
            grows = tuple(self.attributes.get(GROWS, ()))
            arrays = {name: _array_layout(document, grows) for name, document in self.arrays.items()}
            sizes = {dim: n for array in arrays.values() for dim, n in zip(array.dims, array.shape, strict=True)}
            return GroupLayout(arrays, sizes, {k: v for k, v in self.attributes.items() if k != GROWS}, grows)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreDamaged(
                "The description of a group is damaged.", key=path, found=repr(error), hint="run `h5ml audit`"
            ) from error

    def bytes(self) -> bytes:
        """The group's own ``zarr.json``."""
        return orjson.dumps({"zarr_format": 3, "node_type": "group", "attributes": self.attributes})


def folder_bytes() -> bytes:
    """The ``zarr.json`` of a group that only holds groups."""
    return orjson.dumps({"zarr_format": 3, "node_type": "group", "attributes": {FOLDER: 1}})


def document(layout: GroupLayout) -> GroupDocument:
    """The documents of a new group."""
    attributes: dict[str, Any] = dict(layout.attributes)
    if layout.grows:
        attributes[GROWS] = list(layout.grows)
    arrays = {name: _array_document(name, array, layout.grows) for name, array in layout.arrays.items()}
    return GroupDocument(attributes, arrays)


def _array_document(name: str, array: ArrayLayout, grows: Sequence[str]) -> dict[str, Any]:
    if array.dtype == TEXT:
        data_type, fill, codecs = "string", "", [{"name": "vlen-utf8", "configuration": {}}]
    else:
        dtype = np.dtype(array.dtype)
        if dtype.kind not in _NUMBERS:
            raise InvalidData(
                "An array has a type that a store does not keep.", key=name, expected="numbers or text", found=dtype
            )
        data_type, fill = dtype.name, _fill_value(dtype)
        codecs = [{"name": "bytes", "configuration": {"endian": "little"}}]
        if dtype.itemsize == 1:
            codecs = [{"name": "bytes"}]
    if array.compression is not None:
        codecs.append({"name": array.compression, "configuration": _LEVELS[array.compression]})
    chunks = array.chunks or default_chunks(array.dtype, array.shape, [dim in grows for dim in array.dims])
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(array.shape),
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [max(1, int(n)) for n in chunks]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": codecs,
        "attributes": dict(array.attributes),
        "dimension_names": list(array.dims),
        "storage_transformers": [],
    }


def _fill_value(dtype: np.dtype[Any]) -> Any:
    return {"f": "NaN", "c": ["NaN", "NaN"], "b": False}.get(dtype.kind, 0)


def default_chunks(dtype: str, shape: Sequence[int], growing: Sequence[bool]) -> tuple[int, ...]:
    """One piece, cut along the first axis where it would be too large or grows.

    Parameters
    ----------
    dtype : str
        Of the array.
    shape : sequence of int
        Its shape.
    growing : sequence of bool
        Which axes can be lengthened.

    Returns
    -------
    tuple of int
        The shape of a chunk, each length at least 1.
    """
    if not shape:
        return ()
    sides = [max(1, n) for n in shape]
    item = _TEXT_BYTES if dtype == TEXT else np.dtype(dtype).itemsize
    limit = GROWING_PIECE if any(growing) else LARGEST_PIECE
    for axis, grows in enumerate(growing):
        if grows:
            others = math.prod(sides[:axis] + sides[axis + 1 :]) * item
            sides[axis] = max(1, limit // others)
    for axis in range(len(sides)):
        others = math.prod(sides[axis + 1 :]) * item
        sides[axis] = min(sides[axis], max(1, limit // others))
    return tuple(sides)


def _array_layout(document: Mapping[str, Any], grows: Sequence[str]) -> ArrayLayout:
    dtype = TEXT if document["data_type"] == "string" else np.dtype(document["data_type"]).newbyteorder("<").str
    shape = tuple(int(n) for n in document["shape"])
    dims = tuple(str(dim) for dim in document["dimension_names"] or ())
    if len(dims) != len(shape):
        raise ValueError("an axis without a name")
    chunks: tuple[int, ...] | None = chunk_shape(document)
    growing = [dim in grows for dim in dims]
    if not any(growing) and chunks == default_chunks(dtype, shape, growing):
        chunks = None
    names = [codec["name"] for codec in document["codecs"]]
    compression = next((name for name in names if name in _LEVELS), None)
    return ArrayLayout(dims, shape, dtype, dict(document.get("attributes", {})), chunks, compression)


def chunk_shape(document: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of an array's chunks."""
    return tuple(int(n) for n in document["chunk_grid"]["configuration"]["chunk_shape"])


def rows_of(rows: Any, length: int) -> Array:
    """Row numbers as non-negative int64; raises `IndexError` beyond the ends."""
    numbers = np.asarray(rows)
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise IndexError("rows must be a one-dimensional array of integers")
    numbers = numbers.astype(np.int64)
    if numbers.size and (numbers.min() < -length or numbers.max() >= length):
        raise IndexError(f"a row beyond the {length} that are there")
    return np.where(numbers < 0, numbers + length, numbers)


def plan(selection: Selection, shape: Sequence[int]) -> tuple[tuple[Any, ...], tuple[Any, ...], bool]:
    """Turn a selection into one that Zarr understands.

    Parameters
    ----------
    selection : tuple
        Slices, integers or integer arrays per axis, numpy's meaning.
    shape : sequence of int
        Of the array.

    Returns
    -------
    tuple
        Slices with positive steps or sorted-out row numbers per axis; what to apply to the result (turn axes round,
        drop them); and whether nothing is selected.

    Raises
    ------
    IndexError
        Beyond the ends, or for too many axes.
    """
    if len(selection) > len(shape):
        raise IndexError(f"{len(selection)} selectors for {len(shape)} axes")
    items: Iterable[Any] = (*selection, *(slice(None),) * (len(shape) - len(selection)))
    wanted: list[Any] = []
    after: list[Any] = []
    empty = False
    for item, length in zip(items, shape, strict=True):
        if isinstance(item, slice):
            steps = range(*item.indices(length))
            empty = empty or not steps
            ends = sorted((steps[0], steps[-1])) if steps else (0, -1)
            wanted.append(slice(ends[0], ends[1] + 1, abs(steps.step)))
            after.append(slice(None, None, -1 if steps.step < 0 else 1))
        elif np.ndim(item):
            wanted.append(rows_of(item, length))
            empty = empty or not wanted[-1].size
            after.append(slice(None))
        else:
            row = int(rows_of([item], length)[0])
            wanted.append(slice(row, row + 1, 1))
            after.append(0)
    return tuple(wanted), tuple(after), empty


def empty_result(wanted: Sequence[Any], after: Sequence[Any], dtype: str) -> Array:
    """The result of a plan that selects nothing."""
    shape = [len(range(w.start, w.stop, w.step)) if isinstance(w, slice) else len(w) for w in wanted]
    return np.empty(shape, dtype=object if dtype == TEXT else dtype)[(*after, ...)]
