"""Training sets as torch sees them, and as batches of mace-torch."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from ase import Atoms

import h5ml
from h5ml.compute.potentials.mace_engine import mace_guard
from h5ml.schemas.errors import InvalidData, UnknownKey
from h5ml.store.gather import gather
from h5ml.store.store import Store
from h5ml.store.training_frames import TrainingFrames
from h5ml.tests.kits.labelled import labels, rattled

with mace_guard():
    import torch
    from mace import data as mace_data
    from mace.tools import AtomicNumberTable, torch_geometric

    from h5ml.compute.potentials.mace_graphs import GraphBuilder, MaceBatches


@pytest.fixture
def divided(hdf5_store: Store) -> Store:
    """Crystals with stresses and open clusters without, of two keys and two weights."""
    crystals, clusters = rattled(8), [a[[0, 1, 2]] for a in rattled(7, seed=1, symbols="AgAg")]
    for atoms in clusters:
        atoms.pbc, atoms.cell = False, None
    hdf5_store.write("a", labels(crystals), "labels")
    hdf5_store.write("b", labels(clusters), "labels")
    h5ml.run(hdf5_store, "training_set", root_key="p", labels=["a", "b"], E0s="average", weights=[1.0, 2.0])
    return hdf5_store


def test_items_are_the_frames_of_the_split_and_a_loader_reads_them(divided: Store) -> None:
    whole = gather(divided, divided.entry("p/set"))
    train = np.flatnonzero(whole["split"].to_numpy() == 0)
    ends = np.concatenate([[0], np.cumsum(whole["n_atoms"].to_numpy())])
    data = h5ml.torch_dataset(divided, "p/set", split="train")
    assert len(data) == len(train) == 13
    for index, record in enumerate(train):
        item, rows = data[index], slice(ends[record], ends[record + 1])
        for name in ("positions", "forces", "atomic_numbers"):
            np.testing.assert_array_equal(item[name], whole[name].to_numpy()[rows])
        assert float(item["energy"]) == float(whole["energy"][record])
        assert float(item["weight"]) == float(whole["weight"][record])
        assert bool(torch.isnan(item["stress"]).all()) == (not bool(item["pbc"].any()))
    generator = torch.Generator().manual_seed(0)
    loader: Any = torch.utils.data.DataLoader(data, 4, shuffle=True, generator=generator, collate_fn=list)
    seen = [float(item["energy"]) for batch in loader for item in batch]
    assert sorted(seen) == sorted(whole["energy"].to_numpy()[train])
    with pytest.raises(IndexError, match="13 frames"):
        data[13]
    with pytest.raises(UnknownKey):
        h5ml.torch_dataset(divided, "p/nothing")


def test_a_copy_in_another_process_reads_the_same(divided: Store) -> None:
    data = h5ml.torch_dataset(divided, "p/set")
    first = data[3]
    again = pickle.loads(pickle.dumps(data))[3]
    assert all(torch.equal(first[name], again[name]) or torch.isnan(first[name]).all() for name in first)


def reference_batch(divided: Store, split: str, indices: list[int], cutoff: float, numbers: list[int]) -> Any:
    """What mace-torch makes of the same frames, read from a file."""
    frames = TrainingFrames(divided, divided.entry("p/set"), split)
    keys, graphs = mace_data.KeySpecification.from_defaults(), []
    for index in indices:
        read = frames.take([index])
        cell, pbc = read["cell"][0], read["pbc"][0] != 0
        atoms = Atoms(read["atomic_numbers"], read["positions"], cell=cell, pbc=pbc)
        atoms.info |= {"REF_energy": read["energy"][0], "config_weight": read["weight"][0]}
        if np.isfinite(read["stress"]).all():
            atoms.info["REF_stress"] = read["stress"][0]
        atoms.arrays["REF_forces"] = read["forces"]
        configuration = mace_data.config_from_atoms(atoms, key_specification=keys)
        table = AtomicNumberTable(numbers)
        graphs.append(mace_data.AtomicData.from_config(configuration, z_table=table, cutoff=cutoff))
    return torch_geometric.Batch.from_data_list(graphs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_batches_are_those_of_mace_to_the_last_bit(divided: Store, dtype: torch.dtype) -> None:
    torch.set_default_dtype(dtype)
    try:
        numbers, indices = [13, 29, 47], [11, 2, 2, 7, 0]
        batches = MaceBatches(h5ml.torch_dataset(divided, "p/set", "train"), GraphBuilder(numbers, 3.5, dtype=dtype))
        expected = reference_batch(divided, "train", indices, 3.5, numbers).to_dict()
        for _ in range(2):  # the second time with neighbours that are known
            found = batches.__getitems__(indices).to_dict()
            assert set(found) == set(expected)
            for name, value in expected.items():
                assert found[name].dtype == value.dtype, name
                assert torch.equal(found[name], value), name
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_loader_of_batches_gives_every_frame_once(divided: Store) -> None:
    batches = MaceBatches(h5ml.torch_dataset(divided, "p/set", "train"), GraphBuilder([29, 47], 3.0), cache_bytes=500)
    generator = torch.Generator().manual_seed(1)
    loader = batches.loader(5, shuffle=True, generator=generator)
    for _ in range(2):
        found = list(loader)
        assert [batch.num_graphs for batch in found] == [5, 5, 3]
        energies = torch.cat([batch["energy"] for batch in found]).numpy()
        expected = batches.frames.take(np.arange(13))["energy"]
        np.testing.assert_array_equal(np.sort(energies), np.sort(expected))
    with pytest.raises(InvalidData, match="unknown to the model"):
        MaceBatches(batches.frames, GraphBuilder([29], 3.0)).__getitems__(list(range(13)))
