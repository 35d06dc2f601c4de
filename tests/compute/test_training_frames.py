"""The batches of a training: those of mace-torch's own loaders, in their order, to the last bit."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from h5ml.compute.potentials.mace_engine import mace_guard
from h5ml.tests.kits.training import TINY, labelled, rattled_copper, rattled_water

with mace_guard():
    import torch
    from mace import data as mace_data
    from mace.tools import AtomicNumberTable, torch_geometric

    from h5ml.compute.potentials.checkpoint_models import default_dtype
    from h5ml.compute.training_config import Training
    from h5ml.compute.training_data import OWN, REPLAYED, head_frames
    from h5ml.compute.training_frames import Frames
    from h5ml.compute.training_model import _loaders

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def sets() -> tuple[xr.Dataset, xr.Dataset]:
    """Crystals with stresses, and molecules without, of which one has no energy and one lacks forces."""
    copper = labelled(rattled_copper(9), "ase:emt", stress=True)
    water = labelled(rattled_water(9), "ase:lj?sigma=1.0&epsilon=0.1", isolated=False)
    water["energy"].values[1] = np.nan
    water["forces"].values[6] = np.nan
    water["weight"].values[:] = np.linspace(0.5, 2.0, 9)
    return copper, water


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_batches_of_two_heads_are_those_of_mace_in_its_order(sets: Any, dtype: str) -> None:
    config = Training.parse({**TINY, "batch_size": 3, "default_dtype": dtype, "weight_pt_head": 0.5})
    heads = [head_frames(sets[1], config, REPLAYED), head_frames(sets[0], config)]
    args = Namespace(r_max=4.0, batch_size=3, valid_batch_size=2, lbfgs=False, default_dtype=dtype)
    table = AtomicNumberTable([1, 8, 29])
    with default_dtype(dtype):
        train, valid = _loaders(heads, table, args, 7, torch.device("cpu"))
        graphs = {
            (head.head_name, part): [
                mace_data.AtomicData.from_config(one, z_table=table, cutoff=4.0, heads=[REPLAYED, OWN])
                for one in getattr(head, part).configurations(head.head_name)
            ]
            for head in heads
            for part in ("train", "valid")
        }
        theirs = torch_geometric.dataloader.DataLoader(
            graphs[REPLAYED, "train"] + graphs[OWN, "train"],
            batch_size=3,
            shuffle=True,
            drop_last=True,
            generator=torch.Generator().manual_seed(7),
        )
        for _ in range(2):  # the second epoch has another order, and neighbours that are known
            same(list(train), list(theirs))
        for name in (REPLAYED, OWN):
            expected = torch_geometric.dataloader.DataLoader(graphs[name, "valid"], batch_size=2)
            same(list(valid[name]), list(expected))


def same(found: list[Any], expected: list[Any]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        mine, theirs = one.to_dict(), other.to_dict()
        assert set(mine) == set(theirs)
        for name, value in theirs.items():
            assert mine[name].dtype == value.dtype, name
            assert torch.equal(mine[name], value), name


def test_frames_are_taken_repeated_and_relabelled(sets: Any) -> None:
    frames: Frames = head_frames(sets[1], Training.parse(TINY)).train
    twice = frames.repeated(2)
    assert len(twice) == 10
    for name, values in twice.take([7, 0]).items():
        assert np.array_equal(values, frames.take([2, 0])[name], equal_nan=True)
    assert frames.numbers == [1, 8]
    configurations = list(frames.configurations("Default"))
    assert [one.properties["energy"] is None for one in configurations] == [False, True, False, False, False]
    for one in configurations:
        one.properties |= {"energy": 2.5, "forces": np.ones((3, 3))}
    new = frames.relabelled(configurations)
    assert new.values["energy"].tolist() == [2.5] * 5
    assert np.array_equal(new.values["forces"], np.ones((15, 3)))
    assert np.array_equal(new.values["positions"], frames.values["positions"])
