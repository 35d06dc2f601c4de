"""The engine interface: groups of named arrays with transactions, and nothing that h5ml means by them.

An engine knows paths, arrays, dimensions and attributes; keys, kinds, versions, runs and the commit log are the
store's. Two engines exist: HDF5 (``hdf5.py``) and Icechunk (``icechunk.py``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from ..schemas.canonical import Attribute

T = TypeVar("T")
Array = np.ndarray[Any, np.dtype[Any]]
Selection = tuple[slice | int | Array, ...]

TEXT = "text"


@dataclass(frozen=True, slots=True)
class ArrayLayout:
    """How one array lies in a group.

    Attributes
    ----------
    dims : tuple of str
        Names of the axes.
    shape : tuple of int
        Their lengths now.
    dtype : str
        A little-endian numpy type string (``<f8``), or ``text`` for UTF-8 strings of any length.
    attributes : dict
        In canonical form.
    chunks : tuple of int or None
        None for one contiguous piece (only arrays that never grow).
    compression : str or None
        ``zstd``, ``gzip`` or None.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    chunks: tuple[int, ...] | None = None
    compression: str | None = None


@dataclass(frozen=True, slots=True)
class GroupLayout:
    """A leaf group: its arrays, the lengths of all its dimensions, and its attributes.

    Attributes
    ----------
    arrays : dict of str to ArrayLayout
        By name.
    sizes : dict of str to int
        Every dimension that an array uses.
    attributes : dict
        In canonical form; an engine's technical attributes are not among them.
    grows : tuple of str
        Dimensions that can be lengthened.
    """

    arrays: Mapping[str, ArrayLayout]
    sizes: Mapping[str, int]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    grows: tuple[str, ...] = ()


class Reader(Protocol):
    """A consistent view of the last committed state (or, within a transaction, of the state so far)."""

    def groups(self) -> Iterator[str]:
        """Paths of all leaf groups (without a leading slash), those under ``.h5ml`` included."""
        ...

    def exists(self, path: str) -> bool:
        """Whether a leaf group lies there."""
        ...

    def layout(self, path: str) -> GroupLayout:
        """What lies at a path; raises ``StoreDamaged`` where it cannot be read, ``KeyError`` where nothing lies."""
        ...

    def read(self, path: str, name: str, selection: Selection = ()) -> Array:
        """A part of an array by slices, integers or integer arrays per axis; text comes as an object array of str."""
        ...


class Writer(Reader, Protocol):
    """A transaction: what it does appears all at once at its commit, or not at all."""

    def create(self, path: str, layout: GroupLayout) -> None:
        """Make a leaf group with all its arrays; their contents are undefined until written."""
        ...

    def grow(self, path: str, sizes: Mapping[str, int]) -> None:
        """Lengthen dimensions of a group, and with them every array that uses them."""
        ...

    def write(self, path: str, name: str, values: Array, start: int = 0) -> None:
        """Write rows ``start ... start + len(values)`` along the first axis (a scalar array whole)."""
        ...

    def attributes(self, path: str, attributes: Mapping[str, Attribute], name: str | None = None) -> None:
        """Replace all attributes of a group, or of one of its arrays."""
        ...

    def move(self, source: str, target: str) -> None:
        """Rename a group; its bytes stay where they are if the engine can do so."""
        ...

    def remove(self, path: str) -> None:
        """Unlink a group. Its bytes are not reused before ``compact``, so that running readers stay safe."""
        ...


class RowReader(Protocol):
    """Random access to the rows of a group's arrays, made for training batches; valid until closed."""

    def take(self, name: str, rows: Array) -> Array:
        """Rows of an array by a sorted or unsorted integer array."""
        ...

    def ranges(self, name: str, starts: Array, counts: Array) -> Array:
        """Several stretches of rows, end to end (the atoms of several ragged frames)."""
        ...

    def close(self) -> None:
        """Release what it holds."""
        ...


class Engine(ABC):
    """One physical store.

    Attributes
    ----------
    kind : str
        ``hdf5`` or ``icechunk``.
    location : str
        Path or URL, as the user wrote it.
    apart : bool
        Whether other processes may write the data of a commit (see ``icechunk_fork.py``).
    """

    kind: str
    location: str
    apart: bool = False

    @abstractmethod
    def make(self) -> None:
        """Make a new, empty store; refuses where something lies already (``KeyTaken``)."""

    def is_unmade(self) -> bool:
        """Whether nothing lies here yet but what ``make`` left when it was killed, or is about to finish."""
        return False

    @abstractmethod
    def reading(self) -> AbstractContextManager[Reader]:
        """Open a view of the last committed state for a short time."""

    @abstractmethod
    def transact(self, function: Callable[[Writer], T], *, message: str = "", timeout_s: float = 60.0) -> T:
        """Run ``function(writer)`` under the writer lock and commit; on any exception nothing is changed.

        The function may be executed again if another writer came first (Icechunk on a bucket), so it must decide
        everything from what it reads through the writer. When this returns, the commit is durable.

        Raises
        ------
        LockTimeout
            If another process keeps the lock; the message names it.
        StoreWriteFailed
            If the operating system refuses; the last commit is intact.
        """

    @abstractmethod
    def state(self) -> Hashable:
        """A cheap token that changes whenever another commit may have happened (for caches)."""

    @abstractmethod
    def rows(self, path: str, names: Sequence[str]) -> RowReader:
        """Fast random access to rows of some arrays of a group as they are committed now."""

    @abstractmethod
    def compact(self, copy: Callable[[Reader, Writer], None], *, timeout_s: float = 60.0) -> tuple[int, int]:
        """Give back the space of removed groups; returns the bytes before and after.

        An engine that must write a new file calls ``copy(old, new)`` to fill it; readers of the old one stay safe.
        """

    @abstractmethod
    def nbytes(self) -> int:
        """Bytes that the store takes."""

    def warnings(self) -> list[str]:
        """What the user should know about this place (a file system without locks)."""
        return []

    def unlock(self) -> str:
        """Remove what a dead writer left of its lock; says what was done."""
        return "There is nothing to unlock."

    def close(self) -> None:
        """Release handles and maps; the engine can be used again afterwards."""
