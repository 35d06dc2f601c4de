"""Aliases: other names of keys, kept in the log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from h5ml.schemas.errors import InvalidKey, KeyTaken, UnknownKey
from h5ml.store.audit import audit
from h5ml.store.engine import Engine
from h5ml.store.hdf5 import HDF5Engine
from h5ml.store.icechunk import IcechunkEngine
from h5ml.store.maintenance import compact, copy
from h5ml.store.store import Store
from h5ml.tests.kits.memory import MemoryEngine
from h5ml.tests.kits.samples import sample

OLD = "training/md/crystal[dyn:T=298.15,p=0.00010]/trajectory"
KEY = "new/table"


def make(kind: str, folder: Path, name: str = "store") -> Store:
    engines: dict[str, Callable[[], Engine]] = {
        "memory": lambda: MemoryEngine(name),
        "hdf5": lambda: HDF5Engine(folder / f"{name}.h5"),
        "icechunk": lambda: IcechunkEngine(str(folder / f"{name}.icechunk")),
    }
    return Store.make(engines[kind]())


def aliased(store: Store) -> Store:
    """Put a key with another name into a store, by one transaction."""
    with store.transaction("import") as transaction:
        transaction.write(KEY, sample("table"), "table")
        transaction.alias(OLD, KEY)
    return store


@pytest.mark.parametrize("kind", ["memory", "hdf5", "icechunk"])
def test_an_alias_resolves_after_moves_and_reopening_and_the_audit_is_clean(kind: str, tmp_path: Path) -> None:
    store = aliased(make(kind, tmp_path))
    with store.transaction() as transaction:
        transaction.move(KEY, "newer/table")
    again = Store(store.engine)
    assert again.entry(OLD).key == again.entry(f"{OLD}@1").key == again.entry(KEY).key == "newer/table"
    assert [entry.key for entry in again.catalogue] == ["newer/table"]
    assert audit(again).findings == []
    store.close()


def test_an_alias_never_shadows_a_key(tmp_path: Path) -> None:
    store = aliased(make("memory", tmp_path))
    with pytest.raises(KeyTaken, match="is a key"), store.transaction() as transaction:
        transaction.write("other", sample("table"), "table")
        transaction.alias(KEY, "other")
    assert "other" not in store  # the whole transaction was refused
    store.write(OLD, sample("table", seed=1), "table")
    assert store.entry(OLD).key == OLD
    assert Store(store.engine).entry(OLD).key == OLD


def test_an_alias_has_one_meaning(tmp_path: Path) -> None:
    store = aliased(make("memory", tmp_path))
    store.write("other", sample("table", seed=1), "table")
    commits = store.catalogue.commits
    with pytest.raises(KeyTaken, match="another key"), store.transaction() as transaction:
        transaction.alias(OLD, "other")
    with pytest.raises(UnknownKey), store.transaction() as transaction:
        transaction.alias("name", "nothing")
    with pytest.raises(InvalidKey), store.transaction() as transaction:
        transaction.alias("a//b", "other")
    assert store.catalogue.commits == commits
    with store.transaction() as transaction:  # what it means already may be said again
        transaction.alias(OLD, KEY)
        transaction.remove(KEY)
    with pytest.raises(UnknownKey):
        store.entry(OLD)
    with store.transaction() as transaction:  # a name that lost its key is free
        transaction.alias(OLD, "other")
    assert store.entry(OLD).key == "other"


def test_an_alias_above_other_keys_hides_none_of_them_from_a_copy(tmp_path: Path) -> None:
    store, target = make("memory", tmp_path), make("memory", tmp_path, "target")
    for key in ("a/b", "a_data"):
        store.write(key, sample("table"), "table")
    with store.transaction() as transaction:
        transaction.alias("a", "a_data")
    copy(store, target, ["a"])
    assert target.keys() == ["a/b", "a_data"]
    assert target.entry("a").key == "a_data"


@pytest.mark.parametrize("kind", ["hdf5", "icechunk"])
def test_compaction_and_copies_keep_aliases(kind: str, tmp_path: Path) -> None:
    store, target = aliased(make("hdf5", tmp_path)), make(kind, tmp_path, "target")
    compact(store)
    assert store.entry(OLD).key == KEY
    copy(store, target)
    assert target.entry(OLD).digest == store.entry(OLD).digest
    commits = target.catalogue.commits
    copy(store, target)
    assert target.catalogue.commits == commits
    assert audit(target).findings == []
    taken = make("memory", tmp_path, "taken")
    taken.write(OLD, sample("table", seed=3), "table")
    copy(store, taken)
    assert taken.entry(OLD).key == OLD
    for opened in (store, target):
        opened.close()
