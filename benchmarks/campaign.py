"""Campaigns on dask: what a task costs over dask alone, how many results a second become durable, and overlap."""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import xarray as xr

import h5ml
from h5ml.compute import maps
from h5ml.compute.bunches import attempt
from h5ml.compute.campaign import run_campaign
from h5ml.compute.module import Map, Module
from h5ml.compute.registry import Registry
from h5ml.compute.scheduler import Dask
from h5ml.schemas.campaign import parse_campaign
from h5ml.schemas.config import Config, Field
from h5ml.schemas.kinds import TABLE
from h5ml.store.blob import unpack
from h5ml.tests.kits.toys import TOYS

from .measure import folder

ROWS = 1250  # of eight bytes: 10 kB
WORKERS = 2
COUNTS = tuple(int(text) for text in os.environ.get("H5ML_BENCH_TASKS", "1000,10000,50000").split(","))


class Load(Config):
    """Many small tasks."""

    count: int = Field(1000, ge=1, description="How many.")


def task(item: int) -> xr.Dataset:
    """A result of 10 kB that knows when it was made."""
    values = np.full(ROWS, float(item))
    values[1] = time.time()
    return TABLE.dataset({"x": (("row",), values, {"units": "1"})})


def load(config: Load, _inputs: Any, _context: Any) -> Any:
    results = yield Map(task, range(config.count), name="tasks")
    return {"sum": TABLE.dataset({"x": (("row",), [float(sum(r["x"].values[0] for r in results))], {"units": "1"})})}


LOAD = Module("bench_load", "1", Load, {}, {"sum": TABLE}, load)


def dask_alone(workers: Dask, count: int) -> float:
    """Tasks a second of dask: the same function, results gathered as they arrive, nothing kept."""
    from distributed import as_completed

    client = workers._client
    began = time.perf_counter()
    futures = client.map(attempt, [task] * count, range(count), pure=False)
    got = sum(len(batch) for batch in as_completed(futures, loop=client.loop, with_results=True).batches())
    assert got == count
    return count / (time.perf_counter() - began)


@contextmanager
def delays() -> Iterator[list[float]]:
    """How long after it was made the oldest result of each commit became durable (s)."""
    found: list[float] = []
    stash = maps._stash

    def timed(execution: Any, name: str, items: Mapping[int, bytes], *more: Any) -> None:
        stash(execution, name, items, *more)
        oldest = unpack(next(iter(items.values())))
        found.append(time.time() - float(oldest["x"][1]))

    with patch.object(maps, "_stash", timed):
        yield found


def h5ml_map(workers: Dask, place: Path, count: int) -> tuple[float, float, float]:
    """Tasks a second of h5ml, every result durable; and the median and longest delay until they were (s)."""
    store = h5ml.open(place, make=True)
    with delays() as found:
        began = time.perf_counter()
        h5ml.run(store, LOAD, root_key="r", count=count, scheduler=workers, registry=Registry([LOAD], points=()))
        spent = time.perf_counter() - began
    return count / spent, statistics.median(found), max(found)


def overlap(workers: Dask, here: Path) -> tuple[float, float]:
    """Seconds of four independent chains with a stand-in labeller of 2 s, serial and on workers."""
    text = """store: s.h5
steps:
  data/{n}: {matrix: {n: [1, 2, 3, 4]}, compute: toy_block, n_records: 4, seed: "{n}"}
  label/{n}: {matrix: {n: [1, 2, 3, 4]}, compute: toy_scale_one, series: "data/{n}/series", sleep_s: 2.0}
"""
    spent = []
    for name, scheduler in (("serial", None), ("dask", workers)):
        store = h5ml.open(here / f"{name}.h5", make=True)
        began = time.perf_counter()
        run_campaign(store, parse_campaign(text), _never, scheduler=scheduler, registry=Registry(TOYS, points=()))
        spent.append(time.perf_counter() - began)
    return spent[0], spent[1]


def _never(path: Path, step: Any) -> Any:
    raise AssertionError(path, step)


def steps(workers: Dask | None, place: Path, count: int) -> float:
    """Milliseconds of one short step of a campaign: planned, executed, recorded."""
    text = "store: s.h5\nsteps:\n  w/{n}: {matrix: {n: %s}, compute: toy_block, n_records: 1, seed: '{n}'}\n"
    store = h5ml.open(place, make=True)
    campaign = parse_campaign(text % list(range(count)))
    began = time.perf_counter()
    run_campaign(store, campaign, _never, scheduler=workers, registry=Registry(TOYS, points=()))
    return (time.perf_counter() - began) / count * 1e3


def measured(workers: Dask, place: Path, count: int) -> tuple[float, float, tuple[float, float], float]:
    """Tasks a second, CPU time of this process (s), delays (s), and its peak memory so far (MB)."""
    spent = time.process_time()
    rate, *delay = h5ml_map(workers, place, count)
    cpu = time.process_time() - spent
    place.unlink()
    return rate, cpu, (delay[0], delay[1]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    """Print the tables."""
    with folder() as here, Dask(f"local:{WORKERS}") as workers:
        dask_alone(workers, 200)
        h5ml_map(workers, here / "warm.h5", 200)
        print(f"\n### Map of small tasks on {WORKERS} workers, 10 kB each, every result durable (tasks a second)\n")
        print("Aim: at least 0.7 of dask alone, which sends each task by itself; h5ml sends short ones in bunches\n")
        print(
            "| tasks | dask alone | h5ml | ratio | CPU ratio of the main process | delay until durable, s: median "
            "| longest | peak memory of the main process, MB |\n|---|---|---|---|---|---|---|---|"
        )
        ours = {count: measured(workers, here / f"m{count}.h5", count) for count in COUNTS}
        for count, (rate, cpu, delay, peak) in ours.items():  # dask alone keeps its results, so it comes last
            spent = time.process_time()
            alone = dask_alone(workers, count)
            row = f"{alone:.0f} | {rate:.0f} | {rate / alone:.2f} | {cpu / (time.process_time() - spent):.2f}"
            print(f"| {count} | {row} | {delay[0]:.2f} | {delay[1]:.2f} | {peak:.0f} |", flush=True)
        print("\n### A short step of a campaign (ms; planned, executed, recorded and committed)\n")
        print("| where | 50 steps | 200 steps |\n|---|---|---|")
        for name, where in (("in process", None), (f"{WORKERS} workers", workers)):
            found = [steps(where, here / f"{name.split()[0]}{count}.h5", count) for count in (50, 200)]
            print(f"| {name} | {found[0]:.1f} | {found[1]:.1f} |", flush=True)
    with folder() as here, Dask("local:4") as four:
        steps(four, here / "warm.h5", 16)  # each worker imports what it needs once
        serial, parallel = overlap(four, here)
    ratio = parallel / serial
    print("\n### Four independent chains with a labeller that takes 2 s each\n\nAim: below half of the serial time\n")
    print(f"| serial, s | 4 workers, s | ratio |\n|---|---|---|\n| {serial:.2f} | {parallel:.2f} | {ratio:.2f} |")
