from __future__ import annotations

import h5ml

TRAJECTORY = "training/md/trajectory"


def test_init_makes_a_store_and_refuses_a_second(call, tmp_path) -> None:
    assert "a new, empty store (hdf5)" in call("init", "new.h5").stdout
    assert h5ml.open(tmp_path / "new.h5").keys() == []
    before = (tmp_path / "new.h5").read_bytes()
    assert call("init", "new.h5", code=4).stderr
    assert (tmp_path / "new.h5").read_bytes() == before


def test_init_of_a_name_without_engine(call) -> None:
    assert "does not say which engine" in call("init", "new.txt", code=6).stderr


def test_init_makes_an_icechunk_store(call) -> None:
    assert "icechunk" in call("init", "new.icechunk").stdout
    assert call("ls", "--store", "new.icechunk").stdout == ""


def test_mv_of_a_key_and_of_a_path(on, location) -> None:
    on("mv", "crystals/pair", "molecules/pair")
    on("mv", "training", "old/training")
    store = h5ml.open(location)
    assert store.keys() == ["molecules/pair", "old/training/md/trajectory"]
    assert store.entry("crystals/pair").key == "molecules/pair"


def test_tag_on_and_off(on, location) -> None:
    assert "good" in on("tag", TRAJECTORY, "good").stdout
    assert h5ml.open(location).entry(TRAJECTORY).tags == ["good"]
    assert "good" in on("ls").stdout
    on("tag", TRAJECTORY, "good", "--remove")
    assert h5ml.open(location).entry(TRAJECTORY).tags == []
    on("tag", TRAJECTORY, "good", "--remove", code=3)


def test_rm_of_a_key_a_version_and_a_path(on, location) -> None:
    from .conftest import make_structures

    h5ml.open(location).write("crystals/pair", make_structures(), "structures", new_version=True)
    on("rm", "crystals/pair@1")
    assert [e.version for e in h5ml.open(location).query(versions=True)] == [2, 1]
    assert "there is no such key" in on("rm", "training", code=3).stderr.lower()
    on("rm", "-r", "training")
    on("rm", "crystals/pair")
    assert h5ml.open(location).keys() == []


def test_rm_of_several_is_all_or_nothing(on, location) -> None:
    on("rm", "crystals/pair", "crystals/none", code=3)
    assert "crystals/pair" in h5ml.open(location)


def test_purge_keeps_the_digest_and_imports_need_force(on, read, location) -> None:
    digest = h5ml.open(location).entry("crystals/pair").digest
    assert "--force" in on("purge", "crystals/pair", code=2).stderr
    assert not h5ml.open(location).entry("crystals/pair").purged
    on("purge", "crystals/pair", "--force")
    assert read("show", "crystals/pair")["digest"] == digest
    assert "purged" in on("show", "crystals/pair").stdout
    assert "purged" in on("ls").stdout
    assert "replay" in on("export", "crystals/pair", "x.extxyz", code=3).stderr


def test_a_store_in_a_folder_that_is_not_there_an_empty_note_and_a_taken_name(call, on) -> None:
    assert "mkdir -p a/b" in call("init", "a/b/c.h5", code=2).stderr
    assert "empty" in on("note", TRAJECTORY, " ", code=2).stderr
    taken = on("mv", TRAJECTORY, TRAJECTORY, code=4).stderr
    assert "take another name" in taken
    assert "--new-version" not in taken
