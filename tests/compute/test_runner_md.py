"""Molecular dynamics through the runner: stored, found, extended bit for bit, replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import h5ml
from h5ml.compute.replay import replay_run
from h5ml.schemas.errors import InvalidConfig, WrongKind
from h5ml.schemas.kinds import STRUCTURES
from h5ml.store.store import Store

MD: dict[str, Any] = {
    "model": "harmonic:springs?k=1.0&r0=3.0&rc=4.0",
    "crystal": "crystals/argon",
    "supercell_matrix": [2, 2, 2],
    "supercell_radius": None,
    "time_step_fs": 1.0,
    "sampling_interval_fs": 2.0,
    "time_equilibration_fs": 0.0,
    "temperature_K": 50.0,
    "block_frames": 4,
}


def place(path: Path) -> Store:
    store = h5ml.open(path, make=True)
    a = 4.2
    crystal = STRUCTURES.dataset(
        {
            "n_atoms": [4],
            "positions": np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) * a,
            "atomic_numbers": [18] * 4,
            "cell": [np.eye(3) * a],
            "pbc": [[1, 1, 1]],
        }
    )
    store.write("crystals/argon", crystal, STRUCTURES)
    return store


def go(store: Store, root: str = "md", **options: Any) -> Any:
    return h5ml.run(store, "md", root_key=root, **{**MD, **options})


def test_a_trajectory_is_made_found_and_extended(tmp_path: Path) -> None:
    store, other = place(tmp_path / "a.h5"), place(tmp_path / "b.h5")
    first = go(store, time_total_fs=20.0)
    assert first.engines["model"]["method"] == "springs"
    assert store["md/trajectory"].sizes["frame"] == 11
    assert go(store, time_total_fs=20.0).started == first.started
    second = go(store, time_total_fs=50.0)
    straight = go(other, time_total_fs=50.0)
    assert (second.continues, straight.continues) == (first.id, None)
    assert second.id == straight.id
    assert store.entry("md/trajectory").digest == other.entry("md/trajectory").digest
    assert replay_run(store, "md/trajectory").equal


def test_several_temperatures_are_several_outputs(tmp_path: Path) -> None:
    store = place(tmp_path / "a.h5")
    run = go(store, time_total_fs=8.0, temperature_K=[30.0, 60.0], seed=3)
    assert sorted(run.outputs) == ["trajectories/crystal[dyn:T=30.00]", "trajectories/crystal[dyn:T=60.00]"]
    longer = go(store, time_total_fs=14.0, temperature_K=[30.0, 60.0], seed=3)
    assert longer.continues == run.id
    assert {store.entry(ref.key).records for ref in longer.outputs.values()} == {8}


def test_what_is_wrong_is_said_before_anything_runs(tmp_path: Path) -> None:
    store = place(tmp_path / "a.h5")
    with pytest.raises(InvalidConfig, match="did you mean temperature_K"):
        go(store, temperatur_K=300.0)
    with pytest.raises(InvalidConfig, match="temperature"):
        go(store, temperature_K=-1.0)
    go(store, time_total_fs=4.0)
    with pytest.raises(WrongKind, match="expected: structures"):
        go(store, "other", crystal="md/trajectory")
