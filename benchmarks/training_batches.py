"""Batches of a training set for MACE, and the evaluation of many small clusters."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
from h5ml.compute.training_config import Training
from h5ml.compute.training_data import head_frames
from h5ml.schemas.kinds_training import LABELS, TRAINING_SET
from h5ml.store.gather import gather
from h5ml.store.store import Store
from h5ml.tests.kits.mace import save_tiny_mace

from .measure import folder, side_by_side, table

UREA = Path(__file__).parents[1] / "examples" / "urea" / "urea.cif"
CUTOFF, BATCH, FRAMES, CLUSTERS = 5.0, 10, 400, 1000
Work = Callable[[], object]


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
    numbers = AtomicNumberTable([1, 6, 7, 8])

    def from_extxyz() -> Any:
        keys = mace_data.KeySpecification.from_defaults()
        read = [atoms for atoms in ase.io.read(here / "train.xyz", ":") if len(atoms) > 1]
        configurations = [mace_data.config_from_atoms(atoms, key_specification=keys) for atoms in read]
        graphs = [mace_data.AtomicData.from_config(one, z_table=numbers, cutoff=CUTOFF) for one in configurations]
        return torch_geometric.dataloader.DataLoader(graphs, batch_size=BATCH, shuffle=True)

    def from_mace_file() -> Any:
        file: Any = mace_data.HDF5Dataset(str(here / "train.h5"), r_max=CUTOFF, z_table=numbers)
        return torch_geometric.dataloader.DataLoader(file, batch_size=BATCH, shuffle=True)

    def from_store() -> Any:
        frames = h5ml.torch_dataset(store, "p/set", "train")
        return MaceBatches(frames, GraphBuilder(numbers.zs, CUTOFF)).loader(BATCH, shuffle=True)

    def as_training() -> Any:
        own = head_frames(gather(store, store.entry("p/set")), Training.parse({}))
        return MaceBatches(own.train, GraphBuilder(numbers.zs, CUTOFF)).loader(BATCH, shuffle=True)

    sources = {
        "mace-torch, extxyz to graphs in memory": from_extxyz,
        "mace-torch, its HDF5 file": from_mace_file,
        "h5ml, frames read when they are asked for": from_store,
        "h5ml, as training holds them": as_training,
    }
    count = -(-int((references["split"].to_numpy() == 0).sum()) // BATCH)
    loaders = {name: make() for name, make in sources.items()}
    first: list[tuple[str, Work]] = [(name, partial(_first, make)) for name, make in sources.items()]
    later: list[tuple[str, Work]] = [(name, partial(_epoch, loader)) for name, loader in loaders.items()]
    told = f"a shuffled batch of {BATCH} frames of 32 atoms, cutoff {CUTOFF:g} Angstrom, of {count}"
    for title, cases in (("With reading and neighbours, once", first), ("Later epochs", later)):
        rows = side_by_side(cases, units=count, repeats=3)
        for row in rows:
            row.note = f"{1 / row.wall:.0f} batches/s"
        table(f"{title}: {told}", rows, aim="at least as fast as the fastest")


def _first(make: Callable[[], Any]) -> None:
    _epoch(make())


def _epoch(loader: Any) -> None:
    for batch in loader:
        _seen(batch)


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
