"""Ten thousand keys: create, list, query, open."""

from __future__ import annotations

import time

import h5py
import numpy as np
import xarray as xr

import h5ml

from .measure import Row, folder, side_by_side, table

KEYS = 10_000


def main() -> None:
    """Print the table."""
    small = xr.Dataset({"x": ("row", np.arange(4.0), {"units": "eV"})}, attrs={"level_of_theory": "toy", "number": 3})
    with folder() as here:
        path = here / "many.h5"
        with h5ml.open(path, make=True) as store:
            begin, cpu = time.perf_counter(), time.process_time()
            for start in range(0, KEYS, 1000):
                with store.transaction("a thousand keys") as transaction:
                    for n in range(start, start + 1000):
                        transaction.write(f"set/{n % 100:02d}/key_{n}", small, "table")
            made = Row(
                "h5ml: create, 1,000 a commit", (time.process_time() - cpu) / KEYS, (time.perf_counter() - begin) / KEYS
            )
        begin, cpu = time.perf_counter(), time.process_time()
        with h5py.File(here / "raw.h5", "w") as raw:
            for n in range(KEYS):
                group = raw.create_group(f"set/{n % 100:02d}/key_{n}")
                group.attrs.update({"level_of_theory": "toy", "number": 3, "kind": "table"})
                group["x"] = np.arange(4.0)
        baseline = Row(
            "raw h5py: create groups", (time.process_time() - cpu) / KEYS, (time.perf_counter() - begin) / KEYS
        )
        made.note = f"{path.stat().st_size / KEYS / 1000:.1f} kB a key"
        table("Create 10,000 keys (per key)", [baseline, made])
        store = h5ml.open(path)

        def walk() -> None:
            with h5py.File(here / "raw.h5") as file:
                found: list[str] = []
                file.visititems(
                    lambda name, item: found.append(name) if dict(item.attrs).get("kind") == "table" else None
                )

        rows = side_by_side(
            [
                ("raw h5py: walk the groups and read attributes", walk),
                ("h5ml: open and list, cold", lambda: h5ml.open(path).keys()),
                ("h5ml: list, warm", lambda: store.keys()),
                (
                    "h5ml: query by kind and attribute, warm",
                    lambda: store.query(kind="table", attributes={"number": 3}),
                ),
                ("h5ml: open one key", lambda: store["set/42/key_4242"]),
            ],
        )
        table("List, query and open with 10,000 keys", rows, aim="list and query below 100 ms warm")
