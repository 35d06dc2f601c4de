"""Model files: into checkpoint keys and out of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
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
    for name in ("back.model", "back.pt", "back.lammps.pt", "back.mliap.pt"):
        call("export", "models/tiny", tmp_path / name, store=at)
    assert energy(tmp_path / "back.model") == energy(path)
    import torch

    assert float(torch.jit.load(str(tmp_path / "back.pt")).r_max) == 3.0
    assert torch.jit.load(str(tmp_path / "back.lammps.pt")).atomic_numbers.tolist() == [1, 8]
    as_lammps_asks(tmp_path / "back.mliap.pt", path)


def as_lammps_asks(mliap: Path, model: Path) -> None:
    """What LAMMPS gets from the ML-IAP file, against the model itself.

    A stand-in has the attributes of ``MLIAPData``; like LAMMPS, it adds the force of a pair to its first atom and takes
    it from its second.
    """
    import torch

    water = molecule("H2O")
    distances = water.get_all_distances()
    first, second = np.nonzero((distances < 3.0) & (distances > 0.0))
    forces = np.zeros((3, 3))

    def add(pairs: torch.Tensor) -> None:
        np.add.at(forces, first, pairs.detach().numpy())
        np.add.at(forces, second, -pairs.detach().numpy())

    data = SimpleNamespace(
        nlocal=3, ntotal=3, npairs=len(first), pair_i=first, pair_j=second, eatoms=np.zeros(3), energy=0.0,
        rij=water.positions[second] - water.positions[first], elems=np.searchsorted([1, 8], water.numbers),
        update_pair_forces_gpu=add, forward_exchange=lambda old, new, _: new.copy_(old),
        reverse_exchange=lambda old, new, _: new.copy_(old),
    )  # fmt: skip
    torch.load(mliap, weights_only=False).compute_forces(data)
    water.calc = resolve_potential(f"file:{model}?dtype=float32", trust_pickle=True).fresh()
    # the same sums in another order, in the single precision of the file
    assert data.energy == pytest.approx(water.get_potential_energy(), rel=1e-6)
    assert forces == pytest.approx(water.get_forces(), abs=2e-6)
