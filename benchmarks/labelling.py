"""Labels a second: a serial ASE loop, h5ml in process, and h5ml on two workers; by PySCF and by GFN1-xTB."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.build import molecule

import h5ml
from h5ml.compute.scheduler import Dask
from h5ml.compute.structure.frames import structures_dataset

from .measure import folder

FRAMES = int(os.environ.get("H5ML_BENCH_LABELS", "48"))
WORKERS = "local:2"
UREA = Path(__file__).parents[1] / "examples" / "urea" / "urea.cif"
PYSCF = {"engine": "pyscf", "method": "PBE", "basis": "def2-SVP", "properties": ["energy", "forces"]}
TBLITE = {"engine": "tblite", "method": "GFN1-xTB", "properties": ["energy", "forces"]}


def main() -> None:
    """Print the tables."""
    water, crystal = molecule("H2O"), ase.io.read(UREA).repeat((1, 1, 2))
    measured("PySCF PBE/def2-SVP, water", rattled(water), PYSCF, pyscf_calculator)
    measured(f"tblite GFN1-xTB, urea of {len(crystal)} atoms", rattled(crystal), TBLITE, tblite_calculator)


def rattled(atoms: Atoms) -> list[Atoms]:
    """Frames of one structure, each displaced by random numbers."""
    rng = np.random.default_rng(0)
    found = [atoms.copy() for _ in range(FRAMES)]
    for one in found:
        one.positions += rng.normal(scale=0.03, size=one.positions.shape)
    return found


def pyscf_calculator(atoms: Atoms) -> Any:
    """PySCF's own calculator of ASE, converged as h5ml's labels are; it starts from the density of the last frame."""
    from pyscf import dft, gto, lib
    from pyscf.pbc.tools.pyscf_ase import PySCF

    lib.num_threads(1)
    listed = [(int(z), tuple(place)) for z, place in zip(atoms.numbers, atoms.positions, strict=True)]
    field = dft.RKS(gto.M(atom=listed, basis="def2-svp", verbose=0), xc="PBE")
    field.conv_tol = 1e-9
    return PySCF(method=field)


def tblite_calculator(atoms: Atoms) -> Any:
    """The calculator of tblite itself; it starts from the charges of the last frame."""
    from tblite.ase import TBLite

    del atoms
    return TBLite(method="GFN1-xTB", verbosity=0)


def serial(frames: Sequence[Atoms], make: Callable[[Atoms], Any], *, warm: bool) -> float:
    """Seconds of a loop as one writes it by hand; with one calculator for all frames, or a new one for each."""
    calculator, began = make(frames[0]), time.perf_counter()
    for atoms in frames:
        one = atoms.copy()
        one.calc = calculator if warm else make(atoms)
        one.get_potential_energy(), one.get_forces()
    return time.perf_counter() - began


def stored(here: Path, frames: Sequence[Atoms], config: dict[str, Any], scheduler: Dask | str) -> float:
    """Seconds of the module dft on a store, every label committed."""
    path = here / f"{time.monotonic_ns()}.h5"
    with h5ml.open(path, make=True) as store:
        store.write("frames", structures_dataset(list(frames)), "structures")
        began = time.perf_counter()
        h5ml.run(store, "dft", root_key="labels", frames="frames", config=config, scheduler=scheduler)
        return time.perf_counter() - began


def measured(title: str, frames: Sequence[Atoms], config: dict[str, Any], make: Callable[[Atoms], Any]) -> None:
    """Print one table; the engine is imported before anything is timed, in the workers too."""
    serial(frames[:1], make, warm=True)
    with folder() as here:
        rows = [
            ("ASE loop, a new calculator for each frame (cold)", serial(frames, make, warm=False)),
            ("ASE loop, one calculator for all frames (warm)", serial(frames, make, warm=True)),
            ("h5ml, in process (cold)", stored(here, frames, config, "serial")),
            ("h5ml, 2 workers with their start (cold)", stored(here, frames, config, WORKERS)),
        ]
        with Dask(WORKERS) as workers:
            stored(here, rattled(frames[0])[:4], config, workers)
            rows.append(("h5ml, 2 workers that are there (cold)", stored(here, frames, config, workers)))
    first = rows[0][1]
    print(f"\n### Labels by {title}, {len(frames)} frames, energies and forces, one thread each\n")
    print("| what | wall, s | labels a second | of the cold loop |\n|---|---|---|---|")
    for name, seconds in rows:
        print(f"| {name} | {seconds:.1f} | {len(frames) / seconds:.2f} | {first / seconds:.2f} |")
    print("\nh5ml starts each label cold, so that it depends on its structure alone; every label is durable.")
