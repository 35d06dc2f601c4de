"""Every key of every kind opens without h5ml, whatever was done to the store before."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import h5ml
from h5ml.schemas.kinds import BUILT_IN
from h5ml.store.maintenance import compact, copy
from h5ml.store.prepare import Storage
from h5ml.store.store import Store
from h5ml.tests.kits.openness import check_openness, contents
from h5ml.tests.kits.samples import count, fill_store, key_of, records, sample
from h5ml.tests.kits.toys import toys

PLAIN_ZARR = """
import sys
sys.modules["h5ml"] = None  # importing it fails from here on
import pickle
import icechunk, numpy as np, xarray as xr

location, expected = sys.argv[1], pickle.load(open(sys.argv[2], "rb"))
session = icechunk.Repository.open(icechunk.local_filesystem_storage(location)).readonly_session("main")
for path, group in expected.items():
    with xr.open_zarr(session.store, group=path, consolidated=False, zarr_format=3) as data:
        assert set(data.variables) == set(group["arrays"]), path
        for name, (dims, values, attributes) in group["arrays"].items():
            assert data[name].dims == dims, (path, name)
            assert {k: data[name].attrs[k] for k in attributes} == attributes, (path, name)
            np.testing.assert_array_equal(data[name].values, values)
print("opened", len(expected), "groups")
"""


def check(store: Store, folder: Path) -> None:
    """Open every group of the store in a process that cannot import h5ml, and compare."""
    expected = contents(store.engine)
    assert len(expected) > len(store.keys())
    store.close()
    if store.engine.kind == "hdf5":
        check_openness(Path(store.location), expected, trees=False)
        return
    pickled = folder / "expected.pickle"
    pickled.write_bytes(pickle.dumps(expected))
    command = [sys.executable, "-c", PLAIN_ZARR, store.location, str(pickled)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"opened {len(expected)} groups\n")  # Icechunk warns about folders before


def test_after_appends_new_versions_purges_and_compaction(store: Store, tmp_path: Path) -> None:
    for name, kind in BUILT_IN.items():
        whole = sample(name, 6)
        if not kind.grows or kind.grows[0] not in whole.sizes:
            store.write(key_of(name), whole, kind)
            continue
        half = count(whole, kind) // 2
        store.write(
            key_of(name), records(whole, kind, 0, half), kind, storage=Storage(growing=True, compression="gzip")
        )
        store.append(key_of(name), records(whole, kind, half, count(whole, kind)))
    check(store, tmp_path)
    for name in ("trajectory", "structures", "checkpoint", "table"):
        store.write(key_of(name), sample(name, 4, seed=1), name, new_version=True)
    with store.transaction() as transaction:
        transaction.purge(f"{key_of('table')}@1")
        transaction.move(key_of("labels"), "moved/labels")
    check(store, tmp_path)
    compact(store)
    check(store, tmp_path)
    assert h5ml.audit(store).ok


def test_after_copies_and_merges_from_the_staging_files_of_workers(store: Store, tmp_path: Path) -> None:
    suffix = "h5" if store.engine.kind == "hdf5" else "icechunk"
    h5ml.run(store, "toy_orchestrator", root_key="cycles", scheduler="local:2", registry=toys())
    fill_store(store)
    check(store, tmp_path)
    with h5ml.open(tmp_path / f"copy.{suffix}", make=True) as other:
        copy(store, other, store.keys())
        assert other.keys() == store.keys()
        check(other, tmp_path)
        assert h5ml.audit(other).ok
