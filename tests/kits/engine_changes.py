"""Engine suite, second part: paths, transactions, several users at once, rows and compaction."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from h5ml.schemas.errors import KeyTaken
from h5ml.store.engine import Engine, GroupLayout, Reader, Writer
from h5ml.tests.kits.engine_data import (
    EngineBase,
    Refused,
    append,
    copy_all,
    fill,
    frames,
    get,
    group,
    put,
    same,
    together,
    work_append,
    work_read,
)


class TransactionSuite(EngineBase):
    """Changes appear whole or not at all, to everybody."""

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


class RowsSuite(EngineBase):
    """Random access to rows, and compaction."""

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
