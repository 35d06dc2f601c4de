"""The example of a potential from PBE/def2-SVP, from molecules to errors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import h5ml
from h5ml.store.audit import audit

EXAMPLE = Path(__file__).parents[2] / "examples" / "water_potential"
H5ML = Path(sys.executable).with_name("h5ml")


@pytest.mark.long
def test_a_potential_of_water_from_labels_by_pyscf(tmp_path: Path) -> None:
    pytest.importorskip("pyscf")
    shutil.copytree(EXAMPLE, tmp_path / "water")
    done = subprocess.run(
        [str(H5ML), "run"],
        cwd=tmp_path / "water",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    store = h5ml.open(tmp_path / "water" / "water_potential.h5")
    theory = json.loads(store["labels/water/labels"].attrs["level_of_theory"])
    assert (theory["engine"], theory["method"], theory["basis"]) == ("pyscf", "PBE", "def2-SVP")
    energies = json.loads(store["sets/water/set"].attrs["isolated_atom_energies_eV"])
    # of free atoms, PBE/def2-SVP, unrestricted: -13.568 and -2038.532 eV
    assert energies == {"1": pytest.approx(-13.568, abs=0.005), "8": pytest.approx(-2038.532, abs=0.005)}
    found = store["check/water/evaluation"].load()
    everything = int(np.flatnonzero(found["group_type"].values == "all")[0])
    # measured: 0.130 eV/Angstrom on test frames of blocks of time that no member was trained on; the forces are 1.05
    assert found["force_rmse"].values[everything] < 0.20
    assert {"H2O", "H4O2"} <= set(found["group_name"].values)
    assert audit(store).ok
