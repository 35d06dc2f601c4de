"""Random batches of 32 frames of 64 atoms, warm, against a NumPy gather in memory and other stores."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import lmdb
import numpy as np
from ase import Atoms
from ase.db import connect
from ase.io import iread, write

import h5ml
from h5ml.schemas.kinds import STRUCTURES
from h5ml.store.prepare import Storage

from .data import ATOMS, FRAMES, arrays, dataset, ragged
from .measure import folder, side_by_side, table

BATCH, ROUNDS, FEW = 32, 200, 2_000
Work = Callable[[], object]


def picks(frames: int, rounds: int) -> list[np.ndarray[Any, Any]]:
    random = np.random.default_rng(3)
    return [np.sort(random.choice(frames, BATCH, replace=False)) for _ in range(rounds)]


def main() -> None:
    """Print the fixed and the ragged table."""
    with folder() as here:
        fixed(here)
        ragged_frames(here)


def fixed(here: Path) -> None:
    values = arrays()
    with h5ml.open(here / "s.h5", make=True) as store:
        store.write("once", dataset(values), "observables")
        store.write("grown", dataset(values, slice(0, 100)), "observables", storage=Storage(growing=True))
        for start in range(100, FRAMES, 100):
            store.append("grown", dataset(values, slice(start, start + 100)))
        names = list(values)
        once, grown = store.frames("once", names), store.frames("grown", names)
        with h5py.File(here / "raw.h5", "w") as raw:
            for name, array in values.items():
                raw[name] = array
            chosen = picks(FRAMES, ROUNDS)
            cases: list[tuple[str, Work]] = [
                ("NumPy gather in memory", lambda: [{n: a[i] for n, a in values.items()} for i in chosen]),
                ("h5ml, written at once", lambda: [once.batch(i) for i in chosen]),
                ("h5ml, grown in blocks of 100", lambda: [grown.batch(i) for i in chosen]),
                ("h5py, contiguous", lambda: [{n: raw[n][i] for n in names} for i in chosen]),
            ]
            rows = side_by_side(cases, units=ROUNDS)
    rows += slow_cases(here, values)
    table(
        "A random batch of 32 frames of 64 atoms: positions, forces, energy, cell",
        rows,
        aim="at most 3 times the gather",
    )


def slow_cases(here: Path, values: dict[str, np.ndarray[Any, Any]]) -> list[Any]:
    """Other stores, on 2,000 frames and few batches; their time per batch does not depend on it but for extxyz."""
    chosen = picks(FEW, 5)
    numbers = np.full(ATOMS, 6)
    environment = lmdb.open(str(here / "lmdb"), map_size=1 << 30, subdir=True)
    with environment.begin(write=True) as txn:
        for n in range(FEW):
            txn.put(str(n).encode(), pickle.dumps({name: array[n] for name, array in values.items()}))
    frames = [Atoms(numbers, positions=values["positions"][n], cell=values["cell"][n], pbc=True) for n in range(FEW)]
    for n, atoms in enumerate(frames):
        atoms.arrays["forces"] = values["forces"][n]
        atoms.info["energy_of_frame"] = values["energy"][n]
    write(here / "frames.extxyz", frames)
    with connect(here / "frames.db") as database:
        for n, atoms in enumerate(frames):
            database.write(atoms, data={"forces": values["forces"][n]}, tag_energy=float(values["energy"][n]))
    mace_layout(here / "mace.h5", values, numbers)

    def from_lmdb() -> None:
        with environment.begin() as txn:
            for index in chosen:
                items = [pickle.loads(txn.get(str(n).encode())) for n in index]
                _ = {name: np.stack([item[name] for item in items]) for name in values}

    def from_database() -> None:
        with connect(here / "frames.db") as database:
            for index in chosen:
                rows = [database.get(int(n) + 1) for n in index]
                _ = np.stack([row.positions for row in rows]), np.stack([row.data["forces"] for row in rows])

    def from_extxyz() -> None:
        wanted = set(chosen[0].tolist())
        _ = [atoms.positions for n, atoms in enumerate(iread(here / "frames.extxyz")) if n in wanted]

    def from_mace() -> None:
        with h5py.File(here / "mace.h5") as file:
            for index in chosen:
                for n in index:
                    group = file[f"config_batch_0/config_{n}"]
                    _ = [
                        group["positions"][()],
                        group["cell"][()],
                        group["properties/forces"][()],
                        group["properties/energy"][()],
                    ]

    rows = side_by_side(
        [("LMDB, pickled frames", from_lmdb), ("ASE db (SQLite)", from_database), ("MACE's HDF5 layout", from_mace)],
        units=len(chosen),
    )
    rows += side_by_side([(f"extxyz, {FEW} frames parsed", from_extxyz)], repeats=3)
    environment.close()
    return rows


def mace_layout(path: Path, values: dict[str, np.ndarray[Any, Any]], numbers: np.ndarray[Any, Any]) -> None:
    """One group per configuration, as mace-torch's preprocessing writes them."""
    with h5py.File(path, "w") as file:
        batch = file.create_group("config_batch_0")
        for n in range(FEW):
            group = batch.create_group(f"config_{n}")
            group["atomic_numbers"], group["positions"] = numbers, values["positions"][n]
            group["cell"], group["pbc"], group["weight"] = values["cell"][n], [True] * 3, 1.0
            properties = group.create_group("properties")
            properties["forces"], properties["energy"] = values["forces"][n], values["energy"][n]


def ragged_frames(here: Path) -> None:
    counts, values = ragged()
    with h5ml.open(here / "r.h5", make=True) as store:
        store.write("pool", STRUCTURES.dataset({"n_atoms": counts, **values}), STRUCTURES)
        names = ["positions", "forces", "energy", "cell"]
        frames = store.frames("pool", names)
        starts = np.cumsum(counts) - counts
        chosen = picks(FRAMES, ROUNDS)

        def gather() -> None:
            for index in chosen:
                rows = np.concatenate([np.arange(starts[n], starts[n] + counts[n]) for n in index])
                _ = values["positions"][rows], values["forces"][rows], values["energy"][index], values["cell"][index]

        def slices() -> None:
            for index in chosen:
                for name in ("positions", "forces"):
                    _ = np.concatenate([values[name][starts[n] : starts[n] + counts[n]] for n in index])
                _ = values["energy"][index], values["cell"][index]

        with h5py.File(here / "ragged.h5", "w") as raw:
            for name in names:
                raw[name] = values[name]

            def from_h5py() -> None:
                for index in chosen:
                    for name in ("positions", "forces"):
                        _ = np.concatenate([raw[name][starts[n] : starts[n] + counts[n]] for n in index])
                    _ = raw["energy"][index], raw["cell"][index]

            rows = side_by_side(
                [
                    ("NumPy slices in memory, concatenated", slices),
                    ("NumPy gather in memory by row numbers", gather),
                    ("h5ml", lambda: [frames.batch(i) for i in chosen]),
                    ("h5py, contiguous", from_h5py),
                ],
                units=ROUNDS,
            )
    table("A random batch of 32 ragged frames of 2 to 126 atoms", rows, aim="at most 3 times the gather")
