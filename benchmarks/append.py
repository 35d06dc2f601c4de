"""Appending in blocks of 100 frames with a durable commit each, and writing at once, against raw h5py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

import h5ml
from h5ml.store.prepare import Storage

from .data import FRAMES, arrays, dataset
from .measure import folder, side_by_side, table

BLOCK = 100


def raw_append(path: Path, values: dict[str, np.ndarray[Any, Any]], frames: int) -> None:
    path.unlink(missing_ok=True)
    with h5py.File(path, "w") as file:
        sets = {
            name: file.create_dataset(
                name, (0, *a.shape[1:]), maxshape=(None, *a.shape[1:]), chunks=(BLOCK, *a.shape[1:])
            )
            for name, a in values.items()
        }
        descriptor = os.open(path, os.O_RDWR)
        for start in range(0, frames, BLOCK):
            for name, array in values.items():
                sets[name].resize(start + BLOCK, axis=0)
                sets[name][start : start + BLOCK] = array[start : start + BLOCK]
            file.flush()
            os.fsync(descriptor)
        os.close(descriptor)


def h5ml_append(path: Path, blocks: list[xr.Dataset]) -> None:
    remove(path)
    with h5ml.open(path, make=True) as store:
        store.write("t", blocks[0], "observables", storage=Storage(growing=True))
        for block in blocks[1:]:
            store.append("t", block)


def raw_bulk(path: Path, values: dict[str, np.ndarray[Any, Any]]) -> None:
    path.unlink(missing_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in values.items():
            file.create_dataset(name, data=array)
    descriptor = os.open(path, os.O_RDWR)
    os.fsync(descriptor)
    os.close(descriptor)


def h5ml_bulk(path: Path, whole: xr.Dataset) -> None:
    remove(path)
    with h5ml.open(path, make=True) as store:
        store.write("t", whole, "observables")


def remove(path: Path) -> None:
    for found in path.parent.glob(path.name + "*"):
        found.unlink()


def main() -> None:
    """Print both tables."""
    values = arrays()
    whole = dataset(values)
    blocks = [dataset(values, slice(start, start + BLOCK)) for start in range(0, FRAMES, BLOCK)]
    with folder() as here:
        raw, ours = here / "raw.h5", here / "ours.h5"
        rows = side_by_side(
            [
                ("raw h5py, flush + fsync a block", lambda: raw_append(raw, values, FRAMES)),
                ("h5ml", lambda: h5ml_append(ours, blocks)),
            ],
            units=FRAMES / BLOCK,
        )
        rows[
            1
        ].note = f"{rows[0].wall / rows[1].wall:.2f} of raw h5py's rate (wall), {rows[0].cpu / rows[1].cpu:.2f} (CPU)"
        table(
            "Append in blocks of 100 frames of 64 atoms, a durable commit each (per block)",
            rows,
            aim="at least 0.6 of raw h5py's rate",
        )
        rows = side_by_side(
            [("raw h5py, contiguous", lambda: raw_bulk(raw, values)), ("h5ml", lambda: h5ml_bulk(ours, whole))]
        )
        rows[
            1
        ].note = f"{rows[0].wall / rows[1].wall:.2f} of raw h5py's rate (wall), {rows[0].cpu / rows[1].cpu:.2f} (CPU)"
        size = sum(a.nbytes for a in values.values()) / 1e6
        table(f"Write {size:.0f} MB at once", rows, aim="at least 0.9 of raw h5py's rate")
