"""The catalogue: what the events of the log add up to, at once and read again."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from h5ml.schemas.errors import KeyTaken, StoreDamaged, UnknownKey
from h5ml.schemas.run import DataRef
from h5ml.store.catalogue import Catalogue
from h5ml.store.log import GENESIS, Commit, decode, encode, event_of
from h5ml.store.store import Store
from h5ml.tests.kits.memory import MemoryEngine
from h5ml.tests.kits.samples import sample
from h5ml.tests.kits.tamper import rich_store

KEYS = ["a", "b/c", "b/d", "b/c2/e"]


def facts(catalogue: Catalogue) -> dict[str, Any]:
    """Everything that a catalogue says."""
    return {
        "entries": [asdict(entry) for entry in catalogue.all_versions()],
        "runs": {name: run.record() for name, run in catalogue.runs.items()},
        "kept": (catalogue.restarts, catalogue.stashes, catalogue.marks),
        "aliases": catalogue.aliases,
        "interior": dict(catalogue.interior),
        "head": (catalogue.head, catalogue.commits, catalogue.size, catalogue.last_time),
    }


def test_a_line_of_the_log_comes_back() -> None:
    line, digest = encode(3, GENESIS, "2026-01-01", "why Å", [event_of("mark", id="x", name="n", value=[1, None])])
    commit = decode(line[:-1], verify=True)
    assert (commit.number, commit.previous, commit.digest, commit.message) == (3, GENESIS, digest, "why Å")
    assert commit.events == [{"event": "mark", "id": "x", "name": "n", "value": [1, None]}]
    for broken in (b"", b"{}", line[1:-1], line[:-2], b"[]\t" + digest.encode()):
        with pytest.raises(StoreDamaged):
            decode(broken, verify=True)


def test_a_missing_commit_and_an_unknown_event_are_refused() -> None:
    catalogue = Catalogue()
    with pytest.raises(StoreDamaged, match="missing or out of order"):
        catalogue.apply(Commit(2, GENESIS, "d", "t", "", []), 1)
    with pytest.raises(StoreDamaged, match="unknown event"):
        catalogue.apply(Commit(1, GENESIS, "d", "t", "", [{"event": "fly"}]), 1)
    with pytest.raises(StoreDamaged, match="cannot be understood"):
        catalogue.apply(Commit(1, GENESIS, "d", "t", "", [{"event": "purge", "key": "a", "version": 1}]), 1)


def test_folding_again_gives_the_same() -> None:
    store = rich_store(Store.make(MemoryEngine()))
    assert facts(Store(store.engine).catalogue) == facts(store.catalogue)


def test_version_numbers_are_never_used_twice() -> None:
    store = Store.make(MemoryEngine())
    for seed in range(2):
        store.write("a", sample("table", 2, seed=seed), "table", new_version=True)
    with store.transaction() as transaction:
        transaction.remove("a@2")
    assert store.entry("a").version == 1
    assert store.write("a", sample("table", 3), "table", new_version=True).version == 3
    with store.transaction() as transaction:
        transaction.remove("a")
    assert store.write("a", sample("table", 4), "table").version == 4


def test_old_names_resolve_after_moves() -> None:
    store = Store.make(MemoryEngine())
    store.write("x/a", sample("table", 2), "table")
    ref = store.entry("x/a").ref
    with store.transaction() as transaction:
        transaction.move("x", "y/z")
    assert store.keys() == ["y/z/a"]
    assert store.entry("x/a").key == "y/z/a"
    found = store.catalogue.locate(ref)
    assert found is not None
    assert found.key == "y/z/a"
    assert store.catalogue.locate(DataRef(key="nowhere", kind="table", digest=ref.digest)) is found
    assert store.catalogue.locate(DataRef(key="nowhere", kind="table", digest="0")) is None


def test_unknown_names_get_a_hint() -> None:
    store = rich_store(Store.make(MemoryEngine()))
    with pytest.raises(UnknownKey, match="did you mean samples/table"):
        store.entry("samples/tabel")
    with pytest.raises(UnknownKey, match="below it lies samples/checkpoint, and 13 more"):
        store.entry("samples")
    with pytest.raises(UnknownKey, match="@1, @2"):
        store.entry("md/grown@7")


class Changes(RuleBasedStateMachine):
    """Random transactions; a plain model, the live catalogue and one folded anew must agree."""

    @initialize()
    def begin(self) -> None:
        self.store = Store.make(MemoryEngine())
        self.model: dict[str, dict[int, tuple[str, bool]]] = {}
        self.used: dict[str, int] = {}
        self.seed = 0

    @rule(key=st.sampled_from(KEYS), new_version=st.booleans())
    def write(self, key: str, new_version: bool) -> None:
        self.seed += 1
        try:
            entry = self.store.write(key, sample("table", 1, self.seed), "table", new_version=new_version)
        except KeyTaken:
            assert key in self.model
            assert not new_version
            return
        assert entry.version == self.used.get(key, 0) + 1
        self.used[key] = entry.version
        self.model.setdefault(key, {})[entry.version] = (entry.digest, False)

    @rule(key=st.sampled_from(KEYS))
    def remove(self, key: str) -> None:
        if key in self.model:
            with self.store.transaction() as transaction:
                transaction.remove(key)
            del self.model[key]

    @rule(key=st.sampled_from(KEYS), newest=st.booleans())
    def remove_version(self, key: str, newest: bool) -> None:
        if key in self.model:
            version = (max if newest else min)(self.model[key])
            with self.store.transaction() as transaction:
                transaction.remove(f"{key}@{version}")
            del self.model[key][version]
            if not self.model[key]:
                del self.model[key]

    @rule(key=st.sampled_from(KEYS), newest=st.booleans())
    def purge(self, key: str, newest: bool) -> None:
        if key in self.model:
            version = (max if newest else min)(self.model[key])
            with self.store.transaction() as transaction:
                transaction.purge(f"{key}@{version}")
            self.model[key][version] = (self.model[key][version][0], True)

    @rule(source=st.sampled_from(KEYS), new=st.sampled_from(KEYS))
    def move(self, source: str, new: str) -> None:
        target = new
        if source in self.model and target not in self.model:
            with self.store.transaction() as transaction:
                transaction.move(source, target)
            self.model[target] = self.model.pop(source)
            self.used[target] = max(self.used.get(target, 0), self.used.get(source, 0))
            self.used.pop(source, None)

    @rule()
    def fail(self) -> None:
        def stop(_: object) -> None:
            raise RuntimeError

        with pytest.raises(RuntimeError):
            self.store.execute([lambda work: work.writer.remove(".h5ml/log"), stop])

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "store"):
            return
        live, anew = self.store.catalogue, Store(self.store.engine).catalogue
        assert facts(live) == facts(anew)
        found = {key: {v: (e.digest, e.purged) for v, e in by.items()} for key, by in live.entries.items()}
        assert found == self.model
        with self.store.engine.reading() as reader:
            paths = {entry.path for entry in live.all_versions() if not entry.purged}
            assert set(reader.groups()) == paths | {".h5ml/log"}


Changes.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestChanges = Changes.TestCase
