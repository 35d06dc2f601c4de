"""Quantum ESPRESSO and CP2K, where they are installed: ``make test-dft``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from ase import Atoms
from ase.build import bulk, molecule

from h5ml.compute.levels.labelling import Labelling, Limits, label_frame
from h5ml.compute.levels.level import System
from h5ml.compute.levels.level_config import LevelSettings
from h5ml.compute.levels.registry import make_level

PSEUDO = Path(os.environ.get("H5ML_PSEUDO_DIR", "/usr/share/espresso/pseudo"))
CP2K = next((name for name in ("cp2k_shell.psmp", "cp2k_shell") if shutil.which(name)), "")

with_espresso = pytest.mark.skipif(
    shutil.which("pw.x") is None or not (PSEUDO / "Si.pz-vbc.UPF").exists(),
    reason="needs pw.x and Si.pz-vbc.UPF (Debian: quantum-espresso, quantum-espresso-data)",
)
with_cp2k = pytest.mark.skipif(not CP2K, reason="needs cp2k_shell (Debian: cp2k)")


def labelled(atoms: Atoms, *properties: str, **settings: Any) -> xr.Dataset:
    """One label."""
    level = make_level(LevelSettings.parse({"engine": "ase", **settings}))
    system = System.of(atoms)
    level.check(system, frozenset(properties), "the test")
    work = Labelling(level, ("energy", *properties), Limits(100.0, 1e6))
    return label_frame(work.tasks([system], ["x"], {})["x"])


def espresso(atoms: Atoms, *properties: str, data: dict[str, Any] | None = None, **settings: Any) -> xr.Dataset:
    """One label by pw.x with a coarse basis."""
    keywords = {
        "pseudo_dir": str(PSEUDO),
        "pseudopotentials": {"Si": "Si.pz-vbc.UPF"},
        "input_data": {"ecutwfc": 12, "conv_thr": 1e-9, **(data or {})},
    }
    return labelled(atoms, *properties, method="espresso", command="pw.x", keywords=keywords, **settings)


def silicon(move: float = 0.0) -> Atoms:
    atoms = bulk("Si")
    atoms.positions[1, 0] += 0.05 + move
    return atoms


@with_espresso
def test_espresso_gives_forces_that_are_those_of_its_energy() -> None:
    found = espresso(silicon(), "forces", "stress", kpts=(2, 2, 2))
    up, down = (espresso(silicon(h), kpts=(2, 2, 2))["energy"].item() for h in (0.01, -0.01))
    # the third derivative times the step squared
    assert found["forces"].to_numpy()[1, 0] == pytest.approx(-(up - down) / 0.02, abs=2e-3)
    assert np.isfinite(found["stress"]).all()


@with_espresso
def test_espresso_that_does_not_converge_is_helped_or_said_to() -> None:
    short = {"electron_maxstep": 2}
    lost = espresso(silicon(), data=short)
    assert lost["status"].item() == 2
    assert "convergence NOT achieved" in lost["message"].item()
    ladder = [{"input_data": {"ecutwfc": 12, "conv_thr": 1e-9, "mixing_beta": 0.3}}]
    found = espresso(silicon(), data=short, fallbacks=ladder)
    assert (found["status"].item(), found["attempt"].item()) == (0, 1)
    late = espresso(silicon(), data={"ecutwfc": 100}, kpts=(8, 8, 8), calculation_limit_s=1.0)
    assert late["status"].item() == 3
    assert "time limit" in late["message"].item()


def cp2k(atoms: Atoms, *properties: str, limit_s: float | None = None, **keywords: Any) -> xr.Dataset:
    """One label by CP2K with a small basis."""
    own = {"basis_set": "SZV-MOLOPT-SR-GTH", "cutoff": 4500.0, "xc": "PBE", "poisson_solver": None, **keywords}
    return labelled(atoms, *properties, method="cp2k", command=CP2K, keywords=own, calculation_limit_s=limit_s)


@with_cp2k
def test_cp2k_gives_forces_that_pull_a_stretched_molecule_together() -> None:
    hydrogen = molecule("H2")
    hydrogen.set_distance(0, 1, 1.2)
    hydrogen.center(3.0)
    hydrogen.pbc = True
    found = cp2k(hydrogen, "forces")
    moved = [hydrogen.copy(), hydrogen.copy()]
    for atoms, step in zip(moved, (0.01, -0.01), strict=True):
        atoms.positions[0, 2] += step
    up, down = (cp2k(atoms)["energy"].item() for atoms in moved)
    # the grid of 330 Ry moves with respect to the atoms
    assert found["forces"].to_numpy()[0, 2] == pytest.approx(-(up - down) / 0.02, abs=0.1)


@with_cp2k
def test_cp2k_that_does_not_converge_or_takes_long_is_said_to() -> None:
    oxygen = Atoms("O", [[3, 3, 3]], cell=[6, 6, 6], pbc=True)
    lost = cp2k(oxygen, max_scf=3)
    assert lost["status"].item() == 2
    assert "NOT converged" in lost["message"].item()
    late = cp2k(oxygen, cutoff=40000.0, limit_s=2.0)
    assert late["status"].item() == 3
    assert "time limit" in late["message"].item()
