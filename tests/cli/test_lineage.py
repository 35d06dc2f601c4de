"""Lineage of frames by commands, and what a campaign says when frames are added."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from ase.io import write

import h5ml
from h5ml.store.lineage_frames import lineage_frames
from h5ml.store.store import Store
from h5ml.tests.kits.dynamics import BONDS, nitrogen

pytestmark = pytest.mark.filterwarnings("ignore")

DYNAMICS = f"""compute: md
    crystal: crystals/n2
    model: "{BONDS}"
    supercell_matrix: [2, 2, 2]
    time_step_fs: 1
    sampling_interval_fs: 10
    time_equilibration_fs: 20"""
LABELS = f"""compute: dft
    engine: potential
    model: "{BONDS}\""""
SET = """compute: training_set
    E0s: average
    leakage_tolerance_A: null
    valid_fraction: 0.25"""
CAMPAIGN = f"""store: camp.h5
steps:
  crystals/n2:
    import: n2.xyz
  md/a:
    {DYNAMICS}
    time_total_fs: 50
  md/b:
    {DYNAMICS}
    time_total_fs: 50
    seed: 2
  labels/a:
    {LABELS}
    frames: md/a/trajectory
  labels/b:
    {LABELS}
    frames: md/b/trajectory
  sets/both:
    {SET}
    labels: [labels/a/labels, labels/b/labels]
  sets/b:
    {SET}
    labels: labels/b/labels
"""


@pytest.fixture
def campaign(call: Any, tmp_path: Path) -> Path:
    """A campaign that was run once."""
    write(tmp_path / "n2.xyz", nitrogen(), format="extxyz")
    path = tmp_path / "h5ml.yaml"
    path.write_text(CAMPAIGN)
    call("run", "--quiet")
    return path


@pytest.fixture
def store(campaign: Path) -> Store:
    return h5ml.open(campaign.parent / "camp.h5")


def test_frames_as_table_csv_and_json_say_the_same(call: Any, store: Store) -> None:
    expected = lineage_frames(store, "sets/both/set")
    found = list(csv.DictReader(io.StringIO(call("lineage", "sets/both/set", "--frames", "--csv").stdout)))
    record = json.loads(call("lineage", "sets/both/set", "--frames", "--json").stdout)
    assert record["lineage_of"] == "sets/both/set@1"
    assert len(found) == len(record["frames"]) == expected.sizes["row"] == 8
    for row, plain, frame in zip(range(8), found, record["frames"], strict=True):
        assert plain == {name: "" if value is None else str(value) for name, value in frame.items()}
        for name in ("split", "label", "label_row", "structure_frame", "origin", "step"):
            assert frame[name] == expected[name].values.tolist()[row]
        assert frame["time_fs"] == expected["time"].values[row]
        assert frame["baseline_row"] is None
    text = call("lineage", "sets/both/set", "--frames").stdout
    assert "training set:    sets/both/set@1" in text
    assert "8 frames: 6 train, 2 valid" in text
    told = [line.split() for line in text.splitlines()]
    assert [told.count(["structures:", f"md/{name}/trajectory@1"]) for name in "ab"] == [1, 1]
    assert sum(line.startswith(("train ", "valid ")) for line in text.splitlines()) == 8
    assert "cut from" not in text


def test_a_trajectory_that_is_learned_from_is_its_own_label(call: Any, campaign: Path) -> None:
    settings = [
        "--labels",
        "md/a/trajectory",
        "--assumed-level",
        "springs",
        "--E0s",
        "average",
        "--valid-fraction",
        0.3,
    ]
    call(
        "compute", "training_set", "--root-key", "own", "--store", "camp.h5", *settings, "--leakage-tolerance-A", "none"
    )
    text = call("lineage", "own/set", "--frames").stdout
    assert "level of theory: springs" in text
    assert ["labels:", "md/a/trajectory@1"] in [line.split() for line in text.splitlines()]
    assert "structures" not in text
    assert "4 frames" in text


def test_options_that_do_not_go_together_are_refused(call: Any, campaign: Path) -> None:
    assert "not a graph" in call("lineage", "sets/b/set", "--frames", "--down", code=2).stderr
    assert "--mermaid" in call("lineage", "sets/b/set", "--frames", "--mermaid", code=2).stderr
    assert "--frames --csv" in call("lineage", "sets/b/set", "--csv", code=2).stderr
    assert "kind table" in call("lineage", "sets/b/contents", "--frames", code=5).stderr


def test_more_frames_make_exactly_what_reads_them_stale(call: Any, campaign: Path) -> None:
    campaign.write_text(CAMPAIGN.replace("time_total_fs: 50", "time_total_fs: 80", 1))
    plan = {
        entry["key"]: (entry["action"], entry["reason"]) for entry in json.loads(call("run", "-n", "--json").stdout)
    }
    unchanged = ("crystals/n2", "md/b", "labels/b", "sets/b")
    assert {key for key, (action, _) in plan.items() if action == "none"} == set(unchanged)
    assert plan["md/a"] == ("extend", "stale: time_total_fs = 50.0, now 80.0")
    assert plan["labels/a"] == ("compute", "stale: what md/a makes is new")
    assert plan["sets/both"] == ("compute", "stale: what labels/a makes is new")
    assert _states(call) == set()
    call("run", "--only", "md/a", "--quiet")
    assert _states(call) == {"labels/a/labels", "sets/both/set", "sets/both/contents"}
    assert "has grown or changed" in call("show", "labels/a/labels").stdout
    found = {f["key"]: f["message"] for f in json.loads(call("audit", "--json").stdout)["findings"]}
    assert set(found) == {f"{key}@1" for key in _states(call)}
    assert "its input frames, md/a/trajectory@1, has grown or changed" in found["labels/a/labels@1"]
    assert "its input labels, labels/a/labels@1, is stale" in found["sets/both/set@1"]
    status = {row["step"]: row for row in json.loads(call("status", "--json").stdout)["steps"]}
    assert {step for step, row in status.items() if row["state"] != "done"} == {"labels/a", "sets/both"}
    assert status["labels/a"]["why"] == "the input frames changed"
    assert "2 of 7 steps made" in call("run").stdout
    assert _states(call) == set()
    assert json.loads(call("audit", "--json").stdout)["findings"] == []
    assert len(json.loads(call("lineage", "sets/both/set", "--frames", "--json").stdout)["frames"]) == 11


def _states(call: Any) -> set[str]:
    """Keys that are listed as stale."""
    text = call("ls").stdout
    found = {entry["key"] for entry in json.loads(call("ls", "--json").stdout) if entry["stale"]}
    assert text.count("done, stale") == len(found)
    return found


def test_several_keys_joined_by_commas_are_told_how_to_stand(call: Any, campaign: Path) -> None:
    joined = "md/a/trajectory,md/b/trajectory"
    text = call("compute", "dft", "--root-key", "labels/c", "--frames", joined, "--store", "camp.h5", code=2).stderr
    assert "--frames md/a/trajectory --frames md/b/trajectory" in text
