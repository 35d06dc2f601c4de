"""Distributed writes: transactions executed on forks, and committed by another process on a newer state."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import h5ml
from h5ml.schemas.errors import KeyTaken
from h5ml.store.audit import audit
from h5ml.store.icechunk import IcechunkEngine
from h5ml.store.icechunk_distributed import ForkedStore, Handover, Outdated, adopt
from h5ml.store.prepare import Storage
from h5ml.store.store import Store
from h5ml.tests.kits.bucket import Bucket, bucket

GROWING = Storage(growing=True)


@pytest.fixture(scope="module")
def server() -> Iterator[Bucket]:
    with pytest.MonkeyPatch.context() as monkeypatch, bucket(monkeypatch) as found:
        yield found


@pytest.fixture
def main(server: Bucket, tmp_path: Path) -> Store:
    return Store.make(IcechunkEngine(f"s3://bucket/{tmp_path.name}/store"))


class Worker:
    """A store on forks whose transactions travel as bytes, and are kept until somebody commits them."""

    def __init__(self, main: Store) -> None:
        self.main, self.kept = main, []
        self.store = ForkedStore(IcechunkEngine(main.location), self.keep)

    def keep(self, handover: Handover) -> str:
        self.kept.append(pickle.dumps(handover))
        return ""

    def write(self, key: str, dataset: xr.Dataset) -> None:
        with self.store.transaction() as transaction:
            transaction.write(key, dataset, "table", storage=GROWING)

    def append(self, key: str, dataset: xr.Dataset) -> None:
        with self.store.transaction() as transaction:
            transaction.append(key, dataset)

    def commit(self) -> None:
        commit(self.main, *self.kept)
        self.kept.clear()

    def durable(self) -> Store:
        """The same, each transaction committed at once."""
        return ForkedStore(IcechunkEngine(self.main.location), lambda each: commit(self.main, pickle.dumps(each)))


def commit(main: Store, *kept: bytes) -> str:
    def operation(packed: bytes) -> Callable[[Any], None]:
        return lambda work: adopt(work, pickle.loads(packed))

    return main.execute([operation(packed) for packed in kept], "merge") or ""


def rows(start: int, count: int) -> xr.Dataset:
    """Rows that fill more than a chunk, so that some lie in chunks shared by two appends."""
    values = np.random.default_rng(start).normal(size=(count, 30))
    names = np.array([f"row {start + i}" for i in range(count)], dtype=object)
    return xr.Dataset(
        {"x": (("row", "column"), values, {"units": "1"}), "name": ("row", names, {"units": "1"})}, {"from": "test"}
    )


def same(store: Store, other: Store) -> None:
    """Equal digests of all keys, and nothing to find for an audit."""
    assert {e.reference: e.digest for e in store.catalogue.all_versions()} == {
        e.reference: e.digest for e in other.catalogue.all_versions()
    }
    assert audit(store).findings == []


def test_appends_on_forks_give_the_digests_of_a_file(main: Store, tmp_path: Path) -> None:
    """Two workers take turns with uneven appends while the main store commits too: every fork is behind its merge."""
    file = h5ml.open(tmp_path / "file.h5", make=True)
    workers = {"run/a": Worker(main), "run/deep/b": Worker(main)}
    for key, worker in workers.items():
        worker.write(key, rows(0, 7))
        file.write(key, rows(0, 7), "table", storage=GROWING)
    main.write("run/other", rows(1, 2), "table")
    file.write("run/other", rows(1, 2), "table")
    commit(main, *(worker.kept.pop() for worker in workers.values()))  # both made the same folders
    for start, count in ((7, 130), (137, 200)):
        for key, worker in workers.items():
            worker.append(key, rows(start, count))
            file.append(key, rows(start, count))
        main.write(f"more/{start}", rows(start, 1), "table")
        file.write(f"more/{start}", rows(start, 1), "table")
        for worker in workers.values():
            worker.commit()
    same(main, file)
    np.testing.assert_array_equal(main["run/a"]["x"].values[7:137], rows(7, 130)["x"].values)
    repository = main.engine._repository()
    nodes = json.loads(repository.inspect_snapshot(repository.lookup_branch("main"), pretty=False))["nodes"]
    paths = [node["path"] for node in nodes]
    assert len(paths) == len(set(paths))
    assert {"/run", "/run/deep", "/more"} <= set(paths)


def test_replacing_versions_and_removing_on_a_fork(main: Store, tmp_path: Path) -> None:
    """Groups are unlinked, made anew in another shape, moved to the place of old versions; empty folders go."""
    file = h5ml.open(tmp_path / "file.h5", make=True)
    for store in (Worker(main).durable(), file):
        for key in ("a/x", "b/only"):
            store.write(key, rows(0, 5), "table")
        with store.transaction() as transaction:
            transaction.replace("a/x", rows(1, 90), "table")
        with store.transaction() as transaction:
            transaction.replace("a/x", rows(2, 90), "table")
            transaction.remove("b/only")
        store.write("a/x", rows(3, 4), "table", new_version=True)
        with store.transaction() as transaction:
            transaction.restart("1234", rows(4, 3))
            transaction.stash("1234", "map", {0: b"zero", 1: b"one"})
    same(main, file)
    assert list(main.stashed("1234", "map")) == [(0, b"zero"), (1, b"one")]
    with main.engine.reading() as reader:
        assert "b/only" not in list(reader.groups())
    assert main.engine.transact(lambda writer: writer._store.session.has_uncommitted_changes) is False


def test_what_was_changed_by_others_meanwhile_is_refused(main: Store) -> None:
    worker = Worker(main)
    main.write("a", rows(0, 5), "table", storage=GROWING)
    worker.append("a", rows(5, 5))
    main.append("a", rows(5, 9))
    with pytest.raises(Outdated, match="has changed"):
        worker.commit()
    assert main.entry("a").records == 14
    other = Worker(main)
    other.write("c/d", rows(0, 5))
    main.write("c", rows(0, 5), "table")
    with pytest.raises(Outdated, match="has changed"):
        other.commit()
    with pytest.raises(KeyTaken):
        Worker(main).write("a", rows(0, 5))
    assert audit(main).findings == []


def test_chunks_that_were_never_merged_are_spared_for_the_grace_and_then_removed(main: Store, server: Bucket) -> None:
    worker = Worker(main)
    worker.write("kept", rows(0, 300))
    worker.commit()
    prefix = f"{main.location.removeprefix('s3://bucket/')}/chunks/"
    merged = server.objects(prefix)
    worker.append("kept", rows(300, 300))
    lost = set(server.objects(prefix)) - set(merged)
    assert lost
    main.engine.compact(lambda reader, writer: None)
    assert lost <= set(server.objects(prefix))
    IcechunkEngine(main.location, grace=timedelta(0)).compact(lambda reader, writer: None)
    assert not lost & set(server.objects(prefix))
    assert h5ml.open(main.location)["kept"]["x"].values.shape == (300, 30)
    assert audit(main).findings == []
