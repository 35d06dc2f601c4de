"""Does a store file open without h5ml? Asked in a process that cannot import it, of every tool at hand."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from h5ml.store.engine import Engine

ENGINES = ("h5netcdf", "netcdf4")

Contents = dict[str, dict[str, Any]]
"""By path: ``{"attributes": {...}, "arrays": {name: (dims, values, attributes)}}``."""

SCRIPT = """
import pickle, sys, warnings
sys.modules["h5ml"] = None
warnings.simplefilter("error", category=UserWarning)
import numpy as np, xarray as xr

def plain(value):
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value

def attributes(found, expected, where):
    found = {name: plain(value) for name, value in found.items()}
    assert found == expected, (where, found, expected)
    for name, value in expected.items():
        assert type(found[name]) is type(value), (where, name, found[name], value)

def compare(dataset, expected, where):
    assert set(dataset.variables) == set(expected["arrays"]), (where, list(dataset.variables))
    attributes(dataset.attrs, expected["attributes"], where)
    for name, (dims, values, attrs) in expected["arrays"].items():
        variable, place = dataset.variables[name], (*where, name)
        assert variable.dims == dims, (place, variable.dims, dims)
        found = variable.values
        assert found.shape == values.shape, (place, found.shape, values.shape)
        if values.dtype.kind == "O":
            assert found.tolist() == values.tolist(), place
        else:
            assert found.dtype == values.dtype, (place, found.dtype, values.dtype)
            assert found.tobytes() == values.tobytes(), place
        attributes(variable.attrs, attrs, place)

file, engines, trees, pickled = sys.argv[1], sys.argv[2].split(","), sys.argv[3] == "trees", sys.argv[4]
with open(pickled, "rb") as stream:
    contents = pickle.load(stream)
for engine in engines:
    for path, expected in contents.items():
        with xr.open_dataset(file, group=path, engine=engine) as dataset:
            compare(dataset, expected, (engine, path))
    if trees:
        with xr.open_datatree(file, engine=engine) as tree:
            for path, expected in contents.items():
                compare(tree[path].to_dataset(), expected, (engine, "tree", path))
assert sys.modules["h5ml"] is None
print("opened", len(contents), "groups")
"""


def contents(engine: Engine) -> Contents:
    """Everything that lies in a store, read through its engine."""
    found: Contents = {}
    with engine.reading() as reader:
        for path in reader.groups():
            layout = reader.layout(path)
            arrays = {
                name: (array.dims, reader.read(path, name), dict(array.attributes))
                for name, array in layout.arrays.items()
            }
            found[path] = {"attributes": dict(layout.attributes), "arrays": arrays}
    return found


def check_openness(file: Path, expected: Contents, *, engines: Sequence[str] = ENGINES, trees: bool = True) -> None:
    """Open every group with plain xarray, as groups and as a tree, and compare every value and attribute.

    Parameters
    ----------
    file : Path
        The HDF5 file.
    expected : dict
        What must be in it, see `contents`.
    engines : sequence of str
        xarray's engines to ask.
    trees : bool
        Whether to open the whole file as a DataTree too (slow for many groups).
    """
    with tempfile.TemporaryDirectory() as folder:
        pickled = Path(folder) / "expected.pickle"
        pickled.write_bytes(pickle.dumps(expected))
        command = [
            sys.executable,
            "-I",
            "-c",
            SCRIPT,
            str(file),
            ",".join(engines),
            "trees" if trees else "",
            str(pickled),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"opened {len(expected)} groups\n"
    check_ncdump(file, expected)


def check_ncdump(file: Path, expected: Contents) -> None:
    """Ask ``ncdump`` for the header, where it is installed; it must name every array."""
    program = shutil.which("ncdump")
    if program is None:
        return
    done = subprocess.run([program, "-h", str(file)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    for path, group in expected.items():
        names = [path.rpartition("/")[2], *group["arrays"]]
        for name in names:
            plain = all(c.isascii() and (c.isalnum() or c == "_") for c in name)
            assert not plain or name in done.stdout, (path, name)
