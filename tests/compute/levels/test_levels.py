"""Levels of theory: PySCF against itself and finite differences, and what names a level."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import xarray as xr
from ase import Atoms
from ase.build import bulk, molecule
from ase.units import Bohr, Hartree

from h5ml.compute.levels.labelling import Known, Labelling, Limits, label_frame
from h5ml.compute.levels.level import System, identity_of, level_id, mesh_of
from h5ml.compute.levels.level_config import LevelSettings
from h5ml.compute.levels.registry import make_level
from h5ml.compute.potentials import resolve_potential
from h5ml.schemas.errors import InvalidConfig, MissingPackage

LIMITS = Limits(100.0, 1e6)


def labelled(atoms: Atoms, *properties: str, **settings: Any) -> xr.Dataset:
    """One label."""
    system, level = System.of(atoms), make_level(LevelSettings.parse(settings))
    level.check(system, frozenset(properties), "the test")
    return label_frame(Labelling(level, ("energy", *properties), LIMITS).tasks([system], ["x"], {})["x"])


def pyscf(atoms: Atoms, *properties: str, **settings: Any) -> xr.Dataset:
    """One label by PySCF."""
    pytest.importorskip("pyscf")
    return labelled(atoms, *properties, engine="pyscf", **settings)


def test_pyscf_gives_what_its_own_functions_give() -> None:
    pytest.importorskip("pyscf")
    from pyscf import dft, gto

    water = molecule("H2O")
    found = pyscf(water, "forces", "dipole", "charges", method="PBE", basis="sto-3g")
    listed = [(int(z), tuple(x)) for z, x in zip(water.numbers, water.positions, strict=True)]
    mean_field = dft.RKS(gto.M(atom=listed, basis="sto-3g", verbose=0), xc="pbe")
    # the same program with its usual, looser convergence
    assert found["energy"].item() == pytest.approx(mean_field.kernel() * Hartree, abs=1e-5)
    gradient = mean_field.nuc_grad_method().kernel() * Hartree / Bohr
    np.testing.assert_allclose(found["forces"], -gradient, rtol=0, atol=1e-3)
    assert float(found["charges"].sum()) == pytest.approx(0.0, abs=1e-8)
    assert found["dipole"].to_numpy()[0] @ (water.positions[1] + water.positions[2] - 2 * water.positions[0]) > 0
    assert found["iterations"].item() > 1


def test_forces_of_a_radical_with_dispersion_are_those_of_its_energy() -> None:
    pytest.importorskip("pyscf.dispersion")
    radical, h = molecule("OH"), 1e-3
    settings = {"method": "PBE", "basis": "sto-3g", "dispersion": "d3bj", "keywords": {"grid_level": 5}}
    found = pyscf(radical, "forces", **settings)
    energies = []
    for step in (h, -h):
        moved = radical.copy()
        moved.positions[1, 2] += step
        energies.append(pyscf(moved, **settings)["energy"].item())
    # the derivative of the integration grid, which PySCF leaves out, is some 5e-3 eV/Angstrom
    assert found["forces"].to_numpy()[1, 2] == pytest.approx((energies[1] - energies[0]) / (2 * h), abs=0.02)
    assert found["spin_multiplicity"].item() == 2


@pytest.mark.long
@pytest.mark.parametrize("multiplicity", [1, 3])
def test_the_stress_and_forces_of_a_crystal_are_those_of_its_energy(multiplicity: int) -> None:
    def crystal(strain: float = 0.0, move: float = 0.0) -> Atoms:
        atoms = Atoms("H2", [[0.1, 0.2, 0.0], [0.3, 0.0, 0.74 + move]], cell=[3.0, 3.2, 3.5], pbc=True)
        atoms.set_cell(atoms.cell.array @ np.diag([1.0, 1.0, 1.0 + strain]), scale_atoms=True)
        atoms.set_initial_magnetic_moments([(multiplicity - 1) / 2] * 2)
        return atoms

    # a fixed mesh makes the energy a smooth function of the strain
    settings = {"basis": "gth-szv", "keywords": {"mesh": [30, 30, 30]}, "conv_tol": 1e-11}
    found = pyscf(crystal(), "forces", "stress", **settings)
    h = 1e-3
    up, down = (pyscf(crystal(strain=s), **settings)["energy"].item() for s in (h, -h))
    assert found["stress"].to_numpy()[0, 2] == pytest.approx((up - down) / (2 * h) / crystal().get_volume(), abs=1e-5)
    up, down = (pyscf(crystal(move=s), **settings)["energy"].item() for s in (h, -h))
    # the mesh is too coarse for hydrogen: forces hold to some 0.01 eV/Angstrom against the grid
    assert found["forces"].to_numpy()[1, 2] == pytest.approx(-(up - down) / (2 * h), abs=0.05)


@pytest.mark.long
def test_a_lone_atom_in_a_box_keeps_its_spin_whatever_the_k_points() -> None:
    hydrogen = Atoms("H", cell=[5.0, 5.0, 5.0], pbc=True)
    settings = {"basis": "gth-szv", "keywords": {"ke_cutoff": 20}}
    energies = [pyscf(hydrogen, kpts=(1, 1, n), **settings)["energy"].item() for n in (1, 2, 3)]
    # free atoms have no bands, but for the little that they overlap; losing the spin would cost some 0.7 eV
    np.testing.assert_allclose(energies, energies[0], rtol=0, atol=0.1)


def test_pyscf_tries_fallbacks_and_keeps_the_end_of_its_output() -> None:
    radical = molecule("CH3")
    lost = pyscf(radical, basis="sto-3g", max_cycles=2, fallbacks=[])
    assert (lost["status"].item(), lost["converged"].item()) == (2, 0)
    assert "cycle= 2" in lost["message"].item()
    found = pyscf(radical, basis="sto-3g", max_cycles=2)
    assert (found["status"].item(), found["attempt"].item()) == (0, 1)
    late = pyscf(radical, basis="sto-3g", calculation_limit_s=1e-3)
    assert late["status"].item() == 3
    assert "time limit" in late["message"].item()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "nonsense"}, "no such functional"),
        ({"basis": "def2-SVPPP"}, "no such basis"),
        ({"dispersion": "d9"}, "no such dispersion"),
        ({"keywords": {"grids": 3}}, "no such keyword"),
        ({"keywords": {"grid_level": 10}}, "no such value"),
        ({"keywords": {"init_guess": "good"}}, "no such value"),
        ({"fallbacks": [{"damp": "much"}]}, "no such value"),
        ({"fallbacks": [{"basis": "sto-3g"}]}, "change the level of theory"),
        ({"species_dir": "light"}, "do not fit together"),
    ],
)
def test_pyscf_refuses_what_it_does_not_know(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidConfig, match=words):
        pyscf(molecule("H2O"), **settings)


@pytest.mark.parametrize("engine", ["pyscf", "tblite"])
def test_an_engine_that_is_not_installed_is_named_with_its_package(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from h5ml.compute.potentials import xtb

    xtb._tblite.cache_clear()
    for name in (engine, f"{engine}.ase"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackage) as caught:
        make_level(LevelSettings(engine=engine))
    xtb._tblite.cache_clear()
    assert f"the package {engine}" in str(caught.value)
    assert "pip install" in str(caught.value)


def test_tblite_is_asked_whether_it_takes_the_keywords_before_anything_is_computed() -> None:
    pytest.importorskip("tblite")
    for settings in ({"keywords": {"guess": "good"}}, {"fallbacks": [{"mixer_damping": "much"}]}):
        with pytest.raises(InvalidConfig, match="no such value"):
            make_level(LevelSettings.parse(settings))
    make_level(
        LevelSettings.parse({"keywords": {"guess": "eeq", "electronic_temperature": 500.0, "max_iterations": 1}})
    )


@pytest.mark.parametrize("settings", [{"method": "B3LYP"}, {"dispersion": "d3bj"}, {"method": "r2SCAN"}])
def test_pyscf_says_what_it_cannot_do_of_crystals(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig, match="cannot do this"):
        pyscf(bulk("Si"), **settings)


def test_the_identity_is_that_of_structure_charge_spin_and_level() -> None:
    water = molecule("H2O")
    system, level = System.of(water), "0" * 64
    same = System.of(water.copy())
    open_cell = water.copy()
    open_cell.cell = [5, 5, 5]  # a cell of a finite structure means nothing
    signed = System(system.numbers, system.positions * [1, 1, 1] - 0.0, -system.cell, system.pbc)
    for other in (same, System.of(open_cell), signed):
        assert identity_of(other, level) == identity_of(system, level)
    moved = water.copy()
    moved.positions[0, 0] += 1e-15
    periodic = open_cell.copy()
    periodic.pbc = True
    for other in (System.of(moved), System.of(periodic), System.of(water, 2), System.of(water, None, 3)):
        assert identity_of(other, level) != identity_of(system, level)
    assert identity_of(system, level) != identity_of(system, "1" * 64)


def test_a_level_is_named_by_what_decides_its_numbers_alone() -> None:
    pytest.importorskip("tblite")
    plain = level_id(make_level(LevelSettings()).theory())
    for settings in ({"threads": 4}, {"max_cycles": 50}, {"fallbacks": []}, {"keywords": {"mixer_damping": 0.2}}):
        assert level_id(make_level(LevelSettings.parse(settings)).theory()) == plain
    for settings in ({"method": "GFN1-xTB"}, {"conv_tol": 0.1}, {"keywords": {"electronic_temperature": 1000.0}}):
        assert level_id(make_level(LevelSettings.parse(settings)).theory()) != plain


def test_k_points_by_length_follow_the_cell() -> None:
    assert mesh_of(None, np.eye(3)) == (1, 1, 1)
    assert mesh_of((2, 3, 4), np.eye(3)) == (2, 3, 4)
    assert mesh_of(20.0, np.diag([5.0, 10.0, 100.0])) == (4, 2, 1)


def test_a_potential_labels_what_it_computes() -> None:
    copper = bulk("Cu")
    teacher = resolve_potential("ase:emt")
    level = make_level(LevelSettings(engine="potential"), teacher)
    task = Labelling(level, ("energy", "stress"), LIMITS).tasks([System.of(copper)], ["x"], {})["x"]
    copper.calc = resolve_potential("ase:emt").calculator()
    found = label_frame(task)
    assert found["energy"].item() == copper.get_potential_energy()
    np.testing.assert_array_equal(found["stress"][0], copper.get_stress())
    with pytest.raises(InvalidConfig, match="does not use it"):
        make_level(LevelSettings(), teacher)


def test_only_labels_with_all_that_is_wanted_are_taken_over() -> None:
    pytest.importorskip("tblite")

    def found(*stored: tuple[str, xr.Dataset], properties: Any = ("energy", "forces"), limits: Limits = LIMITS) -> Any:
        return Known(stored, ["x", "y"], properties, limits).take(["x", "y"])

    good = labelled(molecule("H2O"), "forces")
    lost, partial = good.copy(deep=True), good.copy(deep=True)
    lost["status"][0] = 2
    partial["forces"][0, 0] = np.nan
    assert found(("a@1", lost)) == {}
    assert found(("a@1", good), properties=("energy", "charges")) == {}
    assert found(("d@1", lost), ("c@1", partial), ("b@2", good), ("a@1", good))["x"]["reused_from"] == "b@2 frame 0"
    assert found(("a@1", good), limits=Limits(1e-6, 1e6))["x"]["status"] == 4
