"""Reading and changing the groups of an open HDF5 file, by path."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5p, h5s, h5t

from ..schemas.canonical import Attribute, canonical_attributes
from ..schemas.errors import H5mlError, InvalidData, InvalidKey, KeyTaken, StoreDamaged, UnknownKey
from .engine import TEXT, Array, GroupLayout, Selection
from .hdf5_attributes import replace_attributes
from .hdf5_layout import Leaf, Stored, create_leaf, link_plist, open_leaf
from .hdf5_select import read_selection

FAULTS = (OSError, RuntimeError, ValueError, KeyError, TypeError, UnicodeError)
"""What h5py raises where HDF5 finds a file wrong."""

_KEPT_LEAVES = 64


class HDF5Reader:
    """A view of an open file, see `h5ml.store.engine.Reader`; it keeps the groups it opened.

    Parameters
    ----------
    file : h5py.File
        The open file.
    location : str
        Its path, for messages.
    opened : dict of str to Leaf, optional
        Open groups, to share between views of one open file.
    """

    def __init__(self, file: h5py.File, location: str, opened: dict[str, Leaf] | None = None) -> None:
        self._location = location
        with self.telling("/"):
            self._root = h5g.open(file.id, b"/")
        self.opened: dict[str, Leaf] = {} if opened is None else opened

    def damaged(self, path: str, error: Exception) -> H5mlError:
        """What to raise when HDF5 could not do something."""
        return StoreDamaged(
            f"A group of {self._location} cannot be read.",
            key=path,
            found=f"{type(error).__name__}: {error}",
            hint="take the file back from a backup; other groups may still be whole (h5ml audit)",
        )

    @contextlib.contextmanager
    def telling(self, path: str) -> Iterator[None]:
        """Say in one way what HDF5 says in a dozen."""
        try:
            yield
        except H5mlError:
            raise
        except FAULTS as error:
            raise self.damaged(path, error) from error

    @property
    def is_bare(self) -> bool:
        """Whether nothing lies in the file."""
        with self.telling("/"):
            return bool(self._root.get_num_objs() == 0 and h5a.get_num_attrs(self._root) == 0)

    def groups(self) -> Iterator[str]:
        """Paths of all leaf groups."""
        try:
            yield from _walk(self._root, "")
        except FAULTS as error:
            raise self.damaged("/", error) from error

    def exists(self, path: str) -> bool:
        """Whether a leaf group lies there."""
        return path in self.opened or self._kind(path) == "leaf"

    def layout(self, path: str) -> GroupLayout:
        """What lies at a path."""
        with self.telling(path):
            return self.leaf(path).layout()

    def read(self, path: str, name: str, selection: Selection = ()) -> Array:
        """A part of an array; see `h5ml.store.engine.Reader.read`."""
        with self.telling(path):
            return read_selection(self.stored(path, name), selection)

    def leaf(self, path: str) -> Leaf:
        """The open group at a path."""
        with self.telling(path):
            leaf = self.opened.get(path)
            if leaf is None:
                if self._kind(path) != "leaf":
                    raise UnknownKey(f"{self._location} has no group of this name.", key=path)
                leaf = open_leaf(self._root, path)
                self._keep(path, leaf)
            return leaf

    def _keep(self, path: str, leaf: Leaf) -> None:
        while len(self.opened) >= _KEPT_LEAVES:
            del self.opened[next(iter(self.opened))]
        self.opened[path] = leaf

    def stored(self, path: str, name: str) -> Stored:
        """One array of a group."""
        leaf = self.leaf(path)
        if name not in leaf.arrays:
            raise UnknownKey(
                f"The group {path!r} has no array {name!r}.", key=path, expected=", ".join(leaf.arrays), found=name
            )
        return leaf.arrays[name]

    def _kind(self, path: str) -> str | None:
        """``leaf``, ``interior`` or None; a leaf holds arrays or nothing, an interior group holds groups."""
        return self._kinds(path)[-1]

    def _kinds(self, path: str) -> list[str | None]:
        """What the group at each part of a path is."""
        kinds: list[str | None] = []
        try:
            group = self._root
            for part in path.split("/"):
                name = part.encode("utf-8", "surrogateescape")
                found = part not in ("", ".") and "\x00" not in part and group.links.exists(name)
                if not found or h5g.get_objinfo(group, name).type != h5g.GROUP:
                    return [*kinds, None]
                group = h5g.open(group, name)
                interior = group.get_num_objs() and group.get_objtype_by_idx(0) == h5g.GROUP
                kinds.append("interior" if interior else "leaf")
        except FAULTS as error:
            raise self.damaged(path, error) from error
        return kinds


def _walk(group: Any, prefix: str) -> Iterator[str]:
    """Leaf groups below a group."""
    for index in range(group.get_num_objs()):
        if group.get_objtype_by_idx(index) != h5g.GROUP:
            continue
        name = group.get_objname_by_idx(index)
        child = h5g.open(group, name)
        path = prefix + name.decode("utf-8", "surrogateescape")
        if child.get_num_objs() and child.get_objtype_by_idx(0) == h5g.GROUP:
            yield from _walk(child, path + "/")
        else:
            yield path


class HDF5Writer(HDF5Reader):
    """A transaction, see `h5ml.store.engine.Writer`."""

    def __init__(self, file: h5py.File, location: str) -> None:
        super().__init__(file, location)
        self._ends: list[Any] = []

    def create(self, path: str, layout: GroupLayout) -> None:
        """Make a leaf group with all its arrays."""
        with self.telling(path):
            self._check_free(path)
            self._keep(path, create_leaf(self._root, path, layout))

    def _check_free(self, path: str) -> None:
        parts = path.split("/")
        if any(part in ("", ".") or "\x00" in part for part in parts):
            raise InvalidKey("This cannot be the path of a group.", key=path)
        for depth, kind in enumerate(self._kinds(path), 1):
            if kind == "leaf" or (kind == "interior" and depth == len(parts)):
                raise KeyTaken(f"There is already something at {'/'.join(parts[:depth])!r}.", key=path)

    def grow(self, path: str, sizes: Mapping[str, int]) -> None:
        """Lengthen dimensions of a group and all arrays that use them."""
        with self.telling(path):
            leaf = self.leaf(path)
            for dim, size in sizes.items():
                if dim not in leaf.sizes:
                    raise InvalidData(f"The group has no dimension {dim!r}.", key=path, expected=", ".join(leaf.sizes))
                if size < leaf.sizes[dim]:
                    raise InvalidData(f"The dimension {dim!r} cannot shrink.", key=path, found=size)
                if size > leaf.sizes[dim] and dim not in leaf.grows:
                    raise InvalidData(
                        f"The dimension {dim!r} cannot grow.", key=path, expected=leaf.sizes[dim], found=size
                    )
            changed = {dim: int(size) for dim, size in sizes.items() if size != leaf.sizes[dim]}
            if not changed:
                return
            for dim, size in changed.items():
                leaf.sizes[dim] = size
                if dim in leaf.scales and dim not in leaf.arrays:
                    leaf.scales[dim].set_extent((size,))
            for stored in leaf.arrays.values():
                layout = stored.layout
                if not changed.keys().isdisjoint(layout.dims):
                    shape = tuple(leaf.sizes[dim] for dim in layout.dims)
                    stored.id.set_extent(shape)
                    stored.layout = replace(layout, shape=shape)

    def write(self, path: str, name: str, values: Array, start: int = 0) -> None:
        """Write rows from ``start`` on."""
        with self.telling(path):
            stored = self.stored(path, name)
            layout = stored.layout
            values = np.asarray(values)
            if values.shape[1:] != layout.shape[1:] or values.ndim != len(layout.shape):
                raise InvalidData(
                    f"Values for {name!r} are of the wrong shape.", key=path, expected=layout.shape, found=values.shape
                )
            if values.shape and not 0 <= start <= start + len(values) <= layout.shape[0]:
                raise InvalidData(
                    f"Values for {name!r} go beyond its rows.",
                    key=path,
                    expected=f"up to {layout.shape[0]}",
                    found=f"{start} to {start + len(values)}",
                    hint="grow the dimension first",
                )
            values = (
                _checked_text(path, name, values) if layout.dtype == TEXT else _cast(path, name, values, layout.dtype)
            )
            if values.size == 0:
                return
            if not values.shape or values.shape == layout.shape:
                stored.id.write(h5s.ALL, h5s.ALL, values, stored.memory_type)
                return
            space = stored.id.get_space()
            space.select_hyperslab((start, *(0,) * (values.ndim - 1)), values.shape)
            stored.id.write(h5s.create_simple(values.shape), space, values, stored.memory_type)

    def attributes(self, path: str, attributes: Mapping[str, Attribute], name: str | None = None) -> None:
        """Replace the attributes of a group or of one of its arrays."""
        with self.telling(path):
            new = canonical_attributes(attributes)
            if name is None:
                leaf = self.leaf(path)
                replace_attributes(leaf.id, leaf.attributes, new)
                leaf.attributes = new
            else:
                stored = self.stored(path, name)
                replace_attributes(stored.id, stored.layout.attributes, new)
                stored.layout = replace(stored.layout, attributes=new)

    def move(self, source: str, target: str) -> None:
        """Rename a group; nothing is copied."""
        with self.telling(source):
            self.leaf(source)
            self._check_free(target)
            self._root.links.move(source.encode(), self._root, target.encode(), lcpl=link_plist())
            del self.opened[source]
            self._prune(source)

    def remove(self, path: str) -> None:
        """Unlink a group."""
        with self.telling(path):
            self.leaf(path)
            del self.opened[path]
            self._ends.append(_end_of_file(self._root))
            self._root.unlink(path.encode())
            self._prune(path)

    def _prune(self, path: str) -> None:
        """Unlink the groups above that hold nothing any more."""
        while "/" in path:
            path = path.rpartition("/")[0]
            if h5g.open(self._root, path.encode()).get_num_objs():
                return
            self._root.unlink(path.encode())


def _end_of_file(root: Any) -> Any:
    """An unnamed byte at the end of the file, there as long as the handle is held.

    HDF5 shortens a file when its last block is freed, and would write new data over bytes that readers have mapped.
    """
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    return h5d.create(root, None, h5t.STD_U8LE, h5s.create_simple((1,)), dcpl=plist)


def _checked_text(path: str, name: str, values: Array) -> Array:
    """An object array of str that HDF5 can hold."""
    texts = values.reshape(-1).tolist()
    try:
        if "\x00" in "".join(texts):
            raise InvalidData(f"A text of {name!r} holds a NUL character.", key=path, hint="remove it")
        "".join(texts).encode()
    except (TypeError, UnicodeEncodeError) as error:
        raise InvalidData(f"Values for {name!r} are not all text.", key=path, expected="str", found=error) from error
    return np.array(texts, dtype=h5py.string_dtype()).reshape(values.shape)


def _cast(path: str, name: str, values: Array, dtype: str) -> Array:
    if not np.can_cast(values.dtype, dtype, "same_kind"):
        raise InvalidData(f"Values for {name!r} are of the wrong type.", key=path, expected=dtype, found=values.dtype)
    return np.asarray(values, dtype=dtype, order="C")
