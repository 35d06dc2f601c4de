"""The audit: the noted root digest, the graph of runs, training sets, and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from h5ml.schemas.errors import AuditFailed, NotAStore
from h5ml.schemas.run import DataRef
from h5ml.store.audit import CODES, AuditReport, audit
from h5ml.store.audit_child import audit_isolated
from h5ml.store.hdf5 import HDF5Engine
from h5ml.store.prepare import Storage
from h5ml.store.store import Store
from h5ml.tests.kits.memory import MemoryEngine
from h5ml.tests.kits.samples import records, sample
from h5ml.tests.kits.tamper import rich_store, toy_calls, toy_run


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine()


@pytest.fixture
def store(engine: MemoryEngine) -> Store:
    return Store.make(engine)


def found(store: Store, **options: Any) -> list[tuple[str, str | None]]:
    return [(f.code, f.key) for f in audit(store, **options).findings]


# ----------------------------------------------------------------------------- the noted root digest


def test_a_noted_root_stays_valid_as_the_store_grows(store: Store) -> None:
    store.write("a", sample("table"), "table")
    noted = store.root_digest
    store.write("b", sample("table"), "table")
    store.write("c", sample("table"), "table")
    assert audit(store, root=noted).root_age == 2
    assert audit(store, root=noted[:20].upper()).root_age == 2
    assert audit(store, root=audit(store).root).root_age == 0
    for wrong in (noted[:8], "f" * 64, "x" * 64, ""):
        assert [f.code for f in audit(store, root=wrong).findings] == ["root_not_found"]


# ----------------------------------------------------------------------------- runs


def made(store: Store, key: str, inputs: dict[str, list[DataRef]] | None = None, **facts: Any) -> str:
    """A table at a key, made by a run."""
    run = toy_run(key, inputs or {}, {}, **facts)
    with store.transaction() as transaction:
        transaction.write(key, sample("table", 3, seed=sum(map(ord, key))), "table", run=run.id)
        transaction.record(run)
    with store.transaction() as transaction:
        transaction.record({"id": run.id, "outputs": {"table": store.entry(key).ref.model_dump()}})
    return run.id


def test_a_removed_input_is_a_warning(store: Store) -> None:
    made(store, "a")
    made(store, "b", {"table": [store.entry("a").ref]})
    with store.transaction() as transaction:
        transaction.remove("a")
    report = audit(store)
    assert [(f.code, f.severity, f.key) for f in report.findings] == [("input_missing", "warning", "a@1")]
    assert report.exit_code() == 1


def test_a_moved_input_is_still_found(store: Store) -> None:
    made(store, "a")
    made(store, "b", {"table": [store.entry("a").ref]})
    with store.transaction() as transaction:
        transaction.move("a", "elsewhere/c")
    assert audit(store).findings == []


def test_a_purged_input_is_no_finding(store: Store) -> None:
    made(store, "a")
    made(store, "b", {"table": [store.entry("a").ref]})
    with store.transaction() as transaction:
        transaction.purge("a")
    report = audit(store)
    assert report.ok
    assert report.purged == 1


def test_a_newer_input_makes_stale_which_is_a_notice(store: Store) -> None:
    made(store, "a")
    made(store, "b", {"table": [store.entry("a").ref]})
    store.write("a", sample("table", 9), "table", new_version=True)
    report = audit(store)
    assert [(f.code, f.severity, f.key) for f in report.findings] == [("stale", "notice", "b@1")]
    assert "newer version @2" in report.findings[0].message
    assert report.ok
    assert report.exit_code() == 0
    assert report.exit_code(strict=True) == 1


def test_a_grown_input_makes_stale(store: Store) -> None:
    whole = sample("trajectory", 6)
    store.write("t", records(whole, "trajectory", 0, 3), "trajectory", storage=Storage(growing=True))
    made(store, "b", {"trajectory": [store.entry("t").ref]})
    assert audit(store).findings == []
    store.append("t", records(whole, "trajectory", 3, 6))
    assert found(store) == [("stale", "b@1")]


def test_what_a_call_gave_is_missing_or_changed(store: Store) -> None:
    store.write("a", sample("table", 2), "table")
    run = toy_calls(store, "c", {"toy": 2, "other": 1}, {"table": [store.entry("a").ref]})
    assert audit(store).findings == []
    with store.transaction() as transaction:
        transaction.purge("c/other/0/table")
        transaction.remove("c/toy/0/table")
        transaction.replace("c/toy/1/table", sample("table", 7), "table")
    report = audit(store)
    missing, changed = report.findings
    assert (missing.code, missing.severity, missing.key, missing.run) == (
        "input_missing",
        "warning",
        "c/toy/0/table@1",
        run.id,
    )
    assert "from its call toy/0" in missing.message
    assert (changed.code, changed.severity, changed.key, changed.run) == (
        "received_changed",
        "notice",
        "c/toy/1/table@1",
        run.id,
    )


def test_only_newer_inputs_make_a_caller_stale(store: Store) -> None:
    """A caller that is executed again finds its calls by their run ids, whatever lies there by then."""
    store.write("a", sample("table", 2), "table")
    toy_calls(store, "c", {"toy": 1}, {"table": [store.entry("a").ref]})
    store.write("c/toy/0/table", sample("table", 5), "table", new_version=True)
    assert audit(store).findings == []
    store.write("a", sample("table", 3), "table", new_version=True)
    assert found(store) == [("stale", "c/out@1")]


def test_a_running_run_is_a_notice(store: Store) -> None:
    made(store, "a", status="running", started="2026-01-01T00:00:00")
    report = audit(store)
    assert [f.code for f in report.findings] == ["running"]
    assert report.ok


def test_a_run_without_a_record(store: Store) -> None:
    store.write("a", sample("table"), "table", run="0123456789abcdef")
    assert found(store) == [("run_missing", "a@1")]


def test_data_appended_after_the_run_ended(store: Store) -> None:
    whole = sample("trajectory", 6)
    run = toy_run("t", {}, {})
    store.write("t", records(whole, "trajectory", 0, 3), "trajectory", storage=Storage(growing=True), run=run.id)
    with store.transaction() as transaction:
        transaction.record(run.model_copy(update={"outputs": {"trajectory": store.entry("t").ref}}))
    assert audit(store).ok
    store.append("t", records(whole, "trajectory", 3, 6))
    assert found(store) == [("output_differs", "t@1")]


def test_a_run_id_that_its_record_does_not_give(store: Store) -> None:
    run = toy_run("a", {}, {}).model_copy(update={"id": "ab" * 32})
    with store.transaction() as transaction:
        transaction.record(run)
    report = audit(store)
    assert [(f.code, f.run) for f in report.findings] == [("run_edited", "ab" * 32)]


# ----------------------------------------------------------------------------- what runs keep


def test_changed_restart_states_and_stashes(engine: MemoryEngine, store: Store) -> None:
    with store.transaction() as transaction:
        transaction.restart("prefix", sample("observables"))
        transaction.stash("run-1", "map", {0: b"abc", 1: b"defgh"})
    with store.transaction() as transaction:
        transaction.stash("run-1", "map", {2: b"ijk"})
    assert audit(store).findings == []
    engine.groups[".h5ml/restart/prefix"].values["density"][0] += 1
    engine.groups[".h5ml/stash/run-1"].values["bytes"][4] ^= 1
    report = audit(store)
    assert {(f.code, f.run) for f in report.findings} == {("restart_changed", "prefix"), ("stash_changed", "run-1")}
    del engine.groups[".h5ml/stash/run-1"], engine.groups[".h5ml/restart/prefix"]
    assert {f.run for f in audit(store).findings} == {"prefix", "run-1"}


def test_a_leftover_group_is_a_notice(engine: MemoryEngine, store: Store) -> None:
    with store.transaction() as transaction:
        transaction.restart("prefix", sample("observables"))
    engine.groups[".h5ml/restart/other"] = engine.groups[".h5ml/restart/prefix"].copy()
    report = audit(store)
    assert [f.code for f in report.findings] == ["leftover"]
    assert report.ok


# ----------------------------------------------------------------------------- training sets


def training_set(sources: list[str], rows: list[tuple[int, int, int]]) -> Any:
    from h5ml.schemas.kinds_training import TRAINING_SET

    source, frame, split = (np.array(column) for column in zip(*rows, strict=True))
    values = {"source": source, "source_frame": frame, "split": split, "source_key": np.array(sources, dtype=object)}
    return TRAINING_SET.dataset(values)


def test_the_same_frame_in_two_splits_is_leakage(store: Store) -> None:
    store.write("t", sample("trajectory", 6), "trajectory")
    store.write("set", training_set(["t@1"], [(0, 0, 0), (0, 1, 0), (0, 1, 2), (0, 2, 1)]), "training_set")
    store.write("good", training_set(["t@1"], [(0, 0, 0), (0, 0, 0), (0, 1, 1), (0, 2, 2)]), "training_set")
    report = audit(store)
    assert [(f.code, f.key) for f in report.findings] == [("leakage", "set@1")]
    assert "frame 1 of t@1 in splits 0 and 2" in str(report.findings[0])


def test_leakage_through_a_copy_of_the_same_data(store: Store) -> None:
    store.write("t", sample("trajectory", 6), "trajectory")
    store.write("same", sample("trajectory", 6), "trajectory")
    store.write("set", training_set(["t", "same@1"], [(0, 3, 0), (1, 3, 2)]), "training_set")
    assert found(store) == [("leakage", "set@1")]


def test_unconverged_labels_in_a_training_set(store: Store) -> None:
    labels = sample("labels", 5)
    labels["converged"][3] = 0
    store.write("t", sample("structures", 5), "structures")
    run = toy_run("l", {"structures": [store.entry("t").ref]}, {})
    store.write("l", labels, "labels", run=run.id)
    maker = toy_run("through", {"frames": [store.entry("t").ref], "labels": [store.entry("l").ref]}, {})
    with store.transaction() as transaction:
        transaction.record(run)
        transaction.record(maker)
    store.write("direct", training_set(["l@1"], [(0, 2, 0), (0, 3, 0)]), "training_set")
    store.write("through", training_set(["t@1"], [(0, 2, 0), (0, 3, 0)]), "training_set", run=maker.id)
    store.write("without", training_set(["l@1"], [(0, 2, 0), (0, 1, 0)]), "training_set")
    assert found(store) == [("unconverged", "direct@1"), ("unconverged", "through@1")]


def test_sources_that_are_not_there(store: Store) -> None:
    store.write("t", sample("trajectory", 6), "trajectory")
    store.write("a", training_set(["nowhere@1"], [(0, 0, 0)]), "training_set")
    store.write("b", training_set(["t@1"], [(0, 6, 0)]), "training_set")
    store.write("c", training_set(["t@1"], [(1, 0, 0)]), "training_set")
    assert found(store) == [("source_missing", "a@1"), ("source_missing", "b@1"), ("source_missing", "c@1")]


# ----------------------------------------------------------------------------- the report


def test_only_what_lies_below_a_path(engine: MemoryEngine, store: Store) -> None:
    rich_store(store)
    engine.groups["samples/table"].values["value"][0] += 1
    assert found(store, under="md") == []
    assert found(store, under="samples") == [("data_changed", "samples/table@1")]
    assert audit(store, under="md").keys == 3


def test_the_report_as_json_and_as_text(engine: MemoryEngine, store: Store) -> None:
    rich_store(store)
    engine.groups["samples/table"].values["value"][0] += 1
    steps: list[tuple[int, int, str]] = []
    report = audit(store, progress=lambda *step: steps.append(step))
    assert steps[-1] == (19, 19, "")
    assert AuditReport.from_record(json.loads(json.dumps(report.record()))) == report
    assert report.summary().startswith("1 error: 8 commits, 19 datasets, 1 run,")
    assert store.root_digest in report.summary()
    with pytest.raises(AuditFailed, match="1 findings"):
        report.raise_for_findings()
    assert set(CODES) >= {f.code for f in report.findings}


def test_a_place_without_a_store(tmp_path: Path) -> None:
    for check in (audit, audit_isolated):
        with pytest.raises(NotAStore):
            check(tmp_path / "none.h5")
        with pytest.raises(NotAStore):
            check(tmp_path / "none.txt")
    (tmp_path / "foreign.h5").write_bytes(b"no HDF5 at all" * 100)
    report = audit_isolated(tmp_path / "foreign.h5")
    assert [f.code for f in report.findings] == ["store_unreadable"]


def test_an_audit_in_a_child_finds_the_same(tmp_path: Path) -> None:
    store = rich_store(Store.make(HDF5Engine(tmp_path / "a.h5")))
    root = store.root_digest
    steps: list[int] = []
    report = audit_isolated(store.location, root=root, progress=lambda done, total, at: steps.append(done))
    assert report.ok
    assert (report.keys, report.commits, report.root, report.root_age) == (19, 8, root, 0)
    assert steps == sorted(steps)
    store.close()


def test_an_audit_of_a_store_that_grows_meanwhile(tmp_path: Path) -> None:
    store = rich_store(Store.make(HDF5Engine(tmp_path / "a.h5")))
    other = Store(HDF5Engine(tmp_path / "a.h5"))
    more = sample("trajectory", 9, seed=8)

    def grow(done: int, total: int, at: str) -> None:
        if other.entry("md/grown").records < 9 and done in (3, 9):
            start = other.entry("md/grown").records
            store.append("md/grown", records(more, "trajectory", start, start + 1))

    import h5ml.store.audit as module

    before = module.VIEW_SECONDS
    module.VIEW_SECONDS = 0.0
    try:
        report = audit(other, progress=grow)
    finally:
        module.VIEW_SECONDS = before
    assert report.ok, report.findings
    store.close()
    other.close()
