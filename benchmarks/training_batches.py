"""Batches of a training set for MACE, and the evaluation of many small clusters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
import mace.calculators
import numpy as np
import torch
from ase import Atoms
from mace import data as mace_data
from mace.tools import AtomicNumberTable, torch_geometric

import h5ml
from h5ml.cli.formats_training import write_extxyz, write_mace_hdf5
from h5ml.cli.formats_write import Chosen
from h5ml.compute.evaluation_predict import Task, predict
from h5ml.compute.potentials import resolve_potential
from h5ml.compute.potentials.mace_graphs import GraphBuilder, MaceBatches
from h5ml.compute.structure.frames import structures_dataset
from h5ml.schemas.kinds_training import LABELS, TRAINING_SET
from h5ml.store.store import Store
from h5ml.tests.kits.mace import save_tiny_mace

from .measure import folder, side_by_side, table

UREA = Path(__file__).parents[1] / "examples" / "urea" / "urea.cif"
CUTOFF, BATCH, FRAMES, CLUSTERS = 5.0, 10, 400, 1000


def main() -> None:
    """Print both tables."""
    torch.set_default_dtype(torch.float64)
    with folder() as here, h5ml.open(here / "s.h5", make=True) as store:
        batches(store, here)
        clusters(here)


def urea(n: int) -> list[Atoms]:
    """Cells of 32 atoms with a small random displacement."""
    cell = ase.io.read(UREA).repeat((1, 1, 2))
    rng = np.random.default_rng(0)
    found = []
    for _ in range(n):
        atoms = cell.copy()
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        found.append(atoms)
    return found


def labelled(systems: list[Atoms]) -> Any:
    """Labels without physics; their values do not matter here."""
    n, rng = len(systems), np.random.default_rng(1)
    values = {"energy": rng.normal(size=n), "converged": np.ones(n), "status": np.zeros(n)}
    values |= {"forces": rng.normal(size=(sum(map(len, systems)), 3)), "stress": rng.normal(size=(n, 6))}
    return structures_dataset(systems, values, {"level_of_theory": "none"}, kind=LABELS)


def batches(store: Store, here: Path) -> None:
    """Epochs of the training split in shuffled batches."""
    store.write("labels", labelled(urea(FRAMES)), "labels")
    config = {"E0s": "average", "leakage_tolerance_A": None}
    h5ml.run(store, "training_set", root_key="p", labels=["labels"], **config)
    references = store["p/set"]
    chosen = Chosen("p/set@1", TRAINING_SET, references, np.flatnonzero(references["split"].to_numpy() == 0), store)
    write_mace_hdf5(chosen, here / "train.h5")
    write_extxyz(chosen, here / "train.xyz")
    elements = [1, 6, 7, 8]
    numbers = AtomicNumberTable(elements)
    keys = mace_data.KeySpecification.from_defaults()
    read = [atoms for atoms in ase.io.read(here / "train.xyz", ":") if len(atoms) > 1]
    configurations = [mace_data.config_from_atoms(atoms, key_specification=keys) for atoms in read]
    memory = [mace_data.AtomicData.from_config(one, z_table=numbers, cutoff=CUTOFF) for one in configurations]
    file = mace_data.HDF5Dataset(str(here / "train.h5"), r_max=CUTOFF, z_table=numbers)
    frames = h5ml.torch_dataset(store, "p/set", "train")
    builder = GraphBuilder(elements, CUTOFF)
    kept = MaceBatches(frames, builder)

    def loader(dataset: Any) -> Any:
        return torch_geometric.dataloader.DataLoader(dataset, batch_size=BATCH, shuffle=True)

    cases = [
        ("mace-torch, graphs of extxyz in memory", lambda: list(map(_seen, loader(memory)))),
        ("mace-torch, its HDF5 file", lambda: list(map(_seen, loader(file)))),
        ("h5ml, first epoch", lambda: list(map(_seen, MaceBatches(frames, builder).loader(BATCH, shuffle=True)))),
        ("h5ml, later epochs", lambda: list(map(_seen, kept.loader(BATCH, shuffle=True)))),
    ]
    count = -(-len(frames) // BATCH)
    rows = side_by_side(cases, units=count)
    for row in rows:
        row.note = f"{1 / row.wall:.0f} batches/s"
    table(
        f"A shuffled batch of {BATCH} frames of 32 atoms, cutoff {CUTOFF:g} Angstrom, of {len(frames)}",
        rows,
        aim="at least as fast as the fastest",
    )


def _seen(batch: Any) -> int:
    """A batch is looked at and let go, as training does."""
    return int(batch.num_graphs)


def clusters(here: Path) -> None:
    """Energies, forces and stresses of small clusters by a small MACE model."""
    potential = resolve_potential(f"file:{save_tiny_mace(here / 'm.model')}", trust_pickle=True)
    rng = np.random.default_rng(2)
    molecule = ase.io.read(UREA)[[0, 2, 4, 6, 8, 10, 12, 14]]
    systems = []
    for _ in range(CLUSTERS):
        atoms = Atoms(molecule.numbers, molecule.positions + rng.normal(scale=0.1, size=(8, 3)))
        systems.append(atoms)
    calculator = mace.calculators.MACECalculator(
        models=[potential.module().module], device="cpu", default_dtype="float64"
    )
    task = Task((potential,), labelled(systems), np.arange(CLUSTERS), 2048)

    def loop() -> None:
        for atoms in systems:
            calculator.calculate(atoms, ["energy", "forces"])

    cases = [("a loop of MACECalculator", loop), ("h5ml compute evaluation", lambda: predict(task))]
    rows = side_by_side(cases, units=CLUSTERS, repeats=3)
    for row in rows:
        row.note = f"{rows[0].wall / row.wall:.1f} times as fast"
    table(f"A cluster of 8 atoms of {CLUSTERS}, energy and forces", rows, aim="5 times as fast on a CPU")
