"""The main job on a real crystal: molecular dynamics of urea with GFN1-xTB, kept with its provenance.

Run by ``make demo``. It calls the command line as a user would and prints each command before it runs.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
H5ML = Path(sys.executable).with_name("h5ml")

COMMANDS = (
    "h5ml init",
    "h5ml import urea.cif crystals/urea",
    "h5ml compute md --root-key training/md_nvt",
    "h5ml compute md --root-key training/md_sampling",
    "h5ml ls",
    "h5ml show training/md_sampling/trajectory",
    "h5ml audit",
    "h5ml lineage training/md_sampling/trajectory",
    "h5ml plot training/md_sampling/trajectory md_sampling.png",
    "h5ml lineage training/md_sampling/trajectory --png lineage.png",
    "h5ml export training/md_sampling/trajectory md_sampling.extxyz",
)


def main() -> int:
    """Run the commands in a fresh folder; stops at the first that fails."""
    folder = Path.cwd() / "demo_output"
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    for name in ("urea.cif", "h5ml.yaml"):
        shutil.copy(HERE / "urea" / name, folder)
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    begin = time.monotonic()
    for command in COMMANDS:
        print(f"\n$ {command}", flush=True)
        done = subprocess.run([str(H5ML), *shlex.split(command)[1:]], cwd=folder, env=environment, check=False)
        if done.returncode:
            print(f"\nThe demo stopped: `{command}` ended with exit code {done.returncode}.", file=sys.stderr)
            return done.returncode
    print(f"\nDone in {time.monotonic() - begin:.0f} s. In {folder.relative_to(Path.cwd())}/ lie")
    for name, what in (
        ("urea.h5", "the store: open it with h5ml, xarray or ncdump"),
        ("md_sampling.png", "energy, temperature, pressure and cell along the run"),
        ("lineage.png", "where the trajectory came from"),
        ("md_sampling.extxyz", "its production frames for other programs"),
        ("h5ml.yaml", "the campaign that made all this"),
    ):
        size = (folder / name).stat().st_size
        print(f"  {name:<20} {size / 1024:>8.0f} kB  {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
