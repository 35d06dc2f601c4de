"""Sample data and helpers for the suite that every engine must pass (`h5ml.tests.kits.engine`)."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from h5ml.store.engine import TEXT, Array, ArrayLayout, Engine, GroupLayout, Reader, Writer

NUMERIC = ["|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "<f4", "<f8"]
ATTRIBUTES: dict[str, Any] = {
    "units": "eV/Angstrom",
    "empty": "",
    "unicode": "Å ∕ Привет 🧪\nsecond line",
    "smallest": -(2**63),
    "largest": 2**63 - 1,
    "third": 1 / 3,
    "whole_float": 2.0,
    "tiny": 5e-324,
    "words": ["a", "Ångström", "c d"],
    "counts": [1, 2, 3],
    "values": [1.0, 2.5],
    "json": '{"a":[1,null,true]}',
    "long": "x" * 100_000,
}


# ----------------------------------------------------------------------------- sample data


def group(
    arrays: dict[str, tuple[tuple[str, ...], Any]],
    grows: tuple[str, ...] = (),
    attributes: dict[str, Any] | None = None,
    **options: Any,
) -> GroupLayout:
    """A layout for arrays given as ``name: (dims, values)``; ``options`` go to every ArrayLayout."""
    layouts, sizes = {}, {}
    for name, (dims, values) in arrays.items():
        values = np.asarray(values)
        sizes.update(zip(dims, values.shape, strict=True))
        layouts[name] = ArrayLayout(tuple(dims), values.shape, type_of(values), {"units": "1"}, **options)
    return GroupLayout(layouts, sizes, attributes or {}, grows)


def type_of(values: Array) -> str:
    """The dtype string of an ArrayLayout."""
    return TEXT if values.dtype.kind in "OU" else values.dtype.newbyteorder("<").str


def put(
    engine: Engine,
    path: str,
    arrays: dict[str, tuple[tuple[str, ...], Any]],
    grows: tuple[str, ...] = (),
    **options: Any,
) -> GroupLayout:
    """Create a group and write all its arrays in one transaction."""
    layout = group(arrays, grows, **options)
    engine.transact(lambda writer: fill(writer, path, layout, arrays))
    return layout


def fill(writer: Writer, path: str, layout: GroupLayout, arrays: dict[str, tuple[tuple[str, ...], Any]]) -> None:
    """Create a group and write its arrays."""
    writer.create(path, layout)
    for name, (_, values) in arrays.items():
        writer.write(path, name, np.asarray(values))


def get(engine: Engine, path: str, name: str, selection: tuple[Any, ...] = ()) -> Array:
    """One read in a view of its own."""
    with engine.reading() as reader:
        return reader.read(path, name, selection)


def frames(n: int, atoms: int = 4, seed: int = 0) -> dict[str, tuple[tuple[str, ...], Any]]:
    """A small trajectory."""
    rng = np.random.default_rng(seed)
    return {
        "positions": (("frame", "atom", "xyz"), rng.normal(size=(n, atoms, 3))),
        "energy": (("frame",), rng.normal(size=n)),
        "step": (("frame",), np.arange(n, dtype="<i8")),
        "symbols": (("atom",), np.array(["C", "H", "O", "N"] * atoms, dtype=object)[:atoms]),
    }


def append(engine: Engine, path: str, arrays: dict[str, tuple[tuple[str, ...], Any]], dim: str = "frame") -> int:
    """Append rows to the arrays that have the dimension first, in one transaction; returns the new length."""
    arrays = {name: pair for name, pair in arrays.items() if pair[0][:1] == (dim,)}
    count = {len(values) for _, values in arrays.values()}.pop()

    def add(writer: Writer) -> int:
        start = writer.layout(path).sizes[dim]
        writer.grow(path, {dim: start + count})
        for name, (_, values) in arrays.items():
            writer.write(path, name, np.asarray(values), start)
        return start + count

    return engine.transact(add)


def same(found: Array, expected: Any) -> None:
    """Equal in shape, dtype and every value."""
    expected = np.asarray(expected)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    if expected.dtype.kind in "OU":
        assert found.dtype.kind == "O"
        assert all(type(text) is str for text in found.reshape(-1).tolist())
        assert found.tolist() == expected.tolist()
    else:
        assert found.dtype == expected.dtype.newbyteorder("<"), (found.dtype, expected.dtype)
        np.testing.assert_array_equal(found, expected)


def copy_all(old: Reader, new: Writer) -> None:
    """The plainest copy function for ``compact``."""
    for path in list(old.groups()):
        layout = old.layout(path)
        new.create(path, layout)
        for name in layout.arrays:
            new.write(path, name, old.read(path, name))


class Refused(Exception):
    """Raised inside transactions on purpose."""


# ----------------------------------------------------------------------------- work for other processes


def work_append(engine: Engine, worker: int, rounds: int) -> None:
    """Append rows to the worker's own group and a line to the shared log, in one transaction a round."""
    path = f"workers/{worker}"
    put(engine, path, frames(0), grows=("frame",))
    for i in range(rounds):

        def add(writer: Writer, i: int = i) -> None:
            writer.grow(path, {"frame": i + 1})
            for name, (dims, values) in frames(1, seed=1000 * worker + i).items():
                if dims[:1] == ("frame",):
                    writer.write(path, name, np.asarray(values), i)
            start = writer.layout(".h5ml/log").sizes["byte"]
            line = np.frombuffer(f"{worker:3d} {i:3d}\n".encode(), np.uint8)
            writer.grow(".h5ml/log", {"byte": start + len(line)})
            writer.write(".h5ml/log", "bytes", line, start)

        engine.transact(add)


def work_read(engine: Engine, stop: Any, minimum: int) -> None:
    """Check again and again that every view is one whole commit."""
    views = 0
    while not stop.is_set() or views < minimum:
        with engine.reading() as reader:
            lines = reader.read(".h5ml/log", "bytes").tobytes().decode().splitlines()
            for path in [p for p in reader.groups() if p.startswith("workers/")]:
                sizes = reader.layout(path).sizes
                worker = int(path.rpartition("/")[2])
                assert sum(int(line.split()[0]) == worker for line in lines) == sizes["frame"]
                if n := sizes["frame"]:
                    last = reader.read(path, "positions", (n - 1,))
                    same(last, frames(1, seed=1000 * worker + n - 1)["positions"][1][0])
        views += 1
        time.sleep(0.002)


def guarded(queue: Any, function: Callable[..., None], *arguments: Any) -> None:
    """Run a function in another process and report how it ended."""
    try:
        function(*arguments)
    except BaseException as error:
        queue.put(f"{function.__name__}{arguments[1:2]}: {type(error).__name__}: {error}")
        raise
    queue.put(None)


def together(method: str, jobs: Iterable[tuple[Any, ...]], stop: Any = None, wait: int | None = None) -> list[str]:
    """Run jobs in processes of their own; after ``wait`` reports ``stop`` is set. Returns the failures."""
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    processes = [context.Process(target=guarded, args=(queue, *job)) for job in jobs]
    for process in processes:
        process.start()
    reports = [queue.get(timeout=120) for _ in processes[: wait if wait is not None else len(processes)]]
    if stop is not None:
        stop.set()
    reports += [queue.get(timeout=120) for _ in processes[len(reports) :]]
    for process in processes:
        process.join(60)
    return [report for report in reports if report]


class EngineBase:
    """What the parts of the suite share: an engine in a folder of its own."""

    processes = True
    rounds = 12

    def build(self, folder: Path) -> Engine:
        """A new engine object for the one store in this folder (not made yet)."""
        raise NotImplementedError

    @pytest.fixture
    def engine(self, tmp_path: Path) -> Iterable[Engine]:
        engine = self.build(tmp_path)
        engine.make()
        yield engine
        engine.close()
