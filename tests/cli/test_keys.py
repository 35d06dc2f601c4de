from __future__ import annotations

import pytest

import h5ml
from h5ml.cli.output import byte_text, sizes_text

TRAJECTORY = "training/md/trajectory"


def test_ls_lists_all_keys_and_those_below_a_path(on, read) -> None:
    text = on("ls").stdout
    assert text.splitlines()[0].split()[:3] == ["key", "kind", "records"]
    assert "crystals/pair" in text
    assert "frame 12, atom 8" in text
    assert [e["key"] for e in read("ls")] == ["crystals/pair", TRAJECTORY]
    assert [e["key"] for e in read("ls", "training")] == [TRAJECTORY]
    assert [e["records"] for e in read("ls")] == [2, 12]


def test_ls_versions(on, read, location) -> None:
    from .conftest import make_structures

    h5ml.open(location).write("crystals/pair", make_structures(), "structures", new_version=True)
    assert [e["version"] for e in read("ls", "--versions")] == [1, 2, 1]
    assert "crystals/pair@1" in on("ls", "--versions").stdout
    assert len(read("ls")) == 2


def test_ls_of_nothing(on, call) -> None:
    assert on("ls", "trainin", code=3).stderr.startswith("There is no such key or path.")
    call("init", "empty.h5")
    result = call("ls", "--store", "empty.h5")
    assert result.stdout == ""
    assert "No keys" in result.stderr


def test_tree_draws_branches(on, read) -> None:
    text = on("tree").stdout
    assert "└── training" in text
    assert "        └── trajectory  (trajectory: frame 12, atom 8)" in text
    assert read("tree")["training"]["md"] == {"trajectory": "trajectory"}


def test_query_takes_every_field_as_an_option(on, read) -> None:
    assert on("query", "--kind", "trajectory").stdout == f"{TRAJECTORY}\n"
    assert on("query", "--elements", "C,N", "--min-records", "5").stdout == f"{TRAJECTORY}\n"
    assert on("query", "--elements", "C", "--elements", "He").stdout == ""
    assert on("query", "--attributes", "ensemble=NPT").stdout == f"{TRAJECTORY}\n"
    assert on("query", "--only_elements", "H,He").stdout == "crystals/pair\n"
    assert [e["kind"] for e in read("query", "--max-records", "3")] == ["structures"]
    assert "kind" in on("query", "--kind", "trajectory", "-l").stdout
    assert on("query", "--min-records", "-1", code=2).stderr.startswith("The setting min_records is not valid.")


def test_show_says_what_it_is_and_how_to_open_it(on, read, location) -> None:
    import xarray as xr

    text = on("show", TRAJECTORY).stdout
    for word in ("trajectory (schema 1)", "frame 12, atom 8", "eV/Angstrom", "ensemble:", "NPT", "open it with"):
        assert word in text
    line = next(line.strip() for line in text.splitlines() if "xarray.open_dataset" in line)
    with eval(line, {"xarray": xr}) as dataset:
        assert dataset.sizes["frame"] == 12
    record = read("show", TRAJECTORY)
    assert record["digest"] in text
    assert {v["name"]: v["units"] for v in record["variables"]}["energy"] == "eV"


def test_show_has_tags_and_notes(on) -> None:
    on("tag", "crystals/pair", "good", "checked")
    on("note", "crystals/pair", "from a talk", "--author", "Ada")
    text = on("show", "crystals/pair").stdout
    assert "good, checked" in text
    assert "note of Ada" in text
    assert "from a talk" in text


def test_du_adds_up(on, read) -> None:
    found = read("du")
    assert found["data_bytes"] == sum(found["keys"].values())
    assert found["store_bytes"] > found["data_bytes"]
    assert set(read("du", "--depth", "1")["keys"]) == {"crystals", "training"}
    assert "KiB" in on("du").stdout


def test_log_shows_commits_and_runs(on, read) -> None:
    on("mv", "crystals/pair", "molecules/pair")
    assert [c["message"] for c in read("log")][-1] == "move crystals/pair to molecules/pair"
    assert len(read("log", "molecules/pair")) == 2
    assert len(read("log", TRAJECTORY)) == 1
    assert len(read("log", "-n", "1")) == 1
    text = on("log").stdout
    assert "write crystals/pair" in text
    assert "root digest: " + read("log")[-1]["digest"] in text
    assert read("log", "--runs") == []
    assert "No runs" in on("log", "--runs").stderr
    assert on("log", "molecules/pai", code=3).stderr.count("did you mean molecules/pair") == 1


def test_sizes_and_bytes_for_people() -> None:
    assert byte_text(999) == "999 B"
    assert byte_text(3 * 2**20) == "3.0 MiB"
    assert sizes_text({"atom": 2, "xyz": 3, "frame": 4}) == "frame 4, atom 2"


@pytest.mark.parametrize("command", ["ls", "tree", "du", "audit"])
def test_a_path_with_nothing_below_it_is_an_error(on, command: str) -> None:
    assert "no such key or path" in on(command, "trainign", code=3).stderr
    assert "training" in on(command, "training", code=0).output or command == "audit"


def test_a_query_that_finds_nothing_says_so(on) -> None:
    assert "fulfils all conditions" in on("query", "--kind", "phonons").stderr
    assert "did you mean trajectory" in on("query", "--kind", "trajectoy", code=5).stderr


def test_times_of_a_query_are_those_that_ls_shows(on, location) -> None:
    changed = h5ml.open(location).entry(TRAJECTORY).modified[:19].replace("T", " ")
    assert TRAJECTORY in on("query", "--since", changed).stdout
    assert on("query", "--since", f"{changed[:10]} 23:59:59.9999").stdout == ""  # later on the same day
    assert TRAJECTORY in on("query", "--until", changed).stdout
    assert on("query", "--until", "2000-01-01 00:00").stdout == ""
    assert "for example 2026-11-30" in on("query", "--since", "yesterday", code=2).stderr
