"""Finite clusters that md cuts from its own frames: committed with them, resumed and extended to the last bit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

import h5ml
from h5ml.compute.md import MODULE
from h5ml.compute.md_config import MolecularDynamics
from h5ml.compute.module import Block, Context
from h5ml.compute.potentials import Potential, resolve_potential
from h5ml.compute.potentials.harmonic import Springs
from h5ml.compute.replay import replay_run
from h5ml.schemas.errors import ComputeFailed
from h5ml.schemas.kinds import STRUCTURES
from h5ml.tests.kits.dynamics import BONDS, drive, nitrogen, settings, structures

ONE, THREE = "finite_subsystems/n=1", "finite_subsystems/n=3"


def short(algorithm: str = "csvr", **more: Any) -> MolecularDynamics:
    """Sixteen frames of N2, of which five are equilibration, in blocks of four, with clusters of one and three."""
    chosen = {"n_molecules": [1, 3], **more.pop("filter", {})}
    facts = {"supercell_matrix": [3, 3, 3], "time_equilibration_fs": 50.0, "finite_subsystem_filter": chosen}
    return settings(algorithm, **{**facts, **more})


def plain(config: MolecularDynamics) -> MolecularDynamics:
    return config.model_copy(update={"finite_subsystem_filter": None})


def test_clusters_are_committed_with_the_frames_they_come_from():
    run = drive(short(), nitrogen(), BONDS)
    assert run.error is None
    assert list(run.data) == ["molecular_crystal", "trajectory", ONE, THREE]
    assert [{n: d.sizes["frame"] for n, d in block.items()} for block in run.blocks] == [
        {"trajectory": 4},
        {"trajectory": 4, ONE: 3, THREE: 3},
        {"trajectory": 4, ONE: 4, THREE: 4},
        {"trajectory": 4, ONE: 4, THREE: 4},
    ]
    for name, size in ((ONE, 1), (THREE, 3)):
        np.testing.assert_array_equal(run.data[name]["source_frame"], np.arange(5, 16))
        np.testing.assert_array_equal(run.data[name]["n_molecules"], size)
        np.testing.assert_array_equal(run.data[name]["n_atoms"], 2 * size)


def test_clusters_have_the_geometry_of_their_frame_and_the_energy_of_the_model():
    run = drive(short(), nitrogen(), BONDS)
    clusters, frames = run.data[THREE], run.trajectory
    bonds = np.linalg.norm(np.diff(frames["positions"].values.reshape(16, 27, 2, 3), axis=2)[:, :, 0], axis=-1)
    for k, frame in enumerate(clusters["source_frame"].values):
        positions = clusters["positions"].values[6 * k : 6 * k + 6]
        found = np.linalg.norm(positions[1::2] - positions[::2], axis=1)
        assert np.abs(found[:, None] - bonds[frame]).min(axis=1).max() < 1e-9
        atoms = Atoms("N6", positions, calculator=resolve_potential(BONDS).fresh())
        assert float(clusters["energy"][k]) == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
        np.testing.assert_allclose(clusters["forces"].values[6 * k : 6 * k + 6], atoms.get_forces(), atol=1e-12)
    without = drive(short(cluster_forces=False), nitrogen(), BONDS)
    assert "energy" not in without.data[THREE]
    np.testing.assert_array_equal(without.data[THREE]["positions"], clusters["positions"])


@pytest.mark.parametrize("model", [BONDS, "ase:lj?sigma=1.0&epsilon=0.5&rc=2.0"])
@pytest.mark.parametrize("algorithm", ["csvr", "mtk_full"])
def test_the_filter_leaves_the_trajectory_as_it_is(algorithm, model):
    """Also with an engine that remembers its neighbours: the clusters are given to engines of their own."""
    config = short(algorithm, time_total_fs=100.0)
    with_clusters = drive(config, nitrogen(), model)
    without = drive(plain(config), nitrogen(), model)
    assert with_clusters.error is None
    assert with_clusters.trajectory.identical(without.trajectory)
    assert set(plain(config).canonical()).isdisjoint({"finite_subsystem_filter", "cluster_forces"})


@pytest.mark.parametrize("algorithm", ["csvr", "mtk_full"])
def test_resuming_and_extending_repeat_every_bit_of_the_clusters(algorithm):
    config = short(algorithm)
    whole = drive(config, nitrogen(), BONDS)
    for blocks in (1, 3):
        resumed = drive(config, nitrogen(), BONDS, after=drive(config, nitrogen(), BONDS, blocks=blocks))
        assert all(resumed.data[name].identical(found) for name, found in whole.data.items())
    for length in (40.0, 60.0):  # all equilibration; a block cut after two clusters
        before = drive(config.model_copy(update={"time_total_fs": length}), nitrogen(), BONDS)
        assert set(before.data) == set(whole.data)
        extended = drive(config, nitrogen(), BONDS, after=before)
        for name, found in whole.data.items():
            assert extended.data[name].identical(found), (length, name)


def test_nothing_but_equilibration_gives_empty_clusters_and_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        run = drive(short(time_total_fs=40.0), nitrogen(), BONDS)
    assert "no clusters were cut" in caplog.text
    assert run.committed == {"molecular_crystal": 0, "trajectory": 5, ONE: 0, THREE: 0}
    every = drive(short(time_total_fs=40.0, filter={"include_equilibration": True}), nitrogen(), BONDS)
    assert every.committed == {"molecular_crystal": 0, "trajectory": 5, ONE: 5, THREE: 5}


def test_asked_to_stop_clusters_and_frames_end_together():
    config, inputs = short(), {"crystal": structures(nitrogen()), "model": resolve_potential(BONDS)}
    asked = iter([False] * 6 + [True] * 1000)
    requests = MODULE.function(config, inputs, Context(stopping=lambda: next(asked)))
    blocks = [next(request for request in requests if isinstance(request, Block)) for _ in range(2)]
    requests.close()
    last = blocks[-1].data
    assert last["trajectory"]["step"].values[-1] // config.steps_per_frame == last[ONE]["source_frame"].values[-1]
    assert last["trajectory"].sizes["frame"] < config.block_frames


def test_several_conditions_have_clusters_of_their_own():
    config = short(temperature_K=[30.0, 60.0], time_total_fs=60.0)
    run = drive(config, nitrogen(), BONDS)
    assert set(run.data) == set(MODULE.outputs(config))
    cold, warm = (f"crystal[dyn:T={T}.00]" for T in (30, 60))
    assert {f"molecular_crystals/{cold}", f"finite_subsystems/n=3/{warm}", f"trajectories/{warm}"} < set(run.data)
    assert run.data[f"{THREE}/{cold}"].sizes["frame"] == 2
    assert not run.data[f"{THREE}/{cold}"].identical(run.data[f"{THREE}/{warm}"])
    alone = drive(short(temperature_K=60.0, time_total_fs=60.0), nitrogen(), BONDS)
    np.testing.assert_array_equal(alone.data[THREE]["positions"], run.data[f"{THREE}/{warm}"]["positions"])
    killed = drive(config, nitrogen(), BONDS, blocks=3)
    resumed = drive(config, nitrogen(), BONDS, after=killed)
    assert all(resumed.data[name].identical(found) for name, found in run.data.items())


class Fragile(Springs):
    """Springs that fail for open systems whose first bond is longer than a limit."""

    limit = 0.0

    def calculate(self, atoms=None, *args, **kwargs):
        super().calculate(atoms, *args, **kwargs)
        if not atoms.pbc.any() and np.linalg.norm(atoms.positions[1] - atoms.positions[0]) > Fragile.limit:
            raise RuntimeError("the field did not converge")


def test_a_cluster_that_the_engine_cannot_do_is_kept_without_energy(caplog):
    model = Potential("fragile", "fragile", lambda: Fragile(k=10, r0=1.1, rc=1.6), {})
    config = short(filter={"n_molecules": [1]})
    good = drive(config, nitrogen(), BONDS)
    ends = good.data[ONE]["positions"].values.reshape(-1, 2, 3)
    lengths = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1)
    Fragile.limit = float(np.sort(lengths)[-4:].mean())
    assert lengths[0] < Fragile.limit
    found = drive(config, nitrogen(), model)
    assert found.trajectory.identical(good.trajectory)
    np.testing.assert_array_equal(np.isnan(found.data[ONE]["energy"]), lengths > Fragile.limit)
    np.testing.assert_array_equal(found.data[ONE]["positions"], good.data[ONE]["positions"])
    assert "have no energies" in caplog.text
    resumed = drive(config, nitrogen(), model, after=drive(config, nitrogen(), model, blocks=2))
    assert resumed.data[ONE].identical(found.data[ONE])
    Fragile.limit = 0.0
    never = drive(config, nitrogen(), model)
    assert isinstance(never.error, ComputeFailed)
    assert never.trajectory.sizes["frame"] == 5


def test_a_distance_that_adds_no_molecule_is_an_empty_output():
    chosen = {"selection_rule": "max_max_distance_to_central_molecule", "distances": [5.5, 5.6], "n_molecules": [1]}
    config = short(filter=chosen)
    whole = drive(config, nitrogen(), BONDS)
    assert whole.committed["finite_subsystems/r=5.50"] == 11
    assert whole.committed["finite_subsystems/r=5.60"] == 0
    resumed = drive(config, nitrogen(), BONDS, after=drive(config, nitrogen(), BONDS, blocks=3))
    assert resumed.committed == whole.committed


def test_clusters_that_do_not_fit_their_frames_are_noticed():
    killed = drive(short(), nitrogen(), BONDS, blocks=2)
    del killed.data[THREE]
    found = drive(short(), nitrogen(), BONDS, after=killed).error
    assert isinstance(found, ComputeFailed)
    assert THREE in str(found)


@pytest.mark.parametrize("suffix", ["h5", pytest.param("icechunk", marks=pytest.mark.long)])
def test_through_a_store_clusters_extend_to_the_same_digests(tmp_path: Path, suffix: str):
    options = {**short().canonical(), "model": BONDS, "crystal": "n2", "block_frames": 4}
    paths = {"short": [40.0, 70.0, 150.0], "straight": [150.0]}
    for name, lengths in paths.items():
        with h5ml.open(tmp_path / f"{name}.{suffix}", make=True) as store:
            store.write("n2", structures(nitrogen()), STRUCTURES)
        for length in lengths:
            with h5ml.open(tmp_path / f"{name}.{suffix}") as store:
                run = h5ml.run(store, "md", root_key="training/md", **{**options, "time_total_fs": length})
                assert set(run.outputs) == {"trajectory", "molecular_crystal", ONE, THREE}
                assert h5ml.audit(store).ok
    stores = [h5ml.open(tmp_path / f"{name}.{suffix}") for name in paths]
    for name in run.outputs:
        first, second = (store.entry(f"training/md/{name}") for store in stores)
        assert (first.digest, first.records) == (second.digest, second.records), name
    assert stores[0].entry(f"training/md/{THREE}").records == 11
    assert replay_run(stores[0], f"training/md/{THREE}").equal
