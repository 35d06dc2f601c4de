"""`h5ml compute md` as a process: killed, stopped, resumed, extended, always to the same bits."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ase import Atoms

import h5ml
from h5ml.store.store import Store
from h5ml.tests.kits.dynamics import BONDS, argon, nitrogen, structures

H5ML = str(Path(sys.executable).with_name("h5ml"))
LONG = bool(os.environ.get("H5ML_TEST_LONG"))
FRAMES = 600 if LONG else 90
SETTINGS = {
    "--model": "ase:lj?sigma=3.4&epsilon=0.0104&rc=7.0",
    "--ensemble": "NPT",
    "--temperature-K": "40",
    "--time-step-fs": "2",
    "--sampling-interval-fs": "10",
    "--time-equilibration-fs": "100",
    "--supercell-matrix": "1,1,1",
    "--block-frames": "6",
}


CLUSTERS = {
    **SETTINGS,
    "--model": BONDS,
    "--supercell-matrix": "3,3,3",
    "--finite-subsystem-filter.n-molecules": "1,2",
}


def command(store: Path, frames: int = FRAMES, settings: dict[str, str] = SETTINGS) -> list[str]:
    options = [part for pair in settings.items() for part in pair]
    return [
        *(H5ML, "compute", "md", "--store", str(store), "--root-key", "md", "--crystal", "argon", "--quiet"),
        *options,
        *("--time-total-fs", str(10 * (frames - 1))),
    ]


def start(store: Path, frames: int = FRAMES, settings: dict[str, str] = SETTINGS) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(store, frames, settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def finish(store: Path, frames: int = FRAMES, settings: dict[str, str] = SETTINGS) -> Store:
    process = start(store, frames, settings)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return h5ml.open(store)


def new_store(path: Path, crystal: Atoms | None = None) -> Path:
    with h5ml.open(path, make=True) as store:
        store.write("argon", structures(argon(2) if crystal is None else crystal), "structures")
    return path


def counts(path: Path) -> dict[str, int]:
    """Records of all outputs, as one reader sees them."""
    with h5ml.open(path) as store:
        return {entry.key.removeprefix("md/"): entry.records for entry in store.entries("md")}


def records(path: Path) -> int:
    with h5ml.open(path) as store:
        return store.entry("md/trajectory").records if "md/trajectory" in store else 0


@pytest.fixture(scope="module")
def digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of the trajectory that nothing disturbed."""
    store = finish(new_store(tmp_path_factory.mktemp("calm") / "calm.h5"))
    assert store.entry("md/trajectory").records == FRAMES
    return store.entry("md/trajectory").digest


@pytest.mark.parametrize("suffix", ["h5", pytest.param("icechunk", marks=pytest.mark.long)])
def test_killed_again_and_again_it_ends_with_the_same_bits(tmp_path: Path, digest: str, suffix: str) -> None:
    path, rng = new_store(tmp_path / f"killed.{suffix}"), random.Random(1)
    kills, wanted, seen = 0, (20 if LONG else 3), 0
    while kills < wanted:
        process = start(path)
        deadline, goal = time.monotonic() + 60, seen + rng.choice([0, 6, 6, 12])
        while process.poll() is None and records(path) < goal and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.3) if goal > seen else rng.uniform(0.2, 1.5))
        if process.poll() is not None:
            break
        process.kill()
        process.communicate()
        kills += 1
        found = records(path)
        assert found >= seen, "a committed frame was lost"
        seen = found
    assert kills == wanted, "it ended before all kills were made"
    store = finish(path)
    assert store.entry("md/trajectory").digest == digest
    assert h5ml.audit(store).ok


def test_killed_while_clusters_are_cut_they_stay_with_their_frames(tmp_path: Path) -> None:
    frames, equilibration = 40, 10
    calm = finish(new_store(tmp_path / "calm.h5", nitrogen()), frames, CLUSTERS)
    path, seen = new_store(tmp_path / "killed.h5", nitrogen()), 0
    for goal in (6, 18):
        process = start(path, frames, CLUSTERS)
        while records(path) < max(goal, seen):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.kill()
        process.communicate()
        found = counts(path)
        assert found["trajectory"] >= seen
        seen = found["trajectory"]
        expected = max(0, seen - equilibration)
        assert [found.get(f"finite_subsystems/n={n}", 0) for n in (1, 2)] == [expected, expected]
    store = finish(path, frames, CLUSTERS)
    for name in counts(path):
        assert store.entry(f"md/{name}").digest == calm.entry(f"md/{name}").digest, name
    assert len(counts(path)) == 4
    assert h5ml.audit(store).ok


def test_a_termination_commits_what_is_there_and_can_be_resumed(tmp_path: Path, digest: str) -> None:
    path = new_store(tmp_path / "stopped.h5")
    process = start(path)
    while records(path) < 12:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "SIGTERM" in errors
    assert "Traceback" not in errors
    with h5ml.open(path) as store:
        assert next(iter(store.runs.values())).status == "interrupted"
    store = finish(path)
    assert store.entry("md/trajectory").digest == digest
    assert next(iter(store.runs.values())).resumed == 1


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path: Path, digest: str) -> None:
    path = new_store(tmp_path / "short.h5")
    finish(path, 33)
    store = finish(path)
    assert store.entry("md/trajectory").digest == digest
    assert sum(run.continues is not None for run in store.runs.values()) == 1


def test_the_same_command_finds_the_result_and_computes_nothing(tmp_path: Path) -> None:
    path = new_store(tmp_path / "twice.h5")
    commits = finish(path, 13).catalogue.commits
    assert finish(path, 13).catalogue.commits == commits
