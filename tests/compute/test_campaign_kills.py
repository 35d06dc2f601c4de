"""Campaigns whose processes are killed at random end on a rerun as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

import h5ml
from h5ml.compute.campaign import run_campaign
from h5ml.compute.staging import staging_folder
from h5ml.schemas.campaign import parse_campaign
from h5ml.schemas.errors import NotAStore
from h5ml.store.store import Store
from h5ml.tests.kits.campaigns import nothing_to_read
from h5ml.tests.kits.toys import toys

from .test_runner_kills import check_nothing_committed_ran_again, committed_items, compare, lines

# about a hundred pieces of work: blocks, items of maps, and functions
CAMPAIGN = """\
store: s.h5
steps:
  walk/{n}:  {matrix: {n: [1, 2, 3, 4]}, compute: toy_block, n_records: 40, block: 4, sleep_s: 0.002, seed: "{n}"}
  scale/{n}: {matrix: {n: [1, 2, 3, 4]}, compute: toy_scale_one, series: "walk/{n}/series"}
  squares:   {compute: toy_map, count: 40, sleep_s: 0.005}
  cycles:    {compute: toy_orchestrator, cycles: 1, n_records: 8, nested: true}
  all:       {compute: toy_scale, series: scale/1/scaled, others: "scale/*/scaled"}
"""


def begin(store: Path, *scheduler: str) -> subprocess.Popen[str]:
    campaign = store.with_suffix(".yaml")
    campaign.write_text(CAMPAIGN)
    environment = {**os.environ, "H5ML_TOY_LOG": str(store.with_suffix(".log")), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "h5ml.tests.kits.campaigns", str(store), str(campaign), *scheduler]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes below that compute: their parents, the nannies, live in the main process."""
    try:
        found = psutil.Process(process.pid).children(recursive=True)
        return [one for one in found if "spawn_main" in " ".join(one.cmdline())]
    except psutil.Error:
        return []


def disturb(store: Path, kills: int, rng: random.Random, *scheduler: str) -> int:
    """Run the campaign, kill its main process or a worker now and then, and let it end at last."""
    hits = 0
    snapshots: list[tuple[int, set[str]]] = []
    for _ in range(kills):
        process = begin(store, *scheduler)
        target = len(lines(store)) + rng.randrange(1, 30)
        deadline = time.monotonic() + 60
        while process.poll() is None and len(lines(store)) < target and time.monotonic() < deadline:
            time.sleep(0.004)
        workers = workers_of(process) if scheduler and rng.random() < 0.3 else []
        if workers and process.poll() is None:
            rng.choice(workers).kill()
            hits += 1
            time.sleep(0.3)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            hits += 1
        process.communicate()
        try:
            snapshots.append((len(lines(store)), committed_items(h5ml.open(store))))
        except NotAStore:  # killed while it was made
            continue
    process = begin(store, *scheduler)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    check_nothing_committed_ran_again(store, snapshots)
    return hits


def undisturbed(folder: Path) -> Store:
    store = h5ml.open(folder / "undisturbed.h5", make=True)
    text = CAMPAIGN.replace("sleep_s: 0.002, ", "").replace(", sleep_s: 0.005", "")
    steps = parse_campaign(CAMPAIGN)
    assert list(parse_campaign(text).steps) == list(steps.steps)
    run_campaign(store, steps, nothing_to_read, registry=toys())
    return store


@pytest.mark.parametrize(
    ("campaigns", "kills", "scheduler"),
    [
        (1, 1, ("local:2",)),
        pytest.param(25, 4, (), marks=pytest.mark.long),
        pytest.param(25, 3, ("local:2",), marks=pytest.mark.long),
    ],
)
def test_killed_campaigns_end_as_undisturbed_ones(
    tmp_path: Path, campaigns: int, kills: int, scheduler: tuple[str, ...]
) -> None:
    whole = undisturbed(tmp_path)
    for number in range(campaigns):
        path = tmp_path / f"{number}.h5"
        hits = disturb(path, kills, random.Random(number), *scheduler)
        store = h5ml.open(path)
        compare(store, whole)
        assert not staging_folder(store).exists()
        assert {file.name for file in tmp_path.glob(f"{number}.h5*")} <= {path.name, f"{path.name}-lock"}
        # of blocks, at most those under way at each kill were done again; items of the map are checked one by one
        done = Counter(line for line in lines(path) if not line.startswith("item"))
        assert sum(done.values()) - len(done) <= 8 * max(hits, 1), done
        head = store.root_digest
        run_campaign(store, parse_campaign(CAMPAIGN), nothing_to_read, registry=toys())
        assert store.root_digest == head
