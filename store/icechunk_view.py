"""Views of an Icechunk session: what a reader sees, and what a transaction changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from ..schemas.errors import H5mlError, KeyTaken, StoreDamaged, UnknownKey
from .engine import Array, ArrayLayout, GroupLayout, Selection
from .icechunk_chunks import (
    copy_chunks,
    gathered,
    get_document,
    normal,
    put_bytes,
    read_whole,
    storable,
    wait,
    write_whole,
)
from .icechunk_layout import (
    DOCUMENT,
    FOLDER,
    GROWS,
    GroupDocument,
    document,
    empty_result,
    folder_bytes,
    plan,
)
from .icechunk_location import translated

if TYPE_CHECKING:
    from zarr import AsyncArray

    from ..schemas.canonical import Attribute


def plain(path: str) -> bool:
    """Whether a path can name a group at all."""
    return bool(path) and all(part not in ("", ".", "..") for part in path.split("/"))


def parents(path: str) -> list[str]:
    """The folders above a group, outermost (the root, an empty path) first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:i]) for i in range(len(parts) + 1)]


class Nodes:
    """The groups of one snapshot.

    Parameters
    ----------
    text : str
        The library's JSON description of a snapshot.

    Attributes
    ----------
    arrays : dict of str to str
        The id that an array keeps from its creation on, by path.
    leaves : set of str
        Paths of the leaf groups.
    """

    def __init__(self, text: str) -> None:
        nodes = orjson.loads(text)["nodes"]
        groups = [node["path"].strip("/") for node in nodes if node["node_type"] == "group"]
        holding = {node["path"].strip("/").rpartition("/")[0] for node in nodes if node["node_type"] == "array"}
        inner = {group.rpartition("/")[0] for group in groups}
        self.arrays = {node["path"].strip("/"): str(node["id"]) for node in nodes if node["node_type"] == "array"}
        self.leaves = {group for group in groups if group and (group in holding or group not in inner)}


class View:
    """A reader of one session (the protocol `Reader`).

    Parameters
    ----------
    session : icechunk.Session
        Read-only, or writable for `Change`.
    nodes : callable
        Gives the groups of the session's snapshot.
    location : str
        Of the store, for messages.
    """

    def __init__(self, session: Any, nodes: Callable[[], Nodes], location: str) -> None:
        self._session = session
        self._store = session.store
        self._nodes = nodes
        self._location = location
        self._known: dict[str, GroupDocument] = {}
        self._layouts: dict[str, GroupLayout] = {}

    @property
    def snapshot(self) -> str:
        """The id of the state that is read."""
        return str(self._session.snapshot_id)

    def groups(self) -> Iterator[str]:
        """Paths of all leaf groups."""
        with translated(self._location):
            return iter(sorted(self._nodes().leaves))

    def exists(self, path: str) -> bool:
        """Whether a leaf group lies there."""
        return self._find(path) is not None

    def layout(self, path: str) -> GroupLayout:
        """What lies at a path."""
        if path not in self._layouts:
            self._layouts[path] = self._document(path).layout(path)
        return self._layouts[path]

    def read(self, path: str, name: str, selection: Selection = ()) -> Array:
        """A part of an array."""
        layout = self._array(path, name)
        wanted, after, empty = plan(selection, layout.shape)
        if empty:
            return empty_result(wanted, after, layout.dtype)
        rows = _stretch(wanted, layout.shape)
        if rows is not None:
            with self.damage(path):
                document = self._document(path).arrays[name]
                found = read_whole(self._store, f"{path}/{name}", document, layout.dtype, rows)
            if found is not None:
                return found[(*after, ...)]
        array = self.zarr_array(path, name)
        with self.damage(path):
            if all(isinstance(item, slice) for item in wanted):
                values = wait(array.getitem(wanted))
            else:
                values = wait(array.oindex.getitem(wanted))
            return normal(values, layout.dtype)[(*after, ...)]

    def zarr_array(self, path: str, name: str) -> AsyncArray[Any]:
        """An array of the session; chunks of nothing but fill values are written too, so that NaNs keep their bits."""
        from zarr import AsyncArray
        from zarr.core.metadata import ArrayV3Metadata
        from zarr.storage import StorePath

        with self.damage(path):
            metadata = ArrayV3Metadata.from_dict(self._document(path).arrays[name])
            place = StorePath(self._store, f"{path}/{name}")
            return AsyncArray(metadata, place, config={"order": "C", "write_empty_chunks": True})

    def _array(self, path: str, name: str) -> ArrayLayout:
        arrays = self.layout(path).arrays
        if name not in arrays:
            raise UnknownKey("There is no such variable.", key=path, expected=", ".join(sorted(arrays)), found=name)
        return arrays[name]

    def _document(self, path: str) -> GroupDocument:
        found = self._find(path)
        if found is None:
            raise UnknownKey("There is no such group.", key=path)
        return found

    def _find(self, path: str) -> GroupDocument | None:
        if path in self._known:
            return self._known[path]
        if not plain(path):
            return None
        with self.damage(path):
            found = wait(_load(self._store, path))
        if found is not None:
            self._known[path] = found
        return found

    @contextmanager
    def damage(self, path: str) -> Iterator[None]:
        """Reading what should be there: whatever goes wrong means damage (or a lost connection)."""
        try:
            with translated(self._location, key=path):
                yield
        except H5mlError:
            raise
        except (ValueError, TypeError, RuntimeError, KeyError, AttributeError, OSError) as error:
            raise StoreDamaged(
                "A group is not as it was written.", key=path, found=repr(error)[:300], hint="run `h5ml audit`"
            ) from error


class Change(View):
    """A transaction on a writable session (the protocol `Writer`)."""

    def __init__(self, session: Any, nodes: Callable[[], Nodes], location: str) -> None:
        super().__init__(session, nodes, location)
        self._made: set[str] = set()
        self._gone: set[str] = set()
        self._folders: set[str] = set()
        self._thinned: set[str] = set()

    def groups(self) -> Iterator[str]:
        """Paths of all leaf groups."""
        with translated(self._location):
            return iter(sorted((self._nodes().leaves - self._gone) | self._made))

    def create(self, path: str, layout: GroupLayout) -> None:
        """Make a leaf group."""
        self._put(path, document(layout))

    def grow(self, path: str, sizes: Mapping[str, int]) -> None:
        """Lengthen dimensions."""
        layout = self.layout(path)
        for dim, size in sizes.items():
            if dim not in layout.sizes:
                raise ValueError(f"{path} has no dimension {dim}")
            if size < layout.sizes[dim]:
                raise ValueError(f"the dimension {dim} of {path} cannot shrink from {layout.sizes[dim]} to {size}")
            if size > layout.sizes[dim] and dim not in layout.grows:
                raise ValueError(f"the dimension {dim} of {path} does not grow")
        found = self._document(path)
        changed = {}
        for name, array in layout.arrays.items():
            shape = [sizes.get(dim, n) for dim, n in zip(array.dims, array.shape, strict=True)]
            if tuple(shape) != array.shape:
                found.arrays[name] = {**found.arrays[name], "shape": shape}
                changed[f"{path}/{name}"] = orjson.dumps(found.arrays[name])
        self._set(changed)
        self._layouts.pop(path, None)

    def write(self, path: str, name: str, values: Array, start: int = 0) -> None:
        """Write rows of an array."""
        layout = self._array(path, name)
        values = np.asarray(values)
        if values.ndim != len(layout.shape) or values.shape[1:] != layout.shape[1:]:
            raise ValueError(f"values of shape {values.shape} for {path}/{name} of shape {layout.shape}")
        if layout.shape and (start < 0 or start + len(values) > layout.shape[0]):
            raise ValueError(
                f"rows {start} to {start + len(values)} of {path}/{name}, which has {layout.shape[0]} rows"
            )
        if values.size == 0:
            return
        values = storable(values, layout.dtype, path, name)
        rows = (slice(start, start + len(values)),) if layout.shape else ()
        with translated(self._location, key=path, writing=True):
            if write_whole(self._store, f"{path}/{name}", self._document(path).arrays[name], values, start):
                return
            wait(self.zarr_array(path, name).setitem((*rows, *(slice(None),) * (values.ndim - 1)), values))

    def attributes(self, path: str, attributes: Mapping[str, Attribute], name: str | None = None) -> None:
        """Replace attributes."""
        found = self._document(path)
        if name is not None:
            self._array(path, name)
            found.arrays[name] = {**found.arrays[name], "attributes": dict(attributes)}
            self._set({f"{path}/{name}": orjson.dumps(found.arrays[name])})
            self._layouts.pop(path, None)
            return
        technical = {GROWS: found.attributes[GROWS]} if GROWS in found.attributes else {}
        found.attributes = {**attributes, **technical}
        self._set({path: found.bytes()})
        self._layouts.pop(path, None)

    def move(self, source: str, target: str) -> None:
        """Rename a group. Icechunk 1 cannot, so its stored chunks are copied as they are, without decoding."""
        found = self._document(source)
        self._put(target, found)
        with translated(self._location, key=source, writing=True):
            wait(copy_chunks(self._store, source, target))
        self.remove(source)

    def remove(self, path: str) -> None:
        """Unlink a group."""
        self._document(path)
        with translated(self._location, key=path, writing=True):
            wait(self._store.delete_dir(path))
        del self._known[path]
        self._layouts.pop(path, None)
        self._made.discard(path)
        self._gone.add(path)
        self._thinned.update(parents(path))

    def finish(self) -> None:
        """Remove folders that hold nothing any more."""
        for folder in sorted(self._thinned - {""}, key=lambda name: name.count("/"), reverse=True):
            with translated(self._location, key=folder, writing=True):
                if not wait(_children(self._store, folder)):
                    wait(self._store.delete_dir(folder))
                    self._folders.discard(folder)
        self._thinned.clear()

    def _put(self, path: str, new: GroupDocument) -> None:
        """Make a group, and the folders above it."""
        if not plain(path):
            raise KeyTaken("This can be no path of a group.", key=path)
        self.finish()
        missing = self._unknown_folders(path)
        with self.damage(path):
            taken, *marks = wait(gathered(get_document(self._store, folder) for folder in (path, *missing)))
        if taken is not None:
            raise KeyTaken("Something lies at this path already.", key=path)
        documents = self._new_folders(path, missing, marks)
        documents[path] = new.bytes()
        documents |= {f"{path}/{name}": orjson.dumps(array) for name, array in new.arrays.items()}
        self._set(documents)
        self._folders.update(missing)
        self._known[path] = GroupDocument(dict(new.attributes), dict(new.arrays))
        self._made.add(path)
        self._gone.discard(path)

    def _unknown_folders(self, path: str) -> list[str]:
        """The folders above a group of which it is not known that they are there."""
        return [folder for folder in parents(path) if folder not in self._folders]

    def _new_folders(
        self, path: str, folders: Sequence[str], marks: Sequence[Mapping[str, Any] | None]
    ) -> dict[str, bytes]:
        """The documents of those that are not there; refuses what is no folder."""
        documents: dict[str, bytes] = {}
        for folder, mark in zip(folders, marks, strict=True):
            if mark is None:
                documents[folder] = folder_bytes()
            elif FOLDER not in mark.get("attributes", {}) and self._find(folder) is not None:
                raise KeyTaken("A group cannot lie inside a group of variables.", key=path, found=folder)
        return documents

    def adopt(self, fork: Any, made: Iterable[str], gone: Iterable[str]) -> None:
        """Merge what was changed on a fork, where nobody has changed the same groups since.

        Parameters
        ----------
        fork : icechunk.ForkSession
            Of any earlier state of this branch.
        made, gone : iterable of str
            The groups that it made and removed; it left the folders above them alone.
        """
        with translated(self._location, writing=True):
            self._session.merge(fork)
        self._known.clear()
        self._layouts.clear()
        new, old = set(made), set(gone)
        self._made = (self._made - old) | new
        self._gone = (self._gone | old) - new
        self._thinned.update(folder for path in old for folder in parents(path))
        for path in sorted(new):
            missing = self._unknown_folders(path)
            with self.damage(path):
                marks = wait(gathered(get_document(self._store, folder) for folder in missing))
            self._set(self._new_folders(path, missing, marks))
            self._folders.update(missing)

    def _set(self, documents: Mapping[str, bytes]) -> None:
        with translated(self._location, writing=True):
            wait(
                gathered(
                    put_bytes(self._store, f"{path}/{DOCUMENT}".lstrip("/"), value) for path, value in documents.items()
                )
            )


def _stretch(wanted: Sequence[Any], shape: Sequence[int]) -> slice | None:
    """The rows that are wanted, if these are some whole rows end to end."""
    if not wanted or not all(isinstance(item, slice) and item.step == 1 for item in wanted):
        return None
    whole = all((item.start, item.stop) == (0, n) for item, n in zip(wanted[1:], shape[1:], strict=True))
    first = wanted[0]
    return slice(first.start, first.stop) if whole else None


async def _children(store: Any, path: str) -> list[str]:
    return [name async for name in store.list_dir(path) if name != DOCUMENT]


async def _load(store: Any, path: str) -> GroupDocument | None:
    """The documents of a leaf group, or nothing."""
    own = await get_document(store, path)
    if own is None or own["node_type"] != "group" or FOLDER in own.get("attributes", {}):
        return None
    names = await _children(store, path)
    found = await gathered(get_document(store, f"{path}/{name}") for name in names)
    arrays = {n: d for n, d in zip(names, found, strict=True) if d is not None and d["node_type"] == "array"}
    if names and not arrays:
        return None
    return GroupDocument(dict(own.get("attributes", {})), dict(sorted(arrays.items())))
