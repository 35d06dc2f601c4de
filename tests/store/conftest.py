"""Fixtures for the engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from h5ml.store.hdf5 import HDF5Engine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[HDF5Engine]:
    """Give an HDF5 engine with an empty store."""
    engine = HDF5Engine(tmp_path / "store.h5")
    engine.make()
    yield engine
    engine.close()
