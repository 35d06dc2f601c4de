"""Small helpers for tests of the HDF5 engine."""

from __future__ import annotations

import time

from h5ml.store.hdf5 import HDF5Engine


def other(engine: HDF5Engine) -> HDF5Engine:
    return HDF5Engine(engine.location)


def settled(engine: HDF5Engine) -> None:
    """Wait until nothing waits in the redo log."""
    deadline = time.monotonic() + 10
    while any("wait" in warning for warning in engine.warnings()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
