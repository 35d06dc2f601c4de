"""The module ``relax``: minima, symmetry, limits, bad input, and resuming to the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from ase import Atoms
from ase.build import bulk, molecule
from ase.eos import EquationOfState
from ase.units import GPa

from h5ml.compute.potentials import resolve_potential
from h5ml.compute.relax import MODULE
from h5ml.compute.structure.frames import atoms_of, structures_dataset
from h5ml.schemas.errors import H5mlError, InvalidConfig, InvalidData
from h5ml.tests.kits.runner import FakeResult, FakeRunner

FREE: dict[str, Any] = {"keep_symmetry": False, "transform": "none"}


def distorted_copper() -> Atoms:
    crystal = bulk("Cu", cubic=True, a=3.7)
    crystal.rattle(0.05, seed=1)
    return crystal


def runner(system: Atoms | xr.Dataset, model: str = "ase:emt", **config: Any) -> FakeRunner:
    crystal = structures_dataset([system]) if isinstance(system, Atoms) else system
    return FakeRunner(MODULE, config, {"crystal": crystal, "model": resolve_potential(model)})


def relaxed(system: Atoms, model: str = "ase:emt", **config: Any) -> tuple[Atoms, xr.Dataset, FakeResult]:
    result = runner(system, model, **config).run()
    structure = result.outputs["structure"]
    return atoms_of(structure, None), structure, result


def test_a_free_cell_relaxes_to_the_minimum_of_the_energy_volume_curve() -> None:
    lattice = np.linspace(3.55, 3.63, 9)
    energies = []
    for a in lattice:
        cell = bulk("Cu", a=a)
        cell.calc = resolve_potential("ase:emt").fresh()
        energies.append(cell.get_potential_energy())
    v0, e0, _ = EquationOfState(lattice**3 / 4.0, energies, eos="birchmurnaghan").fit()
    atoms, structure, _ = relaxed(distorted_copper(), cell_relaxation="full", **FREE)
    assert structure.attrs["converged"] == 1
    assert structure.attrs["max_residual_force_eV_A"] < 1e-4
    # The curve is fitted over 7 % in volume: its minimum is good to 1e-4 of the volume.
    assert atoms.get_volume() / len(atoms) == pytest.approx(v0, rel=2e-4)
    assert float(structure["energy"][0]) / len(atoms) == pytest.approx(e0, abs=1e-5)


def test_each_mode_keeps_what_it_says() -> None:
    start = distorted_copper()
    start.set_cell(start.cell.array @ np.diag([1.02, 0.99, 1.0]), scale_atoms=True)
    atoms_only, _, _ = relaxed(start, cell_relaxation="only_atoms", **FREE)
    assert np.array_equal(atoms_only.cell.array, start.cell.array)
    shape, structure, result = relaxed(start, cell_relaxation="constant_volume", **FREE)
    assert shape.get_volume() == pytest.approx(start.get_volume(), rel=1e-9)
    assert np.ptp(shape.cell.lengths()) < 1e-3  # the strained cube becomes a cube again
    assert structure.attrs["converged"] == 1
    assert np.all(np.diff(result.outputs["path"]["step"]) == 1)


def test_under_pressure_the_stress_is_the_pressure() -> None:
    _, structure, _ = relaxed(distorted_copper(), cell_relaxation="full", pressure_GPa=5.0, **FREE)
    stress = structure["stress"].to_numpy()[0] / GPa
    # max_force = 1e-4 eV on the strain gradient per atom of 11.6 Angstrom^3 allows 1.4e-3 GPa.
    assert np.allclose(stress, [-5.0, -5.0, -5.0, 0.0, 0.0, 0.0], atol=2e-3)


def test_the_standard_primitive_cell_is_made_exact_and_its_symmetry_kept() -> None:
    crystal = bulk("Cu", cubic=True, a=3.7).repeat((2, 1, 1))
    crystal.rattle(1e-3, seed=2)
    crystal.set_masses([63.0] * 8)
    atoms, structure, _ = relaxed(crystal)
    assert len(atoms) == 1
    assert atoms.get_masses() == pytest.approx([63.0])
    assert structure.attrs["space_group_before"] == structure.attrs["space_group_after"] == "Fm-3m"
    assert structure.attrs["space_group_number_after"] == 225
    conventional, _, _ = relaxed(crystal, transform="symmetrized_conventional")
    assert len(conventional) == 4


def test_isotopes_lower_the_symmetry() -> None:
    crystal = bulk("Cu", cubic=True, a=3.6)
    crystal.set_masses([63.0, 63.0, 63.0, 65.0])
    atoms, structure, _ = relaxed(crystal, cell_relaxation="only_atoms")
    assert structure.attrs["space_group_number_before"] == 221
    assert sorted(atoms.get_masses()) == pytest.approx([63.0, 63.0, 63.0, 65.0])


def test_a_molecule_relaxes_without_a_cell() -> None:
    atoms, structure, _ = relaxed(molecule("H2O"), "tblite:GFN1-xTB")
    assert structure.attrs["space_group_after"] == "none"
    assert structure.attrs["converged"] == 1
    assert "stress" not in structure
    assert atoms.get_distance(0, 1) == pytest.approx(atoms.get_distance(0, 2), abs=1e-4)
    assert atoms.get_angle(1, 0, 2) == pytest.approx(106.0, abs=4.0)  # GFN1-xTB is within some degrees of 104.5


def test_a_relaxation_out_of_steps_is_marked_and_keeps_its_residual_force() -> None:
    atoms, structure, result = relaxed(distorted_copper(), max_n_steps=3, **FREE)
    assert structure.attrs["converged"] == 0
    assert structure.attrs["max_residual_force_eV_A"] > 1e-2
    assert result.outputs["path"].sizes["record"] == 4
    assert len(atoms) == 4


@pytest.mark.parametrize("cell_relaxation", ["only_atoms", "full"])
@pytest.mark.parametrize("max_n_steps", [7, 10])
def test_resumed_and_extended_relaxations_repeat_every_bit(cell_relaxation: str, max_n_steps: int) -> None:
    settings = {"cell_relaxation": cell_relaxation, "block_steps": 5, **FREE}
    whole = runner(distorted_copper(), **settings).run()
    assert whole.blocks > 3
    killed = runner(distorted_copper(), **settings)
    for _ in range(50):
        if killed.run(blocks=1).done:
            break
    assert [killed.result.digest(name) for name in whole.outputs] == [whole.digest(name) for name in whole.outputs]
    short = runner(distorted_copper(), max_n_steps=max_n_steps, **settings)
    short.run()
    longer = runner(distorted_copper(), **settings)
    longer.result = short.result
    longer.resume()
    assert [longer.result.digest(name) for name in whole.outputs] == [whole.digest(name) for name in whole.outputs]


def test_bad_input_is_named() -> None:
    twins = Atoms("Cu3", [[0, 0, 0], [0, 0, 2.5], [0, 0, 2.6]], cell=[8, 8, 8], pbc=True)
    with pytest.raises(InvalidData, match=r"atoms 1 and 2"):
        runner(twins).run()
    slab = bulk("Cu", cubic=True)
    slab.pbc = [True, True, False]
    with pytest.raises(InvalidConfig, match="only_atoms"):
        runner(slab).run()
    with pytest.raises(InvalidConfig, match="cell_relaxation = full"):
        runner(bulk("Cu"), pressure_GPa=1.0)
    with pytest.raises(H5mlError, match="engine"):
        runner(bulk("Fe")).run()  # EMT has no iron
    with pytest.raises(InvalidConfig, match="volume_ratio"):
        runner(molecule("H2O"), volume_ratio=0.9).run()
