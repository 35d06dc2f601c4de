from __future__ import annotations

import json

import h5ml

from .conftest import make_structures

TRAJECTORY = "training/md/trajectory"


def test_copy_between_engines_keeps_digests(call, location, tmp_path) -> None:
    text = call("copy", location, "other.icechunk").stdout
    assert "2 copied" in text
    mine, other = h5ml.open(location), h5ml.open(tmp_path / "other.icechunk")
    assert other.keys() == mine.keys()
    for key in mine:
        assert other.entry(key).digest == mine.entry(key).digest
    assert "0 copied" in call("copy", location, "other.icechunk").stdout


def test_copy_of_one_key_and_a_conflict(call, location, tmp_path) -> None:
    call("copy", location, "other.h5", "crystals")
    assert h5ml.open(tmp_path / "other.h5").keys() == ["crystals/pair"]
    found = json.loads(call("copy", location, "other.h5", TRAJECTORY, "--json").stdout)
    assert found["copied"] == [f"{TRAJECTORY}@1"]
    changed = make_structures()
    changed["positions"] = changed["positions"] + 1.0
    h5ml.open(location).write("crystals/pair", changed, "structures", new_version=True)
    call("copy", location, "third.h5", "crystals/pair@1")
    assert h5ml.open(tmp_path / "third.h5").entry("crystals/pair").version == 1


def test_copy_of_an_unknown_key_and_store(call, location, tmp_path) -> None:
    assert "crystals/pair" in call("copy", location, "other.h5", "crystals/par", code=3).stderr
    assert "h5ml init" in call("copy", "none.h5", "other.h5", code=6).stderr


def test_gc_and_compact(on, read, location) -> None:
    h5ml.open(location).write("crystals/pair", make_structures(), "structures", new_version=True)
    found = read("gc", "--dry-run")
    assert [item["name"] for item in found["items"]] == ["crystals/pair@1"]
    assert "would be removed" in on("gc", "-n").stdout
    assert "1 thing removed" in on("gc").stdout
    on("rm", TRAJECTORY)
    before = location.stat().st_size
    root = h5ml.open(location).root_digest
    text = on("compact").stdout
    assert "before" in text
    assert location.stat().st_size < before
    assert h5ml.open(location).root_digest == root


def test_unlock_and_upgrade(on) -> None:
    assert on("unlock").stdout.strip()
    assert "nothing to do" in on("upgrade").stdout
