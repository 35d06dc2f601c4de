"""What every engine must do, as a suite: subclass :class:`EngineSuite` in a test file and say how to make one.

::

    from h5ml.tests.kits.engine import EngineSuite

    class TestHDF5(EngineSuite):
        def build(self, folder):
            return HDF5Engine(folder / "store.h5")
"""

from __future__ import annotations

import multiprocessing
import pickle
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from h5ml.schemas.errors import KeyTaken
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


# ----------------------------------------------------------------------------- the suite


class EngineSuite:
    """Subclass it and define ``build``; all tests then run against that engine."""

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

    # ---- making

    def test_a_new_store_is_empty(self, engine: Engine) -> None:
        with engine.reading() as reader:
            assert list(reader.groups()) == []
            assert not reader.exists("a")

    def test_make_refuses_what_exists(self, engine: Engine, tmp_path: Path) -> None:
        with pytest.raises(KeyTaken):
            self.build(tmp_path).make()

    def test_kind_and_location(self, engine: Engine) -> None:
        assert engine.kind in {"hdf5", "icechunk"}
        assert isinstance(engine.location, str)
        assert engine.nbytes() > 0
        assert isinstance(engine.warnings(), list)
        assert isinstance(engine.unlock(), str)

    # ---- values

    @pytest.mark.parametrize("dtype", NUMERIC)
    def test_every_dtype(self, engine: Engine, dtype: str) -> None:
        values = np.arange(-30, 30).astype(dtype).reshape(5, 4, 3)
        put(engine, "a", {"x": (("i", "j", "k"), values), "y": (("i",), values[:, 0, 0])})
        same(get(engine, "a", "x"), values)
        same(get(engine, "a", "y"), values[:, 0, 0])
        with engine.reading() as reader:
            assert reader.layout("a").arrays["x"].dtype == np.dtype(dtype).newbyteorder("<").str

    def test_special_floats_keep_their_bits(self, engine: Engine) -> None:
        bits = np.array([0x7FF8000000000001, 0xFFF8DEADBEEF0000, 0x8000000000000000, 0x7FF0000000000000, 1], "<u8")
        put(engine, "a", {"x": (("i",), bits.view("<f8"))})
        assert get(engine, "a", "x").tobytes() == bits.tobytes()

    def test_big_endian_and_strided_values_are_written_as_little_endian(self, engine: Engine) -> None:
        values = np.arange(24.0).reshape(4, 6)
        put(engine, "a", {"x": (("i", "j"), values.astype(">f8")), "y": (("i", "k"), values[:, ::2])})
        same(get(engine, "a", "x"), values)
        same(get(engine, "a", "y"), values[:, ::2])

    def test_text(self, engine: Engine) -> None:
        words = np.array([["", "H"], ["Å∕🧪", "a\nb\ttab"], ["x" * 5000, " "]], dtype=object)
        put(engine, "a", {"words": (("i", "j"), words), "title": ((), np.array("one title", dtype=object))})
        same(get(engine, "a", "words"), words)
        same(get(engine, "a", "words", (1,)), words[1])
        same(get(engine, "a", "title"), np.array("one title", dtype=object))
        with engine.reading() as reader:
            assert reader.layout("a").arrays["words"].dtype == TEXT
            assert reader.layout("a").arrays["title"].shape == ()

    def test_scalars(self, engine: Engine) -> None:
        put(engine, "a", {"x": ((), np.float64(0.1)), "n": ((), np.int64(-3))})
        same(get(engine, "a", "x"), np.float64(0.1))
        same(get(engine, "a", "n"), np.int64(-3))
        engine.transact(lambda writer: writer.write("a", "x", np.array(0.2)))
        assert get(engine, "a", "x")[()] == 0.2

    def test_lengths_of_zero(self, engine: Engine) -> None:
        arrays = {
            "x": (("i", "j"), np.zeros((0, 3))),
            "y": (("k", "i"), np.zeros((2, 0), "<i4")),
            "t": (("i",), np.zeros(0, object)),
        }
        layout = put(engine, "a", arrays)
        for name, (_, values) in arrays.items():
            same(get(engine, "a", name), values)
        with engine.reading() as reader:
            found = reader.layout("a")
            assert dict(found.sizes) == dict(layout.sizes) == {"i": 0, "j": 3, "k": 2}
            assert found.arrays["y"].dims == ("k", "i")

    def test_a_group_without_arrays(self, engine: Engine) -> None:
        engine.transact(lambda writer: writer.create("a/b", GroupLayout({}, {}, {"kind": "note"})))
        with engine.reading() as reader:
            assert list(reader.groups()) == ["a/b"]
            assert dict(reader.layout("a/b").attributes) == {"kind": "note"}

    def test_layout_comes_back(self, engine: Engine) -> None:
        arrays = {
            "frame": (("frame",), np.arange(3)),  # a coordinate variable
            "xyz": (("xyz",), np.array(["x", "y", "z"], dtype=object)),
            "fc": (("atom", "atom_2", "xyz", "xyz_2"), np.zeros((2, 2, 3, 3))),
            "positions": (("frame", "atom", "xyz"), np.zeros((3, 2, 3))),
            "energy": (("frame",), np.zeros(3)),
            "title": ((), np.array("t", dtype=object)),
        }
        layout = put(engine, "crystal[opt:atoms,shape]/x=1.5 (Å)", arrays, grows=("frame",), attributes={"kind": "k"})
        with engine.reading() as reader:
            found = reader.layout("crystal[opt:atoms,shape]/x=1.5 (Å)")
        assert dict(found.sizes) == dict(layout.sizes)
        assert found.grows == ("frame",)
        assert dict(found.attributes) == {"kind": "k"}
        assert set(found.arrays) == set(layout.arrays)
        for name, array in layout.arrays.items():
            assert found.arrays[name].dims == array.dims, name
            assert found.arrays[name].shape == array.shape, name
            assert found.arrays[name].dtype == array.dtype, name
            assert dict(found.arrays[name].attributes) == {"units": "1"}, name

    @pytest.mark.parametrize("compression", ["zstd", "gzip"])
    def test_compression(self, engine: Engine, compression: str) -> None:
        values = np.repeat(np.arange(100.0), 30).reshape(-1, 3)
        arrays = {"x": (("i", "j"), values), "m": (("i",), values[:, 0])}
        put(engine, "a", arrays, grows=("i",), compression=compression, attributes={"a": 1})
        put(engine, "b", {"s": ((), np.float64(1)), "e": (("i",), np.zeros(0))}, compression=compression)
        same(get(engine, "a", "x"), values)
        append(engine, "a", arrays, "i")
        same(get(engine, "a", "x"), np.concatenate([values, values]))
        same(get(engine, "b", "s"), np.float64(1))
        with engine.reading() as reader:
            assert reader.layout("a").arrays["x"].compression in {"zstd", "gzip"}

    # ---- attributes

    def test_attributes_round_trip(self, engine: Engine) -> None:
        layout = GroupLayout({"x": ArrayLayout(("i",), (2,), "<f8", ATTRIBUTES)}, {"i": 2}, ATTRIBUTES)
        engine.transact(lambda writer: writer.create("a", layout))
        self.check_attributes(engine, ATTRIBUTES)
        replaced = {"only": "this", "number": 3}
        engine.transact(lambda writer: (writer.attributes("a", replaced), writer.attributes("a", replaced, "x")))
        self.check_attributes(engine, replaced)
        many = {f"name_{i:03d}": i for i in range(200)}
        engine.transact(lambda writer: (writer.attributes("a", many), writer.attributes("a", many, "x")))
        self.check_attributes(engine, many)
        engine.transact(lambda writer: (writer.attributes("a", {}), writer.attributes("a", {}, "x")))
        self.check_attributes(engine, {})

    @staticmethod
    def check_attributes(engine: Engine, expected: dict[str, Any]) -> None:
        with engine.reading() as reader:
            layout = reader.layout("a")
        for found in (dict(layout.attributes), dict(layout.arrays["x"].attributes)):
            assert found == expected
            for name, value in expected.items():
                assert type(found[name]) is type(value), name
                if isinstance(value, list):
                    assert [type(v) for v in found[name]] == [type(v) for v in value], name
        same(get(engine, "a", "x", (slice(0, 0),)), np.zeros(0))

    # ---- growing and writing

    def test_rows_are_appended(self, engine: Engine) -> None:
        put(engine, "t", frames(0), grows=("frame",))
        expected = []
        for i, n in enumerate([1, 10, 0, 64, 100, 3]):
            block = frames(n, seed=i)
            expected.append(block["positions"][1])
            assert append(engine, "t", block) == sum(map(len, expected))
            same(get(engine, "t", "positions"), np.concatenate(expected))
        same(get(engine, "t", "symbols"), frames(1)["symbols"][1])

    def test_two_dimensions_grow_and_text_too(self, engine: Engine) -> None:
        """Contiguous ragged arrays."""
        rng = np.random.default_rng(1)
        counts, atoms, names = np.zeros(0, "<i8"), np.zeros((0, 3)), np.zeros(0, object)
        arrays = {"n_atoms": (("frame",), counts), "positions": (("atom", "xyz"), atoms), "name": (("frame",), names)}
        put(engine, "s", arrays, grows=("frame", "atom"))
        for i in range(5):
            more = rng.integers(1, 9, size=3)
            new, labels = rng.normal(size=(more.sum(), 3)), np.array([f"s{i}", "", "ü"], dtype=object)

            def add(writer: Writer, more: Array = more, new: Array = new, labels: Array = labels) -> None:
                sizes = writer.layout("s").sizes
                writer.grow("s", {"frame": sizes["frame"] + 3, "atom": sizes["atom"] + len(new)})
                writer.write("s", "n_atoms", more, sizes["frame"])
                writer.write("s", "name", labels, sizes["frame"])
                writer.write("s", "positions", new, sizes["atom"])

            engine.transact(add)
            counts, atoms, names = np.append(counts, more), np.concatenate([atoms, new]), np.append(names, labels)
        same(get(engine, "s", "n_atoms"), counts)
        same(get(engine, "s", "positions"), atoms)
        same(get(engine, "s", "name"), names)
        with engine.reading() as reader:
            assert set(reader.layout("s").grows) == {"frame", "atom"}

    def test_rows_in_the_middle_are_overwritten(self, engine: Engine) -> None:
        values = np.arange(30.0).reshape(10, 3)
        put(engine, "a", {"x": (("i", "j"), values)})
        engine.transact(lambda writer: writer.write("a", "x", np.full((2, 3), -1.0), 4))
        values[4:6] = -1
        same(get(engine, "a", "x"), values)

    def test_rows_beyond_the_end_are_refused(self, engine: Engine) -> None:
        put(engine, "a", {"x": (("i",), np.zeros(3))}, grows=("i",))
        with pytest.raises(ValueError, match="rows"):
            engine.transact(lambda writer: writer.write("a", "x", np.ones(2), 2))
        with pytest.raises(ValueError, match="shape"):
            engine.transact(lambda writer: writer.write("a", "x", np.ones((2, 2)), 0))
        same(get(engine, "a", "x"), np.zeros(3))

    def test_a_fixed_dimension_does_not_grow_and_none_shrinks(self, engine: Engine) -> None:
        put(engine, "a", {"x": (("i", "j"), np.zeros((3, 2)))}, grows=("i",))
        for sizes in ({"j": 3}, {"i": 2}, {"unknown": 3}):
            with pytest.raises(ValueError, match=r"grow|shrink|dimension"):
                engine.transact(lambda writer, sizes=sizes: writer.grow("a", sizes))  # type: ignore[misc]

    def test_a_transaction_reads_what_it_wrote(self, engine: Engine) -> None:
        arrays = frames(5)

        def work(writer: Writer) -> None:
            fill(writer, "a/b", group(arrays, ("frame",)), arrays)
            assert writer.exists("a/b")
            assert list(writer.groups()) == ["a/b"]
            same(writer.read("a/b", "energy"), arrays["energy"][1])
            writer.grow("a/b", {"frame": 7})
            assert writer.layout("a/b").sizes["frame"] == 7
            assert writer.layout("a/b").arrays["energy"].shape == (7,)
            writer.attributes("a/b", {"n": 7})
            assert dict(writer.layout("a/b").attributes) == {"n": 7}
            writer.move("a/b", "c")
            same(writer.read("c", "positions", (slice(0, 5),)), arrays["positions"][1])
            writer.remove("c")
            assert not writer.exists("c")

        engine.transact(work)
        with engine.reading() as reader:
            assert list(reader.groups()) == []

    # ---- selections

    def test_selections(self, engine: Engine) -> None:
        values = np.arange(20 * 4 * 3.0).reshape(20, 4, 3)
        put(engine, "a", {"x": (("i", "j", "k"), values)}, grows=("i",))
        put(engine, "b", {"x": (("i", "j", "k"), values)})
        selections: list[tuple[Any, ...]] = [
            (),
            (3,),
            (-1,),
            (slice(2, 9),),
            (slice(None, None, 3), 1),
            (slice(None), slice(1, 3), 2),
            (slice(-5, None), slice(None), slice(None, None, 2)),
            (slice(15, 2, -4),),
            (slice(None, None, -1), slice(None, None, -1)),
            (np.array([5, 1, 1, 19, 0]),),
            (np.array([-1, 3]), 2),
            (slice(0, 4), np.array([3, 0, 3]), slice(None)),
            (np.zeros(0, int),),
            (slice(7, 7),),
            (1, 2, 0),
        ]
        for path in "ab":
            with engine.reading() as reader:
                for selection in selections:
                    same(reader.read(path, "x", selection), values[selection])
                with pytest.raises(IndexError):
                    reader.read(path, "x", (20,))
                with pytest.raises(IndexError):
                    reader.read(path, "x", (np.array([0, 20]),))

    # ---- paths

    def test_unknown_paths_and_names(self, engine: Engine) -> None:
        put(engine, "a/b", {"x": (("i",), np.zeros(3))})
        with engine.reading() as reader:
            for path in ("a", "b", "a/b/x", "a/b/c", "."):
                assert not reader.exists(path), path
                with pytest.raises(KeyError):
                    reader.layout(path)
                with pytest.raises(KeyError):
                    reader.read(path, "x")
            with pytest.raises(KeyError):
                reader.read("a/b", "y")
        changes: list[Callable[[Writer], None]] = [
            lambda writer: writer.remove("c"),
            lambda writer: writer.move("c", "d"),
            lambda writer: writer.grow("c", {"i": 3}),
            lambda writer: writer.write("a/b", "y", np.zeros(3)),
            lambda writer: writer.attributes("c", {}),
            lambda writer: writer.attributes("a/b", {}, "y"),
        ]
        for change in changes:
            with pytest.raises(KeyError):
                engine.transact(change)

    def test_taken_paths(self, engine: Engine) -> None:
        put(engine, "a/b", {"x": (("i",), np.zeros(3))})
        put(engine, "c", {"x": (("i",), np.ones(3))})
        empty = GroupLayout({}, {})
        for path in ("a/b", "a", "a/b/c", "c/d"):
            with pytest.raises(KeyTaken):
                engine.transact(lambda writer, path=path: writer.create(path, empty))  # type: ignore[misc]
        with pytest.raises(KeyTaken):
            engine.transact(lambda writer: writer.move("c", "a/b"))
        same(get(engine, "a/b", "x"), np.zeros(3))

    def test_move_and_remove(self, engine: Engine) -> None:
        arrays = frames(6)
        put(engine, "a/b/c", arrays, grows=("frame",))
        put(engine, "a/d", {"x": (("i",), np.zeros(3))})
        engine.transact(lambda writer: writer.move("a/b/c", ".h5ml/versions/a/b/c@1"))
        with engine.reading() as reader:
            assert set(reader.groups()) == {".h5ml/versions/a/b/c@1", "a/d"}
            for name, (_, values) in arrays.items():
                same(reader.read(".h5ml/versions/a/b/c@1", name), values)
        put(engine, "a/b/c", {"x": (("i",), np.zeros(3))})
        append(engine, ".h5ml/versions/a/b/c@1", frames(2))
        engine.transact(lambda writer: writer.remove("a/d"))
        engine.transact(lambda writer: writer.remove("a/b/c"))
        with engine.reading() as reader:
            assert set(reader.groups()) == {".h5ml/versions/a/b/c@1"}
            assert not reader.exists("a/d")
        put(engine, "a", {"x": (("i",), np.zeros(3))})  # nothing of a/... is in the way any more

    def test_groups_in_many_levels(self, engine: Engine) -> None:
        paths = [f"n{i}/m{j}" + "/deep" * j for i in range(4) for j in range(3)] + [".h5ml/log", ".h5ml/runs/x"]
        engine.transact(lambda writer: [writer.create(path, GroupLayout({}, {}, {"p": path})) for path in paths])
        with engine.reading() as reader:
            assert sorted(reader.groups()) == sorted(paths)
            assert all(reader.layout(path).attributes["p"] == path for path in paths)

    # ---- transactions

    def test_an_exception_changes_nothing(self, engine: Engine) -> None:
        arrays = frames(5)
        put(engine, "a", arrays, grows=("frame",), attributes={"n": 1})
        put(engine, "gone", {"x": (("i",), np.zeros(3))})
        before = engine.state()

        def work(writer: Writer) -> None:
            writer.create("new/group", GroupLayout({}, {}))
            writer.grow("a", {"frame": 2000})
            writer.write("a", "positions", np.ones((1000, 4, 3)), 1)
            writer.write("a", "step", np.arange(2000))
            writer.attributes("a", {"n": 2})
            writer.move("a", "b")
            writer.remove("gone")
            raise Refused

        for _ in range(2):
            with pytest.raises(Refused):
                engine.transact(work)
            with engine.reading() as reader:
                assert set(reader.groups()) == {"a", "gone"}
                assert dict(reader.layout("a").attributes) == {"n": 1}
                for name, (_, values) in arrays.items():
                    same(reader.read("a", name), values)
        assert isinstance(hash(before), int)
        assert append(engine, "a", frames(3, seed=1)) == 8
        same(get(engine, "a", "energy"), np.append(arrays["energy"][1], frames(3, seed=1)["energy"][1]))

    def test_nothing_is_visible_before_the_commit(self, engine: Engine, tmp_path: Path) -> None:
        put(engine, "a", frames(5), grows=("frame",))
        other = self.build(tmp_path)

        def work(writer: Writer) -> str:
            writer.grow("a", {"frame": 500})
            writer.write("a", "energy", np.zeros(500))
            writer.create("b", GroupLayout({}, {}))
            with other.reading() as reader:
                assert list(reader.groups()) == ["a"]
                assert reader.layout("a").sizes["frame"] == 5
                same(reader.read("a", "energy"), frames(5)["energy"][1])
            return "answer"

        assert engine.transact(work, message="for the log") == "answer"
        with other.reading() as reader:
            assert reader.exists("b")
            assert reader.layout("a").sizes["frame"] == 500
        other.close()

    def test_two_engines_take_turns(self, engine: Engine, tmp_path: Path) -> None:
        other = self.build(tmp_path)
        put(engine, "a", frames(0), grows=("frame",))
        seen = {engine.state()}
        for i in range(6):
            before = engine.state(), other.state()
            assert append((engine, other)[i % 2], "a", frames(2, seed=i)) == 2 * i + 2
            assert engine.state() != before[0]
            assert other.state() != before[1]
            seen.add(engine.state())
            expected = np.concatenate([frames(2, seed=j)["energy"][1] for j in range(i + 1)])
            same(get(engine, "a", "energy"), expected)
            same(get(other, "a", "energy"), expected)
        assert len(seen) == 7
        assert engine.state() == engine.state()
        other.close()

    def test_pickled_and_closed_engines_work(self, engine: Engine) -> None:
        put(engine, "a", frames(3), grows=("frame",))
        twin = pickle.loads(pickle.dumps(engine))
        assert (twin.kind, twin.location) == (engine.kind, engine.location)
        append(twin, "a", frames(2))
        engine.close()
        append(engine, "a", frames(2))
        engine.close()
        engine.close()
        assert len(get(twin, "a", "energy")) == len(get(engine, "a", "energy")) == 7
        twin.close()

    def test_threads_share_an_engine(self, engine: Engine) -> None:
        engine.transact(lambda writer: fill(writer, ".h5ml/log", *self.empty_log()))
        failures: list[BaseException] = []
        stop = threading.Event()

        def run(function: Callable[..., None], *arguments: Any) -> None:
            try:
                function(engine, *arguments)
            except BaseException as error:
                failures.append(error)

        writers = [threading.Thread(target=run, args=(work_append, i, 4)) for i in range(6)]
        readers = [threading.Thread(target=run, args=(work_read, stop, 3)) for _ in range(4)]
        for thread in writers + readers:
            thread.start()
        for thread in writers:
            thread.join()
        stop.set()
        for thread in readers:
            thread.join()
        assert failures == []
        self.check_log(engine, 6, 4)

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_processes_share_a_store(self, engine: Engine, method: str) -> None:
        if not self.processes:
            pytest.skip("one process only")
        engine.transact(lambda writer: fill(writer, ".h5ml/log", *self.empty_log()))
        stop = multiprocessing.get_context(method).Event()
        n, rounds = (8, self.rounds) if method == "fork" else (2, 3)
        jobs: list[tuple[Any, ...]] = [(work_append, engine, i, rounds) for i in range(n)]
        jobs += [(work_read, engine, stop, 3)] * (n // 2)
        assert together(method, jobs, stop, wait=n) == []
        self.check_log(engine, n, rounds)

    @staticmethod
    def empty_log() -> tuple[GroupLayout, dict[str, Any]]:
        arrays = {"bytes": (("byte",), np.zeros(0, np.uint8))}
        return group(arrays, ("byte",)), arrays

    @staticmethod
    def check_log(engine: Engine, workers: int, rounds: int) -> None:
        lines = get(engine, ".h5ml/log", "bytes").tobytes().decode().splitlines()
        assert sorted(lines) == sorted(f"{w:3d} {i:3d}" for w in range(workers) for i in range(rounds))
        for worker in range(workers):
            expected = [frames(1, seed=1000 * worker + i)["positions"][1] for i in range(rounds)]
            same(get(engine, f"workers/{worker}", "positions"), np.concatenate(expected))

    # ---- rows

    @pytest.mark.parametrize("options", [{}, {"grows": ("frame",)}, {"grows": ("frame",), "compression": "gzip"}])
    def test_rows_equal_numpy(self, engine: Engine, options: dict[str, Any]) -> None:
        arrays = frames(300) | {"name": (("frame",), np.array([f"n{i}" for i in range(300)], dtype=object))}
        put(engine, "t", arrays, **options)
        if options:
            append(engine, "t", arrays)
            arrays = {
                name: (dims, np.concatenate([values, values]) if dims[0] == "frame" else values)
                for name, (dims, values) in arrays.items()
            }
        rng = np.random.default_rng(3)
        reader = engine.rows("t", ["positions", "energy", "name", "step"])
        for name in ("positions", "energy", "step", "name"):
            values = arrays[name][1]
            for rows in (rng.integers(0, len(values), 32), np.arange(20), np.array([-1, 0]), np.zeros(0, int)):
                same(reader.take(name, rows), values[rows])
            starts, counts = np.array([5, 290, 0, 7]), np.array([3, 10, 0, 1])
            expected = np.concatenate([values[s : s + c] for s, c in zip(starts, counts, strict=True)])
            same(reader.ranges(name, starts, counts), expected)
            same(reader.ranges(name, np.zeros(0, int), np.zeros(0, int)), values[:0])
            with pytest.raises(IndexError):
                reader.take(name, np.array([len(values)]))
            with pytest.raises(IndexError):
                reader.ranges(name, np.array([len(values) - 1]), np.array([2]))
        got = reader.take("positions", np.array([0]))
        got[:] = 0  # what comes back is the caller's own
        same(reader.take("positions", np.array([0])), arrays["positions"][1][:1])
        reader.close()
        with pytest.raises(KeyError):
            engine.rows("t", ["unknown"])
        with pytest.raises(KeyError):
            engine.rows("unknown", ["x"])

    def test_ragged_rows(self, engine: Engine) -> None:
        rng = np.random.default_rng(5)
        counts = rng.integers(1, 40, 500)
        starts = np.cumsum(counts) - counts
        atoms = rng.normal(size=(int(counts.sum()), 3))
        put(engine, "s", {"n": (("frame",), counts), "x": (("atom", "xyz"), atoms)}, grows=("frame", "atom"))
        reader = engine.rows("s", ["x", "n"])
        picked = rng.integers(0, 500, 32)
        expected = np.concatenate([atoms[starts[i] : starts[i] + counts[i]] for i in picked])
        same(reader.ranges("x", starts[picked], counts[picked]), expected)
        reader.close()

    def test_rows_stay_as_they_were_opened(self, engine: Engine) -> None:
        put(engine, "t", frames(10), grows=("frame",))
        reader = engine.rows("t", ["energy"])
        append(engine, "t", frames(500, seed=1))
        engine.transact(lambda writer: writer.remove("t"))
        put(engine, "t", frames(800, seed=2), grows=("frame",))
        same(reader.take("energy", np.arange(10)), frames(10)["energy"][1])
        with pytest.raises(IndexError):
            reader.take("energy", np.array([10]))
        reader.close()

    # ---- compaction

    def test_compaction_keeps_everything(self, engine: Engine, tmp_path: Path) -> None:
        arrays = frames(50)
        other = self.build(tmp_path)
        put(engine, "a/t", arrays, grows=("frame",), attributes={"kind": "trajectory"})
        put(engine, "big", {"x": (("i", "j"), np.random.default_rng(0).normal(size=(20000, 10)))})
        put(engine, ".h5ml/log", {"bytes": (("byte",), np.arange(200, dtype=np.uint8))}, grows=("byte",))
        append(other, "a/t", frames(7, seed=9))
        rows = engine.rows("big", ["x"])
        kept = rows.take("x", np.arange(20))
        engine.transact(lambda writer: writer.remove("big"))
        with engine.reading() as reader:
            layouts = {path: reader.layout(path) for path in reader.groups()}
            values = {(p, n): reader.read(p, n) for p, layout in layouts.items() for n in layout.arrays}
        before, after = engine.compact(copy_all)
        assert after < before - 1_000_000
        for view in (engine, other):
            with view.reading() as reader:
                assert {path: reader.layout(path) for path in reader.groups()} == layouts
                for (path, name), expected in values.items():
                    same(reader.read(path, name), expected)
        same(rows.take("x", np.arange(20)), kept)
        rows.close()
        assert append(other, "a/t", frames(3)) == 60
        assert append(engine, "a/t", frames(3)) == 63
        other.close()

    def test_a_failed_compaction_changes_nothing(self, engine: Engine) -> None:
        put(engine, "a", frames(5), grows=("frame",))

        def fail(old: Reader, new: Writer) -> None:
            copy_all(old, new)
            raise Refused

        with pytest.raises(Refused):
            engine.compact(fail)
        same(get(engine, "a", "energy"), frames(5)["energy"][1])
        assert append(engine, "a", frames(2)) == 7
        engine.compact(copy_all)
        assert append(engine, "a", frames(2)) == 9
