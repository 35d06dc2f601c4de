"""Engine suite, first part: values, attributes, growth and selections come back as they went in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from h5ml.schemas.errors import KeyTaken
from h5ml.store.engine import TEXT, Array, ArrayLayout, Engine, GroupLayout, Writer
from h5ml.tests.kits.engine_data import (
    ATTRIBUTES,
    NUMERIC,
    EngineBase,
    append,
    fill,
    frames,
    get,
    group,
    put,
    same,
)


class ValuesSuite(EngineBase):
    """Making a store, and what goes into its groups and out again."""

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
