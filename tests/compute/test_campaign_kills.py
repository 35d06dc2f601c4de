"""Campaigns whose processes are killed at random end on a rerun as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import h5ml
from h5ml.compute.campaign import run_campaign
from h5ml.compute.scratch import sweep_scratch
from h5ml.compute.staging import staging_folder
from h5ml.schemas.campaign import parse_campaign
from h5ml.schemas.errors import NotAStore
from h5ml.store.store import Store
from h5ml.tests.kits.campaigns import nothing_to_read
from h5ml.tests.kits.cluster import Cluster, spawned
from h5ml.tests.kits.killing import ORDER, order
from h5ml.tests.kits.toys import toys

from .test_runner_kills import compare

# about a hundred pieces of work: blocks, items of maps, and functions; the log tells each from all others
CAMPAIGN = """\
store: s.h5
steps:
  walk/{n}:  {matrix: {n: [11, 12, 13, 14]}, compute: toy_block, n_records: 40, block: 4, sleep_s: 0.002, seed: "{n}"}
  scale/{n}: {matrix: {n: [11, 12, 13, 14]}, compute: toy_scale_one, series: "walk/{n}/series", factor: "{n}"}
  squares:   {compute: toy_map, count: 40, sleep_s: 0.005}
  cycles:    {compute: toy_orchestrator, cycles: 1, n_records: 8, nested: true}
  all:       {compute: toy_scale, series: scale/11/scaled, others: "scale/*/scaled"}
"""
PIECES = 4 * 10 + 4 + 40 + (2 * 2 + 4 + 1 + 3) + 1
# calls of the disk that a process makes in a campaign, about
CALLS = {"main": 700, "worker": 150}
KILLS = {
    "serial": ("main commits", "main"),
    "local:2": ("main commits", "worker commits", "main", "worker", "all"),
    "cluster": ("main commits", "worker commits", "main", "worker", "scheduler", "all"),
}
# Blocks and functions that a kill may make the campaign compute again: in one process the one under way. Of a killed
# worker also what it staged and a main process that got no time has not merged yet: at most a walk for each worker.
AGAIN = {"serial": 1, "local:2": 2 * 10, "cluster": 2 * 10}


@dataclass
class Disturber:
    """Runs a campaign in processes of its own and kills them.

    Attributes
    ----------
    folder : Path
        Of all that the campaigns write, temporary files included.
    place : str
        ``serial``, ``local:2``, or ``cluster`` for a scheduler with two workers beside.
    rng : random.Random
        The dice.
    hits : Counter
        How many kills of each sort came before the end.
    """

    folder: Path
    place: str
    rng: random.Random
    hits: Counter[str] = field(default_factory=Counter)
    cluster: Cluster | None = None
    _snapshots: list[tuple[int, set[str]]] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def environment(self) -> dict[str, str]:
        (self.folder / "tmp").mkdir(exist_ok=True)
        return {
            "H5ML_TOY_LOG": str(self.log),
            ORDER: str(self.folder / "order"),
            "DASK_DISTRIBUTED__WORKER__PRELOAD": "h5ml.tests.kits.killing",
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONWARNINGS": "ignore",
        }

    def lines(self) -> list[str]:
        return self.log.read_text().split("\n")[:-1] if self.log.exists() else []

    def disturb(self, store: Path, kills: int) -> int:
        """Run the campaign until it ends, killing something of it so often; returns the kills that hit."""
        self.log.write_text("")
        self._snapshots, before = [], self.hits.total()
        for _ in range(kills):
            if self._disturb_once(store, self.rng.choice(KILLS[self.place])):
                break
        else:
            process = self._begin(store)
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
        for length, committed in self._snapshots:
            again = committed & set(self.lines()[length:])
            assert not again, f"committed, and computed again: {again}"
        return self.hits.total() - before

    def _begin(self, store: Path) -> subprocess.Popen[str]:
        campaign = self.folder / "campaign.yaml"
        campaign.write_text(CAMPAIGN)
        place = self.cluster.address() if self.cluster is not None else self.place
        command = [sys.executable, "-m", "h5ml.tests.kits.campaigns", str(store), str(campaign), place]
        environment = {**os.environ, **self.environment}
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def _disturb_once(self, store: Path, sort: str) -> bool:
        """Begin the campaign, kill something of it, and wait until it dies of that or ends; whether it ended well."""
        role, _, commits = sort.partition(" ")
        told = self.folder / "order"
        told.unlink(missing_ok=True)
        if commits:
            order(told, role, self.rng.randint(1, CALLS[role]))
            if role == "worker" and self.cluster is not None:  # theirs follow an order that was there when they began
                self.cluster.close()
        process = self._begin(store)
        hit = False
        if not commits:
            self._wait_for_a_moment(process)
            self._snapshot(store)
            hit = self._kill(process, role)
        _, errors = process.communicate(timeout=300)
        if commits:
            hit = not told.exists()
            told.unlink(missing_ok=True)
        self.hits[sort] += hit
        self._snapshot(store)
        assert process.returncode in ((0, -9, 10) if sort == "scheduler" else (0, -9)), errors
        assert process.returncode != 10 or "was lost" in errors
        return process.returncode == 0

    def _wait_for_a_moment(self, process: subprocess.Popen[str]) -> None:
        """A moment anywhere: at the beginning, after some pieces of work, or a little later."""
        target = len(self.lines()) + self.rng.randrange(0, 40)
        deadline = time.monotonic() + 60
        while process.poll() is None and len(self.lines()) < target and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(self.rng.random() * 0.05)

    def _kill(self, process: subprocess.Popen[str], role: str) -> bool:
        if process.poll() is not None:
            return False
        if role == "worker":
            workers = self.cluster.workers() if self.cluster is not None else spawned(process.pid)
            if workers:
                self.rng.choice(workers).kill()
            return bool(workers)
        if role == "scheduler":
            assert self.cluster is not None
            self.cluster.kill_scheduler()
        elif role == "main":  # its workers live on for a moment, or longer
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
            if self.cluster is not None:
                self.cluster.close()
        return True

    def _snapshot(self, store: Path) -> None:
        """Take note of what is committed, and of the length of the log after that."""
        try:
            committed = committed_pieces(h5ml.open(store))
        except (NotAStore, FileNotFoundError):  # killed before or while it was made
            return
        self._snapshots.append((len(self.lines()), committed))


def committed_pieces(store: Store) -> set[str]:
    """The pieces of work whose results are in a store, as the toys' log names them."""
    found: set[str] = set()
    for run in store.runs.values():
        done, config = run.status == "done", run.config
        if run.module == "toy_block":
            key = f"{run.root_key}/series"
            records = store.entry(key).records if key in store and store.entry(key).run == run.id else 0
            ends = range(config["block"], records + 1, config["block"])
            found |= {f"block {run.seed} {config['start']:.6f} {n}" for n in ends}
        elif run.module == "toy_map":
            kept = range(config["count"]) if done else dict(store.stashed(run.id, "squares"))
            found |= {f"item {index}/{config['count']}" for index in kept}
        elif run.module == "toy_orchestrator":
            kept = range(4) if done else dict(store.stashed(run.id, "halves/0"))
            found |= {f"halve {index / 8}" for index in kept}
        elif done:
            series = store[run.inputs["series"][0].key]["value"]
            found.add(f"scale {config['factor']} {float(series.sum())}")
    return found


def undisturbed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The campaign in this process; also checks that the log tells its pieces apart."""
    log = folder / "undisturbed.log"
    monkeypatch.setenv("H5ML_TOY_LOG", str(log))
    store = h5ml.open(folder / "undisturbed.h5", make=True)
    run_campaign(store, parse_campaign(CAMPAIGN), nothing_to_read, registry=toys())
    monkeypatch.delenv("H5ML_TOY_LOG")
    lines = log.read_text().splitlines()
    assert len(set(lines)) == len(lines) == PIECES
    assert committed_pieces(store) == set(lines)
    return store


@contextmanager
def disturber(folder: Path, place: str, seed: int) -> Iterator[Disturber]:
    """With its cluster, if it needs one."""
    made = Disturber(folder, place, random.Random(seed))
    if place != "cluster":
        yield made
        return
    with Cluster(folder, made.environment) as made.cluster:
        yield made


@pytest.mark.parametrize(
    ("place", "campaigns", "kills"),
    [
        ("local:2", 1, 1),
        pytest.param("serial", 20, 4, marks=pytest.mark.long),
        pytest.param("local:2", 15, 3, marks=pytest.mark.long),
        pytest.param("cluster", 15, 3, marks=pytest.mark.long),
    ],
)
def test_killed_campaigns_end_as_undisturbed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, campaigns: int, kills: int
) -> None:
    whole = undisturbed(tmp_path, monkeypatch)
    first = int(os.environ.get("H5ML_TEST_SEED", "0"))
    with disturber(tmp_path, place, first) as one:
        for number in range(first, first + campaigns):
            one.rng.seed(number)
            path = tmp_path / f"{number}.h5"
            hits = one.disturb(path, kills)
            store = h5ml.open(path)
            compare(store, whole)
            done = Counter(line for line in one.lines() if not line.startswith(("item", "halve")))
            assert done.total() - len(done) <= AGAIN[place] * hits, done
            assert not staging_folder(store).exists()
            assert {file.name for file in tmp_path.glob(f"{number}.h5*")} <= {path.name, f"{path.name}-lock"}
            head = store.root_digest
            run_campaign(store, parse_campaign(CAMPAIGN), nothing_to_read, registry=toys())
            assert store.root_digest == head
    assert campaigns == 1 or set(one.hits) == set(KILLS[place]), one.hits
    place_of_scratch = Path(one.environment["TMPDIR"])
    sweep_scratch(place_of_scratch, young_s=0.0)  # by now no process can be about to lock one
    assert not list(place_of_scratch.glob("h5ml-*"))
