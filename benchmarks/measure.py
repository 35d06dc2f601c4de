"""Side-by-side measurement: medians of five, in CPU time, as ratios to the first row."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPEATS = 5


@dataclass
class Row:
    """One line of a table: seconds of CPU and wall per unit of work."""

    name: str
    cpu: float
    wall: float
    note: str = ""


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall seconds of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def side_by_side(
    cases: Sequence[tuple[str, Callable[[], object]]], units: float = 1.0, repeats: int = REPEATS, warm: bool = True
) -> list[Row]:
    """Time several pieces of work in turns (A B C A B C ...), so that a drifting machine hits all alike.

    Parameters
    ----------
    cases : sequence of (name, callable)
        The first is what the others are compared with.
    units : float
        How many units of work one call does.
    repeats : int
        Turns; the median is reported.
    warm : bool
        Whether to call each once before.
    """
    if warm:
        for _, work in cases:
            work()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name, _ in cases}
    for _ in range(repeats):
        for name, work in cases:
            found[name].append(timed(work))
    return [
        Row(name, statistics.median(t[0] for t in times) / units, statistics.median(t[1] for t in times) / units)
        for name, times in found.items()
    ]


def table(title: str, rows: Sequence[Row], unit: str = "ms", aim: str = "", scale: float = 1e3) -> None:
    """Print rows as a Markdown table; ratios are to the first row."""
    print(f"\n### {title}\n")
    if aim:
        print(f"Aim: {aim}\n")
    print(f"| what | CPU {unit} | wall {unit} | CPU ratio | wall ratio | note |\n|---|---|---|---|---|---|")
    first = rows[0]
    for row in rows:
        print(
            f"| {row.name} | {row.cpu * scale:.4g} | {row.wall * scale:.4g} | "
            f"{row.cpu / max(first.cpu, 1e-12):.2f} | {row.wall / max(first.wall, 1e-12):.2f} | {row.note} |"
        )


@contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder on the disk of the current folder (not a memory file system)."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("H5ML_BENCH_DIR", Path.cwd()), prefix=".bench-") as name:
        yield Path(name)
