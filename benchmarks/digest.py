"""Digest and audit against memcpy, per CPU-second."""

from __future__ import annotations

import numpy as np
from blake3 import blake3

import h5ml

from .data import arrays, dataset
from .measure import folder, side_by_side, table


def main() -> None:
    """Print GB per CPU-second."""
    values = arrays(60_000)
    size = sum(a.nbytes for a in values.values()) / 1e9
    buffer = values["positions"]
    target = np.empty_like(buffer)
    share = buffer.nbytes / 1e9
    with folder() as here, h5ml.open(here / "s.h5", make=True) as store:
        store.write("t", dataset(values), "observables")
        rows = side_by_side(
            [
                ("memcpy", lambda: np.copyto(target, buffer)),
                ("BLAKE3, one thread", lambda: blake3(memoryview(buffer.reshape(-1).view(np.uint8))).digest()),
            ],
            units=share,
        )
        rows += side_by_side([("h5ml audit of a store", lambda: h5ml.audit(store))], units=size)
    for row in rows:
        row.note = f"{1 / row.cpu:.2f} GB per CPU-second"
    table("Digest and audit (seconds per GB)", rows, unit="s/GB", scale=1.0, aim="audit above 2 GB per CPU-second")
