"""How fast the command line answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .measure import Row, table


def main() -> None:
    """Print wall times of whole processes."""
    h5ml = str(Path(sys.executable).with_name("h5ml"))
    cases = {
        'python -c "import click"': [sys.executable, "-c", "import click"],
        "h5ml --help": [h5ml, "--help"],
        "h5ml compute md --help": [h5ml, "compute", "md", "--help"],
        'python -c "import h5ml"': [sys.executable, "-c", "import h5ml"],
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(7):
        for name, command in cases.items():
            times[name].append(process(command))
    rows = [Row(name, sorted(t)[3][0], sorted(x[1] for x in t)[3]) for name, t in times.items()]
    table("Start of the command line (whole process)", rows, aim="h5ml --help below 3 times import click")


def process(command: list[str]) -> tuple[float, float]:
    """CPU and wall seconds of a child."""
    import os
    import time

    before, begin = os.times(), time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return cpu, time.perf_counter() - begin
