"""``compute``, ``run`` and what follows them, with ASE's EMT on four copper atoms."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ase.build
import ase.io
import pytest

import h5ml

SETTINGS = ["--time-step-fs=2", "--sampling-interval-fs=10", "--time-equilibration-fs=20", "--supercell-radius=none"]
SHORT = [*SETTINGS, "--time-total-fs", "60", "--block-frames", "3"]
CAMPAIGN = """
store: {store}
steps:
  crystals/cu: {{import: cu.cif}}
  md/hot: {{compute: md, crystal: crystals/cu, model: "ase:emt", temperature_K: 500, time_total_fs: 40,
           time_step_fs: 2, sampling_interval_fs: 10, time_equilibration_fs: 0, supercell_radius: null, seed: 3}}
"""


@pytest.fixture
def copper(call, tmp_path: Path) -> Path:
    """A store with a copper crystal."""
    ase.io.write(tmp_path / "cu.cif", ase.build.bulk("Cu", cubic=True))
    call("init", "cu.h5")
    call("import", "cu.cif", "crystals/cu", "--store", "cu.h5")
    return tmp_path / "cu.h5"


@pytest.fixture
def md(call, copper):
    """Run the module md."""

    def run(*arguments: Any, code: int = 0, root: str = "md/a"):
        inputs = ["--root-key", root, "--crystal", "crystals/cu", "--model", "ase:emt", "--store", copper]
        return call("compute", "md", *inputs, *arguments, code=code)

    return run


def test_compute_says_what_lies_where_and_finds_it_again(md, copper) -> None:
    text = md(*SHORT).stdout
    assert text.startswith("md/a/trajectory: trajectory (Cu4, frame 7, atom 4)")
    assert "made by run" in text
    digest = h5ml.open(copper).entry("md/a/trajectory").digest
    assert "nothing was computed" in md(*SHORT).stdout
    assert h5ml.open(copper).entry("md/a/trajectory").digest == digest
    assert md(*SHORT, "--quiet").stdout == ""
    assert json.loads(md(*SHORT, "--json").stdout)["status"] == "done"


def test_options_reach_the_run(md, copper) -> None:
    md(*SHORT, "--temperature_K", "250,350", "--seed", "7")
    runs = list(h5ml.open(copper).runs.values())
    assert runs[0].config["temperature_K"] == [250.0, 350.0]
    assert runs[0].seed == 7
    assert len(runs[0].outputs) == 2


def test_show_log_lineage_and_queries_of_a_run(md, call, copper, tmp_path) -> None:
    md(*SHORT)
    key, at = "md/a/trajectory", ("--store", copper)
    text = call("show", key, *at).stdout
    for word in ("md (version 1), done, seed 0", "crystal: crystals/cu@1", "ase:emt", "time_total_fs=60"):
        assert word in text
    assert "barostat_time_fs" not in text
    assert "md/a" in call("log", "--runs", *at).stdout
    assert call("query", "--module", "md", *at).stdout == f"{key}\n"
    tree = call("lineage", key, *at).stdout
    assert "crystals/cu@1" in tree
    assert "cu.cif" in tree
    assert "md/a/trajectory@1" in call("lineage", "crystals/cu", "--down", *at).stdout
    assert call("lineage", key, "--mermaid", *at).stdout.startswith("flowchart LR")
    assert call("lineage", key, "--dot", *at).stdout.startswith("digraph")
    assert len(json.loads(call("lineage", key, "--json", *at).stdout)["nodes"]) == 5
    call("lineage", key, "--png", "l.png", *at)
    assert (tmp_path / "l.png").read_bytes()[:4] == b"\x89PNG"


def test_replay_compares_and_restores(md, call, copper) -> None:
    md(*SHORT)
    key, at = "md/a/trajectory", ("--store", copper)
    assert "equal, bit by bit" in call("replay", key, *at).stdout
    call("purge", key, *at)
    assert "its data are back" in call("replay", key, *at).stdout
    assert h5ml.open(copper)[key].sizes["frame"] == 7
    assert json.loads(call("replay", key, "--json", *at).stdout)["equal"]
    assert "no finished run" in call("replay", "crystals/cu", *at, code=3).stderr


def test_diff_of_versions_and_stores(md, call, copper) -> None:
    md(*SHORT)
    md(*SHORT, "--temperature-K", "200", code=4)
    md(*SHORT, "--temperature-K", "200", "--new-version")
    at = ("--store", copper)
    text = call("diff", "md/a/trajectory@1", "md/a/trajectory@2", *at, code=1).stdout
    assert "temperature_K: 298.15 | 200" in text
    assert "positions" in text
    assert "same content" in call("diff", "md/a/trajectory", "md/a/trajectory@2", *at).stdout
    assert not json.loads(call("diff", "md/a/trajectory@1", "md/a/trajectory", "--json", *at, code=1).stdout)["equal"]
    call("copy", copper, "b.h5")
    assert "same content" in call("diff", "crystals/cu", "crystals/cu", "--other", "b.h5", *at).stdout


def test_export_of_provenance(md, call, copper, tmp_path) -> None:
    md(*SHORT)
    at = ("--store", copper)
    call("export", "--prov", "p.json", *at)
    assert "activity" in json.loads((tmp_path / "p.json").read_text())
    assert "exists" in call("export", "--prov", "p.json", *at, code=2).stderr
    call("export", "md/a/trajectory", "--crate", "crate", *at)
    assert (tmp_path / "crate" / "ro-crate-metadata.json").is_file()
    assert h5ml.open(tmp_path / "crate" / "store.h5").keys() == ["crystals/cu", "md/a/trajectory"]
    call("export", "--crate", "crate", *at, code=4)


def test_audit_is_clean_and_finds_a_changed_byte(md, call, copper) -> None:
    md(*SHORT)
    root = h5ml.open(copper).root_digest
    result = call("audit", "--store", copper)
    assert root in result.stdout
    assert "newest commit" in call("audit", "--store", copper, "--root", root).stdout
    call("tag", "crystals/cu", "x", "--store", copper)
    assert "1 commit ago" in call("audit", "--store", copper, "--root", root[:20]).stdout
    call("audit", "--store", copper, "--root", "ab" * 32, code=1)
    positions = h5ml.open(copper)["md/a/trajectory"]["velocities"].to_numpy().tobytes()[:64]
    data = bytearray(copper.read_bytes())
    data[data.index(positions) + 5] ^= 1
    copper.write_bytes(bytes(data))
    found = json.loads(call("audit", "--store", copper, "--json", code=1).stdout)
    assert "md/a/trajectory" in json.dumps(found["findings"])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--temperature-K", "-5"], 2, ["temperature_K", "-5"]),
        (["--temperature-K=-5,300"], 2, ["temperature_K", "-5"]),
        (["--time-step-fs", "0"], 2, ["time_step_fs"]),
        (["--temprature-K", "5"], 2, ["--temperature-K"]),
        (["--ensemble", "NTV"], 2, ["ensemble", "NTV", "NVT"]),
        (["--crystal", "crystals/cuu"], 3, ["crystals/cuu", "crystals/cu"]),
        (["--model", "tblit:GFN1-xTB"], 2, ["tblite"]),
        (["--model", "nonsense"], 3, ["engine:method"]),
        (["--scheduler", "lokal:2"], 2, ["local:N"]),
        (["--campaign", "none.yaml"], 2, ["none.yaml"]),
    ],
)
def test_wrong_use_is_said_and_changes_nothing(md, copper, arguments, code, words) -> None:
    before = copper.read_bytes()
    result = md(*SHORT, *arguments, code=code)
    for word in words:
        assert word in result.stderr
    assert copper.read_bytes() == before


def test_wrong_kind_of_input(md, call, copper) -> None:
    md(*SHORT)
    result = md(*SHORT, "--crystal", "md/a/trajectory", root="md/b", code=5)
    assert "structures" in result.stderr
    assert "trajectory" in result.stderr


def test_missing_input_and_unknown_module(call, copper) -> None:
    at = ("--store", copper)
    assert "needs the input 'crystal'" in call("compute", "md", "--root-key", "x", *at, code=2).stderr
    assert "did you mean md" in call("compute", "mdd", "--root-key", "x", *at, code=2).stderr
    assert "--root-key" in call("compute", "md", *at, code=2).stderr


# --- campaigns ---------------------------------------------------------------------------------------------------


@pytest.fixture
def campaign(copper, tmp_path) -> Path:
    path = tmp_path / "h5ml.yaml"
    path.write_text(CAMPAIGN.format(store="camp.h5"))
    return path


def test_run_makes_what_is_missing_and_then_nothing(call, campaign, tmp_path) -> None:
    plan = call("run", "--dry-run").stdout
    assert "crystals/cu: would import (missing)" in plan
    assert not (tmp_path / "camp.h5").exists()
    text = call("run").stdout
    assert "2 of 2 steps made" in text
    store = h5ml.open(tmp_path / "camp.h5")
    assert store.keys() == ["crystals/cu", "md/hot/trajectory"]
    assert store.entry("md/hot/trajectory").records == 5
    assert "0 of 2 steps made" in call("run").stdout
    assert {r["action"] for r in json.loads(call("run", "--json").stdout)} == {"none"}
    campaign.write_text(campaign.read_text().replace("500", "600"))
    assert "stale" in call("run", "-n").stdout
    assert "1 of 2 steps made" in call("run").stdout


def test_compute_takes_the_step_and_options_override_it(call, campaign, tmp_path) -> None:
    call("run", "--only", "crystals/cu")
    call("compute", "md", "--root-key", "md/hot")
    store = h5ml.open(tmp_path / "camp.h5")
    (run,) = store.runs.values()
    assert (run.config["temperature_K"], run.seed) == (500.0, 3)
    call("compute", "md", "--root-key", "md/hot", "--temperature-K", "450", "--new-version")
    assert store.entry("md/hot/trajectory").version == 2
    newest = store.run(store.entry("md/hot/trajectory").run)
    assert (newest.config["temperature_K"], newest.config["time_total_fs"], newest.seed) == (450.0, 40.0, 3)


def test_a_named_campaign_comes_before_the_variable(call, campaign, location, tmp_path) -> None:
    other = tmp_path / "other.yaml"
    campaign.rename(other)
    call("run", "other.yaml", "--only", "crystals/cu", store=location)
    assert "crystals/cu" not in h5ml.open(location)
    call("compute", "md", "--root-key", "md/hot", "--campaign", "other.yaml", store=location)
    assert "md/hot/trajectory" in h5ml.open(tmp_path / "camp.h5")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("temperature_K", "temprature_K", ["temprature_K", "did you mean temperature_K", "h5ml.yaml:"]),
        ("compute: md", "compute: mdd", ["did you mean md"]),
        ("temperature_K: 500", "temperature_K: -5", ["temperature_K"]),
        ("steps:", "stops:", ["stops", "steps"]),
        ("import: cu.cif", "imprt: cu.cif", ["import"]),
        ("crystal: crystals/cu", "crystal: crystals/cuu", ["crystals/cuu"]),
        ("import: cu.cif", "import: none.cif", ["none.cif"]),
    ],
)
def test_a_wrong_campaign_is_said_and_makes_nothing(call, campaign, tmp_path, old, new, words) -> None:
    text = campaign.read_text()
    assert old in text
    campaign.write_text(text.replace(old, new, 1))
    result = call("run", code=None)
    assert result.exit_code in (2, 3)
    for word in words:
        assert word in result.stderr
    if (tmp_path / "camp.h5").exists():
        assert h5ml.open(tmp_path / "camp.h5").keys() == []


def test_misspelt_option_in_the_step_of_compute(call, campaign, tmp_path) -> None:
    call("run", "--only", "crystals/cu")
    before = (tmp_path / "camp.h5").read_bytes()
    campaign.write_text(campaign.read_text().replace("time_step_fs", "time_stp_fs"))
    result = call("compute", "md", "--root-key", "md/hot", code=2)
    assert "did you mean time_step_fs" in result.stderr
    assert (tmp_path / "camp.h5").read_bytes() == before


def test_no_campaign_file(call) -> None:
    assert "h5ml.yaml" in call("run", code=2).stderr


# --- signals -----------------------------------------------------------------------------------------------------


def test_sigterm_keeps_what_is_committed_and_the_same_command_goes_on(md, copper, tmp_path) -> None:
    long = [*SETTINGS, "--time-total-fs", "4000", "--block-frames", "2", "--root-key", "md/long"]
    inputs = ["--crystal", "crystals/cu", "--model", "ase:emt", "--store", str(copper)]
    process = subprocess.Popen(
        [sys.executable, "-m", "h5ml.cli.main", "compute", "md", *long, *inputs],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    store = h5ml.open(copper)
    while process.poll() is None and "md/long/trajectory" not in store:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 75, text
    assert "SIGTERM" in text
    assert "Traceback" not in text
    there = store.entry("md/long/trajectory").records
    assert there >= 2
    (run,) = [r for r in store.runs.values() if r.root_key == "md/long"]
    assert run.status == "interrupted"


# --- campaigns from the command line -----------------------------------------------------------------------------

FAN = """
store: fan.h5
steps:
  crystals/cu: {import: cu.cif}
  md/T={T}: {matrix: {T: [400, 500]}, compute: md, crystal: crystals/cu, model: "ase:emt", temperature_K: "{T}",
           time_total_fs: 40, time_step_fs: 2, sampling_interval_fs: 10, time_equilibration_fs: 0,
           supercell_radius: null}
"""


@pytest.fixture
def fan(copper, tmp_path) -> Path:
    path = tmp_path / "h5ml.yaml"
    path.write_text(FAN)
    return path


def test_parts_of_a_campaign_and_its_status(call, fan, tmp_path) -> None:
    assert "0 of 3 steps done" in call("status").stdout
    assert not (tmp_path / "fan.h5").exists()
    text = call("run", "--until", "md/T=400").stdout
    assert "2 of 2 steps made" in text
    states = {row["step"]: row["state"] for row in json.loads(call("status", "--json").stdout)["steps"]}
    assert states == {"crystals/cu": "done", "md/T=400": "done", "md/T=500": "missing"}
    head = h5ml.open(tmp_path / "fan.h5").root_digest
    assert "md/T=500: would compute (missing)" in call("run", "-n", "--only", "md/*").stdout
    assert "computed again to compare" in call("run", "--force", "--only", "md/T=400").stdout
    assert h5ml.open(tmp_path / "fan.h5").root_digest == head
    assert "1 of 3 steps made" in call("run", "--from", "crystals/cu").stdout
    assert "no step" in call("run", "--only", "md/T=600", code=2).stderr.lower()


def test_a_failure_is_listed_with_its_log_and_the_rest_is_made_if_asked(call, fan, tmp_path) -> None:
    ase.io.write(tmp_path / "si.cif", ase.build.bulk("Si", cubic=True))
    bad = '  a/si: {import: si.cif}\n  a/md: {compute: md, crystal: a/si, model: "ase:emt", supercell_radius: null}\n'
    fan.write_text(FAN.replace("steps:\n", "steps:\n" + bad))  # EMT knows no silicon
    stopped = call("run", code=10)
    assert "a/md failed" in stopped.stderr
    assert "3 left out, 1 made" in stopped.stderr
    assert "failed before: " in call("run", "-n").stdout
    broken = call("run", "--keep-going", code=10)
    assert "1 failed, 0 left out, 3 made, 1 up to date" in broken.stderr
    rows = {row["step"]: row for row in json.loads(call("status", "--json").stdout)["steps"]}
    assert rows["a/md"]["state"] == "failed"
    assert rows["md/T=500"]["state"] == "done"
    newest = max((tmp_path / "fan.h5-logs").iterdir(), key=lambda path: path.stat().st_mtime)
    assert str(newest) in broken.stderr
    events = [json.loads(line) for line in newest.read_text().splitlines()]
    assert {event["event"] for event in events} >= {"place", "began", "ended", "failed"}
    assert any("NotImplementedError" in event.get("traceback", "") for event in events)


def test_status_shows_a_run_of_another_process(call, fan, tmp_path) -> None:
    fan.write_text(
        FAN.replace("[400, 500]", "[400]").replace("time_total_fs: 40,", "time_total_fs: 8000, block_frames: 2,")
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "h5ml.cli.main", "run"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    states: dict[str, Any] = {}
    for _ in range(200):
        if (tmp_path / "fan.h5").exists():
            result = call("status", "--json", code=None)  # the store may be in the making
            found = json.loads(result.stdout)["steps"] if result.exit_code == 0 else []
            states = {row["step"]: row for row in found}
            if states and states["md/T=400"]["state"] == "running":
                break
        time.sleep(0.1)
    process.terminate()
    assert process.wait(timeout=60) == 75
    assert states["md/T=400"]["state"] == "running"
    assert str(process.pid) in states["md/T=400"]["where"]
    assert "interrupted before" in call("run", "-n").stdout
