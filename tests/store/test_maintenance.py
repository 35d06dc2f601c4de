"""Copying between stores, merging, garbage collection, compaction and the count of bytes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from h5ml.schemas.errors import KeyTaken, StoreDamaged, UnknownKey
from h5ml.schemas.kinds import BUILT_IN
from h5ml.store.audit import audit
from h5ml.store.engine import Engine
from h5ml.store.hdf5 import HDF5Engine
from h5ml.store.icechunk import IcechunkEngine
from h5ml.store.maintenance import compact, copy, du, gc
from h5ml.store.prepare import Storage
from h5ml.store.store import Store
from h5ml.tests.kits.memory import MemoryEngine
from h5ml.tests.kits.samples import fill_store, key_of, records, sample
from h5ml.tests.kits.tamper import rich_store, toy_run

Make = Callable[[str, str], Store]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Make a new store of an engine."""
    made: list[Store] = []

    def new(kind: str, name: str) -> Store:
        engines: dict[str, Callable[[], Engine]] = {
            "memory": lambda: MemoryEngine(name),
            "hdf5": lambda: HDF5Engine(tmp_path / f"{name}.h5"),
            "icechunk": lambda: IcechunkEngine(str(tmp_path / f"{name}.icechunk")),
        }
        made.append(Store.make(engines[kind]()))
        return made[-1]

    yield new
    for store in made:
        store.close()


def digests(store: Store) -> dict[str, str]:
    return {entry.reference: entry.digest for entry in store.catalogue.all_versions()}


def chain_of_three(store: Store) -> dict[str, str]:
    """structures -> run -> md/table -> run -> final; returns run ids by root key."""
    store.write("crystal", sample("structures"), "structures")
    first = toy_run("md", {"crystal": [store.entry("crystal").ref]}, {})
    store.write("md/table", sample("table"), "table", run=first.id)
    second = toy_run("final", {"table": [store.entry("md/table").ref]}, {})
    store.write("final", sample("table", 3, seed=2), "table", run=second.id)
    with store.transaction() as transaction:
        transaction.record(first)
        transaction.record(second)
    return {"md": first.id, "final": second.id}


ROUTES = [("memory", "hdf5"), ("hdf5", "icechunk"), ("icechunk", "hdf5"), ("hdf5", "hdf5")]


@pytest.mark.parametrize(("start", "end"), ROUTES)
def test_everything_travels_between_engines(make: Make, start: str, end: str) -> None:
    source, target = rich_store(make(start, "a")), make(end, "b")
    report = copy(source, target)
    assert digests(target) == digests(source)
    assert len(report.copied) == len(digests(source))
    assert target.runs == source.runs
    assert target.entry("md/table").tags == ["good"]
    assert target.entry("md/table").notes == source.entry("md/table").notes
    for entry in source.catalogue.all_versions():
        twin = target.entry(entry.reference)
        assert (twin.kind, twin.run, twin.created, twin.attributes, twin.records, twin.facts, twin.sizes) == (
            *(entry.kind, entry.run, entry.created, entry.attributes, entry.records, entry.facts, entry.sizes),
        )
        xr.testing.assert_identical(target[entry.reference].load(), source[entry.reference].load())
    assert audit(target).ok, audit(target).findings


@pytest.mark.parametrize("end", ["memory", "hdf5", "icechunk"])
def test_a_copied_trajectory_still_grows(make: Make, end: str) -> None:
    source, target, whole = make("memory", "a"), make(end, "b"), sample("trajectory", 20)
    source.write("t", records(whole, "trajectory", 0, 7), "trajectory", storage=Storage(growing=True))
    copy(source, target)
    for store in (source, target):
        store.append("t", records(whole, "trajectory", 7, 20))
    source.write("whole", whole, "trajectory")
    assert source.entry("t").digest == target.entry("t").digest == source.entry("whole").digest


def test_a_copy_made_again_changes_nothing(make: Make) -> None:
    source, target = rich_store(make("memory", "a")), make("memory", "b")
    copy(source, target)
    root = target.root_digest
    report = copy(source, target)
    assert not report.copied
    assert len(report.skipped) == len(digests(source))
    assert target.root_digest == root


def test_ancestors_come_along_unless_not_wanted(make: Make) -> None:
    source = make("memory", "a")
    runs = chain_of_three(source)
    whole, bare = make("memory", "b"), make("memory", "c")
    report = copy(source, whole, ["final"])
    assert report.copied == ["crystal@1", "md/table@1", "final@1"]
    assert set(whole.runs) == set(runs.values())
    assert audit(whole).ok
    copy(source, bare, ["final"], ancestors=False)
    assert bare.keys() == ["final"]
    assert set(bare.runs) == {runs["final"]}
    assert [f.code for f in audit(bare).findings] == ["input_missing"]


def test_a_path_stands_for_the_keys_below_it(make: Make) -> None:
    source, target = make("memory", "a"), make("memory", "b")
    fill_store(source)
    copy(source, target, ["samples"])
    assert target.keys() == source.keys("samples")
    with pytest.raises(UnknownKey, match=r"no such key or path[\s\S]*samples/table"):
        copy(source, target, ["samples/tabel"])


def test_other_data_at_a_key_are_refused_and_nothing_is_changed(make: Make) -> None:
    source, target = make("memory", "a"), make("memory", "b")
    source.write("a", sample("table"), "table")
    source.write("b", sample("table", seed=1), "table")
    target.write("b", sample("table", seed=2), "table")
    root = target.root_digest
    with pytest.raises(KeyTaken, match=r"other data[\s\S]*b@1"):
        copy(source, target)
    assert target.root_digest == root
    report = copy(source, target, new_version=True)
    assert report.copied == ["a@1", "b@2"]
    assert target.entry("b@2").digest == source.entry("b").digest
    assert target.entry("b@1").digest != source.entry("b").digest


def test_a_later_version_follows_the_copied_one(make: Make) -> None:
    source, target = make("memory", "a"), make("memory", "b")
    source.write("a", sample("table"), "table")
    copy(source, target)
    source.write("a", sample("table", seed=1), "table", new_version=True)
    assert copy(source, target).copied == ["a@2"]
    assert digests(source) == digests(target)


def test_only_the_newest_version_if_asked(make: Make) -> None:
    source, target = rich_store(make("memory", "a")), make("memory", "b")
    copy(source, target, ["md/grown"], versions=False)
    assert list(digests(target)) == ["md/grown@2"]
    report = copy(source, target, ["md/grown"])
    assert report.older == ["md/grown@1"]


def test_purged_data_travel_as_records(make: Make) -> None:
    source, target = rich_store(make("memory", "a")), make("memory", "b")
    with source.transaction() as transaction:
        transaction.purge("md/grown@1")
    copy(source, target)
    assert target.entry("md/grown@1").purged
    assert digests(source) == digests(target)
    assert audit(target).ok


def test_a_colleagues_payload_fills_a_purged_one(make: Make) -> None:
    ours, theirs = make("memory", "a"), make("memory", "b")
    ours.write("a", sample("table"), "table")
    copy(ours, theirs)
    with ours.transaction() as transaction:
        transaction.purge("a")
    assert copy(theirs, ours).copied == ["a@1"]
    assert not ours.entry("a").purged
    assert audit(ours).ok


def test_damaged_data_are_not_copied(make: Make) -> None:
    engine = MemoryEngine("a")
    source, target = Store.make(engine), make("memory", "b")
    source.write("a", sample("table"), "table")
    engine.groups["a"].values["value"][0] += 1
    with pytest.raises(StoreDamaged, match="differ from their record"):
        copy(source, target)
    assert target.keys() == []


def test_rows_that_come_during_the_copy_are_left_out(make: Make) -> None:
    source, target, whole = make("memory", "a"), make("memory", "b"), sample("trajectory", 9)
    source.write("t", records(whole, "trajectory", 0, 4), "trajectory", storage=Storage(growing=True))
    before = source.entry("t").digest

    def grow(*_: object) -> None:
        if source.entry("t").records == 4:
            source.append("t", records(whole, "trajectory", 4, 9))

    copy(source, target, progress=grow)
    assert target.entry("t").digest == before


def test_a_restart_state_travels_with_its_run(make: Make) -> None:
    source, target = make("memory", "a"), make("hdf5", "b")
    run = toy_run("md", {}, {})
    with source.transaction() as transaction:
        transaction.record(run)
        transaction.write("md/table", sample("table"), "table", run=run.id)
        transaction.restart(run.id, sample("observables"))
    copy(source, target)
    restart = target.restart(run.id)
    assert restart is not None
    xr.testing.assert_identical(restart, source.restart(run.id))
    assert audit(target).ok


def test_a_big_copy_needs_little_memory(make: Make) -> None:
    source, target = make("hdf5", "a"), make("hdf5", "b")
    values = np.random.default_rng(0).normal(size=(40_000, 200))
    source.write("x", BUILT_IN["observables"].dataset({"x": (("record", "i"), values, {"units": "1"})}), "observables")
    tracemalloc.start()
    copy(source, target)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes / 1.5
    assert digests(source) == digests(target)


@pytest.mark.parametrize("start", ["hdf5", "icechunk"])
def test_copies_keep_growth_and_compression(make: Make, start: str) -> None:
    source, target = make(start, "a"), make("hdf5", "b")
    source.write("z", sample("observables", 500), "observables", storage=Storage(compression="zstd"))
    source.write("g", sample("observables", 500), "observables", storage=Storage(growing=True))
    copy(source, target)
    with target.engine.reading() as reader:
        assert reader.layout("z").arrays["tensor"].compression is not None  # gzip where HDF5 has no zstd
        assert reader.layout("g").grows == ("record",)
        assert reader.layout("g").arrays["tensor"].compression is None


# ----------------------------------------------------------------------------- gc, compact, du


@pytest.mark.parametrize("kind", ["memory", "hdf5", "icechunk"])
def test_gc_drops_older_payloads_and_keeps_their_records(make: Make, kind: str) -> None:
    store = make(kind, "a")
    for seed in range(4):
        store.write("a", sample("table", seed=seed), "table", new_version=True)
    with store.transaction() as transaction:
        transaction.tag("a@1", "paper")
    before, root = digests(store), store.root_digest
    planned = gc(store, dry_run=True, keep_versions=1)
    assert [item.name for item in planned.items] == ["a@2"]
    assert store.root_digest == root
    assert gc(store, keep_versions=1).items == planned.items
    assert gc(store).items[0].name == "a@3"
    assert gc(store).items == []
    assert digests(store) == before
    assert [entry.purged for entry in store.catalogue.all_versions()] == [False, True, True, False]
    assert audit(store).ok
    store["a@1"].load()


def test_gc_keeps_what_the_newest_version_of_another_key_was_made_of(make: Make) -> None:
    """Labels that a training set refers to, say: without them it could not be read any more."""
    store = make("memory", "a")
    store.write("labels", sample("table", 2), "table")
    for root, source in (("set", "labels"), ("model", "set/out")):
        run = toy_run(root, {"table": [store.entry(source).ref]}, {})
        with store.transaction() as transaction:
            transaction.record(run)
            transaction.write(f"{root}/out", sample("table", 3), "table", run=run.id)
    store.write("labels", sample("table", 4), "table", new_version=True)
    store.write("set/out", sample("table", 5), "table", new_version=True)
    report = gc(store)
    assert report.items == []
    assert report.kept == {"labels@1": "model/out@1", "set/out@1": "model/out@1"}
    with store.transaction() as transaction:
        transaction.remove("model/out")
    assert {item.name for item in gc(store).items} == {"labels@1", "set/out@1"}


def test_gc_keeps_what_a_longer_run_continues_from(make: Make) -> None:
    store = make("memory", "a")
    runs = {
        status: toy_run(f"md_{status}", {}, {}, status=status, seed=i) for i, status in enumerate(["done", "failed"])
    }
    gone = toy_run("gone", {}, {}, seed=9)
    with store.transaction() as transaction:
        for run in [*runs.values(), gone]:
            transaction.record(run)
            transaction.restart(run.id, sample("observables"))
            transaction.stash(run.id, "map", {0: b"12345"})
        transaction.restart("nobody", sample("observables"))
        transaction.write("md_done/table", sample("table"), "table", run=runs["done"].id)
    engine = store.engine
    assert isinstance(engine, MemoryEngine)
    engine.groups[".h5ml/stash/lost"] = engine.groups[f".h5ml/stash/{gone.id}"].copy()
    engine.groups["by/hand"] = engine.groups["md_done/table"].copy()
    report = gc(store)
    found = {(item.what, item.name) for item in report.items}
    assert found == {
        ("stash", runs["done"].id),
        ("stash", gone.id),
        ("restart", gone.id),
        ("restart", "nobody"),
        ("orphan", ".h5ml/stash/lost"),
    }
    assert report.bytes > 0
    assert any("by/hand" in text for text in report.leftovers)
    assert "by/hand" in engine.groups
    assert store.restart(runs["done"].id) is not None
    assert runs["failed"].id in store.catalogue.stashes
    assert {item.name for item in gc(store, restarts=True).items} == {runs["done"].id}
    assert [f.code for f in audit(store).failures()] == ["unknown_group"]


def test_gc_reports_files_beside_the_store(make: Make, tmp_path: Path) -> None:
    store = make("hdf5", "a")
    store.write("a", sample("table"), "table")
    (tmp_path / "a.h5-compact.tmp").write_bytes(b"half")
    assert any("a.h5-compact.tmp" in text for text in gc(store).leftovers)
    assert (tmp_path / "a.h5-compact.tmp").exists()


@pytest.mark.parametrize("kind", ["memory", "hdf5", "icechunk"])
def test_compaction_changes_no_digest(make: Make, kind: str) -> None:
    store = rich_store(make(kind, "a"))
    store.write("big", sample("features", 20_000), "features")
    with store.transaction() as transaction:
        transaction.remove("big")
    before, root = digests(store), store.root_digest
    sizes = compact(store)
    if kind == "hdf5":
        assert sizes[1] < sizes[0] - 1_000_000
    assert store.root_digest == root
    assert digests(store) == before
    report = audit(store, root=root)
    assert report.ok, report.findings
    assert report.root_age == 0
    store.append("md/grown", records(sample("trajectory", 9, seed=8), "trajectory", 6, 9))
    assert audit(store, root=root).root_age == 1
    assert not any(".h5ml" in key for key in store)


def test_du_counts_the_bytes_of_every_version(make: Make) -> None:
    store = make("hdf5", "a")
    fill_store(store)
    store.write("z", sample("features", 100), "features", storage=Storage(compression="zstd"))
    usage = {use.key: use for use in du(store)}
    shape = store[key_of("trajectory")].sizes
    positions = shape["frame"] * shape["atom"] * 24
    assert usage[key_of("trajectory")].bytes >= 3 * positions
    assert usage["z"].compressed
    assert not usage[key_of("trajectory")].compressed
    assert [use.key for use in du(store, "samples")] == store.keys("samples")
