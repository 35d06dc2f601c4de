"""What h5ml adds to a step of molecular dynamics, against the bare ASE loop with the same calculator."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
from ase import units
from ase.md.bussi import Bussi
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

import h5ml
from h5ml.cli.formats_read import read_images, structures
from h5ml.compute.potentials.registry import resolve_potential

from .measure import folder, side_by_side, table

STEPS, EVERY = 60, 5
UREA = Path(__file__).parents[1] / "examples" / "urea" / "urea.cif"


def main() -> None:
    """Print the table for GFN1-xTB, and for a cheap engine where the bookkeeping shows."""
    for model in ("tblite:GFN1-xTB", "harmonic:springs?k=1.0&r0=1.3&rc=2.6"):
        with folder() as here:
            rows = side_by_side(
                [
                    ("bare ASE loop", lambda model=model: bare(model)),
                    ("h5ml compute md", lambda model=model, here=here: stored(here, model)),
                ],
                units=STEPS,
                repeats=3,
            )
        extra = 100 * (rows[1].cpu / rows[0].cpu - 1)
        rows[1].note = f"{extra:+.1f} percent CPU"
        table(
            f"A step of urea, 32 atoms, {model}, {STEPS} steps, a frame every {EVERY}",
            rows,
            aim="below +3 percent with xTB",
        )


def bare(model: str) -> None:
    """Velocity-rescaling dynamics, frames kept in memory."""
    atoms = ase.io.read(UREA).repeat((1, 1, 2))
    rng = np.random.default_rng(0)
    MaxwellBoltzmannDistribution(atoms, temperature_K=298.15, rng=rng)
    atoms.calc = resolve_potential(model).calculator()
    dynamics = Bussi(atoms, 0.5 * units.fs, 298.15, 100 * units.fs, rng=rng)
    frames = []
    dynamics.attach(
        lambda: frames.append((atoms.get_positions(), atoms.get_velocities(), atoms.get_forces(), atoms.get_stress())),
        EVERY,
    )
    dynamics.run(STEPS)


def stored(here: Path, model: str) -> None:
    """Run the same through the store, all frames in one block as the engine is built once above too."""
    for found in here.iterdir():
        found.unlink()
    with h5ml.open(here / "md.h5", make=True) as store:
        store.write("urea", structures(read_images(UREA)), "structures")
        h5ml.run(
            store,
            "md",
            root_key="md",
            crystal="urea",
            model=model,
            time_total_fs=0.5 * STEPS,
            sampling_interval_fs=0.5 * EVERY,
            time_equilibration_fs=0,
            supercell_matrix=[1, 1, 2],
        )
