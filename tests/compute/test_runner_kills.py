"""Runs that are killed or stopped go on from their last commit, and end as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import h5ml
from h5ml.schemas.errors import H5mlError
from h5ml.store.store import Store
from h5ml.tests.kits.toys import toys

WALK = {"n_records": 60, "block": 2, "sleep_s": 0.005}
SQUARES = {"count": 40, "sleep_s": 0.01}
CYCLES = {"n_records": 16, "sleep_s": 0.004, "nested": True}


def child(store: Path, module: str, root: str, config: dict[str, Any], *scheduler: str) -> subprocess.Popen[str]:
    """A process that runs a toy, with a log of what it computes."""
    environment = {**os.environ, "H5ML_TOY_LOG": str(store.with_suffix(".log")), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "h5ml.tests.kits.toys", str(store), module, root, json.dumps(config), *scheduler]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def lines(store: Path) -> list[str]:
    log = store.with_suffix(".log")
    return log.read_text().split("\n")[:-1] if log.exists() else []


def wait_for(process: subprocess.Popen[str], ready: Any, timeout_s: float = 60.0) -> None:
    """Wait until the child has come to a point, or ended."""
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and not ready():
        assert time.monotonic() < deadline, "the child does not get on"
        time.sleep(0.005)


def kill_often(store: Path, module: str, config: dict[str, Any], kills: int, seed: int, *scheduler: str) -> int:
    """Run a toy, kill it now and then, and let it end at last; returns the kills that hit it at work."""
    rng, hits = random.Random(seed), 0
    snapshots: list[tuple[int, set[str]]] = []
    for _ in range(kills):
        before = len(lines(store))
        process = child(store, module, "r", config, *scheduler)
        more = rng.randrange(1, 8)
        wait_for(process, lambda b=before, m=more: len(lines(store)) >= b + m)
        time.sleep(rng.random() * 0.01)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            hits += 1
        process.communicate()
        readable = h5ml.open(store)
        snapshots.append((len(lines(store)), committed_items(readable)))
        ended = [(run.status, run.root_key, run.error) for run in readable.runs.values()]
        assert all(status in ("running", "done") for status, _, _ in ended), ended
    process = child(store, module, "r", config, *scheduler)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    check_nothing_committed_ran_again(store, snapshots)
    return hits


def committed_items(store: Store) -> set[str]:
    """Items of a map at ``r`` or ``squares`` whose results are durable, as the toys' log names them."""
    found: set[str] = set()
    for run in store.runs.values():
        if run.module == "toy_map" and run.root_key in ("r", "squares"):
            count = run.config["count"]
            kept = range(count) if run.status == "done" else dict(store.stashed(run.id, "squares"))
            found |= {f"item {index}/{count}" for index in kept}
    return found


def check_nothing_committed_ran_again(store: Path, snapshots: list[tuple[int, set[str]]]) -> None:
    """``snapshots`` says after each kill how long the log was, and what was committed."""
    for length, committed in snapshots:
        assert not committed & set(lines(store)[length:])


def straight(folder: Path, module: str, config: dict[str, Any]) -> Store:
    """The same run, undisturbed and in this process."""
    store = h5ml.open(folder / "straight.h5", make=True)
    h5ml.run(store, module, root_key="r", config=config, registry=toys())
    return store


def compare(store: Store, other: Store) -> None:
    assert list(store) == list(other)
    for key in store:
        assert store.entry(key).digest == other.entry(key).digest, key
    assert {run.status for run in store.runs.values()} == {"done"}
    assert not store.catalogue.stashes
    assert not store.catalogue.marks
    assert received(store) == received(other)


def received(store: Store) -> dict[str, list[tuple[str, str, str]]]:
    """What each run received from its calls."""
    return {run.id: [(name, ref.key, ref.digest) for name, ref in run.received()] for run in store.runs.values()}


@pytest.mark.parametrize(
    ("module", "config", "kills", "seed"),
    [
        ("toy_block", WALK, 2, 1),
        ("toy_map", SQUARES, 2, 2),
        ("toy_orchestrator", CYCLES, 2, 3),
        pytest.param("toy_block", {**WALK, "n_records": 400}, 40, 4, marks=pytest.mark.long),
        pytest.param("toy_map", {**SQUARES, "count": 150}, 15, 5, marks=pytest.mark.long),
        pytest.param("toy_orchestrator", {**CYCLES, "cycles": 8}, 30, 6, marks=pytest.mark.long),
    ],
)
def test_killed_runs_end_bit_for_bit_as_unkilled_ones(
    tmp_path: Path, module: str, config: dict[str, Any], kills: int, seed: int
) -> None:
    path = tmp_path / "store.h5"
    h5ml.open(path, make=True).close()
    hits = kill_often(path, module, config, kills, seed)
    assert hits >= min(2, kills)
    compare(h5ml.open(path), straight(tmp_path, module, config))
    done = Counter(line for line in lines(path) if not line.startswith("item"))
    # at most the blocks under way at each kill were done again; items are checked one by one
    assert sum(done.values()) - len(done) <= hits * 3, done
    assert h5ml.open(path).run(next(iter(h5ml.open(path).runs))).resumed >= 1


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_signal_commits_and_exits_resumable(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "store.h5"
    h5ml.open(path, make=True).close()
    process = child(path, "toy_block", "r", {**WALK, "sleep_s": 0.02})
    wait_for(process, lambda: len(lines(path)) >= 3)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert f"stopped by {number.name}" in errors
    store = h5ml.open(path)
    (run,) = store.runs.values()
    assert run.status == "interrupted"
    assert store.entry("r/series").records == 2 * len(lines(path))  # what had been computed is there
    config = {**WALK, "sleep_s": 0.02}
    done = h5ml.run(store, "toy_block", root_key="r", config=config, registry=toys())
    assert (done.status, done.resumed, done.error) == ("done", 1, None)
    compare(store, straight(tmp_path, "toy_block", config))


def test_a_plain_function_stops_at_once(tmp_path: Path) -> None:
    from h5ml.schemas.kinds import OBSERVABLES
    from h5ml.tests.kits.toys import observables

    path = tmp_path / "store.h5"
    store = h5ml.open(path, make=True)
    store.write("a", observables([1.0]), OBSERVABLES)
    code = f"""
import sys, h5ml
from h5ml.tests.kits.toys import toys
try:
    h5ml.run(h5ml.open({str(path)!r}), "toy_scale_one", root_key="r", series="a", sleep_s=60, registry=toys())
except h5ml.H5mlError as error:
    sys.exit(error.exit_code)
"""
    environment = {**os.environ, "H5ML_TOY_LOG": str(path.with_suffix(".log"))}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, text=True)
    wait_for(process, lambda: lines(path))
    began = time.monotonic()
    process.terminate()
    assert process.wait(timeout=30) == 75
    assert time.monotonic() - began < 10
    assert [run.status for run in h5ml.open(path).runs.values()] == ["interrupted"]


def test_a_run_that_lives_in_another_process_is_named(tmp_path: Path) -> None:
    path = tmp_path / "store.h5"
    store = h5ml.open(path, make=True)
    config = {**WALK, "sleep_s": 0.05}
    process = child(path, "toy_block", "r", config)
    wait_for(process, lambda: len(lines(path)) >= 1)
    try:
        with pytest.raises(H5mlError, match=f"process {process.pid} of"):
            h5ml.run(store, "toy_block", root_key="r", config=config, registry=toys())
    finally:
        process.kill()
        process.communicate()
    done = h5ml.run(store, "toy_block", root_key="r", config=config, registry=toys())
    assert done.resumed == 1
