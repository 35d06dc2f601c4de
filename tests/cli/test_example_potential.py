"""The example of a potential, end to end: labels, training set, ensemble, errors, dynamics."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import h5ml

EXAMPLE = Path(__file__).parents[2] / "examples" / "urea_potential"
H5ML = Path(sys.executable).with_name("h5ml")


@pytest.mark.long
def test_a_potential_of_urea_from_labels_to_dynamics(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "urea")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(H5ML), "run", "small.yaml"],
        cwd=tmp_path / "urea",
        env=environment,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    store = h5ml.open(tmp_path / "urea" / "small_potential.h5")
    found = store["check/urea/evaluation"].load()
    everything = int(np.flatnonzero(found["group_type"].values == "all")[0])
    # measured: 0.098 eV/Angstrom on test frames of blocks of time that no member was trained on
    assert found["force_rmse"].values[everything] < 0.15
    assert len(set(store["models/urea/members"]["seed"].values)) == 2
    # dynamics with the mean of the ensemble: twice the kinetic energy of the start at most, so that nothing blew up
    trajectory = store["md/urea/trajectory"].load()
    assert trajectory.sizes["frame"] == 5
    assert float(trajectory["temperature"].max()) < 600.0
    assert store.run(store.entry("md/urea/trajectory").run).inputs["model"][0].kind == "checkpoint"
