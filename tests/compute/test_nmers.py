"""Many-body clusters: weights count every cluster once, and their energies add up to that of the crystal."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

import h5ml
from h5ml.compute.nmers import MODULE
from h5ml.compute.potentials import resolve_potential
from h5ml.compute.structure.congruence import Shape, congruent
from h5ml.compute.structure.frames import structures_dataset
from h5ml.compute.structure.molecules import detect_molecules
from h5ml.schemas.errors import InvalidConfig
from h5ml.tests.kits.crystals import ammonium_chloride, crystal
from h5ml.tests.kits.runner import FakeRunner

STIFF = "ase:lj?sigma=2.8&epsilon=0.01&rc=12"
LENNARD_JONES = "ase:lj?sigma=3.4&epsilon=0.0104&rc=9.0"


def run(atoms: Atoms, model: str | None = None, **settings):
    inputs = {"crystal": structures_dataset([atoms]), "model": resolve_potential(model) if model else None}
    return FakeRunner(MODULE, settings, inputs).run()


def share(dataset) -> float:
    return float((dataset["weight"] * dataset["interaction_energy"]).sum())


def test_pairs_of_a_pair_potential_give_the_lattice_energy_and_nothing_is_left_for_triples():
    argon = bulk("Ar", "fcc", a=5.3)
    made = run(argon, LENNARD_JONES, max_order=4, cutoffs=(9.0, 6.0, 4.0)).outputs
    argon.calc = resolve_potential(LENNARD_JONES).fresh()
    # both are sums of the same pairs in another order
    assert share(made["dimers"]) == pytest.approx(argon.get_potential_energy(), rel=1e-12)
    for larger in ("trimers", "tetramers"):
        assert made[larger].sizes["frame"] > 0
        assert np.abs(made[larger]["interaction_energy"].to_numpy()).max() < 1e-15
    # fcc: 12, 6, 24, 12, 24 neighbours in the shells, half of them per atom
    assert made["dimers"]["weight"].to_numpy().tolist() == [6, 3, 12, 6, 12]
    np.testing.assert_allclose(made["dimers"]["minimum_distance"][:2], [5.3 / 2**0.5, 5.3])


def test_the_expansion_of_a_finite_cluster_is_exact_at_its_own_order():
    metal = Atoms("CuAgAuPd", [[0, 0, 0], [3.9, 0, 0], [1.6, 4.0, 0], [1.9, 1.4, 4.1]])
    made = run(metal, "ase:emt", max_order=4, cutoffs=(20.0, 20.0, 20.0)).outputs
    terms = {name: 4 * share(dataset) for name, dataset in made.items()}
    metal.calc = resolve_potential("ase:emt").fresh()
    assert abs(terms["tetramers"]) > 1e-8  # the embedding is no sum of smaller clusters
    assert sum(terms.values()) == pytest.approx(metal.get_potential_energy(), abs=1e-12)


@pytest.mark.parametrize("name", ["urea", "CO2"])
def test_weights_add_up_to_a_count_of_all_clusters_around_each_molecule(name):
    cutoffs = (6.0, 4.5, 3.5)
    atoms = crystal(name)
    made = run(atoms, max_order=4, cutoffs=cutoffs).outputs
    found = detect_molecules(atoms)
    whole = found.whole_positions(atoms.positions, atoms.cell.array)
    m = found.n_molecules
    steps = list(product(range(-3, 4), repeat=3))
    images, at_home = np.array(steps) @ atoms.cell.array, steps.index((0, 0, 0))
    blocks = np.array([[whole[found.members(k)] + t for k in range(m)] for t in images])
    for order, cutoff in enumerate(cutoffs, start=2):
        count = 0.0
        for central in range(m):
            centre = blocks[at_home, central]
            near = [
                block
                for place, cell in enumerate(blocks)
                for k, block in enumerate(cell)
                if (place, k) != (at_home, central) and cdist(block, centre).min() < cutoff
            ]
            close = np.array([[cdist(a, b).min() < cutoff for b in near] for a in near]) if order > 2 else None
            for group in combinations(range(len(near)), order - 1):
                count += all(close[a, b] for a, b in combinations(group, 2)) / order
        assert made[("dimers", "trimers", "tetramers")[order - 2]]["weight"].sum().item() == pytest.approx(count / m)
    assert made["monomers"]["weight"].to_numpy().tolist() == [1.0]


def test_clusters_of_one_shape_are_found_under_any_rotation_and_order_of_atoms():
    rng = np.random.default_rng(3)
    numbers = np.array([6, 8, 7, 7, 1, 1, 1, 1])
    positions = 2.0 * rng.normal(size=(8, 3))
    order = rng.permutation(8)
    turned = (positions @ Rotation.random(rng=rng).as_matrix() + rng.normal(size=3))[order]
    mirrored = turned * [1.0, 1.0, -1.0]
    one, two, other = Shape.of(numbers, positions), Shape.of(numbers[order], turned), Shape.of(numbers[order], mirrored)
    assert congruent(one, two, 1e-4, mirror_images=False)
    assert congruent(one, other, 1e-4, mirror_images=True)
    assert not congruent(one, other, 1e-4, mirror_images=False)
    bent = turned.copy()
    bent[0] += 0.003
    assert not congruent(one, Shape.of(numbers[order], bent), 1e-4, mirror_images=True)
    swapped = numbers[order].copy()
    swapped[[np.argmax(swapped == 6), np.argmax(swapped == 8)]] = 8, 6
    assert not congruent(one, Shape.of(swapped, turned), 1e-4, mirror_images=True)


def test_mirror_images_are_one_unless_they_are_told_apart():
    atoms = crystal("urea")  # the space group has mirror planes, so that chiral dimers come in pairs
    merged = run(atoms, max_order=2, cutoffs=(6.0,)).outputs["dimers"]
    apart = run(atoms, max_order=2, cutoffs=(6.0,), mirror_images=False).outputs["dimers"]
    assert merged.sizes["frame"] < apart.sizes["frame"]
    assert merged["weight"].sum().item() == apart["weight"].sum().item() == 18  # 36 neighbours, each pair once


def test_equal_clusters_have_equal_energies_and_a_killed_run_goes_on_from_them():
    atoms = crystal("CO2")
    settings = {"max_order": 3, "cutoffs": (5.0, 4.0), "block_clusters": 2}
    inputs = {"crystal": structures_dataset([atoms]), "model": resolve_potential(STIFF)}
    whole = FakeRunner(MODULE, settings, inputs).run()
    killed = FakeRunner(MODULE, settings, inputs)
    killed.run(blocks=2)
    killed.resume()
    for name in ("monomers", "dimers", "trimers"):
        assert killed.result.digest(name) == whole.digest(name)
    # all pairs, none merged: the sum over unique ones must be theirs
    dimers = run(atoms, STIFF, max_order=2, cutoffs=(5.0,), mirror_images=False)
    # equivalent molecules of the file differ by 1e-5 Angstrom and 0.1 eV, which must not show in their interactions
    assert share(dimers.outputs["dimers"]) == pytest.approx(share(whole.outputs["dimers"]), rel=1e-4)


def test_a_crystal_with_no_neighbours_in_reach_gives_empty_outputs():
    made = run(bulk("Ar", "fcc", a=5.3), LENNARD_JONES, max_order=3, cutoffs=(3.0, 3.0))
    assert made.done
    assert [made.outputs[name].sizes["frame"] for name in ("monomers", "dimers", "trimers")] == [1, 0, 0]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"cutoffs": (10.0, 15.0)}, "order below"),
        ({"max_order": 4, "cutoffs": (10.0, 5.0)}, "needs 3 cutoffs"),
        ({"cutoffs": (0.0,), "max_order": 2}, "above 0"),
    ],
)
def test_cutoffs_that_do_not_fit_are_refused(settings, says):
    with pytest.raises(InvalidConfig, match=says):
        MODULE.config.parse(settings)


def test_a_store_keeps_ions_with_their_charges(hdf5_store):
    hdf5_store.write("salt", structures_dataset([ammonium_chloride()]), "structures")
    settings = {"max_order": 2, "cutoffs": [3.2], "unit_charges": {"NH4": 1, "Cl": -1}}
    h5ml.run(hdf5_store, MODULE, root_key="ions", crystal="salt", **settings)
    assert sorted(hdf5_store["ions/monomers"]["charge"].to_numpy().tolist()) == [-1.0, 1.0]
    dimers = hdf5_store["ions/dimers"]
    # each ammonium touches eight chlorides: eight pairs a cell of two ions
    assert (dimers["weight"] * (dimers["charge"] == 0.0)).sum().item() == 4.0
