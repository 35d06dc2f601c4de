"""An engine that keeps everything in memory: the plainest one, for tests of what stands above engines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from h5ml.schemas.canonical import Attribute
from h5ml.schemas.errors import KeyTaken
from h5ml.store.engine import TEXT, Array, Engine, GroupLayout, Reader, RowReader, Selection, Writer

T = TypeVar("T")


@dataclass
class Group:
    """A leaf group: its layout and its values."""

    layout: GroupLayout
    values: dict[str, Array] = field(default_factory=dict)

    def copy(self) -> Group:
        return Group(self.layout, {name: values.copy() for name, values in self.values.items()})


class MemoryReader:
    """A view of the groups as they were when it was opened."""

    def __init__(self, groups: Mapping[str, Group]) -> None:
        self._groups = dict(groups)

    def groups(self) -> Iterator[str]:
        return iter(sorted(self._groups))

    def exists(self, path: str) -> bool:
        return path in self._groups

    def layout(self, path: str) -> GroupLayout:
        return self._groups[path].layout

    def read(self, path: str, name: str, selection: Selection = ()) -> Array:
        values = self._groups[path].values[name]
        for axis in reversed(range(len(selection))):
            values = values[(slice(None),) * axis + (selection[axis],)]
        return np.array(values, copy=True)


class MemoryWriter(MemoryReader):
    """A transaction: groups are copied before they are changed."""

    def __init__(self, groups: Mapping[str, Group]) -> None:
        super().__init__(groups)
        self._mine: set[str] = set()

    def result(self) -> dict[str, Group]:
        return self._groups

    def create(self, path: str, layout: GroupLayout) -> None:
        if path in self._groups:
            raise KeyTaken("A group exists.", key=path)
        for name in self._groups:
            if name.startswith(path + "/") or path.startswith(name + "/"):
                raise KeyTaken("A group cannot hold arrays and groups.", key=path, found=name)
        self._groups[path] = Group(layout, {n: _empty(a.dtype, a.shape) for n, a in layout.arrays.items()})
        self._mine.add(path)

    def grow(self, path: str, sizes: Mapping[str, int]) -> None:
        group = self._own(path)
        arrays = dict(group.layout.arrays)
        for name, array in arrays.items():
            shape = tuple(sizes.get(dim, n) for dim, n in zip(array.dims, array.shape, strict=True))
            if shape != array.shape:
                values = _empty(array.dtype, shape)
                values[tuple(slice(n) for n in array.shape)] = group.values[name]
                group.values[name], arrays[name] = values, replace(array, shape=shape)
        group.layout = replace(group.layout, arrays=arrays, sizes={**group.layout.sizes, **sizes})

    def write(self, path: str, name: str, values: Array, start: int = 0) -> None:
        target = self._own(path).values[name]
        if target.shape:
            target[start : start + len(values)] = values
        else:
            target[()] = np.asarray(values)[()]

    def attributes(self, path: str, attributes: Mapping[str, Attribute], name: str | None = None) -> None:
        group = self._own(path)
        if name is None:
            group.layout = replace(group.layout, attributes=dict(attributes))
        else:
            changed = replace(group.layout.arrays[name], attributes=dict(attributes))
            group.layout = replace(group.layout, arrays={**group.layout.arrays, name: changed})

    def move(self, source: str, target: str) -> None:
        if target in self._groups:
            raise KeyTaken("A group exists.", key=target)
        self._groups[target] = self._groups.pop(source)
        self._mine.discard(target)

    def remove(self, path: str) -> None:
        del self._groups[path]
        self._mine.discard(path)

    def _own(self, path: str) -> Group:
        if path not in self._mine:
            self._groups[path] = self._groups[path].copy()
            self._mine.add(path)
        return self._groups[path]


class MemoryRows:
    """Random rows."""

    def __init__(self, values: dict[str, Array]) -> None:
        self._values = values

    def take(self, name: str, rows: Array) -> Array:
        return self._values[name][np.asarray(rows, dtype=np.int64)]

    def ranges(self, name: str, starts: Array, counts: Array) -> Array:
        values = self._values[name]
        pieces = [values[s : s + c] for s, c in zip(starts.tolist(), counts.tolist(), strict=True)]
        return np.concatenate(pieces) if pieces else values[:0].copy()

    def close(self) -> None:
        """Nothing is held."""


class MemoryEngine(Engine):
    """A store in memory, of one process."""

    kind = "memory"

    def __init__(self, location: str = "memory") -> None:
        self.location = location
        self.groups: dict[str, Group] = {}
        self._made = False
        self._commits = 0
        self._lock = threading.RLock()

    def make(self) -> None:
        if self._made:
            raise KeyTaken("A store lies there.", key=self.location)
        self._made = True

    def reading(self) -> AbstractContextManager[Reader]:
        return nullcontext(MemoryReader(self.groups))

    def transact(self, function: Callable[[Writer], T], *, message: str = "", timeout_s: float = 60.0) -> T:
        with self._lock:
            writer = MemoryWriter(self.groups)
            result = function(writer)
            self.groups = writer.result()
            self._commits += 1
            return result

    def state(self) -> Hashable:
        return self._commits

    def rows(self, path: str, names: Sequence[str]) -> RowReader:
        return MemoryRows({name: self.groups[path].values[name] for name in names})

    def compact(self, copy: Callable[[Reader, Writer], None], *, timeout_s: float = 60.0) -> tuple[int, int]:
        with self._lock:
            before, new = self.nbytes(), MemoryWriter({})
            copy(MemoryReader(self.groups), new)
            self.groups = new.result()
            self._commits += 1
            return before, self.nbytes()

    def nbytes(self) -> int:
        return sum(values.nbytes for group in self.groups.values() for values in group.values.values())


def _empty(dtype: str, shape: tuple[int, ...]) -> Array:
    empty: Any = np.empty(shape, object if dtype == TEXT else np.dtype(dtype))
    empty.fill("" if dtype == TEXT else 0)
    return np.asarray(empty)
