"""Campaigns on workers: independent steps overlap, needs are kept, nothing is lost, and the digests stay the same."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

import h5ml
from h5ml.compute.campaign import StepsFailed, run_campaign
from h5ml.compute.registry import Registry
from h5ml.compute.scheduler import Dask
from h5ml.compute.staging import staging_folder
from h5ml.compute.watching import Watcher
from h5ml.schemas.campaign import parse_campaign
from h5ml.schemas.errors import ComputeFailed
from h5ml.schemas.run import Run
from h5ml.schemas.scheduling import LocalPlace
from h5ml.store.store import Store
from h5ml.tests.kits.places import HANG, ON_CPU, ON_GPU, SHARE
from h5ml.tests.kits.toys import TOYS, table


def modules() -> Registry:
    return Registry([*TOYS, ON_GPU, ON_CPU, SHARE], points=())


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dask]:
    folder = tmp_path_factory.mktemp("dask")
    os.environ.update(H5ML_TOY_STUCK=str(folder / "stuck"), H5ML_TOY_LOG=str(folder / "log"))
    with Dask(LocalPlace(workers=3, gpus=2)) as scheduler:
        yield scheduler
    del os.environ["H5ML_TOY_STUCK"], os.environ["H5ML_TOY_LOG"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return h5ml.open(tmp_path / "s.h5", make=True)


def go(store: Store, text: str, **options: Any) -> dict[str, Run | None]:
    campaign = parse_campaign("store: s.h5\nsteps:\n" + text)
    results = run_campaign(store, campaign, no_reader, registry=modules(), **options)
    assert not staging_folder(store).exists()
    return {result.key: result.run for result in results}


def no_reader(path: Path, step: Any) -> xr.Dataset:
    raise AssertionError("nothing is imported here")


CHAINS = """\
  walk/{n}: {matrix: {n: [1, 2, 3]}, compute: toy_block, n_records: 12, sleep_s: 0.05, seed: "{n}"}
  sum/{n}: {matrix: {n: [1, 2, 3]}, compute: toy_scale_one, series: "walk/{n}/series"}
  squares: {compute: toy_map, count: 5}
  all: {compute: toy_scale, series: sum/1/scaled, others: "sum/*/scaled"}
"""


def test_independent_steps_overlap_and_give_the_digests_of_the_serial_run(
    store: Store, tmp_path: Path, workers: Dask
) -> None:
    runs = go(store, CHAINS, scheduler=workers)
    walks = [run for key, run in runs.items() if key.startswith("walk/") and run is not None]
    assert max(run.started for run in walks) < min(str(run.ended) for run in walks)
    assert len({run.environment["worker"]["pid"] for run in walks}) == 3
    serial = h5ml.open(tmp_path / "serial.h5", make=True)
    go(serial, CHAINS)
    assert list(store) == list(serial)
    for key in serial:
        assert store.entry(key).digest == serial.entry(key).digest, key
    head = store.root_digest
    go(store, CHAINS, scheduler=workers)
    assert store.root_digest == head
    assert not store.catalogue.stashes


def test_a_gpu_has_one_task_at_a_time_and_cpu_tasks_pass(store: Store, workers: Dask) -> None:
    text = """\
  gpu/{n}: {matrix: {n: [0, 1, 2, 3, 4]}, compute: toy_gpu, number: "{n}"}
  cpu/{n}: {matrix: {n: [10, 11, 12]}, compute: toy_cpu, number: "{n}", sleep_s: 0.1}
  moved: {compute: toy_gpu, number: 20, resources: {GPU: 0}, sleep_s: 0.0}
  wide: {compute: toy_cpu, number: 30, resources: {threads: 3}, sleep_s: 0.0}
"""
    go(store, text, scheduler=workers)
    seen = {key: {n: float(store[key][n][0]) for n in store[key].data_vars} for key in store}
    gpus = [seen[f"gpu/{n}/seen"] for n in range(5)]
    assert {row["gpu"] for row in gpus} == {0.0, 1.0}
    for gpu in (0.0, 1.0):
        rows = sorted((row["began"], row["ended"]) for row in gpus if row["gpu"] == gpu)
        assert all(before[1] <= after[0] for before, after in pairwise(rows))
    last_gpu = max(row["began"] for row in gpus)
    assert min(seen[f"cpu/{n}/seen"]["began"] for n in (10, 11, 12)) < last_gpu  # though they stand behind them
    assert seen["cpu/10/seen"]["threads"] <= 1


def test_steps_that_ask_for_others_run_side_by_side_and_share_what_is_the_same(store: Store, workers: Dask) -> None:
    text = '  a/{n}: {matrix: {n: [0, 10, 20]}, compute: toy_share, number: "{n}"}\n'
    runs = [run for run in go(store, text, scheduler=workers).values() if run is not None]
    assert {run.status for run in runs} == {"done"}
    assert max(run.started for run in runs) < min(str(run.ended) for run in runs)
    assert sum(run.module == "toy_cpu" for run in store.runs.values()) == 1  # computed once, taken over twice
    assert len({store.entry(f"a/{n}/common/seen").digest for n in (0, 10, 20)}) == 1


STUCK = """\
store: s.h5
steps:
  whole: {compute: toy_hang, time_limit_s: 0.8}
  items: {compute: toy_hang, time_limit_s: 0.8, in_map: true}
  other: {compute: toy_map, count: 2}
"""


@pytest.mark.parametrize("place", ["serial", "workers"])
def test_a_task_that_hangs_is_given_up_and_the_rest_goes_on(store: Store, workers: Dask, place: str) -> None:
    mark, log = Path(os.environ["H5ML_TOY_STUCK"]), Path(os.environ["H5ML_TOY_LOG"])
    table(x=[0.0])  # what it imports shall not count
    mark.touch()
    log.write_text("")
    limit = "5" if place == "workers" else "0.8"  # a worker that was restarted needs time for its imports
    campaign = parse_campaign(STUCK.replace("0.8", limit))
    scheduler = workers if place == "workers" else None
    registry = Registry([*TOYS, HANG], points=())
    with pytest.raises(StepsFailed) as caught:
        run_campaign(store, campaign, no_reader, registry=registry, scheduler=scheduler, keep_going=True)
    mark.unlink()
    whole, items, other = caught.value.results
    assert whole.error is not None
    assert f"time limit of {limit} s" in whole.error.message
    assert place == "serial" or "in stuck" in whole.trace  # where it hung
    assert items.error is not None
    assert "Item 1" in items.error.message
    assert f"time limit of {limit} s" in str(items.error)
    assert place == "serial" or "in stuck" in str(items.error)
    assert log.read_text().splitlines().count("stuck 1") == 2  # once as a whole, once as an item
    assert other.error is None
    patient = parse_campaign(STUCK.replace("0.8", "60"))
    done = run_campaign(store, patient, no_reader, registry=registry, scheduler=scheduler)
    assert [result.action for result in done] == ["resume", "resume", "none"]
    assert store["items/rows"]["x"].values.tolist() == [0.0, 1.0, 2.0]
    assert not staging_folder(store).exists()


class Killer(Watcher):
    """Kills a worker once work has begun."""

    def __init__(self, workers: Dask) -> None:
        self._workers = workers
        self.killed: list[int] = []

    def moved(self, key: str, done: float, total: float, text: str) -> None:
        if not self.killed and key.startswith("walk"):
            self.killed.append(0)
            threading.Thread(target=self._kill).start()  # this thread is dask's own

    def _kill(self) -> None:
        self.killed[0] = next(iter(self._workers._client.run(os.getpid).values()))
        os.kill(self.killed[0], signal.SIGKILL)


def test_a_killed_worker_costs_no_committed_block_and_its_step_goes_on(
    store: Store, tmp_path: Path, workers: Dask
) -> None:
    text = CHAINS.replace("n_records: 12, sleep_s: 0.05", "n_records: 40, sleep_s: 0.03")
    killer = Killer(workers)
    runs = go(store, text, scheduler=workers, watcher=killer)
    assert killer.killed
    assert {run.status for run in runs.values() if run is not None} == {"done"}
    serial = h5ml.open(tmp_path / "serial.h5", make=True)
    go(serial, text.replace("sleep_s: 0.03", "sleep_s: 0.0"))
    for key in serial:
        assert store.entry(key).digest == serial.entry(key).digest, key


def test_a_step_that_another_process_computes_is_named(store: Store, workers: Dask) -> None:
    began = threading.Event()

    class Tells(Watcher):
        def began(self, result: Any) -> None:
            began.set()

    text = "  walk: {compute: toy_block, n_records: 40, sleep_s: 0.03}\n"
    other = threading.Thread(target=lambda: go(store, text, scheduler=workers, watcher=Tells()))
    other.start()
    began.wait(20)
    time.sleep(0.3)
    with pytest.raises(ComputeFailed, match="process that is alive"):
        go(store, text)
    other.join()
