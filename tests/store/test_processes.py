"""Several processes at one store: writers that are killed, and writers and readers at once."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import h5ml
from h5ml.store.store import Store

LONG = bool(os.environ.get("H5ML_TEST_LONG"))

COMMON = """
import sys, time
import numpy as np, xarray as xr, h5ml
from h5ml.store.prepare import Storage

def block(n, rows=7):
    x = np.arange(rows * n, rows * (n + 1), dtype=float)
    return xr.Dataset({
        "x": ("record", x, {"units": "1"}),
        "y": (("record", "column"), np.outer(x, np.arange(40.0)), {"units": "1"}),
    })

def append(store, key, n):
    if n == 0:
        store.write(key, block(0), "observables", storage=Storage(growing=True))
    else:
        store.append(key, block(n))
"""

WRITER = (
    COMMON
    + """
store = h5ml.open(sys.argv[1])
key, count = sys.argv[2], int(sys.argv[3])
done = store.entry(key).records // 7 if key in store else 0
print("from", done, flush=True)
for n in range(done, count):
    append(store, key, n)
    print(n + 1, flush=True)
"""
)

READER = (
    COMMON
    + """
store = h5ml.open(sys.argv[1])
seen, stop = {}, time.monotonic() + float(sys.argv[2])
looks = 0
while time.monotonic() < stop:
    for key in store.keys():
        data = store[key]
        x, y = data["x"].values, data["y"].values
        assert len(x) % 7 == 0 and (x == np.arange(len(x))).all(), key
        assert (y == np.outer(x, np.arange(40.0))).all(), key
        assert len(x) >= seen.get(key, 0), key
        seen[key] = len(x)
        looks += 1
    if key_count := len(seen):
        with store.frames(sorted(seen)[looks % key_count]) as frames:
            batch = frames.batch([len(frames) - 1, 0])
            assert (batch["x"] == [len(frames) - 1, 0]).all()
print(looks)
"""
)


def spawn(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def expected_digest(folder: Path, blocks: int) -> str:
    """The digest of so many blocks, written by a writer that nothing disturbed."""
    with h5ml.open(folder / f"calm-{blocks}.h5", make=True):
        pass
    process = spawn(WRITER, folder / f"calm-{blocks}.h5", "t", blocks)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    with h5ml.open(folder / f"calm-{blocks}.h5") as store:
        return store.entry("t").digest


def test_no_kill_loses_an_acknowledged_commit(store: Store, tmp_path: Path) -> None:
    store.close()
    rng, acknowledged = random.Random(3), 0
    for kill in range(300 if LONG else 5):
        process = spawn(WRITER, store.location, "t", 1_000_000)
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first.startswith("from"), process.stderr.read() if process.stderr else ""
        assert int(first.split()[1]) >= acknowledged
        if kill % 4:
            acknowledged = int(process.stdout.readline())
        time.sleep(rng.uniform(0.0, 0.4))
        process.kill()
        lines = process.communicate()[0].split()
        acknowledged = max(acknowledged, *map(int, lines), 0) if lines else acknowledged
        found = h5ml.open(store.location).entry("t").records if acknowledged else 0
        assert found % 7 == 0, "half a commit"
        assert found >= 7 * acknowledged, "an acknowledged commit is lost"
    again = h5ml.open(store.location)
    assert h5ml.audit(again).ok
    entry = again.entry("t")
    assert entry.digest == expected_digest(tmp_path, entry.records // 7)


def test_eight_writers_and_four_readers_at_once(hdf5_store: Store) -> None:
    store = hdf5_store
    blocks = 40 if LONG else 6
    writers = [spawn(WRITER, store.location, f"series/{n}", blocks) for n in range(8)]
    readers = [spawn(READER, store.location, 60 if LONG else 8) for _ in range(4)]
    for process in [*writers, *readers]:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert [entry.records for entry in store.entries("series")] == [7 * blocks] * 8
    assert len({entry.digest for entry in store.entries("series")}) == 1
    assert h5ml.audit(store).ok


@pytest.mark.parametrize("seconds", [0.5])
def test_whoever_waits_for_another_writer_is_told_by_whom_it_is_held(hdf5_store: Store, seconds: float) -> None:
    holder = spawn(
        "import sys, time, h5ml\n"
        "store = h5ml.open(sys.argv[1])\n"
        "store.engine.transact(lambda writer: (print('held', flush=True), time.sleep(30)))",
        hdf5_store.location,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(h5ml.H5mlError, match=str(holder.pid)), hdf5_store.transaction(timeout_s=seconds) as transaction:
        transaction.tag("x", "y")
    holder.kill()
    holder.communicate()
    with pytest.raises(h5ml.H5mlError, match="no such key"), hdf5_store.transaction() as transaction:
        transaction.tag("x", "y")
