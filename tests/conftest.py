"""Fixtures that every test may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from h5ml.store.opening import open_store
from h5ml.store.store import Store

SUFFIXES = {"hdf5": "h5", "icechunk": "icechunk"}


@pytest.fixture
def hdf5_store(tmp_path: Path) -> Iterator[Store]:
    """An empty HDF5 store."""
    with open_store(tmp_path / "store.h5", make=True) as store:
        yield store


@pytest.fixture(params=SUFFIXES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store on each engine."""
    with open_store(tmp_path / f"store.{SUFFIXES[request.param]}", make=True) as store:
        yield store
