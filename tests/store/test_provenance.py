"""PROV-JSON and RO-Crate: both are read back and say the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prov.model import ProvDocument
from rocrate.rocrate import ROCrate

from h5ml.schemas.errors import KeyTaken
from h5ml.store.audit import audit
from h5ml.store.opening import open_store
from h5ml.store.provenance import export_crate, export_prov, prov_json
from h5ml.store.store import Store
from h5ml.tests.kits.memory import MemoryEngine
from h5ml.tests.kits.samples import sample
from h5ml.tests.kits.tamper import rich_store, toy_calls, toy_run


@pytest.fixture
def store() -> Store:
    store = rich_store(Store.make(MemoryEngine()))
    with store.transaction() as transaction:
        origin = {"file": "urea (1).cif", "digest": "ab" * 32, "frames": [1, 2]}
        transaction.write("crystal[a,b:1]", sample("structures"), "structures", origin=origin)
    first = toy_run(
        "final",
        {"table": [store.entry("md/table").ref], "crystal": [store.entry("crystal[a,b:1]").ref]},
        {},
        engines={"model": {"name": "tblite", "settings": {"a": None}}},
        started="2026-01-02T03:04:05.678+00:00",
        ended="2026-01-02T04:04:05+00:00",
        environment={"user": "Åsa", "host": "here"},
    )
    with store.transaction() as transaction:
        transaction.record(first)
        transaction.write("final", sample("table", 3), "table", run=first.id)
    return store


def test_prov_comes_back_equal(store: Store) -> None:
    for keys in (None, ["final"], ["samples"]):
        document = export_prov(store, keys)
        assert ProvDocument.deserialize(content=prov_json(store, keys), format="json") == document


def test_prov_holds_the_history(store: Store) -> None:
    record = json.loads(prov_json(store, ["final"]))
    assert "key:final@1" in record["entity"]
    assert len(record["activity"]) == 2
    assert len(record["used"]) == 4
    roles = {use["prov:role"] for use in record["used"].values()}
    assert roles == {"table", "crystal", "model"}
    derived = [(d["prov:generatedEntity"], d["prov:usedEntity"]) for d in record["wasDerivedFrom"].values()]
    assert ("key:final@1", "key:md%2Ftable@1") in derived
    activity = record["activity"][f"run:{store.entry('final').run}"]
    assert activity["prov:startTime"].startswith("2026-01-02T03:04:05.678")
    assert json.loads(activity["h5ml:config"]) == {"T": 300.0, "n": [1, 2]}
    assert any("sa" in name for name in record["agent"])
    digests = {facts.get("h5ml:digest") for facts in record["entity"].values() if isinstance(facts, dict)}
    assert store.entry("final").digest in digests


def test_a_crate_is_complete(store: Store, tmp_path: Path) -> None:
    export_crate(
        store, tmp_path / "crate", ["final"], name="Data of a paper", license="https://spdx.org/licenses/CC-BY-4.0"
    )
    crate = ROCrate(tmp_path / "crate")
    assert crate.name == "Data of a paper"
    actions = [e for e in crate.get_entities() if e.type == "CreateAction"]
    assert len(actions) == 2
    final = next(a for a in actions if a["name"] == "toy at final")
    assert sorted(part["name"] for part in final["object"]) == ["crystal[a,b:1]@1", "md/table@1"]
    assert [part["name"] for part in final["result"]] == ["final@1"]
    assert final["instrument"]["name"] == "toy"
    assert final["agent"]["name"] == "Åsa"
    assert final["endTime"] == "2026-01-02T04:04:05+00:00"
    assert {part["@id"] for part in crate.root_dataset["hasPart"]} >= {"store.h5", "provenance.json"}
    assert set(crate.root_dataset["mentions"]) == set(actions)
    part = crate.get("#final@1")
    assert part["identifier"] == f"blake3:{store.entry('final').digest}"
    assert part["isPartOf"].id == "store.h5"


def test_the_store_in_a_crate_has_the_same_digests(store: Store, tmp_path: Path) -> None:
    export_crate(store, tmp_path / "crate")
    names = sorted(path.name for path in (tmp_path / "crate").iterdir())
    assert names == ["provenance.json", "ro-crate-metadata.json", "store.h5"]
    ProvDocument.deserialize(source=str(tmp_path / "crate" / "provenance.json"), format="json")
    with open_store(tmp_path / "crate" / "store.h5") as packed:
        assert {e.reference: e.digest for e in packed.catalogue.all_versions()} == {
            e.reference: e.digest for e in store.catalogue.all_versions()
        }
        assert audit(packed).ok


def test_a_crate_needs_an_empty_folder(store: Store, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("here")
    with pytest.raises(KeyTaken):
        export_crate(store, tmp_path, ["final"])


def test_calls_are_told_in_both(store: Store, tmp_path: Path) -> None:
    caller = toy_calls(store, "qh", {"phonons": 2}, {"crystal": [store.entry("crystal[a,b:1]").ref]})
    gone = toy_calls(store, "other", {"relax": 1}, {})
    with store.transaction() as transaction:
        transaction.remove("other/relax/0/table")
    record = json.loads(prov_json(store, ["qh/out", "other/out"]))
    used = {use["prov:role"] for use in record["used"].values() if use["prov:activity"] == f"run:{caller.id}"}
    assert used == {"crystal", "model", "call phonons/0", "call phonons/1"}
    derived = {d["prov:usedEntity"] for d in record["wasDerivedFrom"].values() if "out" in d["prov:generatedEntity"]}
    assert {"key:qh%2Fphonons%2F0%2Ftable@1", "key:qh%2Fphonons%2F1%2Ftable@1"} <= derived
    informed = {(i["prov:informed"], i["prov:informant"]) for i in record["wasInformedBy"].values()}
    called = [(run.id, call.run) for run in (caller, gone) for call in run.calls]
    assert informed == {(f"run:{run}", f"run:{call}") for run, call in called}
    assert {f"run:{call}" for _, call in called} <= set(record["activity"])
    export_crate(store, tmp_path / "crate", ["qh/out"])
    actions = {e["name"]: e for e in ROCrate(tmp_path / "crate").get_entities() if e.type == "CreateAction"}
    assert sorted(part["name"] for part in actions["caller at qh"]["object"]) == [
        "crystal[a,b:1]@1",
        "qh/phonons/0/table@1",
        "qh/phonons/1/table@1",
    ]
    with open_store(tmp_path / "crate" / "store.h5") as packed:
        assert audit(packed).ok
