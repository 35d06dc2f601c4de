"""Finding the molecules of a crystal and cutting clusters from its frames, by the number of atoms."""

from __future__ import annotations

from pathlib import Path

import ase.io
from ase import Atoms
from ase.neighborlist import natural_cutoffs, neighbor_list

from h5ml.compute.structure.cutting import SubsystemCutter
from h5ml.compute.structure.molecules import connectivity, detect_molecules
from h5ml.compute.structure.subsystem_config import FiniteSubsystemFilter

from .measure import Row, side_by_side, table

UREA = Path(__file__).parents[1] / "examples" / "urea" / "urea.cif"
REPEATS = ((6, 6, 5), (9, 9, 8), (12, 12, 13))
FRAMES = 20


def main() -> None:
    """Print both tables."""
    crystals = [ase.io.read(UREA).repeat(repeats) for repeats in REPEATS]
    for atoms in crystals:
        atoms.rattle(0.03, seed=0)
    rows = side_by_side(
        [("bonds by ase.neighborlist, 2880 atoms", lambda: _bonds_by_ase(crystals[0]))]
        + [(f"molecules and 8 clusters, {len(a)} atoms", lambda a=a: _first(a)) for a in crystals]
    )
    for row, atoms in zip(rows[1:], crystals, strict=True):
        row.note = f"{1e6 * row.cpu / len(atoms):.2f} us an atom"
    table("Detection and one cut of urea, n = 1 ... 8", rows, aim="below 1 s for 2880 atoms, linear in atoms")
    rows = side_by_side([(f"{len(a)} atoms, {FRAMES} frames", lambda a=a: _many(a)) for a in crystals], units=FRAMES)
    _per_atom(rows, crystals)
    table("A further frame: molecules made whole, bonds checked, 8 clusters", rows, aim="linear in atoms and frames")
    rows = side_by_side([(f"{len(a)} atoms", lambda a=a: connectivity(a, detect_molecules(a))) for a in crystals])
    _per_atom(rows, crystals)
    table("Detection and one check of the bonds", rows)


def _per_atom(rows: list[Row], crystals: list[Atoms]) -> None:
    for row, atoms in zip(rows, crystals, strict=True):
        row.note = f"{1e6 * row.cpu / len(atoms):.2f} us an atom"


def _bonds_by_ase(atoms: Atoms) -> object:
    return neighbor_list("ijS", atoms, natural_cutoffs(atoms, mult=1.3))


def _first(atoms: Atoms) -> None:
    SubsystemCutter(FiniteSubsystemFilter(), atoms).cut([atoms], [0])


def _many(atoms: Atoms) -> None:
    SubsystemCutter(FiniteSubsystemFilter(), atoms).cut([atoms] * FRAMES, range(FRAMES))
