"""Tampering: whatever byte is changed, the audit names the key or the run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import orjson
import pytest
from blake3 import blake3

from h5ml.schemas.run import Run
from h5ml.store.audit import audit
from h5ml.store.audit_child import audit_isolated
from h5ml.store.digest import digest_json
from h5ml.store.hdf5 import HDF5Engine
from h5ml.store.log import GENESIS, LOG_PATH, encode, split_lines
from h5ml.store.store import Store
from h5ml.store.work import hasher_of
from h5ml.tests.kits.memory import MemoryEngine
from h5ml.tests.kits.tamper import audit_changed, change, choose, closed, places, rich_store


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store with everything in it."""
    return closed(rich_store(Store.make(HDF5Engine(tmp_path_factory.mktemp("whole") / "store.h5"))))


def check_flips(whole: Path, folder: Path, count: int, seed: int) -> None:
    changes = choose(whole, count, seed)
    for place, findings in zip(changes, audit_changed(whole, changes, folder), strict=True):
        if findings is None:  # the HDF5 library crashed: that must become a finding as well
            target = folder / "crashes.h5"
            change(whole, target, *place[1:])
            findings = [f.record() for f in audit_isolated(target, timeout_s=60).findings]
        named = [f for f in findings if f["severity"] == "error" and (f.get("key") or f.get("run"))]
        assert named, (place, findings)


def test_the_store_is_clean_before(whole: Path) -> None:
    report = audit(whole)
    assert report.findings == []
    assert {where: bool(parts) for where, parts in places(whole).items()} == {
        "data": True,
        "log": True,
        "attributes": True,
    }


def test_every_changed_byte_is_found(whole: Path, tmp_path: Path) -> None:
    check_flips(whole, tmp_path, 15, seed=11)


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_changed_byte_is_found_200(whole: Path, tmp_path: Path, seed: int) -> None:
    check_flips(whole, tmp_path, 200, seed)


# ----------------------------------------------------------------------------- changes through HDF5 itself


def codes(path: Path, **options: Any) -> dict[str, str | None]:
    return {finding.code: finding.key for finding in audit(path, **options).findings}


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(whole, tmp_path / "store.h5"))


def test_a_changed_value_names_the_variable_where_it_can(copied: Path) -> None:
    with h5py.File(copied, "r+") as file:
        file["samples/table/value"][1] += 1e-12
    report = audit(copied)
    assert [(f.code, f.key) for f in report.findings] == [("data_changed", "samples/table@1")]
    assert report.exit_code() == 1


def test_an_older_version_is_checked_too(copied: Path) -> None:
    with h5py.File(copied, "r+") as file:
        file[".h5ml/versions/md/grown@1/energy"][39] = 0.0
    assert codes(copied) == {"data_changed": "md/grown@1"}


def test_changed_attributes(copied: Path) -> None:
    with h5py.File(copied, "r+") as file:
        file["samples/labels"].attrs["level_of_theory"] = np.bytes_(b"PBE1")
        file["samples/features"].attrs["by hand"] = 3
        del file["samples/clusters"].attrs["source"]
    report = audit(copied)
    found = {f.key: f.message for f in report.findings if f.code == "attributes_changed"}
    assert set(found) == {"samples/labels@1", "samples/features@1", "samples/clusters@1"}
    assert "level_of_theory" in found["samples/labels@1"]


def test_a_changed_unit(copied: Path) -> None:
    with h5py.File(copied, "r+") as file:
        item = file["samples/table/value"]
        del item.attrs["units"]
        item.attrs["units"] = "meV"
    assert codes(copied) == {"data_changed": "samples/table@1"}


def test_a_variable_removed_by_hand(copied: Path) -> None:
    with h5py.File(copied, "r+") as file:
        del file["samples/labels/energy"]
    report = audit(copied)
    assert "variable_missing" in {f.code for f in report.findings}
    assert any("energy" in f.message for f in report.findings)


def test_keys_removed_and_written_by_hand(copied: Path) -> None:
    with h5py.File(copied, "r+") as file:
        file.copy("samples/table", "by hand/table")
        del file["samples/phases"]
    found = codes(copied)
    assert found["data_missing"] == "samples/phases@1"
    assert found["unknown_group"] == "by hand/table"


def test_a_swapped_pair_of_keys(copied: Path) -> None:
    with h5py.File(copied, "r+") as file:
        file.move("samples/structures", "tmp")
        file.move("samples/clusters", "samples/structures")
        file.move("tmp", "samples/clusters")
    found = {f.key for f in audit(copied).findings}
    assert {"samples/structures@1", "samples/clusters@1"} <= found


def test_a_damaged_group_does_not_stop_the_audit(copied: Path) -> None:
    with h5py.File(copied, "r") as file:
        at = h5py.h5o.get_info(file["samples/phonons"].id).addr
    text = bytearray(copied.read_bytes())
    text[at : at + 32] = bytes(32)
    copied.write_bytes(text)
    report = audit_isolated(copied, timeout_s=60)
    assert any(f.key == "samples/phonons@1" for f in report.findings)
    assert report.keys >= 17


def test_a_truncated_file_is_one_clear_finding(copied: Path) -> None:
    copied.write_bytes(copied.read_bytes()[:200_000])
    report = audit_isolated(copied, timeout_s=60)
    assert not report.ok
    assert all(str(f) for f in report.findings)


# ----------------------------------------------------------------------------- data and digests rewritten together


def forge(engine: MemoryEngine) -> None:
    """Change a value in a trajectory and rewrite every digest that depends on it, the chain included."""
    group = engine.groups["md/table"]
    group.values["value"][0] += 1.0
    hasher = hasher_of(group.layout, group.layout.attributes)
    for name, values in group.values.items():
        hasher.update(name, values)
    forged = hasher.hexdigest(group.layout.sizes)
    text = engine.groups[LOG_PATH].values["bytes"].tobytes()
    old = next(
        e["digest"]
        for line in split_lines(text)
        for e in orjson.loads(line.rpartition(b"\t")[0])["events"]
        if e.get("key") == "md/table" and "digest" in e
    )
    lines, previous = [], GENESIS
    for line in split_lines(text):
        record = orjson.loads(line.rpartition(b"\t")[0].replace(old.encode(), forged.encode()))
        made, previous = encode(record["n"], previous, record["time"], record["message"], record["events"])
        lines.append(made)
    engine.groups[LOG_PATH].values["bytes"] = np.frombuffer(b"".join(lines), np.uint8).copy()


def test_data_rewritten_with_their_digests_are_found_against_a_noted_root() -> None:
    engine = MemoryEngine()
    store = rich_store(Store.make(engine))
    noted = store.root_digest
    assert audit(store, root=noted).ok
    forge(engine)
    assert audit(engine_store(engine)).ok  # nothing in the store itself betrays it
    report = audit(engine_store(engine), root=noted)
    assert [f.code for f in report.findings] == ["root_not_found"]
    assert report.exit_code() == 1


def engine_store(engine: MemoryEngine) -> Store:
    return Store(engine)


def test_a_run_record_rewritten_with_the_chain_does_not_give_its_id() -> None:
    engine = MemoryEngine()
    store = rich_store(Store.make(engine))
    run = next(iter(store.runs.values()))
    text = engine.groups[LOG_PATH].values["bytes"].tobytes()
    lines, previous = [], GENESIS
    for line in split_lines(text):
        record = orjson.loads(line.rpartition(b"\t")[0].replace(b'"T":300.0', b'"T":310.0'))
        made, previous = encode(record["n"], previous, record["time"], record["message"], record["events"])
        lines.append(made)
    engine.groups[LOG_PATH].values["bytes"] = np.frombuffer(b"".join(lines), np.uint8).copy()
    assert [(f.code, f.run) for f in audit(Store(engine)).findings] == [("run_edited", run.id)]


def test_the_id_of_a_run_is_the_digest_of_its_identity() -> None:
    run = Run(id="", prefix_id="", module="m", module_version="1", root_key="r", config={"b": 1, "a": [1.0, None]})
    identity = {"module": "m", "module_version": "1", "config": {"a": [1.0, None], "b": 1}, "inputs": {}}
    assert digest_json(run.identity()) == digest_json({**identity, "engines": {}, "seed": 0})
    text = '{"config":{"a":[1.0,null],"b":1},"engines":{},"inputs":{},"module":"m","module_version":"1","seed":0}'
    assert digest_json(run.identity()) == blake3(text.encode()).hexdigest()
