"""The HDF5 engine among damaged files, open readers, forks, full disks and killed processes."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from h5ml.schemas.errors import (
    H5mlError,
    LockTimeout,
    NotAStore,
    StoreDamaged,
    StoreWriteFailed,
)
from h5ml.store.hdf5 import HDF5Engine
from h5ml.tests.kits import engine as kit
from h5ml.tests.kits.engine import append, copy_all, frames, get, group, put, same
from h5ml.tests.kits.hdf5 import other, settled
from h5ml.tests.kits.openness import check_openness, contents

# ----------------------------------------------------------------------------- damage


def test_what_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("not HDF5 at all " * 1000)
    (tmp_path / "empty.h5").write_bytes(b"")
    for name in ("missing.h5", "text.h5", "empty.h5", "."):
        engine = HDF5Engine(tmp_path / name)
        with pytest.raises(NotAStore), engine.reading():
            pass
        with pytest.raises(NotAStore):
            engine.transact(lambda writer: None)
        engine.close()
    assert not (tmp_path / "missing.h5").exists()
    with pytest.raises(StoreWriteFailed):
        HDF5Engine(tmp_path / "no" / "folder.h5").make()


def test_damage_is_told(engine: HDF5Engine) -> None:
    put(engine, "t", frames(200), grows=("frame",), attributes={"kind": "trajectory"})
    put(engine, "u", frames(20), grows=("frame",))
    engine.close()
    whole = engine.path.read_bytes()
    good = contents(engine)["t"]
    engine.path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises((StoreDamaged, NotAStore), match=r"cut short|store\.h5"), engine.reading():
        pass
    rng = np.random.default_rng(1)
    told = 0
    for place in rng.integers(0, len(whole), 150):
        bad = bytearray(whole)
        bad[place] ^= 0xFF
        engine.path.write_bytes(bad)
        view = other(engine)
        try:
            with view.reading() as reader:
                list(reader.groups())
                layout = reader.layout("t")
                values = {name: reader.read("t", name) for name in layout.arrays}
                assert dict(layout.attributes) == good["attributes"]
                assert all(values[name].shape == good["arrays"][name][1].shape for name in values)
        except H5mlError as error:
            assert isinstance(error, StoreDamaged | NotAStore | KeyError)  # noqa: PT017
            told += 1
        view.close()
    assert told >= 1


# ----------------------------------------------------------------------------- memory maps and readers


def test_rows_behind_an_open_reader(engine: HDF5Engine) -> None:
    """While a plain program reads, commits wait in the log; reads and rows show them all the same."""
    blocks = [frames(70, seed=i) for i in range(4)]
    put(engine, "t", blocks[0], grows=("frame",))
    engine.close()
    with h5py.File(engine.path) as plain:
        for block in blocks[1:]:
            append(engine, "t", block)
        assert plain["t/energy"].shape == (70,)
        assert any("wait" in warning for warning in engine.warnings())
        positions = np.concatenate([block["positions"][1] for block in blocks])
        for view in (engine, other(engine)):
            same(get(view, "t", "positions"), positions)
            rows = view.rows("t", ["positions", "symbols"])
            assert rows._tables["positions"] is not None  # type: ignore[attr-defined]
            same(rows.take("positions", np.arange(279, -1, -1)), positions[::-1])
            rows.close()
        with pytest.raises(LockTimeout):
            engine.compact(copy_all, timeout_s=0.1)
        assert "wait" in engine.unlock()
    settled(engine)
    with h5py.File(engine.path) as plain:
        assert plain["t/energy"].shape == (280,)


def test_removed_bytes_are_never_overwritten(engine: HDF5Engine) -> None:
    """The removed group may lie at the end of the file, where HDF5 would take back the space at once."""
    for i in range(6):
        x = np.random.default_rng(i).normal(size=(3000, 3))
        put(engine, f"g{i}", {"x": (("i", "j"), x), "y": (("i",), x[:, 0])}, grows=("i",) if i % 2 else ())
        rows = engine.rows(f"g{i}", ["x", "y"])
        view = (engine, other(engine))[i // 2 % 2]
        view.transact(lambda writer, i=i: writer.remove(f"g{i}"))  # type: ignore[misc]
        for _ in range(3):
            put(view, f"n{i}/{_}", {"x": (("i", "j"), np.zeros((4000, 3)))})
        view.close()
        put(engine, f"m{i}", {"x": (("i",), np.zeros(9000))}, grows=("i",))
        same(rows.take("x", np.arange(3000)), x)
        same(rows.take("y", np.arange(3000)), x[:, 0])
        rows.close()


def test_appending_moves_no_byte(engine: HDF5Engine) -> None:
    first = frames(150)
    put(engine, "t", first, grows=("frame",))
    rows = engine.rows("t", ["positions"])
    for i in range(20):
        append(engine, "t", frames(37, seed=i + 1))
    same(rows.take("positions", np.arange(150)), first["positions"][1])
    rows.close()


# ----------------------------------------------------------------------------- views, forks, failures


def test_views_and_transactions_within_each_other(engine: HDF5Engine) -> None:
    put(engine, "t", frames(3), grows=("frame",))

    def work(writer: Any) -> None:
        writer.grow("t", {"frame": 50})
        with engine.reading() as reader:
            assert reader.layout("t").sizes["frame"] == 3
        with pytest.raises(RuntimeError, match="inside another"):
            engine.transact(lambda inner: None)

    engine.transact(work)
    with engine.reading() as reader, engine.reading() as inner:
        assert inner.layout("t").sizes["frame"] == 50
        append(engine, "t", frames(3))
        assert reader.layout("t").sizes["frame"] == 50
        assert len(reader.read("t", "energy")) == 50
    assert len(get(engine, "t", "energy")) == 53
    settled(engine)


def test_a_forked_child_leaves_its_parent_alone(engine: HDF5Engine) -> None:
    put(engine, "t", frames(3), grows=("frame",))

    def child(queue: Any) -> None:
        kit.guarded(queue, lambda: append(engine, "t", frames(2)))

    def work(writer: Any) -> None:
        writer.grow("t", {"frame": 5000})
        writer.write("t", "positions", np.ones((4997, 4, 3)), 3)
        pid = os.fork()
        if pid == 0:
            engine.close()
            os._exit(0)
        os.waitpid(pid, 0)
        writer.write("t", "energy", np.ones(4997), 3)
        writer.write("t", "step", np.ones(4997, int), 3)

    context = multiprocessing.get_context("fork")
    for _ in range(2):
        queue = context.Queue()
        process = context.Process(target=child, args=(queue,))
        process.start()
        assert queue.get(timeout=60) is None
        process.join()
    assert len(get(engine, "t", "energy")) == 7
    engine.transact(lambda writer: writer.remove("t"))
    put(engine, "t", frames(3), grows=("frame",))
    engine.transact(work)
    assert get(engine, "t", "positions")[3:].min() == 1
    engine.close()
    check_openness(engine.path, contents(engine))


def fill_limit(engine: HDF5Engine) -> None:
    """Meet a limit of the system in the middle of a transaction, and go on."""
    put(engine, "t", frames(3), grows=("frame",))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (engine.nbytes() + 3_000_000, resource.RLIM_INFINITY))
    for _ in range(3):
        with pytest.raises(StoreWriteFailed, match="size limit"):
            put(engine, "big", {"x": (("i", "j"), np.ones((100, 10_000)))})
        with pytest.raises(StoreWriteFailed, match="size limit"):
            append(engine, "t", frames(80_000))
        append(engine, "t", frames(2))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    put(engine, "big", {"x": (("i", "j"), np.ones((100, 10_000)))})


def test_a_refused_write_keeps_the_last_commit(engine: HDF5Engine) -> None:
    assert kit.together("fork", [(fill_limit, engine)]) == []
    assert len(get(engine, "t", "energy")) == 9
    assert get(engine, "big", "x").sum() == 1_000_000


def test_leftovers_of_a_killed_compaction(engine: HDF5Engine) -> None:
    put(engine, "t", frames(30), grows=("frame",))
    for name in ("store.h5-compact.tmp", "store.h5-compact.tmp-wal"):
        (engine.path.parent / name).write_bytes(b"h5mlwal1 torn")
    engine.path.chmod(0o640)
    engine.compact(copy_all)
    same(get(engine, "t", "energy"), frames(30)["energy"][1])
    assert engine.path.stat().st_mode & 0o777 == 0o640
    assert not list(engine.path.parent.glob("*compact*"))


def test_an_unfinished_make_can_be_made_again(tmp_path: Path) -> None:
    engine = HDF5Engine(tmp_path / "store.h5")
    engine.path.write_bytes(b"h5ml new")
    with pytest.raises(NotAStore), engine.reading():
        pass
    engine.make()
    put(engine, "t", frames(1))
    engine.close()


def test_chunks_and_offsets_are_as_asked(engine: HDF5Engine) -> None:
    arrays = frames(10)
    put(engine, "t", arrays, grows=("frame",), chunks=None)
    layout = group(arrays)
    engine.transact(lambda writer: kit.fill(writer, "fixed", layout, arrays))
    with engine.reading() as reader:
        assert reader.layout("fixed").arrays["positions"].chunks is None
        chunks = reader.layout("t").arrays["positions"].chunks
        assert chunks is not None
        assert chunks[1:] == (4, 3)
    engine.close()
    with h5py.File(engine.path) as plain:
        assert plain["fixed/positions"].id.get_offset() > 0
        assert plain["t/positions"].compression is None
