"""The module clusters: which frames it cuts, that a kill loses nothing, and what it keeps."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from ase import Atoms

import h5ml
from h5ml.compute.clusters import MODULE
from h5ml.compute.potentials import resolve_potential
from h5ml.compute.structure.evaluation import evaluated
from h5ml.compute.structure.frames import structures_dataset
from h5ml.schemas.errors import InvalidConfig, InvalidData
from h5ml.schemas.kinds import TRAJECTORY
from h5ml.tests.kits.crystals import crystal
from h5ml.tests.kits.runner import FakeRunner

SPHERES = "ase:lj?sigma=2.8&epsilon=0.01&rc=9.0"


def warm_crystal(n: int = 7) -> list[Atoms]:
    """Frames of carbon dioxide, 2 x 2 x 2 cells, atoms displaced at random."""
    start = crystal("CO2").repeat(2)
    frames = [start.copy() for _ in range(n)]
    for seed, frame in enumerate(frames[1:]):
        frame.rattle(0.05, seed=seed)
    return frames


def trajectory(frames: list[Atoms], equilibration: int) -> xr.Dataset:
    n = len(frames)
    positions = np.array([f.positions for f in frames])
    zero = np.zeros(n)
    return TRAJECTORY.dataset(
        {
            "positions": positions,
            "velocities": 0.0 * positions,
            "forces": 0.0 * positions,
            "energy": zero,
            "kinetic_energy": zero,
            "temperature": zero,
            "cell": np.array([f.cell.array for f in frames]),
            "time": np.arange(n, dtype=float),
            "step": np.arange(n),
            "equilibration": (np.arange(n) < equilibration).astype(np.int8),
            "atomic_numbers": frames[0].numbers,
            "masses": frames[0].get_masses(),
            "pbc": frames[0].pbc.astype(np.int8),
        }
    )


def test_a_killed_run_goes_on_to_the_same_clusters_with_energies():
    settings = {"n_molecules": (1, 3), "block_frames": 2}
    inputs = {"frames": structures_dataset(warm_crystal()), "model": resolve_potential(SPHERES)}
    whole = FakeRunner(MODULE, settings, inputs).run()
    killed = FakeRunner(MODULE, settings, inputs)
    killed.run(blocks=2)
    assert killed.result.outputs["finite_subsystems/n=3"].sizes["frame"] == 4
    again = killed.resume()
    assert again.done
    assert again.blocks == whole.blocks == 4
    for name in whole.outputs:
        assert again.digest(name) == whole.digest(name)
    assert whole.requests == ["Map", "Block"] * 4
    three = whole.outputs["finite_subsystems/n=3"]
    assert three["n_atoms"].to_numpy().tolist() == [9] * 7
    assert len(set(three["energy"].to_numpy().tolist())) == 7


def test_an_evaluation_that_was_killed_is_not_computed_again_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []

    def counted(atoms: Atoms, *rest: Any, **options: Any) -> Any:
        if len(done) == 10:
            done.append(-1)
            raise KeyboardInterrupt
        found = evaluated(atoms, *rest, **options)
        done.append(len(atoms))
        return found

    straight, store = (h5ml.open(tmp_path / name, make=True) for name in ("straight.h5", "killed.h5"))
    for each in (straight, store):
        each.write("frames", structures_dataset(warm_crystal()), "structures")
    asked = {"frames": "frames", "model": SPHERES, "n_molecules": (1, 3), "block_frames": 4}
    wanted = h5ml.run(straight, MODULE, root_key="cut", **asked)
    monkeypatch.setattr("h5ml.compute.structure.single_points.evaluated", counted)
    with pytest.raises(KeyboardInterrupt):
        h5ml.run(store, MODULE, root_key="cut", **asked)
    assert store.catalogue.stashes
    assert store.entry("cut/finite_subsystems/n=3").sizes["frame"] == 4
    resumed = h5ml.run(store, MODULE, root_key="cut", **asked)
    assert resumed.resumed == 1
    assert sorted(done) == [-1, *[3] * 7, *[9] * 7]  # each cluster of each frame once
    assert resumed.outputs == wanted.outputs
    assert not store.catalogue.stashes


def test_frames_of_the_equilibration_are_left_out_unless_asked_for():
    source = trajectory(warm_crystal(), equilibration=3)
    cases = [
        ({}, [3, 4, 5, 6]),
        ({"include_equilibration": True, "frames_every": 2}, [0, 2, 4, 6]),
        ({"frames_start": 4, "frames_stop": 6}, [4, 5]),
    ]
    for settings, expected in cases:
        made = FakeRunner(MODULE, {"n_molecules": (2,), **settings}, {"frames": source}).run()
        found = made.outputs["finite_subsystems/n=2"]
        assert found["source_frame"].to_numpy().tolist() == expected
        assert "energy" not in found
        assert "Map" not in made.requests  # nothing to hand over: such a run stays where it is
    with pytest.raises(InvalidData, match="No frame is chosen"):
        FakeRunner(MODULE, {"frames_stop": 3}, {"frames": source}).run()
    with pytest.raises(InvalidConfig, match="not after"):
        FakeRunner(MODULE, {"frames_start": 3, "frames_stop": 3}, {"frames": source})


def test_changed_frames_are_kept_marked_and_told(caplog):
    frames = warm_crystal(3)
    frames[1].positions[0] += 1.0
    with caplog.at_level(logging.WARNING):
        made = FakeRunner(MODULE, {"n_molecules": (1,)}, {"frames": structures_dataset(frames)}).run()
    assert made.outputs["finite_subsystems/n=1"]["source_intact"].to_numpy().tolist() == [1, 0, 1]
    assert "1 of the frames have broken or new bonds" in caplog.text


def test_what_a_store_keeps_of_equal_distances_and_the_molecules_of_the_crystal(store):
    store.write("crystal", structures_dataset([crystal("urea")]), "structures")
    settings = {
        "selection_rule": "max_min_distance_to_central_molecule",
        "distances": [4.0, 5.0],
        "allow_images": True,
    }
    h5ml.run(store, MODULE, root_key="cut", frames="crystal", **settings)
    assert store["cut/finite_subsystems/r=4.00"]["n_molecules"].item() == 17
    assert store["cut/finite_subsystems/r=5.00"].sizes["frame"] == 0
    kept = store["cut/molecular_crystal"]
    assert kept["formula"].to_numpy().tolist() == ["CH4N2O"] * 2
    assert int((kept["neighbor_minimum_distance"] < 4.0).sum()) == 16
    assert kept.sizes["bond_index"] == 14


def test_the_modules_load_no_heavy_library_before_they_run():
    heavy = {"ase", "scipy", "xarray", "torch"}
    code = (
        "import sys\nfrom h5ml.compute import clusters, nmers\n"
        "clusters.MODULE.outputs(clusters.MODULE.config())\nnmers.MODULE.outputs(nmers.MODULE.config())\n"
        f"print(*sorted(set(sys.modules) & {heavy!r}))"
    )
    assert not subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
