"""What the tests of the journal share: transactions, states to compare, and a writer to kill."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from h5ml.schemas.errors import NotAStore
from h5ml.store.disk import Disk
from h5ml.store.journal import PagedFile

State = dict[str, Any]
VERSIONS = ("v108", "v110")


@contextmanager
def transaction(paged: PagedFile, *, apply: bool = True) -> Iterator[h5py.File]:
    """Change the store through h5py and commit."""
    with h5py.File(paged, "r+" if paged.committed_length else "w", libver=VERSIONS) as file:
        yield file
    paged.commit(apply=apply)


def contents(source: Any) -> State:
    """All that can be read from an HDF5 file: groups, data and attributes."""
    state: State = {}

    def visit(name: str, node: Any) -> None:
        attributes = {key: np.asarray(value).tobytes() for key, value in node.attrs.items()}
        data = (node.shape, node[...].tobytes()) if isinstance(node, h5py.Dataset) else None
        state[name] = (attributes, data)

    with h5py.File(source, "r") as file:
        visit("/", file)
        file.visititems(visit)
    return state


def committed(path: Path, disk: Disk | None = None) -> State:
    """What a read-only `PagedFile` shows; nothing for a store that holds nothing."""
    try:
        with PagedFile(path, disk, writable=False) as paged:
            return contents(paged)
    except NotAStore:
        return {}


def make(path: Path, disk: Disk | None = None, commits: int = 1) -> None:
    for number in range(commits):
        with PagedFile(path, disk, writable=True) as paged, transaction(paged) as file:
            file[f"x{number}{'+' * len(file)}"] = np.full(3000, number)


def add_rows(file: h5py.File, count: int, value: float) -> None:
    if "rows" not in file:
        file.create_dataset("rows", shape=(0, 16), maxshape=(None, 16), chunks=(64, 16), dtype="f8")
    rows = file["rows"]
    rows.resize(rows.shape[0] + count, axis=0)
    rows[-count:] = value
    file.attrs["rows"] = rows.shape[0]


def _groups(file: h5py.File) -> None:
    for name in "abc":
        file.create_group(f"training/{name}").attrs["title"] = name * 50


def add_big(file: h5py.File) -> None:
    file["big"] = np.arange(30_000.0)


def _remove(file: h5py.File) -> None:
    del file["big"]
    file["training/a"].attrs["title"] = "changed"


STEPS: list[Callable[[h5py.File], None]] = [
    lambda file: add_rows(file, 10, 1.0),
    _groups,
    lambda file: add_rows(file, 30, 2.0),
    add_big,
    lambda file: add_rows(file, 200, 3.0),
    _remove,
    lambda file: add_rows(file, 5, 4.0),
]


CHILD = """
import sys, h5py
from pathlib import Path
from h5ml.store.journal import PagedFile
apply_every = int(sys.argv[2])
with PagedFile(Path(sys.argv[1]), writable=True) as paged:
    while True:
        with h5py.File(paged, "r+" if paged.committed_length else "w", libver=("v108", "v110")) as file:
            if "rows" not in file:
                file.create_dataset("rows", shape=(0, 32), maxshape=(None, 32), chunks=(16, 32), dtype="i8")
            rows = file["rows"]
            count = rows.shape[0]
            rows.resize(count + 1, axis=0)
            rows[count] = count
            file.attrs["count"] = count + 1
        paged.commit(apply=(count + 1) % apply_every == 0)
        print(count + 1, flush=True)
"""


def killed_writer(path: Path, seconds: float, apply_every: int) -> int:
    """Let a child commit and kill it; give the commits that it acknowledged."""
    command = [sys.executable, "-c", CHILD, str(path), str(apply_every)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split(b"\n")
    whole = [line for line in rest[:-1] if line]
    return int(whole[-1] if whole else first)
