"""Displaced cells of urea on two workers against phonopy with a serial ASE loop, and the size of force constants."""

from __future__ import annotations

import os
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from phonopy import Phonopy
from phonopy.file_IO import write_force_constants_to_hdf5
from phonopy.structure.atoms import PhonopyAtoms

import h5ml
from h5ml.cli.formats_read import read_images, structures
from h5ml.compute.lattice.displacements import build_phonopy
from h5ml.compute.lattice.force_constants import dataset_of
from h5ml.compute.potentials.registry import resolve_potential
from h5ml.compute.structure.supercell import find_supercell

from .measure import folder, side_by_side, table

MODEL = "tblite:GFN1-xTB"
REPEATS = [2, 2, 2]
SYMPREC = 1e-3
UREA = Path(__file__).parents[1] / "examples" / "urea" / "urea.cif"


def main() -> None:
    """Print the tables."""
    with folder() as here:
        rows = side_by_side(
            [
                ("phonopy, serial ASE loop", serial),
                ("h5ml compute phonons, serial", lambda: stored(here, "serial")),
                ("h5ml compute phonons, local:2", lambda: stored(here, "local:2")),
            ],
            repeats=1,
            warm=False,
        )
    rows[-1].note = "with the start of the workers; CPU of this process only"
    atoms = len(ase.io.read(UREA)) * int(np.prod(REPEATS))
    table(f"Phonons of urea, 16 displacements of {atoms} atoms, {MODEL}", rows, unit="s", scale=1.0)
    sizes()


def serial() -> Phonopy:
    """The manual's way: one supercell after the other, full force constants."""
    atoms = ase.io.read(UREA)
    unit = PhonopyAtoms(
        numbers=atoms.numbers,
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(),
        masses=atoms.get_masses(),
    )
    phonon = Phonopy(unit, supercell_matrix=REPEATS, primitive_matrix="P", symprec=SYMPREC)
    phonon.generate_displacements(distance=0.01)
    forces = []
    for cell in phonon.supercells_with_displacements:
        moved = Atoms(numbers=cell.numbers, positions=cell.positions, cell=cell.cell, pbc=True)
        moved.calc = resolve_potential(MODEL).calculator()
        forces.append(moved.get_forces())
    phonon.forces = forces
    phonon.produce_force_constants()
    phonon.symmetrize_force_constants()
    return phonon


def stored(here: Path, scheduler: str) -> None:
    """The same through a store, with the undisplaced supercell, bands, mesh and thermodynamics."""
    path = here / f"{scheduler[:5]}.h5"
    for found in here.glob(f"{path.stem}*"):
        found.unlink()
    with h5ml.open(path, make=True) as store:
        store.write("urea", structures(read_images(UREA)), "structures")
        h5ml.run(
            store,
            "phonons",
            root_key="phonons",
            crystal="urea",
            model=MODEL,
            supercell_matrix=REPEATS,
            symprec=SYMPREC,
            fourier_interpolation_mesh=30.0,
            band_points=11,
            scheduler=scheduler,
        )


def sizes() -> None:
    """Bytes of the force constants of urea with a radius of 15 and 25 Angstrom, here and in phonopy's full file."""
    print("\n### Size of the force constants of urea\n")
    print("| radius, Angstrom | atoms | phonopy, full hdf5, MB | h5ml key, MB | ratio |\n|---|---|---|---|---|")
    atoms = ase.io.read(UREA)
    for radius in (15.0, 25.0):
        phonon = build_phonopy(atoms, find_supercell(atoms.cell.array, radius), symprec=SYMPREC)
        n, rng = len(phonon.supercell), np.random.default_rng(0)
        phonon.force_constants = rng.normal(size=(len(phonon.primitive), n, 3, 3))
        with folder() as here:
            write_force_constants_to_hdf5(rng.normal(size=(n, n, 3, 3)), str(here / "force_constants.hdf5"))
            with h5ml.open(here / "s.h5", make=True) as store:
                before = os.path.getsize(here / "s.h5")
                store.write("urea", dataset_of(phonon), "force_constants")
            full = os.path.getsize(here / "force_constants.hdf5")
            ours = os.path.getsize(here / "s.h5") - before
        print(f"| {radius:g} | {n} | {full / 1e6:.2f} | {ours / 1e6:.2f} | {full / ours:.1f} |")
