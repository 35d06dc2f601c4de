"""Peak memory of appending 2 GB."""

from __future__ import annotations

import subprocess
import sys

from .measure import folder

CODE = """
import sys
import numpy as np, xarray as xr, h5ml
from h5ml.store.prepare import Storage
import h5py, h5ml.store.hdf5, h5ml.store.transaction
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
before = peak()
block = xr.Dataset({"x": (("record", "column"), np.random.default_rng(0).normal(size=(2000, 1000)), {"units": "1"})})
with h5ml.open(sys.argv[1], make=True) as store:
    store.write("t", block, "observables", storage=Storage(growing=True))
    for n in range(int(sys.argv[2]) - 1):
        store.append("t", block)
print(before, peak())
"""


def main() -> None:
    """Print the peak resident memory of a child that appends 2 GB in blocks of 16 MB."""
    with folder() as here:
        bare = run("print(0, int(next(x for x in open('/proc/self/status') if x[:5] == 'VmHWM').split()[1]) / 1024)")[1]
        libraries, peak = run(CODE, str(here / "s.h5"), "125")
    print("\n### Peak memory of appending 2 GB in 125 blocks of 16 MB\n")
    print("Aim: below 300 MB above the bare interpreter\n")
    print("| what | MB |\n|---|---|")
    print(f"| bare interpreter | {bare:.0f} |\n| with libraries loaded | {libraries:.0f} |\n| peak | {peak:.0f} |")
    print(f"| above the bare interpreter | {peak - bare:.0f} |\n| above the libraries | {peak - libraries:.0f} |")


def run(code: str, *arguments: str) -> tuple[float, float]:
    """The two numbers that a child prints."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    first, second = map(float, done.stdout.split())
    return first, second
