"""The module ``phonons`` against a plain phonopy script, and what it does with crystals that are not at rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

import h5ml
from h5ml.compute.lattice.force_constants import phonopy_of
from h5ml.compute.phonons import MODULE
from h5ml.compute.potentials import Potential, resolve_potential
from h5ml.compute.structure.frames import structures_dataset
from h5ml.schemas.errors import ComputeFailed, InvalidConfig, InvalidData
from h5ml.tests.kits.runner import FakeResult, FakeRunner

UREA = Path(__file__).parents[2] / "examples" / "urea" / "urea.cif"
XTB = "tblite:GFN1-xTB"
SMALL: dict[str, Any] = {"fourier_interpolation_mesh": 12.0, "band_points": 5, "supercell_matrix": [2, 2, 2]}


def compute(atoms: Atoms, model: str | Potential, **settings: Any) -> FakeResult:
    potential = resolve_potential(model) if isinstance(model, str) else model
    inputs = {"crystal": structures_dataset([atoms]), "model": potential}
    return FakeRunner(MODULE, {**SMALL, **settings}, inputs).run()


def script(atoms: Atoms, model: str, repeats: list[int], masses: bool = True) -> Phonopy:
    """What the manual of phonopy does: displacements, a serial loop of ASE, full force constants."""
    unit = PhonopyAtoms(
        symbols=atoms.get_chemical_symbols(),
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(),
        masses=atoms.get_masses() if masses else None,
    )
    phonon = Phonopy(unit, supercell_matrix=np.diag(repeats), primitive_matrix="auto")
    phonon.generate_displacements(distance=0.01)
    forces = []
    for cell in phonon.supercells_with_displacements:
        moved = Atoms(cell.symbols, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True)
        moved.calc = resolve_potential(model).calculator()
        forces.append(moved.get_forces())
    phonon.forces = forces
    phonon.produce_force_constants()
    phonon.symmetrize_force_constants()
    return phonon


@pytest.mark.filterwarnings("ignore:primitive_matrix defaulted")
@pytest.mark.parametrize("crystal", ["diamond", "urea", "aluminium"])
def test_frequencies_and_thermodynamics_agree_with_a_plain_phonopy_script(crystal: str) -> None:
    atoms, model, repeats, masses = {
        "diamond": (bulk("C", a=3.56), XTB, [2, 2, 2], True),
        "urea": (ase.io.read(UREA), XTB, [1, 1, 1], True),
        "aluminium": (bulk("Al", cubic=True), "ase:emt", [2, 2, 2], False),
    }[crystal]
    temperatures = [0.0, 100.0, 298.15]
    found = compute(
        atoms, model, supercell_matrix=repeats, temperatures_K=temperatures, masses="structure" if masses else "phonopy"
    ).outputs
    plain = script(atoms, model, repeats, masses)
    q = np.random.default_rng(0).random((8, 3))
    ours = phonopy_of(found["force_constants"]).run_qpoints(q).frequencies
    assert np.abs(ours).max() > 5.0
    assert np.allclose(ours, plain.run_qpoints(q).frequencies, rtol=0, atol=1e-6)

    plain.run_mesh(12.0)
    # Translations at Gamma are square roots of rounding errors, hence the wide tolerance of this mesh.
    assert np.allclose(found["mesh"]["frequency"], plain.mesh.frequencies, rtol=0, atol=1e-4)
    plain.run_thermal_properties(temperatures=temperatures, cutoff_frequency=1e-3)
    theirs, thermo = plain.thermal_properties, found["thermodynamics"]
    kj = 96.4853905398362  # phonopy's kJ/mol per eV
    assert np.allclose(thermo["free_energy"], np.array(theirs.free_energy) / kj, rtol=1e-8, atol=0)
    assert np.allclose(thermo["entropy"], np.array(theirs.entropy) / kj / 1e3, rtol=1e-8, atol=1e-20)
    assert np.allclose(thermo["heat_capacity"], np.array(theirs.heat_capacity) / kj / 1e3, rtol=1e-8, atol=1e-20)
    assert np.allclose(
        thermo["internal_energy"], thermo["free_energy"] + thermo["temperature"] * thermo["entropy"], rtol=1e-12
    )


def test_the_outputs_say_what_they_are() -> None:
    result = compute(bulk("Al", cubic=True), "ase:emt")
    found = result.outputs
    assert result.requests == ["Map"]
    assert found["force_constants"].sizes["atom"] == 1
    facts = found["force_constants"].attrs
    assert (facts["space_group"], facts["space_group_number"]) == ("Fm-3m", 225)
    assert facts["n_imaginary"] == 0
    assert facts["acoustic_sum_rule_residual"] < 1e-10
    # The energy of a crystal by a short-ranged potential is that of its cell as often as it is repeated.
    alone = bulk("Al")
    alone.calc = resolve_potential("ase:emt").calculator()
    assert facts["energy_eV"] == pytest.approx(alone.get_potential_energy(), abs=1e-9)
    assert found["thermodynamics"]["thermal_displacement"].shape == (1, 1, 3, 3)
    tensor = found["thermodynamics"]["thermal_displacement"].to_numpy()[0, 0]
    assert np.allclose(tensor, tensor[0, 0] * np.eye(3), atol=1e-15)
    assert 0.005 < tensor[0, 0] < 0.02


def test_the_primitive_cell_is_found_taken_or_standardised() -> None:
    atoms = bulk("Al", cubic=True)
    counts = {
        choice: compute(atoms, "ase:emt", primitive_cell=choice, thermal_displacements=False)
        .outputs["force_constants"]["force_constants"]
        .shape[:2]
        for choice in ("auto", "input", "standardized")
    }
    assert counts == {"auto": (1, 32), "input": (4, 32), "standardized": (1, 8)}


def test_imaginary_modes_are_a_marked_result(caplog: pytest.LogCaptureFixture) -> None:
    # Springs that are compressed push sideways: the lattice buckles.
    found = compute(bulk("Ar", a=5.3), "harmonic:springs?k=0.5&r0=7.0&rc=4.6").outputs
    facts, mesh = found["force_constants"].attrs, found["mesh"]
    assert facts["n_imaginary"] == int((mesh["frequency"] < -0.1).sum()) > 0
    assert facts["n_imaginary_acoustic"] == facts["n_imaginary"]  # one atom a cell has no optical modes
    assert np.array_equal(mesh["n_imaginary"], (mesh["frequency"] < -0.1).sum("mode"))
    assert facts["lowest_frequency_THz"] == float(mesh["frequency"].min())
    assert np.isfinite(found["thermodynamics"]["free_energy"]).all()
    assert found["thermodynamics"].attrs["n_excluded_modes"] >= facts["n_imaginary"]
    assert "imaginary modes" in caplog.text


def test_residual_forces_are_kept_and_subtracted_on_request() -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    atoms.positions[1] += [0.004, 0.001, 0.0]  # within the tolerance, so that displacements to one side are enough
    model = "harmonic:springs?k=1.0&r0=3.4&rc=4.2"
    kept, taken = (
        compute(atoms, model, subtract_residual_forces=choice, symprec=0.01, symmetrize_force_constants=False).outputs
        for choice in (False, True)
    )
    forces = kept["displaced_cells"]["forces"].to_numpy()[: 2 * 8]
    assert kept["force_constants"].attrs["max_residual_force"] == np.linalg.norm(forces, axis=1).max() > 0.001
    assert np.array_equal(kept["displaced_cells"]["forces"], taken["displaced_cells"]["forces"])
    assert not np.allclose(
        kept["force_constants"]["force_constants"], taken["force_constants"]["force_constants"], rtol=0, atol=1e-4
    )


def test_born_charges_go_into_the_frequencies_and_must_fit_the_primitive_cell() -> None:
    atoms, model = bulk("NaCl", "rocksalt", a=5.64), "harmonic:springs?k=1.0&r0=3.4&rc=4.2"
    one = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    charges = [one, [[-x for x in row] for row in one]]
    dielectric = [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]]
    with_charges = compute(atoms, model, born_charges=charges, dielectric_tensor=dielectric).outputs
    plain = compute(atoms, model).outputs
    q = [[0.01, 0.0, 0.0]]
    stored, without = (
        phonopy_of(made["force_constants"]).run_qpoints(q).frequencies[0] for made in (with_charges, plain)
    )
    assert stored[5] - without[5] > 1.0
    assert np.allclose(stored[3:5], without[3:5], atol=0.02)
    with pytest.raises(InvalidConfig, match="Born charges are not those"):
        compute(atoms, model, born_charges=[one], dielectric_tensor=dielectric)
    with pytest.raises(InvalidConfig, match="fit together"):
        compute(atoms, model, born_charges=charges)
    with pytest.raises(InvalidConfig):
        compute(atoms, model, born_charges=[[[1.0, 0.0], [0.0, 1.0]]], dielectric_tensor=dielectric)


def test_tensors_may_be_given_as_numbers_one_after_the_other() -> None:
    flat = [1, 0, 0, 0, 1, 0, 0, 0, 1]
    config = MODULE.config.parse({"born_charges": [*flat, *flat], "dielectric_tensor": flat})
    assert config.born_charges == ((tensor := ((1, 0, 0), (0, 1, 0), (0, 0, 1))), tensor)
    assert config.dielectric_tensor == tensor
    with pytest.raises(InvalidConfig, match="born_charges"):
        MODULE.config.parse({"born_charges": flat[:5], "dielectric_tensor": flat})


class EnergyOnly(Calculator):
    """A model without forces."""

    implemented_properties = ("energy",)

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = None) -> None:
        self.results = {"energy": 0.0}


class Broken(Calculator):
    """A model whose forces are no numbers."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = None) -> None:
        self.results = {"energy": 0.0, "forces": np.full((len(atoms), 3), np.nan)}


class Crashing(Calculator):
    """A model that stops with an error of its own."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = None) -> None:
        raise RuntimeError("no convergence")


@pytest.mark.parametrize(
    ("engine", "said"), [(EnergyOnly, "cannot give"), (Broken, "not finite"), (Crashing, "no convergence")]
)
def test_a_model_without_usable_forces_is_an_error(engine: type[Calculator], said: str) -> None:
    with pytest.raises(ComputeFailed, match=said):
        compute(bulk("Al"), Potential("toy", "toy", engine, {"engine": "toy"}))


def test_what_is_no_crystal_is_an_error() -> None:
    with pytest.raises(InvalidData, match="lie on each other"):
        compute(Atoms("Al2", positions=[[0, 0, 0], [0, 0, 0.2]], cell=4 * np.eye(3), pbc=True), "ase:emt")
    with pytest.raises(InvalidData, match="periodic"):
        compute(Atoms("Al2", positions=[[0, 0, 0], [0, 0, 2.5]]), "ase:emt")
    with pytest.raises(InvalidConfig, match="temperatures_K"):
        compute(bulk("Al"), "ase:emt", temperatures_K=[-1.0])


@pytest.mark.long
def test_two_workers_give_the_digests_of_one(tmp_path: Path) -> None:
    digests = {}
    for scheduler in ("serial", "local:2"):
        with h5ml.open(tmp_path / f"{scheduler[:3]}.h5", make=True) as store:
            store.write("urea", structures_dataset([ase.io.read(UREA)]), "structures")
            settings = {**SMALL, "supercell_matrix": [1, 1, 1]}
            run = h5ml.run(store, "phonons", root_key="p", crystal="urea", model=XTB, scheduler=scheduler, **settings)
            digests[scheduler] = {ref.key: ref.digest for ref in run.outputs.values()}
    assert digests["serial"] == digests["local:2"]
