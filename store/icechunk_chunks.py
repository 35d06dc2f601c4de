"""Chunks of arrays: writing and copying them whole, and reading rows for training batches.

Zarr's own path costs milliseconds per call. Where a chunk is nothing but the bytes of some whole rows (no compression,
no cut across a row), which is how training data lie, chunks are written and read directly; the result is the same.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import orjson

from ..schemas.errors import InvalidData, StoreDamaged, UnknownKey
from .engine import TEXT, Array, GroupLayout
from .icechunk_layout import DOCUMENT, chunk_shape, rows_of

if TYPE_CHECKING:
    from zarr import AsyncArray

T = TypeVar("T")
_AT_ONCE = 32
_CACHE_BYTES = 128 << 20


def wait(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on Zarr's event loop."""
    from zarr.core.sync import sync

    return sync(work)


async def gathered(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Results of coroutines that run together."""
    return list(await asyncio.gather(*work))


async def get_document(store: Any, path: str) -> dict[str, Any] | None:
    """The parsed ``zarr.json`` of a group or an array, if there is one."""
    from zarr.core.buffer import default_buffer_prototype

    value = await store.get(f"{path}/{DOCUMENT}".lstrip("/"), default_buffer_prototype())
    return None if value is None else dict(orjson.loads(value.to_bytes()))


async def put_bytes(store: Any, key: str, value: bytes) -> None:
    """Store bytes under a key."""
    from zarr.core.buffer import default_buffer_prototype

    await store.set(key, default_buffer_prototype().buffer.from_bytes(value))


def rows_like(numbers: Array) -> Array:
    """Integers as int64."""
    return np.asarray(numbers, dtype=np.int64).reshape(-1)


def normal(values: Any, dtype: str) -> Array:
    """What Zarr read, as an engine gives it: little-endian numbers, or an object array of str."""
    return np.asarray(values).astype(object if dtype == TEXT else np.dtype(dtype), copy=False)


def storable(values: Array, dtype: str, path: str, name: str) -> Array:
    """Values in the type of the array they go to."""
    if dtype != TEXT:
        return np.asarray(values.astype(np.dtype(dtype), order="C", casting="same_kind", copy=False))
    texts = values.astype(object)
    if not all(isinstance(text, str) for text in texts.reshape(-1).tolist()):
        raise InvalidData("A text variable holds something else than text.", key=f"{path}/{name}", expected="str")
    try:
        return np.asarray(texts, dtype=np.dtypes.StringDType())
    except UnicodeEncodeError as error:
        raise InvalidData("A text is no valid Unicode.", key=f"{path}/{name}", found=repr(error)) from error


def whole_rows(document: Mapping[str, Any]) -> bool:
    """Whether each chunk is the little-endian bytes of some whole rows."""
    codecs = [(codec["name"], codec.get("configuration", {}).get("endian", "little")) for codec in document["codecs"]]
    shape, chunks = document["shape"], chunk_shape(document)
    separator = document["chunk_key_encoding"].get("configuration", {}).get("separator", "/")
    plain = document["chunk_key_encoding"]["name"] == "default" and separator == "/"
    return codecs == [("bytes", "little")] and plain and len(shape) > 0 and tuple(shape[1:]) == chunks[1:]


def _key(path: str, number: int, axes: int) -> str:
    return "/".join((path, "c", str(number), *("0",) * (axes - 1)))


def write_whole(store: Any, path: str, document: Mapping[str, Any], values: Array, start: int) -> bool:
    """Write rows as whole chunks, if they are that (up to the end of the array); says whether it did."""
    if not whole_rows(document):
        return False
    step = chunk_shape(document)[0]
    end = start + len(values)
    if start % step or (end % step and end != document["shape"][0]):
        return False

    def piece(i: int) -> bytes:
        rows = values[i : i + step]
        if len(rows) < step:
            padding = np.full((step - len(rows), *rows.shape[1:]), np.nan if rows.dtype.kind in "fc" else 0, rows.dtype)
            rows = np.concatenate([rows, padding])
        return rows.tobytes()

    async def write() -> None:
        firsts = range(0, len(values), step)
        for i in range(0, len(firsts), _AT_ONCE):
            await gathered(
                put_bytes(store, _key(path, (start + first) // step, values.ndim), piece(first))
                for first in firsts[i : i + _AT_ONCE]
            )

    wait(write())
    return True


async def _read_whole(store: Any, path: str, number: int, shape: tuple[int, ...], dtype: str) -> Array | None:
    """One chunk of whole rows; nothing if it was never written."""
    from zarr.core.buffer import default_buffer_prototype

    value = await store.get(_key(path, number, len(shape)), default_buffer_prototype())
    if value is None:
        return None
    return np.frombuffer(value.to_bytes(), np.dtype(dtype)).reshape(shape)


def read_whole(store: Any, path: str, document: Mapping[str, Any], dtype: str, rows: slice) -> Array | None:
    """Rows from whole chunks, if they are that and all of them were written."""
    if not whole_rows(document) or dtype == TEXT:
        return None
    chunk = chunk_shape(document)
    step = chunk[0]
    values: Array = np.empty((rows.stop - rows.start, *chunk[1:]), dtype=dtype)

    async def fetch(number: int) -> bool:
        block = await _read_whole(store, path, number, chunk, dtype)
        if block is not None:
            first, end = max(rows.start, number * step), min(rows.stop, (number + 1) * step)
            values[first - rows.start : end - rows.start] = block[first - number * step : end - number * step]
        return block is not None

    numbers = range(rows.start // step, -(-rows.stop // step))
    for i in range(0, len(numbers), _AT_ONCE):
        if not all(wait(gathered(fetch(number) for number in numbers[i : i + _AT_ONCE]))):
            return None
    return values


async def copy_chunks(store: Any, source: str, target: str) -> None:
    """Copy the stored bytes of all chunks of a group to another group that has the same arrays."""
    from zarr.core.buffer import default_buffer_prototype

    async def copy(key: str) -> None:
        value = await store.get(key, default_buffer_prototype())
        await store.set(target + key.removeprefix(source), value)

    keys = [key async for key in store.list_prefix(f"{source}/") if not key.endswith("/" + DOCUMENT)]
    for i in range(0, len(keys), _AT_ONCE):
        await gathered(copy(key) for key in keys[i : i + _AT_ONCE])


class ArraySource(Protocol):
    """What `Rows` needs of a view."""

    def layout(self, path: str) -> GroupLayout:
        """What lies at a path."""
        ...

    def zarr_array(self, path: str, name: str) -> AsyncArray[Any]:
        """An array as Zarr sees it."""
        ...

    def damage(self, path: str) -> AbstractContextManager[None]:
        """Turn errors of reading into `StoreDamaged`."""
        ...


class Rows:
    """Rows of a group's arrays (the protocol `RowReader`): each chunk touched is read once and kept for a while.

    Parameters
    ----------
    view : View
        Of the state to read (`icechunk_view.View`).
    path : str
        The group.
    names : sequence of str
        Its arrays.
    renew : callable
        Gives a view of the newest state in which the group is still this one, or raises: for readers that are older
        than a compaction.
    """

    def __init__(self, view: ArraySource, path: str, names: Sequence[str], renew: Callable[[], ArraySource]) -> None:
        layouts = view.layout(path).arrays
        for name in names:
            if name not in layouts:
                raise UnknownKey("There is no such variable.", key=path, expected=", ".join(layouts), found=name)
        self._layouts = {name: layouts[name] for name in names}
        self._arrays = {name: view.zarr_array(path, name) for name in names}
        documents = {name: array.metadata.to_dict() for name, array in self._arrays.items()}
        self._chunks = {name: chunk_shape(document) for name, document in documents.items()}
        self._whole = {name for name, document in documents.items() if whole_rows(document)}
        self._view, self._path, self._renew = view, path, renew
        self._blocks: OrderedDict[tuple[str, int], Array] = OrderedDict()
        self._held = 0

    def take(self, name: str, rows: Array) -> Array:
        """Rows of an array."""
        layout = self._layouts[name]
        rows = rows_of(rows, layout.shape[0])
        step = self._chunks[name][0]
        result = np.empty((len(rows), *layout.shape[1:]), object if layout.dtype == TEXT else layout.dtype)
        order = np.argsort(rows, kind="stable")
        numbers, firsts = np.unique(rows[order] // step, return_index=True)
        wanted = list(zip(numbers.tolist(), np.split(order, firsts[1:]), strict=True)) if len(rows) else []
        for i in range(0, len(wanted), _AT_ONCE):
            part = wanted[i : i + _AT_ONCE]
            blocks = self._fetch(name, [number for number, _ in part])
            for number, places in part:
                result[places] = blocks[number][rows[places] - number * step]
        return result

    def ranges(self, name: str, starts: Array, counts: Array) -> Array:
        """Several stretches of rows, end to end."""
        starts, counts = rows_like(starts), rows_like(counts)
        if counts.size and (counts.min() < 0 or starts.min() < 0):
            raise IndexError("stretches start at row 0 or later and have no negative length")
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        return self.take(name, np.arange(total) + np.repeat(starts - ends + counts, counts))

    def close(self) -> None:
        """Forget the chunks."""
        self._blocks.clear()
        self._held = 0

    def _fetch(self, name: str, numbers: Sequence[int]) -> dict[int, Array]:
        found = {number: self._blocks[name, number] for number in numbers if (name, number) in self._blocks}
        missing = [number for number in numbers if number not in found]
        if missing:
            try:
                values = self._read(name, missing)
            except StoreDamaged:
                self._view = self._renew()
                self._arrays = {each: self._view.zarr_array(self._path, each) for each in self._arrays}
                values = self._read(name, missing)
            for number, block in zip(missing, values, strict=True):
                found[number] = block
                self._keep((name, number), found[number])
        for number in numbers:
            if (name, number) in self._blocks:
                self._blocks.move_to_end((name, number))
        return found

    def _keep(self, key: tuple[str, int], block: Array) -> None:
        self._blocks[key] = block
        self._held += block.nbytes
        while self._held > _CACHE_BYTES:
            self._held -= self._blocks.popitem(last=False)[1].nbytes

    def _read(self, name: str, numbers: Sequence[int]) -> list[Array]:
        with self._view.damage(self._path):
            return wait(gathered(self._block(name, number) for number in numbers))

    async def _block(self, name: str, number: int) -> Array:
        """The rows of one chunk (some more than the array has, at its end)."""
        array, layout, chunks = self._arrays[name], self._layouts[name], self._chunks[name]
        place = array.store_path
        if name in self._whole:
            block = await _read_whole(place.store, place.path, number, chunks, layout.dtype)
            if block is not None:
                return block
        rest = (slice(None),) * (len(layout.shape) - 1)
        values = await array.getitem((slice(number * chunks[0], (number + 1) * chunks[0]), *rest))
        return normal(values, layout.dtype)
