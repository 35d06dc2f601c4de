"""The small examples as whole processes: in process, on two workers with their start, and again when all is there."""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import h5ml

from .measure import Row, folder, table

EXAMPLES = Path(__file__).parents[1] / "examples"
STORES: Mapping[str, str] = {"urea_training_pool": "small_pool.h5", "urea_potential": "small_potential.h5"}
NAMES = tuple(os.environ.get("H5ML_BENCH_EXAMPLES", ",".join(STORES)).split(","))
REPEATS = int(os.environ.get("H5ML_BENCH_REPEATS", "3"))


def whole_process(here: Path, *more: str) -> tuple[float, float]:
    """CPU seconds (with those of the workers) and wall seconds of ``h5ml run small.yaml``, one thread a process."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [str(Path(sys.executable).with_name("h5ml")), "run", "small.yaml", *more],
        cwd=here,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def digests(store: Path) -> dict[str, str]:
    """Of every key."""
    return {entry.key: entry.digest for entry in h5ml.open(store).entries()}


def measured(name: str, here: Path) -> list[Row]:
    """Medians of runs in turns; the digests of a pair must be equal."""
    found: dict[str, list[tuple[float, float]]] = {
        "h5ml run": [],
        "h5ml run --scheduler local:2": [],
        "h5ml run, all up to date": [],
    }
    for turn in range(REPEATS):
        alone, pair = (here / f"{name}-{turn}-{which}" for which in ("alone", "pair"))
        for place in (alone, pair):
            shutil.copytree(EXAMPLES / name, place)
        runs = (whole_process(alone), whole_process(pair, "--scheduler", "local:2"), whole_process(alone))
        for times, run in zip(found.values(), runs, strict=True):
            times.append(run)
        assert digests(alone / STORES[name]) == digests(pair / STORES[name])
    return [
        Row(what, *(statistics.median(values) for values in zip(*times, strict=True))) for what, times in found.items()
    ]


def main() -> None:
    """Print a table for each example."""
    with folder() as here:
        for name in NAMES:
            title = f"The example {name} (small.yaml), whole processes, the start of workers included"
            table(title, measured(name, here), unit="s", aim="less wall time on two idle cores", scale=1.0)
