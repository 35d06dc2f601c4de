"""The HDF5 engine: the common suite, and what only HDF5 promises."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from h5ml.schemas.errors import (
    InvalidData,
)
from h5ml.store.engine import ArrayLayout, GroupLayout
from h5ml.store.hdf5 import HDF5Engine
from h5ml.tests.kits.engine import ATTRIBUTES, NUMERIC, EngineSuite, append, copy_all, frames, group, put
from h5ml.tests.kits.hdf5 import other, settled
from h5ml.tests.kits.openness import check_openness, contents


class TestHDF5(EngineSuite):
    def build(self, folder: Path) -> HDF5Engine:
        return HDF5Engine(folder / "store.h5")


# ----------------------------------------------------------------------------- openness


def furnish(engine: HDF5Engine) -> None:
    """Every pattern of types, dimensions and attributes."""
    rng = np.random.default_rng(0)
    coordinates = {
        "frame": (("frame",), np.arange(7.0)),
        "xyz": (("xyz",), np.array(["x", "y", "z"], dtype=object)),
    }
    put(engine, "crystal[opt:atoms,shape]/x=1.5 (Å)", frames(7) | coordinates, grows=("frame",))
    put(engine, "a/trajectory", frames(5), grows=("frame",), attributes={"kind": "trajectory", "n": 3})
    append(engine, "a/trajectory", frames(100))
    put(engine, "a/types", {k.strip("<|"): (("i", "j"), np.arange(6).astype(k).reshape(2, 3)) for k in NUMERIC})
    scalars = {"s": 0.1, "n": -3, "t": np.array("hé", dtype=object), "e": np.array("", dtype=object)}
    put(engine, "a/scalars", {name: ((), np.asarray(value)) for name, value in scalars.items()})
    put(engine, "a/text", {"w": (("i",), np.array(["", "a", "ü∕"], dtype=object))}, grows=("i",))
    put(engine, "a/fc", {"fc": (("atom", "atom_2", "xyz", "xyz_2"), rng.normal(size=(2, 2, 3, 3)))})
    put(engine, "a/packed", {"x": (("i", "j"), rng.normal(size=(200, 3)))}, grows=("i",), compression="zstd")
    put(engine, "a/floats", {"x": (("i",), np.array([np.nan, 1, -0.0, np.inf, 9.969209968386869e36]))}, grows=("i",))
    ragged = {"n_atoms": (("frame",), np.array([2, 1])), "positions": (("atom", "xyz"), rng.normal(size=(3, 3)))}
    put(engine, "a/ragged", ragged, grows=("frame", "atom"))
    put(engine, ".h5ml/log", {"bytes": (("byte",), np.arange(20, dtype="u1"))}, grows=("byte",))
    put(engine, "zero/fixed", {"x": (("i", "j"), np.zeros((0, 3)))})
    put(engine, "zero/text", {"x": (("i", "j"), np.zeros((0, 3))), "t": (("i",), np.zeros(0, object))}, grows=("i",))
    attributes = GroupLayout({"x": ArrayLayout(("i",), (2,), "<f8", ATTRIBUTES)}, {"i": 2}, ATTRIBUTES)

    def work(writer: Any) -> None:
        writer.create("attributes", attributes)
        writer.write("attributes", "x", np.zeros(2))
        writer.create("empty/group", GroupLayout({}, {}, {"a": "b"}))
        writer.move("a/fc", ".h5ml/versions/a/fc@1")
        writer.remove("a/floats")
        writer.create("later", group(frames(3), ("frame",)))
        writer.grow("later", {"frame": 9})
        for name, (_, values) in frames(9).items():
            writer.write("later", name, values)

    engine.transact(work)


def test_everything_opens_without_h5ml(engine: HDF5Engine) -> None:
    furnish(engine)
    settled(engine)
    expected = contents(engine)
    check_openness(engine.path, expected)  # while the engine keeps it open
    engine.close()
    check_openness(engine.path, expected)
    assert sorted(p.name for p in engine.path.parent.iterdir()) == ["store.h5", "store.h5-lock"]
    engine.compact(copy_all)
    check_openness(engine.path, expected)


def test_reserved_names_and_odd_layouts_are_refused(engine: HDF5Engine) -> None:
    x = ArrayLayout(("i",), (2,), "<f8")
    bad = [
        GroupLayout({"x": ArrayLayout(("i",), (2,), "<f8", {"_FillValue": 1.0})}, {"i": 2}),
        GroupLayout({"x": x}, {"i": 2}, {"NAME": "x"}),
        GroupLayout({"x": x}, {"i": 3}),
        GroupLayout({"x": ArrayLayout(("i", "i"), (2, 2), "<f8")}, {"i": 2}),
        GroupLayout({"x": x, "i": ArrayLayout(("j",), (3,), "<f8")}, {"i": 2, "j": 3}),
        GroupLayout({"x": ArrayLayout(("i",), (2,), "<f2")}, {"i": 2}),
        GroupLayout({"x": ArrayLayout(("i",), (2,), "<c16")}, {"i": 2}),
        GroupLayout({"a/b": x}, {"i": 2}),
        GroupLayout({"x": ArrayLayout(("i",), (2,), "<f8", {}, (2,), "blosc")}, {"i": 2}),
    ]
    for layout in bad:
        with pytest.raises(InvalidData):
            engine.transact(lambda writer, layout=layout: writer.create("a", layout))  # type: ignore[misc]
    put(engine, "a", {"x": (("i",), np.zeros(2)), "t": (("i",), np.array(["a", "b"], dtype=object))})
    wrong = [
        ("x", np.zeros(2, complex)),
        ("x", np.array(["a", "b"])),
        ("t", np.zeros(2)),
        ("t", np.array(["a\0b", ""])),
    ]
    for name, values in wrong:
        with pytest.raises(InvalidData):
            engine.transact(lambda writer, name=name, values=values: writer.write("a", name, values))  # type: ignore[misc]


APPENDER = """
import sys, time
import numpy as np
from h5ml.store.hdf5 import HDF5Engine
from h5ml.tests.kits.engine import append, frames
engine = HDF5Engine(sys.argv[1])
i = int(sys.argv[2])
while True:
    block = frames(8, seed=i)
    block["step"] = (("frame",), np.full(8, i))
    append(engine, "t", block)
    i += 1
    print(i, flush=True)
    time.sleep(float(sys.argv[3]))
"""


def appender(engine: HDF5Engine, first: int, pause: float) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", APPENDER, engine.location, str(first), str(pause)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def check_blocks(energy: Any, step: Any, positions: Any) -> int:
    assert len(energy) == len(step) == len(positions)
    assert len(step) % 8 == 0
    assert np.array_equal(step, np.repeat(np.arange(len(step) // 8), 8))
    for i in {0, len(step) // 16, len(step) // 8 - 1} if len(step) else set():
        block = frames(8, seed=i)
        assert np.array_equal(energy[8 * i : 8 * i + 8], block["energy"][1])
        assert np.array_equal(positions[8 * i : 8 * i + 8], block["positions"][1])
    return len(step) // 8


@pytest.mark.parametrize("reader", ["h5netcdf", "netcdf4"])
def test_plain_xarray_reads_while_another_process_appends(engine: HDF5Engine, reader: str) -> None:
    put(engine, "t", frames(0), grows=("frame",))
    engine.close()
    process = appender(engine, 0, 0.005)
    seen, refused = [0], 0
    try:
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline and (len(seen) < 50 or len(set(seen)) < 4):
            try:
                with xr.open_dataset(engine.path, group="t", engine=reader) as dataset:  # type: ignore[arg-type]
                    loaded = dataset.load()
            except OSError:  # the milliseconds of a merge
                refused += 1
                time.sleep(0.01)
                continue
            seen.append(check_blocks(loaded.energy.values, loaded.step.values, loaded.positions.values))
            time.sleep(0.01)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert seen == sorted(seen)
    assert len(set(seen)) >= 3, (seen, refused)


def test_killed_writers_lose_no_acknowledged_commit(engine: HDF5Engine) -> None:
    put(engine, "t", frames(0), grows=("frame",))
    engine.close()
    rng = np.random.default_rng(int(os.environ.get("H5ML_SEED", "0")))
    done = 0
    for _ in range(100 if os.environ.get("H5ML_TEST_LONG") else 6):
        process = appender(engine, done, 0)
        assert process.stdout is not None
        acknowledged = int(process.stdout.readline())
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().splitlines()
        acknowledged = int(lines[-1]) if lines and lines[-1].isdigit() else acknowledged
        process.wait()
        fresh = other(engine)
        with fresh.reading() as view:
            done = check_blocks(*(view.read("t", name) for name in ("energy", "step", "positions")))
        assert done >= acknowledged
        fresh.close()
    append(engine, "t", frames(8))
    engine.close()
    with xr.open_dataset(engine.path, group="t") as dataset:
        assert dataset.sizes["frame"] == 8 * done + 8
