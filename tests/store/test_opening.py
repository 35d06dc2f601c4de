"""Stores are made where nothing lies, also where the making of one was broken off; other files are left alone."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest

from h5ml.schemas.errors import NotAStore
from h5ml.store.hdf5 import HDF5Engine
from h5ml.store.opening import is_unmade, open_store
from h5ml.store.wal import NEW_MARK


@pytest.mark.parametrize("left", ["nothing", "a mark", "no log"])
def test_a_store_whose_making_was_killed_is_made_when_it_is_opened_again(tmp_path: Path, left: str) -> None:
    path = tmp_path / "s.h5"
    if left == "no log":
        HDF5Engine(path).make()
    else:
        path.write_bytes(NEW_MARK + bytes(100) if left == "a mark" else b"")
    assert is_unmade(path)
    with pytest.raises(NotAStore):
        open_store(path)
    store = open_store(path, make=True)
    assert list(store) == []
    assert not is_unmade(path)
    assert open_store(path).root_digest == open_store(path, make=True).root_digest


def test_files_of_others_are_never_made_into_stores(tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["x"] = [1, 2]
    (tmp_path / "text.h5").write_text("hello world, this is text")
    for one in (path, tmp_path / "text.h5"):
        before = one.read_bytes()
        assert not is_unmade(one)
        with pytest.raises(NotAStore):
            open_store(one, make=True)
        assert one.read_bytes() == before
