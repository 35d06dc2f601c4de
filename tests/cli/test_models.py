"""Model files: into checkpoint keys and out of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase.build import molecule

import h5ml
from h5ml.compute.potentials import resolve_potential
from h5ml.tests.cli.conftest import Call
from h5ml.tests.kits.mace import save_tiny_mace

pytestmark = pytest.mark.filterwarnings("ignore")


def energy(path: Path) -> float:
    atoms = molecule("H2O")
    atoms.calc = resolve_potential(f"file:{path}", trust_pickle=True).fresh()
    return float(atoms.get_potential_energy())


def test_a_model_file_comes_in_and_goes_out_with_the_same_predictions(call: Call, tmp_path: Path) -> None:
    path, at = save_tiny_mace(tmp_path / "tiny.model", numbers=(1, 8)), tmp_path / "models.h5"
    h5ml.open(at, make=True).close()
    refused = call("import", path, "models/tiny", code=None, store=at)
    assert refused.exit_code != 0
    assert "--trust-pickle" in refused.output
    call("import", path, "models/tiny", "--trust-pickle", store=at)
    for name in ("back.model", "back.pt", "back.lammps.pt"):
        call("export", "models/tiny", tmp_path / name, store=at)
    assert energy(tmp_path / "back.model") == energy(path)
    import torch

    assert float(torch.jit.load(str(tmp_path / "back.pt")).r_max) == 3.0
    assert torch.jit.load(str(tmp_path / "back.lammps.pt")).atomic_numbers.tolist() == [1, 8]
