"""Finite clusters: complete with respect to images, the same in every frame, refused where the cell is too small."""

from __future__ import annotations

import re

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from h5ml.compute.potentials import resolve_potential
from h5ml.compute.structure.cutting import SubsystemCutter
from h5ml.compute.structure.frames import atoms_of
from h5ml.compute.structure.subsystem_config import FiniteSubsystemFilter
from h5ml.compute.structure.supercell import find_supercell, make_supercell
from h5ml.schemas.errors import InvalidConfig, InvalidData
from h5ml.tests.kits.crystals import FORMULAS, ammonium_chloride, block_distances, crystal

NEAR, FAR = "max_min_distance_to_central_molecule", "max_max_distance_to_central_molecule"


def counts(atoms: Atoms, rule: str, distances: tuple[float, ...], **more: object) -> list[int]:
    settings = FiniteSubsystemFilter(selection_rule=rule, distances=distances, allow_images=True, **more)
    return [len(cluster) for cluster in SubsystemCutter(settings, atoms).clusters.values()]


def supercell(name: str, radius: float) -> Atoms:
    atoms = crystal(name)
    return make_supercell(atoms, find_supercell(atoms.cell.array, radius))


def sorted_distances(dataset, frame: int = 0) -> np.ndarray:
    return np.sort(atoms_of(dataset, frame).get_all_distances().ravel())


def test_neighbours_of_urea_and_carbon_dioxide_are_those_of_the_specification():
    assert counts(crystal("urea"), NEAR, (3, 4, 5, 6, 8)) == [10, 16, 16, 36, 64]
    assert counts(crystal("urea"), FAR, (8, 10, 12)) == [10, 16, 54]
    assert counts(crystal("CO2"), NEAR, (4, 5, 6, 8)) == [12, 18, 30, 80]
    assert counts(crystal("CO2"), FAR, (6, 8, 10, 12)) == [12, 30, 54, 120]
    for name, rule, distance in (("urea", FAR, 6.0), ("CO2", NEAR, 3.0)):  # none there
        with pytest.raises(InvalidConfig, match="No molecule is that close"):
            counts(crystal(name), rule, (distance,))
    settings = FiniteSubsystemFilter(n_molecules=(8,), allow_images=True)
    nearest = SubsystemCutter(settings, crystal("urea")).neighbors.minimum[:7]
    np.testing.assert_allclose(nearest, [1.969] * 4 + [2.045] * 2 + [2.484], atol=1e-3)


@pytest.mark.parametrize("name", FORMULAS)
def test_clusters_hold_the_neighbours_that_a_count_without_periodic_code_finds(name):
    atoms = crystal(name)
    expected = block_distances(atoms, 6.5)
    near, far = (3.2, 4.5, 6.5), (11.0, 13.0)
    assert counts(atoms, NEAR, near) == [sum(low < d for low, _ in expected) for d in near]
    assert counts(atoms, FAR, far) == [sum(high < d for _, high in expected) for d in far]


@pytest.mark.parametrize("name", ["urea", "naphthalene"])
def test_a_supercell_gives_the_clusters_of_the_perfect_crystal(name):
    settings = {"n_molecules": (1, 2, 4, 8)}
    perfect = SubsystemCutter(FiniteSubsystemFilter(**settings, allow_images=True), crystal(name))
    large = SubsystemCutter(FiniteSubsystemFilter(**settings), supercell(name, 18.0))
    ours, theirs = perfect.cut([perfect.geometry.atoms], [0]), large.cut([large.geometry.atoms], [0])
    for key in ours:
        assert ours[key]["n_molecules"].item() == theirs[key]["n_molecules"].item() == int(key.rpartition("=")[2])
    # equal shells may be cut differently, so whole shells are compared: all within a distance
    for cutoff in (3.0, 4.0):
        settings = {"selection_rule": NEAR, "distances": (cutoff,)}
        a = SubsystemCutter(FiniteSubsystemFilter(**settings, allow_images=True), crystal(name))
        b = SubsystemCutter(FiniteSubsystemFilter(**settings), supercell(name, 18.0))
        (one,), (two,) = a.cut([a.geometry.atoms], [0]).values(), b.cut([b.geometry.atoms], [0]).values()
        # the file has 6 digits or fewer, so that equivalent molecules differ by some 1e-4 Angstrom
        np.testing.assert_allclose(sorted_distances(one), sorted_distances(two), atol=2e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {"n_molecules": (8,)},
        {"n_molecules": tuple(range(1, 9))},
        {"selection_rule": "closest_to_center_of_mass", "n_molecules": (6,)},
        {"n_molecules": (5,), "distance_measure": "center_of_mass"},
        {"selection_rule": NEAR, "distances": (5.0,)},
    ],
)
def test_a_cluster_that_meets_its_own_image_is_refused_with_a_radius_that_does(settings):
    config = FiniteSubsystemFilter(**settings)
    with pytest.raises(InvalidConfig, match="two images of one molecule") as error:
        SubsystemCutter(config, crystal("urea"))
    radius = float(re.search(r"supercell_radius = ([\d.]+)", str(error.value))[1])
    cutter = SubsystemCutter(config, supercell("urea", radius))
    for cluster in cutter.clusters.values():
        numbers = np.append(cluster.molecule, cutter.central)
        assert len(set(numbers.tolist())) == len(numbers)


def test_the_closest_molecules_are_closest_by_the_chosen_measure():
    atoms = supercell("acetic_acid", 15.0)
    for measure in ("minimum_interatomic", "center_of_mass"):
        cutter = SubsystemCutter(FiniteSubsystemFilter(n_molecules=(6,), distance_measure=measure), atoms)
        near = cutter.neighbors
        compared = near.minimum if measure == "minimum_interatomic" else near.center
        chosen = cutter.clusters["n=6"]
        mine = chosen.minimum if measure == "minimum_interatomic" else chosen.center
        np.testing.assert_allclose(mine, np.sort(compared)[:5], atol=1e-3)


def test_every_frame_gives_the_same_cluster_wrapped_drifting_or_in_another_cell():
    reference = supercell("urea", 12.0)
    cutter = SubsystemCutter(FiniteSubsystemFilter(n_molecules=(1, 4)), reference)
    rng = np.random.default_rng(5)
    frame = reference.copy()
    frame.set_cell(reference.cell.array * [[1.03], [0.98], [1.01]], scale_atoms=True)
    frame.rattle(0.05, rng=rng)
    drifting = frame.copy()
    drifting.positions += [0.6 * 12.0, -7.0, 30.0]
    wrapped = drifting.copy()
    wrapped.wrap()
    scattered = wrapped.copy()
    scattered.positions += rng.integers(-1, 2, (len(frame), 3)) @ frame.cell.array
    frames = [frame, drifting, wrapped, scattered]
    for dataset in cutter.cut(frames, range(4)).values():
        first = atoms_of(dataset, 0).positions
        ends = np.cumsum(dataset["n_atoms"].to_numpy())
        for i, one in enumerate(frames):
            np.testing.assert_allclose(atoms_of(dataset, i).positions, first, atol=1e-9)
            rows = slice(ends[i] - len(first), ends[i])
            source = dataset.isel(atom=rows)
            rebuilt = one.positions[source["source_atom"]] + source["source_image"].to_numpy() @ one.cell.array
            mass = source["masses"].to_numpy()
            rebuilt -= np.average(rebuilt, axis=0, weights=mass)
            np.testing.assert_allclose(rebuilt, first, atol=1e-9)
        assert dataset["intact"].to_numpy().tolist() == [1] * 4


def test_the_choice_does_not_hang_on_where_the_crystal_lies():
    atoms = supercell("CO2", 12.0)
    moved = atoms.copy()
    moved.positions += 3.0 * atoms.cell.array[0] - 2.0 * atoms.cell.array[1] + 1e-7
    one, two = (SubsystemCutter(FiniteSubsystemFilter(), a) for a in (atoms, moved))
    assert one.central == two.central
    for name, cluster in one.clusters.items():
        assert cluster.molecule.tolist() == two.clusters[name].molecule.tolist()


def test_a_changed_molecule_marks_its_frame_and_the_clusters_that_hold_it():
    reference = supercell("urea", 12.0)
    cutter = SubsystemCutter(FiniteSubsystemFilter(n_molecules=(1, 3)), reference)
    inside = set(np.append(cutter.clusters["n=3"].molecule, cutter.central).tolist())
    outside = next(m for m in range(cutter.molecules.n_molecules) if m not in inside)
    frames = [reference.copy() for _ in range(3)]
    for frame, m in ((frames[1], outside), (frames[2], int(cutter.clusters["n=3"].molecule[0]))):
        hydrogen = next(i for i in cutter.molecules.members(m) if reference.numbers[i] == 1)
        frame.positions[hydrogen] += 0.7
    one, three = cutter.cut(frames, [0, 5, 9]).values()
    assert one["source_frame"].to_numpy().tolist() == [0, 5, 9]
    assert one["source_intact"].to_numpy().tolist() == three["source_intact"].to_numpy().tolist() == [1, 0, 0]
    assert one["intact"].to_numpy().tolist() == [1, 1, 1]
    assert three["intact"].to_numpy().tolist() == [1, 1, 0]


def test_energies_come_from_a_cold_engine():
    atoms = crystal("CO2")
    cutter = SubsystemCutter(FiniteSubsystemFilter(n_molecules=(2,), allow_images=True), atoms)
    spec = "ase:lj?sigma=2.8&epsilon=0.01&rc=9.0"
    (dimer,) = cutter.cut([atoms], [0], resolve_potential(spec)).values()
    alone = atoms_of(dimer, 0)
    alone.calc = resolve_potential(spec).fresh()
    assert dimer["energy"].item() == alone.get_potential_energy()
    np.testing.assert_array_equal(dimer["forces"].to_numpy(), alone.get_forces())


def test_molecules_of_different_composition_are_cut_when_that_is_allowed_and_keep_their_charge():
    atoms = ammonium_chloride().repeat(3)
    with pytest.raises(InvalidConfig, match="assert_identical_composition"):
        SubsystemCutter(FiniteSubsystemFilter(), atoms)
    free = {"assert_identical_composition": False, "n_molecules": (1, 2, 9)}
    cutter = SubsystemCutter(FiniteSubsystemFilter(**free, unit_charges={"NH4": 1, "Cl": -1}), atoms)
    centre = 1 if cutter.formulas[cutter.central] == "H4N" else -1
    charges = [dataset["charge"].item() for dataset in cutter.cut([atoms], [0]).values()]
    assert charges == [centre, 0, -7 * centre]  # eight counter-ions around one
    for wrong, says in (({"NH4": 1}, "cancel"), ({"SO4": -2}, "not there"), ({"4H": 1, "??": 2}, "formula")):
        with pytest.raises(InvalidConfig, match=says):
            SubsystemCutter(FiniteSubsystemFilter(**free, unit_charges=wrong), atoms)


def test_clusters_of_several_distances_that_are_equal_are_cut_once():
    settings = FiniteSubsystemFilter(selection_rule=NEAR, distances=(4.0, 5.0), allow_images=True)
    cutter = SubsystemCutter(settings, crystal("urea"))
    four, five = cutter.cut([cutter.geometry.atoms] * 2, [0, 1]).values()
    assert (four.sizes["frame"], five.sizes["frame"]) == (2, 0)
    assert five.attrs["same_as"] == "finite_subsystems/r=4.00"


def test_what_cannot_be_cut_is_refused():
    two = molecule("H2O") + molecule("H2O")
    two.positions[3:] += 3.0
    cutter = SubsystemCutter(FiniteSubsystemFilter(n_molecules=(1, 2)), two)
    assert [d["n_molecules"].item() for d in cutter.cut([two], [0]).values()] == [1, 2]
    for rule in ("closest_to_central_molecule", "closest_to_center_of_mass"):
        with pytest.raises(InvalidConfig, match="fewer molecules"):
            SubsystemCutter(FiniteSubsystemFilter(selection_rule=rule, n_molecules=(3,)), two)
    with pytest.raises(InvalidConfig, match="central_molecule from 0 to 1"):
        SubsystemCutter(FiniteSubsystemFilter(central_molecule=2), two)
    with pytest.raises(InvalidData, match="no atoms"):
        SubsystemCutter(FiniteSubsystemFilter(), Atoms())
    with pytest.raises(InvalidData, match="frame 7"):
        cutter.cut([two[::-1]], [7])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"n_molecules": (0, 1)}, "from 1"),
        ({"n_molecules": (2, 2)}, "twice"),
        ({"selection_rule": NEAR}, "needs distances"),
        ({"distances": (4.0,)}, "takes n_molecules"),
        ({"selection_rule": FAR, "distances": (4.0, 4.001)}, "told apart"),
        ({"selection_rule": FAR, "distances": (-1.0,)}, "above 0"),
        ({"selection_rule": "closest_to_center_of_mass", "central_molecule": 1}, "leave central_molecule out"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, says):
    with pytest.raises(InvalidConfig, match=says):
        FiniteSubsystemFilter.parse(settings)


def test_outputs_are_named_by_size_or_distance_and_by_condition():
    assert list(FiniteSubsystemFilter(n_molecules=(4, 1)).outputs()) == [
        "molecular_crystal",
        "finite_subsystems/n=1",
        "finite_subsystems/n=4",
    ]
    settings = FiniteSubsystemFilter(selection_rule=NEAR, distances=(4, 5.5))
    label = "crystal[dyn:T=300.00]"
    assert list(settings.outputs(label)) == [
        f"molecular_crystals/{label}",
        f"finite_subsystems/r=4.00/{label}",
        f"finite_subsystems/r=5.50/{label}",
    ]
