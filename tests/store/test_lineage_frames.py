"""From a model back to every frame: checked against the positions themselves, and what changes are noticed."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr

import h5ml
from h5ml.compute.replay import replay_run
from h5ml.schemas.errors import InvalidData, UnknownKey, WrongKind
from h5ml.store.gather import gather
from h5ml.store.lineage_frames import lineage_frames
from h5ml.store.staleness import Staleness
from h5ml.store.store import Store
from h5ml.tests.kits.chain import COLD, DYNAMICS, HOT, PAIRS, PICKED, make_chain, make_sets, selection
from h5ml.tests.kits.dynamics import BONDS
from h5ml.tests.kits.memory import MemoryEngine
from h5ml.tests.kits.samples import sample
from h5ml.tests.kits.training import TINY

pytestmark = pytest.mark.filterwarnings("ignore")
CUT = "cut/finite_subsystems/n=2"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray[Any, Any]]]:
    """The chain with an ensemble of two models and an evaluation, and the splits that the trainings drew."""
    from h5ml.compute import training_data

    path = tmp_path_factory.mktemp("chain") / "chain.h5"
    drawn = []
    draw = training_data.drawn_anew

    def noted(*arguments: Any) -> Any:
        drawn.append(draw(*arguments))
        return drawn[-1]

    with h5ml.open(path, make=True) as store, pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_data, "drawn_anew", noted)
        make_chain(store)
        settings = {**TINY, "max_num_epochs": 1, "members": 2, "training_set": "sets/all/set", "seed": 3}
        h5ml.run(store, "ensemble", root_key="models", **settings)
        h5ml.run(store, "evaluation", root_key="errors", model=BONDS, labels=["sets/whole/set"])
    return path, drawn


@pytest.fixture
def store(trained: tuple[Path, Any], tmp_path: Path) -> Iterator[Store]:
    """A copy of the chain."""
    with h5ml.open(shutil.copy(trained[0], tmp_path / "chain.h5")) as store:
        yield store


def positions(dataset: xr.Dataset, frame: int) -> np.ndarray[Any, Any]:
    """Positions of one frame of any kind, the plain way."""
    if "n_atoms" not in dataset:
        return dataset["positions"].values[frame]
    ends = np.cumsum(dataset["n_atoms"].values)
    return dataset["positions"].values[ends[frame] - dataset["n_atoms"].values[frame] : ends[frame]]


def rows(table: xr.Dataset) -> Iterator[dict[str, Any]]:
    columns = {str(name): variable.values.tolist() for name, variable in table.data_vars.items()}
    return (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def test_every_training_frame_has_the_positions_of_the_frame_that_is_named(store: Store) -> None:
    table = lineage_frames(store, "models/ensemble")
    learned = gather(store, store.entry("sets/all/set"))
    assert table.sizes["row"] == learned.sizes["frame"] == 22
    for number, row in enumerate(rows(table)):
        label = positions(store[row["label"]], row["label_row"])
        np.testing.assert_array_equal(label, positions(learned, number))
        np.testing.assert_array_equal(label, positions(store[row["structure"]], row["structure_frame"]))
        trajectory = store[row["origin"]].isel(frame=row["origin_frame"])
        if row["structure"] == row["origin"]:
            np.testing.assert_array_equal(label, trajectory["positions"].values)
        else:
            _check_cut(store[row["structure"]], row["structure_frame"], label, trajectory)
        found = [row[name] for name in ("step", "time", "temperature")]
        assert found == [float(trajectory[name]) for name in ("step", "time", "temperature")]
        assert row["target_temperature"] == (200.0 if row["origin"] == f"{HOT}@1" else 100.0)


def _check_cut(clusters: xr.Dataset, number: int, label: Any, frame: xr.Dataset) -> None:
    """A cluster is made of atoms of its frame, shifted by lattice vectors and as a whole."""
    ends = np.cumsum(clusters["n_atoms"].values)
    mine = slice(ends[number] - clusters["n_atoms"].values[number], ends[number])
    atoms, image = clusters["source_atom"].values[mine], clusters["source_image"].values[mine]
    shift = label - frame["positions"].values[atoms] - image @ frame["cell"].values
    assert np.ptp(shift, axis=0).max() < 1e-10  # rounding of sums of numbers below 100; other frames differ by 0.01


def test_the_keys_and_frames_are_those_that_were_asked_for(store: Store) -> None:
    table = lineage_frames(store, "sets/all/set")
    counts = Counter(zip(*(table[name].values.tolist() for name in ("label", "structure", "origin")), strict=True))
    assert counts == {
        ("labels/pairs/labels@1", f"{PAIRS}@1", f"{COLD}@1"): 8,
        ("labels/both/labels@1", f"{CUT}@1", f"{HOT}@1"): 3,
        ("labels/both/labels@1", f"{PAIRS}@1", f"{COLD}@1"): 8,
        ("labels/whole/labels@1", f"{HOT}@1", f"{HOT}@1"): 3,
    }
    assert table["origin_frame"].values.tolist() == [*range(3, 11), *PICKED, *range(3, 11), *PICKED]
    runs = {run.root_key: run.id for run in store.runs.values()}
    makers = [runs["labels/pairs"]] * 8 + [runs["labels/both"]] * 3 + [runs["labels/pairs"]] * 8
    assert table["label_run"].values.tolist() == [*makers, *[runs["labels/whole"]] * 3]  # taken over: the first run
    assert set(table["origin_run"].values) == {runs["md"]}
    assert set(table["level_of_theory"].values) == {"potential springs"}
    assert table.attrs["notes"] == []


def test_members_are_those_that_trained_on_the_frame(store: Store, trained: tuple[Any, list[Any]]) -> None:
    table = lineage_frames(store, "models/ensemble")
    drawn = np.stack(trained[1])  # what the two trainings drew, in their order
    assert (drawn[0] != drawn[1]).any()
    expected = [", ".join(f"member_{i + 1}" for i in range(2) if column[i] == 0) for column in drawn.T]
    assert table["members"].values.tolist() == expected
    assert [row["split"] == "train" for row in rows(table)] == [bool(text) for text in expected]
    assert (table["split"].values == "test").tolist() == (store["sets/all/set"]["split"].values == 2).tolist()
    for number in range(2):
        own = lineage_frames(store, f"models/member_{number + 1}/last")["split"].values
        assert own.tolist() == [("train", "valid", "test")[code] for code in drawn[number]]


def test_labels_selections_clusters_and_evaluations_are_followed_too(store: Store) -> None:
    labels = lineage_frames(store, "labels/both/labels")
    whole = lineage_frames(store, "sets/all/set").isel(row=slice(8, 19))
    for name in labels.data_vars:
        np.testing.assert_array_equal(labels[name].values, whole[name].values)
    for key in ("picked", CUT):
        assert lineage_frames(store, key)["origin_frame"].values.tolist() == list(PICKED)
        assert set(lineage_frames(store, key)["label"].values) == {""}
    errors = lineage_frames(store, "errors/evaluation")
    assert errors["label"].values.tolist() == ["labels/whole/labels@1"] * 3
    assert errors["origin_frame"].values.tolist() == list(PICKED)
    predictions = lineage_frames(store, "errors/predictions")
    assert predictions["structure"].values.tolist() == ["labels/whole/labels@1"] * 3
    assert predictions["origin_frame"].values.tolist() == list(PICKED)
    own = lineage_frames(store, HOT)
    assert own["step"].values.tolist() == list(range(0, 101, 10))


@pytest.mark.long
def test_a_fine_tuned_model_leads_on_to_the_frames_of_its_foundation(store: Store) -> None:
    settings = {**TINY, "max_num_epochs": 1, "E0s": "foundation", "batch_size": 2}
    inputs = {"training_set": "sets/whole/set", "foundation": "models/member_1/best"}
    h5ml.run(store, "training", root_key="tuned", seed=1, **inputs, **settings)
    table = lineage_frames(store, "tuned/best")
    used = Counter(zip(table["model"].values, table["used_as"].values, table["training_set"].values, strict=True))
    assert used == {
        ("tuned", "training_set", "sets/whole/set@1"): 3,
        ("models/member_1", "foundation", "sets/all/set@1"): 22,
    }


def test_the_table_is_an_ordinary_key_of_a_store(store: Store) -> None:
    table = lineage_frames(store, "models/ensemble")
    store.write("paper/frames", table, "table")
    kept = store["paper/frames"]
    for name in table.data_vars:
        np.testing.assert_array_equal(kept[name].values, table[name].values)


def test_what_is_gone_or_purged_ends_the_trail_with_a_note(store: Store) -> None:
    with store.transaction() as transaction:
        transaction.purge(CUT)
        transaction.remove(COLD)
    table = lineage_frames(store, "models/ensemble")
    cut = table["structure"].values == f"{CUT}@1"
    assert set(table["origin"].values[cut]) == {f"{CUT}@1"}
    assert set(table["step"].values[cut]) == {-1}
    cold = table["structure"].values == f"{PAIRS}@1"
    assert set(table["structure_frame"].values[cold]) == set(range(8))
    assert set(table["origin"].values[cold]) == {f"{COLD}@1"}
    assert np.isnan(table["time"].values[cold]).all()
    assert sorted(note.rpartition(":")[0] for note in table.attrs["notes"]) == [
        f"{CUT}@1 was purged",
        f"{COLD}@1 is not in this store",
    ]
    assert table["origin_frame"].values[-3:].tolist() == list(PICKED)


def test_keys_that_moved_are_found(store: Store) -> None:
    before = lineage_frames(store, "models/ensemble")
    with store.transaction() as transaction:
        transaction.move(HOT, "archive/hot")
        transaction.move("labels/pairs/labels", "archive/labels")
    after = lineage_frames(store, "models/ensemble")
    told = {f"{HOT}@1": "archive/hot@1", "labels/pairs/labels@1": "archive/labels@1"}
    for name in ("label", "origin"):
        assert after[name].values.tolist() == [told.get(text, text) for text in before[name].values]
    np.testing.assert_array_equal(after["label_run"].values, before["label_run"].values)


def test_keys_without_frames_and_frames_that_are_not_there_are_refused() -> None:
    store = Store.make(MemoryEngine())
    store.write("t", sample("table"), "table")
    with pytest.raises(WrongKind, match="No frames"):
        lineage_frames(store, "t")
    with pytest.raises(UnknownKey):
        lineage_frames(store, "no")
    store.write("frames", sample("structures", 5), "structures")
    for name, source, frame in (("one", "frames", 3), ("two", "one", 0), ("wrong", "one", 1)):
        store.write(name, selection(store.entry(source), [frame]), "selection")
    assert lineage_frames(store, "two")["structure_frame"].values.tolist() == [3]
    with pytest.raises(InvalidData, match="does not have"):
        lineage_frames(store, "wrong")
    store.write("checkpoint", sample("checkpoint"), "checkpoint")
    table = lineage_frames(store, "checkpoint")
    assert table.sizes["row"] == 0
    assert "was not trained in this store" in table.attrs["notes"][0]


# --- what is noticed -------------------------------------------------------------------------------------------------


def stale(store: Store) -> set[str]:
    staleness = Staleness(store.catalogue)
    return {entry.key for entry in store.entries() if staleness.of(entry)}


def test_an_untouched_chain_is_clean_and_a_label_that_was_changed_by_hand_is_found(store: Store) -> None:
    assert h5ml.audit(store).findings == []
    assert stale(store) == set()
    place = Path(store.location)
    store.close()
    with h5py.File(place, "r+") as file:
        file["labels/pairs/labels/energy"][7] += 1e-9  # the labels were committed in blocks of 3, 3 and 2
    report = h5ml.audit(place)
    (finding,) = report.findings
    assert (finding.code, finding.key) == ("data_changed", "labels/pairs/labels@1")
    assert "records 0 to 5 are as they were committed, the first change is in 6 to 7" in finding.message
    assert report.exit_code() == 1
    with h5ml.open(place) as store:
        compared = replay_run(store, "labels/pairs/labels").comparisons["labels"]
        assert not compared.equal
        assert not compared.within(1.0)  # a change by hand is no rounding
        assert compared.text().startswith("the stored data were changed by hand: energy by 1e-09 at [7]")
        with store.transaction() as transaction:
            transaction.purge("labels/pairs/labels")
        assert replay_run(store, "labels/pairs/labels", restore=True).equal
        assert h5ml.audit(store).findings == []


def test_more_frames_make_exactly_what_depends_on_them_stale(store: Store) -> None:
    """The trajectories go on for two frames; what only has to do with other keys stays."""
    h5ml.run(store, "md", root_key="md", **{**DYNAMICS, "time_total_fs": 120.0})
    models = {f"models/{name}" for name in ("ensemble", "members")}
    models |= {f"models/member_{i}/{name}" for i in (1, 2) for name in ("best", "last", "metrics")}
    of_pairs = {"labels/pairs/labels", "labels/both/labels", "sets/all/set", "sets/all/contents", *models}
    assert stale(store) == of_pairs
    assert {f.key for f in h5ml.audit(store).findings if f.code == "stale"} == {f"{key}@1" for key in stale(store)}
    assert lineage_frames(store, "models/ensemble").sizes["row"] == 22  # what it was trained on stays what it was


def test_new_labels_make_exactly_the_sets_and_models_of_them_stale(store: Store) -> None:
    h5ml.run(
        store,
        "dft",
        root_key="labels/whole",
        frames=["picked", "crystals/n2"],
        engine="potential",
        model=BONDS,
        new_version=True,
    )
    found = stale(store)
    assert {key for key in found if not key.startswith("models/")} == {
        "sets/all/set",
        "sets/all/contents",
        "sets/whole/set",
        "sets/whole/contents",
        "errors/evaluation",
        "errors/predictions",
    }
    assert {key for key in store.keys() if key.startswith("models/")} <= found  # noqa: SIM118 - a store
    make_sets(store, new_version=True)
    assert {key.partition("/")[0] for key in stale(store)} == {"models", "errors"}
    assert lineage_frames(store, "sets/whole/set").sizes["row"] == 4
    assert lineage_frames(store, "sets/whole/set@1").sizes["row"] == 3
