"""A selection stands for its frames."""

from __future__ import annotations

import numpy as np
import pytest

from h5ml.schemas.errors import InvalidData, UnknownKey
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
    store.write("chosen", SELECTION.dataset(values), "selection", new_version="chosen" in store)


def test_gathered_frames_are_those_of_their_sources_in_the_order_of_choice(hdf5_store: Store):
    store = hdf5_store
    store.write("loose", sample("structures", 5), "structures")
    store.write("run", sample("trajectory", 4, seed=1), "trajectory")
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
    store.write("loose", sample("structures", 3), "structures")
    select(store, [0, 0], [2, 0], ["loose"])
    before = gather(store, store.entry("chosen"))
    with store.transaction("rename") as transaction:
        transaction.move("loose", "elsewhere/loose")
    assert gather(store, store.entry("chosen")).identical(before)


def test_a_selection_of_frames_that_are_gone_says_so(hdf5_store: Store):
    store = hdf5_store
    store.write("loose", sample("structures", 3), "structures")
    select(store, [0], [1], ["loose"])
    with store.transaction("remove") as transaction:
        transaction.remove("loose")
    with pytest.raises(UnknownKey, match="gone"):
        gather(store, store.entry("chosen"))


def test_an_empty_selection_gathers_no_frames(hdf5_store: Store):
    store = hdf5_store
    store.write("loose", sample("structures", 3), "structures")
    select(store, [], [], ["loose"])
    assert gather(store, store.entry("chosen")).sizes["frame"] == 0


def test_what_all_sources_have_is_gathered_and_references_lead_to_the_original_frames(hdf5_store: Store):
    store = hdf5_store
    store.write("loose", sample("structures", 5), "structures")
    store.write("run", sample("trajectory", 4, seed=1), "trajectory")
    store.write("more", sample("clusters", 3, seed=2), "clusters")
    select(store, [0, 1, 0], [3, 0, 1], ["loose", "run"])
    both = gather(store, store.entry("chosen"))
    assert "energy" in both
    assert "forces" not in both  # the loose structures have none
    assert both["source_key"].to_numpy().tolist() == ["loose@1", "run@1"]
    select(store, [0, 0], [2, 0], ["more"])
    clusters, more = gather(store, store.entry("chosen")), store["more"]
    counts = more["n_atoms"].to_numpy()
    assert clusters["n_atoms"].to_numpy().tolist() == [counts[2], counts[0]]
    np.testing.assert_array_equal(clusters["molecule"][-counts[0] :], more["molecule"][: counts[0]])
    select(store, [0, 0, 0], [2, 2, 0], ["run"])
    run = gather(store, store.entry("chosen"))
    np.testing.assert_array_equal(
        run["forces"].to_numpy().reshape(3, -1, 3), store["run"]["forces"].to_numpy()[[2, 2, 0]]
    )
    np.testing.assert_array_equal(run["masses"], np.tile(store["run"]["masses"], 3))


def test_a_selection_of_a_selection_leads_to_the_same_frames(hdf5_store: Store):
    store = hdf5_store
    store.write("loose", sample("structures", 5), "structures")
    select(store, [0, 0, 0], [4, 1, 2], ["loose"])
    entry = store.entry("chosen")
    again = {"source": [0, 0], "source_frame": [2, 0], "source_key": [entry.reference], "source_digest": [entry.digest]}
    store.write("again", SELECTION.dataset(again), "selection")
    found = gather(store, store.entry("again"))
    select(store, [0, 0], [2, 4], ["loose"])
    direct = gather(store, store.entry("chosen"))
    for name in ("positions", "atomic_numbers", "cell", "n_atoms", "energy"):
        np.testing.assert_array_equal(found[name], direct[name])


def test_a_frame_that_the_source_does_not_have_is_said(hdf5_store: Store):
    store = hdf5_store
    store.write("loose", sample("structures", 3), "structures")
    for frame in (3, -1):
        select(store, [0, 0], [1, frame], ["loose"])
        with pytest.raises(InvalidData, match="frames 0 to 2"):
            gather(store, store.entry("chosen"))
