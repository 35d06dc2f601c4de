"""The module ``quasi_harmonic`` as a run: against phonopy, its keys, its filters, and sublimation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from ase import Atoms
from ase.build import bulk, molecule
from ase.spacegroup import crystal as ase_crystal
from ase.units import GPa, kB
from phonopy import PhonopyQHA
from scipy.optimize import minimize_scalar

import h5ml
from h5ml.compute.module import Module
from h5ml.compute.phonons import MODULE as PHONONS
from h5ml.compute.potentials import resolve_potential
from h5ml.compute.quasi_harmonic import MODULE
from h5ml.compute.quasi_harmonic_config import QuasiHarmonic
from h5ml.compute.quasi_harmonic_molecules import formula_unit
from h5ml.compute.registry import Registry
from h5ml.compute.relax import MODULE as RELAX
from h5ml.compute.structure.frames import structures_dataset
from h5ml.schemas.errors import ComputeFailed, H5mlError, Interrupted, InvalidConfig, InvalidData
from h5ml.store.audit import audit
from h5ml.store.lineage import lineage
from h5ml.tests.kits.runner import FakeResult, FakeRunner

ROOT = "training/quasi_harmonic"
ALUMINIUM: dict[str, Any] = {
    "relax_input_cell": "full",
    "supercell_matrix": [2, 2, 2],
    "fourier_interpolation_mesh": 12.0,
    "volume_range": [0.98, 1.0, 1.02, 1.04, 1.06],
    "phonons_at_equilibrium": False,
}
EV_KJ_MOL = 96.4853321  # phonopy is told energies in these units and turns them back with its own constants


def run(folder: Path, crystal: Atoms, *, registry: Registry | None = None, **config: Any) -> h5ml.store.store.Store:
    store = h5ml.open(folder / "q.h5", make=True)
    store.write("crystal", structures_dataset([crystal]), "structures")
    modules = registry or Registry([MODULE, RELAX, PHONONS])
    h5ml.run(store, MODULE, root_key=ROOT, crystal="crystal", model="ase:emt", config=config, registry=modules)
    return store


@pytest.fixture(scope="module")
def aluminium(tmp_path_factory: pytest.TempPathFactory) -> h5ml.store.store.Store:
    settings = {**ALUMINIUM, "temperatures_K": tuple(np.arange(0.0, 441.0, 20.0)), "equation_of_state": "vinet"}
    crystal = bulk("Al", cubic=True, a=4.0)
    return run(tmp_path_factory.mktemp("al"), crystal, **settings, eos_weight_half_width=None)


@pytest.mark.filterwarnings("ignore:PhonopyQHA is deprecated:DeprecationWarning")
def test_a_metal_agrees_with_the_quasi_harmonic_approximation_of_phonopy(aluminium: h5ml.store.store.Store) -> None:
    """The same E(V) and F(T, V) go into both; a Vinet fit of both."""
    sampled = aluminium[f"{ROOT}/eos_sampled"].load()
    found = aluminium[f"{ROOT}/thermodynamics_equilibrium_volume"].load()
    temperatures = sampled["temperature"].to_numpy()
    theirs = PhonopyQHA(
        volumes=sampled["volume"].to_numpy(),
        electronic_energies=sampled["static_energy"].to_numpy(),
        temperatures=temperatures,
        free_energy=sampled["free_energy"].to_numpy().T * EV_KJ_MOL,
        cv=sampled["heat_capacity"].to_numpy().T * EV_KJ_MOL * 1000.0,
        entropy=sampled["entropy"].to_numpy().T * EV_KJ_MOL * 1000.0,
        pressure=1e-4,
        eos="vinet",
        t_max=float(temperatures[-2]),
    )
    n = len(theirs.volume_temperature)
    assert n == len(temperatures) - 1
    assert np.allclose(found["volume"][:n], theirs.volume_temperature, rtol=1e-7)
    assert np.allclose(found["gibbs_energy"][:n], theirs.gibbs_temperature, atol=1e-6)
    assert np.allclose(found["bulk_modulus"][:n], theirs.bulk_modulus_temperature, rtol=2e-6)
    capacity = found["heat_capacity_p"].to_numpy()[:n] * EV_KJ_MOL * 1000.0
    assert np.allclose(capacity[2:-1], np.array(theirs.heat_capacity_P_polyfit)[2 : n - 1], rtol=2e-4)
    # phonopy's expansion is a central difference over 40 K, which is 9 % off at 40 K, where V(T) bends.
    expansion = found["thermal_expansion"].to_numpy()[:n]
    assert np.allclose(expansion[5:-1], theirs.thermal_expansion[5 : n - 1], rtol=0.01)
    assert np.allclose(expansion[2:5], theirs.thermal_expansion[2:5], rtol=0.1)
    assert set(found["reason"].to_numpy()) == {""}


def test_the_two_ways_to_the_expansion_agree(aluminium: h5ml.store.store.Store) -> None:
    found = aluminium[f"{ROOT}/thermodynamics_equilibrium_volume"]
    direct, other = (found[n].to_numpy()[2:-1] for n in ("thermal_expansion", "thermal_expansion_from_entropy"))
    assert np.allclose(direct, other, rtol=0.05, atol=1e-6)
    assert direct[-1] > 5e-5


def test_the_keys_of_the_reference_exist_and_are_declared_beforehand(tmp_path: Path) -> None:
    settings = {**ALUMINIUM, "phonons_at_equilibrium": True, "volume_range": [0.99, 1.0, 1.03, 1.06]}
    settings |= {"temperatures_K": [300.0], "relax_input_cell": "constant_volume"}
    store = run(tmp_path, bulk("Al", cubic=True, a=4.0), **settings)
    made = {str(key) for key in store} - {"crystal"}
    declared = {f"{ROOT}/{name}" for name in MODULE.makes(QuasiHarmonic(**settings))}
    assert made == declared
    assert f"{ROOT}/phonons/crystal[opt:atoms,shape]/force_constants" in made
    assert f"{ROOT}/phonons/crystal[eq:T=300.00,p=0.00010]/force_constants" in made
    [row] = store[f"{ROOT}/thermodynamics_equilibrium_volume"].load().groupby("state")
    state = row[1]
    volume = np.linalg.det(state["cell"].to_numpy()[0])
    assert volume == pytest.approx(float(state["volume"][0]), rel=1e-7)
    eos = store[f"{ROOT}/eos_fits"]
    # Phonons at the volume itself against the fit through the volumes about it.
    assert float(state["gibbs_energy"][0]) == pytest.approx(float(eos["energy"][0]), abs=1e-4)
    assert np.isnan(state["thermal_expansion"][0])  # one temperature: from the entropy alone
    assert float(state["thermal_expansion_from_entropy"][0]) > 5e-5


def failing(module: Module, when: Callable[[Any], H5mlError | None], log: list[str]) -> Module:
    """The module, failing where it is told to, and leaving a line for each execution."""

    def function(config: Any, inputs: Any, context: Any) -> Any:
        log.append(module.name)
        error = when(config)
        if error is not None:
            raise error
        return module.function(config, inputs, context)

    return replace(module, function=function)


def test_volumes_that_fail_are_left_out_with_their_reason_and_nothing_is_computed_twice(tmp_path: Path) -> None:
    log: list[str] = []
    gives_up = ComputeFailed("The engine gave up.", found="no memory left")
    relax = failing(RELAX, lambda config: gives_up if config.volume_ratio == 1.04 else None, [])
    phonons = failing(PHONONS, lambda _: Interrupted("A signal.") if len(log) == 3 else None, log)
    registry = Registry([MODULE, relax, phonons])
    settings = {**ALUMINIUM, "volume_range": [0.98, 1.0, 1.02, 1.04, 1.06, 1.8], "temperatures_K": [100.0, 900.0]}
    with pytest.raises(Interrupted):
        run(tmp_path, bulk("Al", cubic=True, a=4.0), registry=registry, **settings)
    store = h5ml.open(tmp_path / "q.h5")
    h5ml.run(store, MODULE, root_key=ROOT, crystal="crystal", model="ase:emt", config=settings, registry=registry)
    sampled = store[f"{ROOT}/eos_sampled"].load()
    assert sampled["used"].to_numpy().tolist() == [1, 1, 1, 0, 1, 0]
    assert "gave up" in str(sampled["reason"][3].item())
    assert "no memory left" in str(sampled["reason"][3].item())
    assert "imaginary acoustic mode" in str(sampled["reason"][5].item())
    assert np.isnan(sampled["volume"][3])
    assert float(sampled["static_energy"][5]) > float(sampled["static_energy"][1])
    found = store[f"{ROOT}/thermodynamics_equilibrium_volume"].load()
    assert found["reason"][0].item() == ""
    assert "no minimum" in str(found["reason"][1].item())
    assert np.isnan(found["volume"][1])
    assert len(log) == 5 + 1  # the interrupted one twice
    more = {**settings, "temperatures_K": [50.0, 100.0, 150.0, 200.0]}
    h5ml.run(store, MODULE, root_key="again", crystal="crystal", model="ase:emt", config=more, registry=registry)
    assert len(log) == 6  # other temperatures need no other phonons
    assert store["again/thermodynamics_equilibrium_volume"]["volume"][1] == found["volume"][0]


def test_a_crystal_that_cannot_be_relaxed_is_a_clear_error(tmp_path: Path) -> None:
    crystal = bulk("Al", cubic=True, a=4.0).repeat((2, 1, 1))
    crystal.rattle(0.1, seed=1)
    with pytest.raises(ComputeFailed, match="could not be relaxed"):
        run(tmp_path, crystal, **ALUMINIUM, max_n_steps=1, temperatures_K=[300.0])


@pytest.mark.parametrize("eos_sampling", ["pressure", "uniform_scaling"])
def test_volumes_come_from_pressures_and_from_scaling_too(eos_sampling: str) -> None:
    settings = {**ALUMINIUM, "eos_sampling": eos_sampling, "thermal_pressures_GPa": [1.0, 0.0, -1.0, -2.0]}
    inputs = {"crystal": structures_dataset([bulk("Al", a=4.0)]), "model": resolve_potential("ase:emt")}
    settings |= {"volume_range": [0.98, 1.0, 1.03, 1.06], "temperatures_K": [200.0]}
    result = FakeRunner(MODULE, settings, inputs, modules=(RELAX, PHONONS)).run()
    sampled = result.outputs["eos_sampled"]
    assert (np.diff(sampled["volume"]) > 0.0).all()
    if eos_sampling == "pressure":
        slopes = -np.gradient(sampled["static_energy"].to_numpy(), sampled["volume"].to_numpy()) / GPa
        assert slopes[1:-1] == pytest.approx(sampled["asked_pressure"].to_numpy()[1:-1], abs=0.1)
    else:
        assert np.allclose(sampled["volume"] / sampled.attrs["reference_volume_A3"], sampled["asked_volume_ratio"])
    # Converged EMT aluminium at 200 K has 16.32 Angstrom^3; this mesh and supercell are small.
    assert float(result.outputs["thermodynamics_equilibrium_volume"]["volume"][0]) == pytest.approx(16.32, rel=0.005)


# --- sublimation ----------------------------------------------------------------------------------------------------

DIMER = Atoms("N2", [[0.0, 0.0, 0.0], [0.0, 0.0, 1.1]])
ARGON = "ase:lj?sigma=3.4&epsilon=0.0104&rc=8.0&smooth=true"


def sublimed(crystal: Atoms, molecules: list[Atoms], model: str, **settings: Any) -> FakeResult:
    inputs = {
        "crystal": structures_dataset([crystal]),
        "model": resolve_potential(model),
        "molecule": [structures_dataset([one]) for one in molecules],
    }
    return FakeRunner(MODULE, {"thermal_expansion": False, **settings}, inputs, modules=(RELAX, PHONONS)).run()


def argon_energy(a: float) -> float:
    atoms = bulk("Ar", "fcc", a=a)
    atoms.calc = resolve_potential(ARGON).fresh()
    return float(atoms.get_potential_energy())


def test_hot_argon_needs_the_lattice_energy_less_half_kt_to_sublime() -> None:
    """Classical oscillators: 3 kT in the crystal, 5/2 kT in the gas."""
    result = sublimed(
        bulk("Ar", "fcc", a=5.3, cubic=True),
        [Atoms("Ar")],
        ARGON,
        supercell_matrix=[2, 2, 2],
        fourier_interpolation_mesh=20.0,
        relax_input_cell="full",
        temperatures_K=[0.0, 1000.0],
        pressure_GPa=[1e-4, 0.0],
    )
    found = result.outputs["sublimation"]
    assert (found.attrs["formula_unit"], found.attrs["formula_units_per_cell"]) == ("1 Ar", 1)
    lattice = found["lattice_energy"].to_numpy()
    assert lattice[:2] == pytest.approx([minimize_scalar(argon_energy, (5.1, 5.4)).fun] * 2, abs=1e-8)
    crystal = result.outputs["thermodynamics_fixed_volume"]
    assert lattice[0] == pytest.approx(float(crystal["static_energy"][0]))
    work = 1e-4 * GPa * float(crystal["volume"][0])
    enthalpy = found["sublimation_enthalpy"].to_numpy()
    assert enthalpy[0] == pytest.approx(-lattice[0] - float(crystal["internal_energy"][0]) - work, abs=1e-9)
    # The three translations at Gamma, of 343 points, are left out; the last quantum effects are worth 1e-4 eV.
    classical = 3.0 * kB * 1000.0 * (1.0 - 1.0 / 343.0)
    assert enthalpy[1] == pytest.approx(-lattice[0] - work - classical + 2.5 * kB * 1000.0, abs=2e-4)
    gas = result.outputs["molecules"]
    expected = enthalpy[1] - 1000.0 * (float(gas["entropy"][1]) - float(crystal["entropy"][1]))
    assert float(found["sublimation_free_energy"][1]) == pytest.approx(expected, abs=1e-9)
    assert np.isnan(enthalpy[2:]).all()
    assert all("pressure of 0 GPa" in str(text) for text in found["reason"].to_numpy()[2:])


def test_carbon_dioxide_sublimes_per_formula_unit_with_its_symmetry_number() -> None:
    ice = crystal_of_carbon_dioxide()
    result = sublimed(
        ice,
        [molecule("CO2")],
        "tblite:GFN1-xTB",
        supercell_matrix=[1, 1, 1],
        fourier_interpolation_mesh=1.0,
        relax_input_cell="constant_volume",
        max_force_on_atom_eV_A=1e-3,
        temperatures_K=[195.0],
        filter_out_imaginary_acoustic=False,
        filter_out_imaginary_optical=False,
    )
    found, gas = result.outputs["sublimation"], result.outputs["molecules"]
    assert found["reason"].to_numpy().tolist() == [""]
    assert (found.attrs["formula_unit"], found.attrs["formula_units_per_cell"]) == ("1 CO2", 4)
    assert gas["rotational_symmetry_number"].to_numpy().tolist() == [2]
    static = float(result.outputs["thermodynamics_fixed_volume"]["static_energy"][0])
    lattice = float(found["lattice_energy"][0])
    assert lattice == pytest.approx(static / 4 - float(gas["potential_energy"][0]), abs=1e-9)
    assert -0.6 < lattice < -0.1  # experiment: -0.30 eV
    assert float(found["sublimation_enthalpy"][0]) == pytest.approx(-lattice, abs=0.08)
    structure = result.outputs["molecule_structures"]
    assert float(np.abs(structure["forces"]).max()) < 1e-3


def crystal_of_carbon_dioxide() -> Atoms:
    """Pa-3, a = 5.62 Angstrom, molecules along the body diagonals."""
    return ase_crystal(
        ["C", "O"], basis=[(0, 0, 0), (0.1185, 0.1185, 0.1185)], spacegroup=205, cellpar=[5.62] * 3 + [90] * 3
    )


def test_formula_units_count_molecules_of_any_number_and_kind() -> None:
    box = Atoms(cell=[16.0, 16.0, 16.0], pbc=True)
    for index, name in enumerate(["H2O", "NH3", "H2O", "NH3", "H2O", "H2O"]):
        part = molecule(name)
        part.translate([2.0 + 2.5 * index, 8.0, 15.9])  # some hydrogens lie across the face
        box += part
    box.wrap()
    unit = formula_unit(box, [molecule("H2O"), molecule("NH3")])
    assert (unit.counts, unit.n_atoms, len(box) // unit.n_atoms) == ((2, 1), 10, 2)
    with pytest.raises(InvalidConfig, match="4 H2O, 2 H3N"):
        formula_unit(box, [molecule("H2O")])
    with pytest.raises(InvalidConfig, match="once"):
        formula_unit(box, [molecule("H2O"), molecule("NH3"), molecule("H2O")])


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="same name"):
        QuasiHarmonic.parse({"temperatures_K": [300.0, 300.001]})
    with pytest.raises(InvalidConfig, match="0 K"):
        QuasiHarmonic.parse({"temperatures_K": [-1.0]})
    inputs = {"crystal": structures_dataset([bulk("Al")]), "model": resolve_potential("ase:emt")}
    periodic = DIMER.copy()
    periodic.set_cell([9.0, 9.0, 9.0])
    periodic.pbc = True
    with pytest.raises(InvalidData, match="periodic in three directions"):  # at once, before anything is relaxed
        FakeRunner(MODULE, {}, {**inputs, "crystal": structures_dataset([DIMER])}, modules=()).run()
    bad: list[xr.Dataset] = [structures_dataset([periodic])]
    with pytest.raises(InvalidConfig, match="must be free"):
        FakeRunner(MODULE, {}, {**inputs, "molecule": bad}, modules=(RELAX, PHONONS)).run()


def test_an_unstable_crystal_keeps_its_lattice_energy() -> None:
    """A simple cubic lattice of argon has imaginary modes; its static energy is as good as any."""
    simple_cubic = bulk("Ar", "sc", a=3.5)
    settings = {"supercell_matrix": [2, 2, 2], "fourier_interpolation_mesh": 15.0, "temperatures_K": [50.0]}
    result = sublimed(simple_cubic, [Atoms("Ar")], ARGON, **settings)
    found, crystal = result.outputs["sublimation"], result.outputs["thermodynamics_fixed_volume"]
    assert "imaginary acoustic mode" in str(found["reason"][0].item())
    assert "imaginary acoustic mode" in str(crystal["reason"][0].item())
    assert float(found["lattice_energy"][0]) == pytest.approx(float(crystal["static_energy"][0]))
    assert np.isnan(found["sublimation_enthalpy"][0])
    assert np.isnan(crystal["free_energy"][0])


def test_lineage_names_every_phonon_run_and_its_displaced_cells(aluminium: h5ml.store.store.Store) -> None:
    graph = lineage(aluminium, f"{ROOT}/thermodynamics_equilibrium_volume", calls=True)
    made = {entry.reference for entry in aluminium.catalogue if "/phonons/" in entry.key}
    assert made <= set(graph.entries())
    assert sum("displaced_cells" in reference for reference in made) == 5
    runs = {run.id for run in aluminium.runs.values() if run.module in ("relax", "phonons")}
    assert runs <= set(graph.nodes)
    assert [call.run in runs for call in aluminium.run(aluminium.entry(f"{ROOT}/eos_fits").run or "").calls] == [
        True
    ] * 10
    assert audit(aluminium).ok
