"""A selection stands for its frames."""

from __future__ import annotations

import numpy as np
import pytest

from h5ml.schemas.errors import UnknownKey
from h5ml.schemas.kinds import SELECTION
from h5ml.store.gather import gather
from h5ml.store.store import Store
from h5ml.tests.kits.samples import sample


def select(store: Store, source: list[int], frame: list[int], keys: list[str]) -> None:
    entries = [store.entry(key) for key in keys]
    values = {
        "source": source,
        "source_frame": frame,
        "source_key": [entry.reference for entry in entries],
        "source_digest": [entry.digest for entry in entries],
    }
    store.write("chosen", SELECTION.dataset(values), new_version="chosen" in store)


def test_gathered_frames_are_those_of_their_sources_in_the_order_of_choice(hdf5_store: Store):
    store = hdf5_store
    store.write("loose", sample("structures", 5))
    store.write("run", sample("trajectory", 4, seed=1))
    select(store, [1, 0, 1, 0], [2, 4, 0, 1], ["loose", "run"])
    found = gather(store, store.entry("chosen"))
    loose, run = store["loose"], store["run"]
    ends = np.concatenate([[0], np.cumsum(loose["n_atoms"].to_numpy())])
    starts = np.concatenate([[0], np.cumsum(found["n_atoms"].to_numpy())])
    for record, (source, frame) in enumerate([(1, 2), (0, 4), (1, 0), (0, 1)]):
        rows = slice(starts[record], starts[record + 1])
        if source == 1:
            expected = run["positions"].to_numpy()[frame], run["cell"].to_numpy()[frame], run["pbc"].to_numpy()
        else:
            atoms = slice(ends[frame], ends[frame + 1])
            expected = loose["positions"].to_numpy()[atoms], loose["cell"].to_numpy()[frame], loose["pbc"][frame]
        assert np.array_equal(found["positions"].to_numpy()[rows], expected[0])
        assert np.array_equal(found["cell"].to_numpy()[record], expected[1])
        assert np.array_equal(found["pbc"].to_numpy()[record], expected[2])


def test_a_selection_follows_its_sources_when_they_move(hdf5_store: Store):
    store = hdf5_store
    store.write("loose", sample("structures", 3))
    select(store, [0, 0], [2, 0], ["loose"])
    before = gather(store, store.entry("chosen"))
    with store.transaction("rename") as transaction:
        transaction.move("loose", "elsewhere/loose")
    assert gather(store, store.entry("chosen")).identical(before)


def test_a_selection_of_frames_that_are_gone_says_so(hdf5_store: Store):
    store = hdf5_store
    store.write("loose", sample("structures", 3))
    select(store, [0], [1], ["loose"])
    with store.transaction("remove") as transaction:
        transaction.remove("loose")
    with pytest.raises(UnknownKey, match="gone"):
        gather(store, store.entry("chosen"))


def test_an_empty_selection_gathers_no_frames(hdf5_store: Store):
    store = hdf5_store
    store.write("loose", sample("structures", 3))
    select(store, [], [], ["loose"])
    assert gather(store, store.entry("chosen")).sizes["frame"] == 0
