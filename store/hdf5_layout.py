"""How groups, arrays, dimensions and attributes lie in HDF5, so that netCDF-4, xarray and ncdump read them.

Written with HDF5's low-level calls: a group of five arrays takes a fraction of what h5py's objects need.
``_Netcdf4Dimid`` is left out on purpose: netCDF takes these numbers as unique in the whole file, and finds the
dimensions by their references without them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5ds, h5g, h5o, h5p, h5r, h5s, h5t, h5z

from ..schemas.canonical import Attribute, canonical_attributes
from ..schemas.errors import InvalidData, StoreDamaged
from .engine import TEXT, ArrayLayout, GroupLayout
from .hdf5_attributes import TEXT_TYPE, read_attributes, replace_attributes

PURE_DIMENSION = b"This is a netCDF dimension but not a netCDF variable."
DTYPES = frozenset({"|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "<f4", "<f8"})
ZSTD = 32015

_UNLIMITED = h5s.UNLIMITED
_CHUNK_BYTES = 1 << 16
_CHUNK_ROWS = 1 << 14
_LEVEL = {"gzip": 4, "zstd": 3}


@dataclass(slots=True)
class Stored:
    """An array of an open group."""

    id: Any
    layout: ArrayLayout
    memory_type: Any
    """Of little-endian numbers; None for text, where h5py chooses."""


@dataclass(slots=True)
class Leaf:
    """An open leaf group: what it holds, and the handles to it.

    Attributes
    ----------
    id : h5py.h5g.GroupID
        The group.
    arrays : dict of str to Stored
        Its arrays.
    scales : dict of str to h5py.h5d.DatasetID
        The dataset that stands for each dimension.
    sizes : dict of str to int
        Lengths of the dimensions.
    grows : tuple of str
        Unlimited dimensions.
    attributes : dict
        Of the group.
    """

    id: Any
    arrays: dict[str, Stored] = field(default_factory=dict)
    scales: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    grows: tuple[str, ...] = ()
    attributes: dict[str, Attribute] = field(default_factory=dict)

    def layout(self) -> GroupLayout:
        """The layout as the engine interface gives it."""
        arrays = {name: stored.layout for name, stored in self.arrays.items()}
        return GroupLayout(arrays, dict(self.sizes), dict(self.attributes), self.grows)


# ---- writing a group


def link_plist() -> Any:
    """Names are UTF-8, and groups on the way are made."""
    plist = h5p.create(h5p.LINK_CREATE)
    plist.set_create_intermediate_group(True)
    plist.set_char_encoding(h5t.CSET_UTF8)
    return plist


def access_plist(layout: ArrayLayout) -> Any:
    """No chunk cache for plain arrays: rows then go straight to their place instead of whole chunks."""
    plist = h5p.create(h5p.DATASET_ACCESS)
    if layout.compression is None:
        plist.set_chunk_cache(1, 0, 1.0)
    return plist


def check_layout(layout: GroupLayout) -> None:
    """Refuse what the netCDF model cannot hold."""
    for name, array in layout.arrays.items():
        if array.dtype != TEXT and array.dtype not in DTYPES:
            raise InvalidData(
                f"The array {name!r} has a type that not every reader knows.",
                expected=", ".join([*sorted(DTYPES), TEXT]),
                found=array.dtype,
            )
        if len(set(array.dims)) != len(array.dims):
            raise InvalidData(
                f"The array {name!r} repeats a dimension name.", expected="atom, atom_2", found=", ".join(array.dims)
            )
        if tuple(layout.sizes.get(dim) for dim in array.dims) != tuple(array.shape):
            raise InvalidData(
                f"The shape of {name!r} does not fit its dimensions.",
                expected=tuple(layout.sizes.get(dim) for dim in array.dims),
                found=array.shape,
            )
        if name in layout.sizes and array.dims != (name,) and any(name in a.dims for a in layout.arrays.values()):
            raise InvalidData(f"The array {name!r} has the name of a dimension that is not its own.", found=array.dims)
        for word in (name, *array.dims):
            if not word or "/" in word or word == "." or "\x00" in word:
                raise InvalidData("A name cannot stand in an HDF5 file.", found=repr(word))


def create_leaf(root: Any, path: str, layout: GroupLayout) -> Leaf:
    """Make a group with its arrays, a dimension scale for every dimension, and all attributes.

    Parameters
    ----------
    root : h5py.h5g.GroupID
        The root group.
    path : str
        Where the group goes; nothing lies there.
    layout : GroupLayout
        What it shall hold.
    """
    check_layout(layout)
    order = h5p.create(h5p.GROUP_CREATE)
    order.set_link_creation_order(h5p.CRT_ORDER_TRACKED)
    leaf = Leaf(h5g.create(root, path.encode("utf-8"), lcpl=link_plist(), gcpl=order))
    used = {dim for array in layout.arrays.values() for dim in array.dims}
    leaf.sizes = {dim: int(size) for dim, size in layout.sizes.items() if dim in used}
    leaf.grows = tuple(dim for dim in layout.grows if dim in used)
    for name, array in layout.arrays.items():
        leaf.arrays[name] = _create_array(leaf, name, array)
    for dim, size in leaf.sizes.items():
        if dim in leaf.arrays:
            leaf.scales[dim] = leaf.arrays[dim].id
            h5ds.set_scale(leaf.scales[dim], dim.encode("utf-8"))
        else:
            leaf.scales[dim] = _create_dimension(leaf, dim, size)
    for name, stored in leaf.arrays.items():
        if name not in leaf.scales:
            for axis, dim in enumerate(stored.layout.dims):
                h5ds.attach_scale(stored.id, leaf.scales[dim], axis)
    leaf.attributes = canonical_attributes(layout.attributes)
    replace_attributes(leaf.id, {}, leaf.attributes)
    return leaf


def _create_array(leaf: Leaf, name: str, array: ArrayLayout) -> Stored:
    memory, fill = types_of(array.dtype)
    chunks = _chunks(leaf, array)
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_obj_track_times(False)
    compression = array.compression if chunks is not None and array.dtype != TEXT else None
    if chunks is not None:
        plist.set_chunk(chunks)
    if compression is not None:
        compression = _set_filter(plist, compression)
    if fill is not None:
        plist.set_fill_value(fill)
    attributes = canonical_attributes(array.attributes)
    written = replace(array, chunks=chunks, compression=compression, attributes=attributes)
    space = _space(leaf, array.dims, array.shape)
    access = access_plist(written)
    stored = h5d.create(
        leaf.id, name.encode("utf-8"), memory or TEXT_TYPE, space, dcpl=plist, lcpl=link_plist(), dapl=access
    )
    replace_attributes(stored, {}, attributes)
    return Stored(stored, written, memory)


def _create_dimension(leaf: Leaf, dim: str, size: int) -> Any:
    """A dataset that only stands for a dimension; it holds no bytes."""
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_obj_track_times(False)
    if dim in leaf.grows:
        plist.set_chunk((1024,))
    scale = h5d.create(
        leaf.id, dim.encode("utf-8"), h5t.IEEE_F32BE, _space(leaf, (dim,), (size,)), dcpl=plist, lcpl=link_plist()
    )
    h5ds.set_scale(scale, b"%s%10d" % (PURE_DIMENSION, size))
    return scale


def _space(leaf: Leaf, dims: tuple[str, ...], shape: tuple[int, ...]) -> Any:
    if not shape:
        return h5s.create(h5s.SCALAR)
    limits = tuple(_UNLIMITED if dim in leaf.grows else size for dim, size in zip(dims, shape, strict=True))
    return h5s.create_simple(tuple(shape), limits)


def types_of(dtype: str) -> tuple[Any, Any]:
    """The type in memory of a dtype string, and the fill value that its arrays have."""
    if dtype == TEXT:
        return None, None
    kind = np.dtype(dtype)
    return h5t.py_create(kind), np.array(np.nan, kind) if kind.kind == "f" else None


def _set_filter(plist: Any, compression: str) -> str:
    """Shuffle and compress; without a zstd filter (a plug-in of HDF5) gzip takes its place."""
    if compression not in _LEVEL:
        raise InvalidData("Unknown compression.", expected="zstd, gzip or None", found=compression)
    plist.set_shuffle()
    if compression == "zstd" and h5z.filter_avail(ZSTD):
        plist.set_filter(ZSTD, h5z.FLAG_MANDATORY, (_LEVEL["zstd"],))
        return "zstd"
    plist.set_deflate(_LEVEL["gzip"])
    return "gzip"


def _chunks(leaf: Leaf, array: ArrayLayout) -> tuple[int, ...] | None:
    """Chunk lengths, or None for one contiguous piece."""
    growing = [dim in leaf.grows for dim in array.dims]
    if not array.shape or not (any(growing) or array.chunks is not None or array.compression is not None):
        return None
    if not any(growing) and 0 in array.shape:
        return None
    if array.chunks is not None:
        chunks = [max(1, int(n)) for n in array.chunks]
    else:
        item = 16 if array.dtype == TEXT else np.dtype(array.dtype).itemsize
        chunks = [max(1, n) if not grow else 64 for n, grow in zip(array.shape, growing, strict=True)]
        row = item * math.prod(chunks[1:])
        chunks[0] = max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // row))
    limits = zip(chunks, array.shape, growing, strict=True)
    return tuple(n if grow else max(1, min(n, size)) for n, size, grow in limits)


# ---- reading a group


def open_leaf(root: Any, path: str) -> Leaf:
    """Open a leaf group and find out what it holds; h5py's errors pass through."""
    leaf = Leaf(h5g.open(root, path.encode("utf-8")))
    datasets = {name: h5d.open(leaf.id, name.encode("utf-8")) for name in _names(leaf.id)}
    pure = {name for name, dataset in datasets.items() if _is_pure_dimension(dataset)}
    addresses = {h5o.get_info(dataset).addr: name for name, dataset in datasets.items() if h5ds.is_scale(dataset)}
    grows: list[str] = []
    for name, dataset in datasets.items():
        if name in pure:
            continue
        dims = _dims(name, dataset, addresses)
        stored = _open_array(leaf.id, name, dims, dataset)
        leaf.arrays[name] = stored
        limits = dataset.get_space().get_simple_extent_dims(maxdims=True) if dims else ()
        for dim, size, limit in zip(dims, stored.layout.shape, limits, strict=True):
            leaf.sizes.setdefault(dim, size)
            if limit == _UNLIMITED and dim not in grows:
                grows.append(dim)
    leaf.scales = {name: datasets[name] for name in addresses.values()}
    ragged = {stored.layout.attributes.get("sample_dimension") for stored in leaf.arrays.values()}
    leaf.grows = tuple(sorted(grows, key=lambda dim: dim in ragged))  # the dimension of the records comes first
    leaf.attributes = read_attributes(leaf.id)
    return leaf


def _names(group: Any) -> list[str]:
    """Names of the links, in the order in which they were made where the file knows it."""
    names: list[bytes] = []
    tracked = group.get_create_plist().get_link_creation_order() & h5p.CRT_ORDER_TRACKED
    index = h5py.h5.INDEX_CRT_ORDER if tracked else h5py.h5.INDEX_NAME
    group.links.iterate(names.append, idx_type=index)
    return [name.decode("utf-8", "surrogateescape") for name in names]


def _is_pure_dimension(dataset: Any) -> bool:
    return bool(h5ds.is_scale(dataset)) and (h5ds.get_scale_name(dataset) or b"").startswith(PURE_DIMENSION)


def _dims(name: str, dataset: Any, addresses: Mapping[int, str]) -> tuple[str, ...]:
    """Names of the axes, by the references to their scales; an axis without one is called after its place."""
    rank = dataset.rank
    if rank == 1 and h5ds.is_scale(dataset):
        return (name,)
    dims = [f"phony_dim_{axis}" for axis in range(rank)]
    if rank and h5a.exists(dataset, b"DIMENSION_LIST"):
        attribute = h5a.open(dataset, b"DIMENSION_LIST")
        references = np.empty(attribute.shape, dtype=attribute.dtype)
        attribute.read(references)
        for axis, row in enumerate(references):
            if len(row) and row[0]:
                address = h5o.get_info(h5r.dereference(row[0], dataset)).addr
                dims[axis] = addresses.get(address, dims[axis])
    return tuple(dims)


def _open_array(group: Any, name: str, dims: tuple[str, ...], dataset: Any) -> Stored:
    plist = dataset.get_create_plist()
    chunks = plist.get_chunk() if plist.get_layout() == h5d.CHUNKED else None
    filters = {plist.get_filter(index)[0] for index in range(plist.get_nfilters())}
    compression = "zstd" if ZSTD in filters else "gzip" if filters else None
    dtype = _dtype(name, dataset)
    attributes = read_attributes(dataset)
    layout = ArrayLayout(dims, tuple(dataset.shape), dtype, attributes, chunks, compression)
    if chunks is not None and compression is None:
        dataset = h5d.open(group, name.encode("utf-8"), access_plist(layout))
    return Stored(dataset, layout, types_of(dtype)[0])


def _dtype(name: str, dataset: Any) -> str:
    kind = dataset.get_type()
    if kind.get_class() == h5t.STRING:
        return TEXT
    dtype: str = np.dtype(dataset.dtype).newbyteorder("<").str
    if dtype not in DTYPES:
        raise StoreDamaged(
            f"The array {name!r} has a type that h5ml does not write.",
            expected=", ".join(sorted(DTYPES)),
            found=str(dataset.dtype),
        )
    return dtype
