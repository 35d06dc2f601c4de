"""Training sets and evaluations by commands: export for MACE, and the parity plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase.io import read

import h5ml
from h5ml.cli.plots_evaluation import evaluation_figure
from h5ml.compute.potentials.mace_engine import mace_guard
from h5ml.store.gather import gather
from h5ml.store.store import Store
from h5ml.tests.kits.labelled import isolated, labels, rattled


@pytest.fixture
def divided(location: Path) -> Store:
    store = h5ml.open(location)
    store.write("a", labels(rattled(9)).drop_vars("stress"), "labels")
    store.write("b", labels(rattled(6, seed=1, symbols="AgAg")), "labels")
    store.write("atoms", isolated(["Cu", "Ag"]), "labels")
    inputs = {"labels": ["a", "b"], "isolated_atoms": ["atoms"]}
    h5ml.run(store, "training_set", root_key="p", weights=[1.0, 2.0], valid_fraction=0.3, **inputs)
    return store


def test_an_extended_xyz_file_is_read_by_mace_as_it_was_stored(
    divided: Store, call: Any, location: Path, tmp_path: Path
) -> None:
    file = tmp_path / "train.xyz"
    call("export", "p/set", str(file), "--split", "train", store=location)
    whole = gather(divided, divided.entry("p/set"))
    train = np.flatnonzero(whole["split"].to_numpy() == 0)
    with mace_guard():
        from mace.data import KeySpecification, load_from_xyz

        keys = KeySpecification.from_defaults()
        energies, configurations = load_from_xyz(str(file), key_specification=keys, extract_atomic_energies=True)
    assert energies == {29: pytest.approx(3.51), 47: pytest.approx(2.96)}
    assert len(configurations) == len(train)
    ends = np.concatenate([[0], np.cumsum(whole["n_atoms"].to_numpy())])
    for record, found in zip(train, configurations, strict=True):
        # the file holds 8 decimals
        assert found.properties["energy"] == pytest.approx(float(whole["energy"][record]), abs=1e-8)
        forces = whole["forces"].to_numpy()[ends[record] : ends[record + 1]]
        np.testing.assert_allclose(found.properties["forces"], forces, atol=1e-8)
        known = np.isfinite(whole["stress"].to_numpy()[record]).all()
        assert found.property_weights["stress"] == float(known)
        assert found.weight == float(whole["weight"][record])
    call("export", "p/set", str(tmp_path / "all.xyz"), store=location)
    assert [atoms.info.get("split") for atoms in read(tmp_path / "all.xyz", ":")][2:] == [
        ("train", "valid", "test")[i] for i in whole["split"].to_numpy()
    ]


def test_maces_own_file_gives_the_batches_of_the_store(
    divided: Store, call: Any, location: Path, tmp_path: Path
) -> None:
    file = tmp_path / "valid.h5"
    call("export", "p/set", str(file), "--split", "valid", store=location)
    with mace_guard():
        import torch
        from mace.data import HDF5Dataset
        from mace.tools import AtomicNumberTable, torch_geometric

        from h5ml.compute.potentials.mace_graphs import GraphBuilder, MaceBatches
    torch.set_default_dtype(torch.float64)
    try:
        frames = HDF5Dataset(str(file), r_max=3.0, z_table=AtomicNumberTable([29, 47]))
        expected = torch_geometric.Batch.from_data_list([frames[i] for i in range(len(frames))]).to_dict()
    finally:
        torch.set_default_dtype(torch.float32)
    mine = MaceBatches(h5ml.torch_dataset(divided, "p/set", "valid"), GraphBuilder([29, 47], 3.0))
    found = mine.__getitems__(list(range(len(mine)))).to_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    with h5py.File(file) as raw:
        assert len(raw["config_batch_0"]) == len(mine)


def test_a_split_of_what_is_not_divided_is_refused(divided: Store, call: Any, location: Path, tmp_path: Path) -> None:
    assert (
        "kind training_set"
        in call("export", "a", str(tmp_path / "x.xyz"), "--split", "valid", code=5, store=location).output
    )
    assert "test" in call("export", "p/set", str(tmp_path / "x.xyz"), "--split", "test", code=5, store=location).output
    assert "hold training sets" in call("export", "a", str(tmp_path / "x.h5"), code=5, store=location).output
    assert not list(tmp_path.glob("x.*"))


def test_a_parity_plot_shows_labels_and_predictions_with_their_errors(
    divided: Store, call: Any, location: Path, tmp_path: Path
) -> None:
    models = ["ase:emt", "ase:lj?sigma=2.3&epsilon=0.4&rc=5.0"]
    h5ml.run(divided, "evaluation", root_key="e", model=models, labels=["p/set"])
    evaluation = divided["e/evaluation"].load()
    figure = evaluation_figure(evaluation, "e/evaluation@1")
    energy, force, stress, spread = figure.axes
    points = np.concatenate([part.get_offsets() for part in energy.collections])
    assert len(points) == 15
    per_atom = evaluation["energy_predicted"].to_numpy() / evaluation["frame_n_atoms"].to_numpy()
    np.testing.assert_allclose(np.sort(points[:, 1]), np.sort(per_atom))
    assert f"MAE {float(evaluation['force_mae'][0]):.3g}" in force.get_title(loc="left")
    assert len(np.concatenate([part.get_offsets() for part in stress.collections])) == 36  # of b alone
    assert "factor" in spread.get_title(loc="left")
    call("plot", "e/evaluation", str(tmp_path / "e.png"), store=location)
    assert (tmp_path / "e.png").stat().st_size > 10_000
