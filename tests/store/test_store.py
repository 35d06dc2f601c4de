"""What a store does, whatever its engine."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import xarray as xr

from h5ml.schemas.errors import InvalidData, KeyTaken, UnknownKey
from h5ml.schemas.kinds import STRUCTURES, TABLE, TRAJECTORY
from h5ml.store.opening import open_store
from h5ml.store.prepare import Storage
from h5ml.store.store import Store
from h5ml.tests.kits.samples import records, sample


def trajectory(start: int, frames: int, atoms: int = 5, **attributes: object) -> xr.Dataset:
    """Some frames of a made-up trajectory, the same for the same start."""
    random = np.random.default_rng(start)
    return TRAJECTORY.dataset(
        {
            "positions": random.normal(size=(frames, atoms, 3)),
            "velocities": random.normal(size=(frames, atoms, 3)),
            "forces": random.normal(size=(frames, atoms, 3)),
            "energy": random.normal(size=frames),
            "kinetic_energy": random.normal(size=frames),
            "temperature": random.normal(size=frames),
            "cell": np.broadcast_to(np.eye(3), (frames, 3, 3)),
            "time": 0.5 * np.arange(start, start + frames),
            "step": np.arange(start, start + frames),
            "equilibration": np.zeros(frames),
            "atomic_numbers": np.resize([6, 1], atoms),
            "masses": np.ones(atoms),
            "pbc": [1, 1, 1],
        },
        attributes,
    )


def structures(*sizes: int, seed: int = 0) -> xr.Dataset:
    """Structures of these sizes."""
    total, random = sum(sizes), np.random.default_rng(seed)
    return STRUCTURES.dataset(
        {
            "n_atoms": sizes,
            "positions": random.normal(size=(total, 3)),
            "atomic_numbers": np.resize([8, 1, 1], total),
            "cell": np.zeros((len(sizes), 3, 3)),
            "pbc": np.zeros((len(sizes), 3)),
            "label": np.array([f"number {n}" for n in range(len(sizes))], dtype=object),
        }
    )


def test_what_is_written_is_read_back_equal(store: Store) -> None:
    dataset = trajectory(0, 7, level_of_theory="toy", count=3, flag=True)
    store.write("a/b", dataset)
    found = store["a/b"].load()
    for name in dataset.variables:
        np.testing.assert_array_equal(found[name], dataset[name])
        assert found[name].dims == dataset[name].dims
        assert found[name].attrs["units"] == dataset[name].attrs["units"]
    assert found.attrs["level_of_theory"] == "toy"
    assert found.attrs["flag"] == "true"
    assert found.attrs["kind"] == "table"  # no kind was said


def test_ragged_structures_with_text_are_read_back_equal(store: Store) -> None:
    dataset = structures(3, 1, 5)
    store.write("pool", dataset, STRUCTURES)
    xr.testing.assert_equal(store["pool"].load(), dataset)


def test_a_dataset_is_read_when_looked_at_and_as_dask_on_request(store: Store) -> None:
    store.write("t", trajectory(0, 20), TRAJECTORY)
    lazy = store["t"]
    assert not isinstance(lazy["positions"].variable._data, np.ndarray)
    np.testing.assert_array_equal(lazy["positions"][3:9:2, 1], trajectory(0, 20)["positions"][3:9:2, 1])
    chunked = store.dataset("t", chunks={"frame": 5})
    assert chunked["energy"].chunks == ((5, 5, 5, 5),)
    np.testing.assert_allclose(chunked["energy"].mean().compute(), trajectory(0, 20)["energy"].mean())


def test_appending_frame_by_frame_gives_the_digest_of_writing_at_once(store: Store) -> None:
    whole = trajectory(0, 12)
    at_once = store.write("whole", whole, TRAJECTORY)
    store.write("grown", whole.isel(frame=slice(0, 1)), TRAJECTORY, storage=Storage(growing=True))
    for n in range(1, 12):
        store.append("grown", whole.isel(frame=slice(n, n + 1)))
    assert store.entry("grown").digest == at_once.digest
    assert store.entry("grown").records == 12
    xr.testing.assert_equal(store["grown"].load(), whole)


def test_another_process_goes_on_appending_with_the_same_digest(store: Store) -> None:
    whole = trajectory(0, 700, atoms=200)
    at_once = store.write("whole", whole, TRAJECTORY)
    store.write("grown", whole.isel(frame=slice(0, 5)), TRAJECTORY, storage=Storage(growing=True))
    for start, stop in ((5, 300), (300, 301), (301, 700)):
        again = open_store(store.location)
        again.append("grown", whole.isel(frame=slice(start, stop)))
    assert store.entry("grown").digest == at_once.digest


@pytest.mark.parametrize("kind", ["structures", "clusters", "labels", "trajectory", "features"])
def test_a_store_opened_anew_still_counts_records_and_not_atoms(store: Store, kind: str) -> None:
    whole = sample(kind, 6)
    store.write("grown", records(whole, kind, 0, 4), kind, storage=Storage(growing=True))
    with open_store(store.location) as again:
        again.append("grown", records(whole, kind, 4, 6))
    entry = store.entry("grown")
    assert entry.records == 6
    assert entry.sizes == {str(dim): size for dim, size in whole.sizes.items()}


def test_appending_to_data_stored_in_one_piece_works(store: Store) -> None:
    whole = trajectory(0, 30)
    store.write("t", whole.isel(frame=slice(0, 10)), TRAJECTORY)
    store.append("t", whole.isel(frame=slice(10, 20)))
    open_store(store.location).append("t", whole.isel(frame=slice(20, 30)))
    assert store.entry("t").digest == store.write("whole", whole, TRAJECTORY).digest


def test_an_append_that_does_not_fit_changes_nothing(store: Store) -> None:
    store.write("t", trajectory(0, 3), TRAJECTORY, storage=Storage(growing=True))
    root = store.root_digest
    other = trajectory(3, 3)
    with pytest.raises(InvalidData, match="does not fit"):
        store.append("t", trajectory(3, 3, atoms=6))
    with pytest.raises(InvalidData, match="other variables"):
        store.append("t", other.assign(volume=("frame", np.ones(3), {"units": "Angstrom^3"})))
    with pytest.raises(InvalidData, match="does not grow"):
        store.append("t", other.assign(masses=("atom", np.full(5, 2.0), {"units": "amu"})))
    assert open_store(store.location).root_digest == root
    store.append("t", other)
    assert store.entry("t").records == 6


def test_a_key_is_never_overwritten(store: Store) -> None:
    store.write("t", trajectory(0, 3), TRAJECTORY)
    with pytest.raises(KeyTaken, match="new-version"):
        store.write("t", trajectory(1, 3), TRAJECTORY)
    np.testing.assert_array_equal(store["t"]["energy"], trajectory(0, 3)["energy"])


def test_a_new_version_keeps_the_old_one(store: Store) -> None:
    store.write("a/t", trajectory(0, 3), TRAJECTORY)
    old = store["a/t"]
    store.write("a/t", trajectory(1, 4), TRAJECTORY, new_version=True)
    assert store["a/t"].sizes["frame"] == 4
    np.testing.assert_array_equal(store["a/t@1"]["energy"], trajectory(0, 3)["energy"])
    np.testing.assert_array_equal(old["forces"], trajectory(0, 3)["forces"])
    with pytest.raises(UnknownKey, match="@1, @2"):
        store["a/t@3"]


def test_a_key_cannot_lie_below_or_above_another(store: Store) -> None:
    store.write("a/b", trajectory(0, 1), TRAJECTORY)
    with pytest.raises(KeyTaken, match="below another"):
        store.write("a/b/c", trajectory(0, 1), TRAJECTORY)
    with pytest.raises(KeyTaken, match="other keys"):
        store.write("a", trajectory(0, 1), TRAJECTORY)


def test_an_unknown_key_names_the_nearest(store: Store) -> None:
    store.write("training/md_sampling", trajectory(0, 1), TRAJECTORY)
    with pytest.raises(UnknownKey, match="did you mean training/md_sampling"):
        store["training/md_samplin"]
    with pytest.raises(UnknownKey, match="below it lies training/md_sampling"):
        store["training"]


def test_all_changes_of_a_transaction_appear_together_or_not_at_all(store: Store) -> None:
    with store.transaction("two keys") as transaction:
        transaction.write("a", trajectory(0, 1), TRAJECTORY)
        transaction.write("b", trajectory(1, 1), TRAJECTORY)
        transaction.append("a", trajectory(1, 1))
        transaction.tag("b", "good")
    assert store.keys() == ["a", "b"]
    assert store.catalogue.commits == 1
    with pytest.raises(KeyTaken), store.transaction() as transaction:
        transaction.write("c", trajectory(0, 1), TRAJECTORY)
        transaction.write("a", trajectory(0, 1), TRAJECTORY)
    assert store.keys() == open_store(store.location).keys() == ["a", "b"]
    with pytest.raises(ZeroDivisionError), store.transaction() as transaction:
        transaction.write("c", trajectory(0, 1), TRAJECTORY)
        raise ZeroDivisionError
    assert "c" not in store


def test_replacing_keeps_only_the_newest_content(store: Store) -> None:
    for n in range(3):
        with store.transaction() as transaction:
            transaction.replace("best", trajectory(n, 2), TRAJECTORY)
    with store.transaction() as transaction:
        transaction.replace("best", trajectory(9, 5), TRAJECTORY)
    assert store.entry("best").version == 1
    np.testing.assert_array_equal(store["best"]["energy"], trajectory(9, 5)["energy"])
    assert store.entry("best").digest == store.write("same", trajectory(9, 5), TRAJECTORY).digest


def test_a_moved_key_keeps_its_versions_and_its_old_name_resolves(store: Store) -> None:
    store.write("old/t", trajectory(0, 2), TRAJECTORY)
    store.write("old/t", trajectory(1, 2), TRAJECTORY, new_version=True)
    lazy = store["old/t"]
    with store.transaction() as transaction:
        transaction.move("old", "new/place")
    assert store.keys() == ["new/place/t"]
    np.testing.assert_array_equal(store["old/t@1"]["energy"], trajectory(0, 2)["energy"])
    np.testing.assert_array_equal(store["new/place/t"]["energy"], trajectory(1, 2)["energy"])
    np.testing.assert_array_equal(lazy["energy"], trajectory(1, 2)["energy"])


def test_removing_the_newest_version_brings_back_the_one_before(store: Store) -> None:
    store.write("t", trajectory(0, 2), TRAJECTORY)
    store.write("t", trajectory(1, 2), TRAJECTORY, new_version=True)
    with store.transaction() as transaction:
        transaction.remove("t@2")
    np.testing.assert_array_equal(store["t"]["energy"], trajectory(0, 2)["energy"])
    again = store.write("t", trajectory(2, 2), TRAJECTORY, new_version=True)
    assert again.version == 3, "a version number is never used twice"
    with store.transaction() as transaction:
        transaction.remove("t")
    assert store.keys() == []


def test_a_purged_payload_can_be_restored_only_with_the_same_bytes(store: Store) -> None:
    store.write("t", trajectory(0, 2), TRAJECTORY)
    with store.transaction() as transaction:
        transaction.purge("t")
    with pytest.raises(UnknownKey, match="replay"):
        store["t"]
    with pytest.raises(InvalidData, match="differ"), store.transaction() as transaction:
        transaction.restore("t", 1, trajectory(1, 2))
    with store.transaction() as transaction:
        transaction.restore("t", 1, trajectory(0, 2))
    np.testing.assert_array_equal(store["t"]["energy"], trajectory(0, 2)["energy"])


def test_queries_answer_by_every_condition(store: Store) -> None:
    store.write("md/short", trajectory(0, 2, level_of_theory="xtb"), TRAJECTORY)
    store.write("md/long", trajectory(0, 50, level_of_theory="dft"), TRAJECTORY)
    store.write("pool", structures(3, 3), STRUCTURES)
    store.write("table", TABLE.dataset({"x": (("row",), np.arange(3.0), {"units": "1"})}), TABLE)
    with store.transaction() as transaction:
        transaction.tag("md/long", "paper")
        transaction.note("md/long", "used in figure 2")

    def keys(**conditions: object) -> list[str]:
        return [entry.key for entry in store.query(**conditions)]

    assert keys(kind="trajectory") == ["md/long", "md/short"]
    assert keys(level_of_theory="xtb") == ["md/short"]
    assert keys(attributes={"level_of_theory": "dft"}) == ["md/long"]
    assert keys(min_records=10) == ["md/long"]
    assert keys(max_records=2, kind="trajectory") == ["md/short"]
    assert keys(formula="H2O") == keys(formula="H4O2") or keys(elements="O") == ["pool"]
    assert keys(elements="C,H") == ["md/long", "md/short"]
    assert keys(only_elements=("O", "H")) == ["pool"]
    assert keys(under="md", match="*short") == ["md/short"]
    assert keys(tag="paper") == ["md/long"]
    assert keys(until="2000-01-01") == []
    assert keys(since="2000-01-01") == store.keys()
    assert store.entry("md/long").notes[0]["text"] == "used in figure 2"


def test_the_tree_holds_every_key(store: Store) -> None:
    store.write("a/b", trajectory(0, 2), TRAJECTORY)
    store.write("a/c", structures(2, 3), STRUCTURES)
    tree = store.tree("a")
    np.testing.assert_array_equal(tree["a/b/energy"], trajectory(0, 2)["energy"])
    assert set(tree["a"].children) == {"b", "c"}


@pytest.mark.parametrize("growing", [False, True])
def test_batches_of_frames_equal_plain_indexing(store: Store, growing: bool) -> None:
    fixed, ragged = trajectory(0, 40), structures(3, 1, 7, 2, 2, 9)
    store.write("fixed", fixed, TRAJECTORY, storage=Storage(growing=growing))
    store.write("ragged", ragged, STRUCTURES, storage=Storage(growing=growing))
    index = [7, 3, 3, 39]
    with store.frames("fixed") as frames:
        batch = frames.batch(index)
        assert len(frames) == 40
        np.testing.assert_array_equal(batch["positions"], fixed["positions"][index])
        with pytest.raises(IndexError, match="0 to 39"):
            frames.batch([40])
    starts = np.cumsum([0, *ragged["n_atoms"].values])
    with store.frames("ragged", ["positions", "label"]) as frames:
        batch = frames.batch([5, 0, 2])
        rows = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in (5, 0, 2)])
        np.testing.assert_array_equal(batch["positions"], ragged["positions"][rows])
        np.testing.assert_array_equal(batch["n_atoms"], [9, 3, 7])
        assert batch["label"].tolist() == ["number 5", "number 0", "number 2"]
    with pytest.raises(InvalidData, match="did you mean positions"):
        store.frames("fixed", ["position"])


def test_a_store_travels_between_processes(store: Store) -> None:
    store.write("t", trajectory(0, 2), TRAJECTORY)
    again = pickle.loads(pickle.dumps(store))
    assert again.entry("t").digest == store.entry("t").digest


def test_lazy_data_do_not_show_frames_appended_later(store: Store) -> None:
    store.write("t", trajectory(0, 4), TRAJECTORY, storage=Storage(growing=True))
    early = store["t"]
    store.append("t", trajectory(4, 4))
    assert early["energy"].values.shape == (4,)
    np.testing.assert_array_equal(early["energy"][::-1], trajectory(0, 4)["energy"][::-1])
    assert store["t"].sizes["frame"] == 8


def test_nothing_changed_makes_no_commit(store: Store) -> None:
    store.write("t", trajectory(0, 1), TRAJECTORY)
    with store.transaction():
        pass
    assert store.catalogue.commits == 1


def test_booleans_are_kept_as_flags_that_every_tool_reads(store: Store) -> None:
    store.write("t", xr.Dataset({"good": ("row", np.array([True, False, True]))}), TABLE)
    found = store["t"]["good"].load()
    assert found.dtype == np.int8
    assert found.values.tolist() == [1, 0, 1]
    assert found.attrs["flag_meanings"] == "false true"
