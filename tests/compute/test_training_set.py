"""Training sets: what enters, how it is divided, what is learned, and what is refused."""

from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import pytest
import xarray as xr
from ase import Atoms
from ase.data import chemical_symbols

import h5ml
from h5ml.compute.training_set import MODULE
from h5ml.compute.training_set_split import VALID, divide, fingerprint, leaks
from h5ml.schemas.errors import InvalidConfig, InvalidData, WrongKind
from h5ml.schemas.kinds import TABLE
from h5ml.store.audit import audit
from h5ml.store.gather import gather
from h5ml.store.store import Store
from h5ml.store.training_frames import TrainingFrames
from h5ml.tests.kits.labelled import OTHER_LEVEL, isolated, labels, rattled
from h5ml.tests.kits.runner import FakeRunner


def made(config: dict[str, Any] | None = None, seed: int = 0, **inputs: list[xr.Dataset]) -> dict[str, xr.Dataset]:
    inputs = {"isolated_atoms": [isolated(["Cu", "Ag", "Au"])], **inputs}
    return FakeRunner(MODULE, config, inputs, seed=seed).run().outputs


def atomic_energies(dataset: xr.Dataset) -> dict[str, float]:
    found = json.loads(dataset.attrs["isolated_atom_energies_eV"])
    return {chemical_symbols[int(z)]: energy for z, energy in found.items()}


def trajectory_labels(n_trajectories: int, n_frames: int) -> xr.Dataset:
    """Labels of frames of several trajectories; neighbours in time differ by little."""
    systems, rng = [], np.random.default_rng(1)
    for start in rattled(n_trajectories, amplitude=0.2):
        velocity = rng.normal(scale=0.003, size=(4, 3))
        for step in range(n_frames):
            atoms = start.copy()
            atoms.positions += step * velocity
            systems.append(atoms)
    return labels(
        systems,
        source=np.repeat(np.arange(n_trajectories), n_frames),
        source_frame=np.tile(np.arange(n_frames), n_trajectories),
        source_key=np.array([f"md/{i}@1" for i in range(n_trajectories)], dtype=object),
        source_digest=np.array([f"{i:064x}" for i in range(n_trajectories)], dtype=object),
    )


# --- what enters ------------------------------------------------------------------------------------------------------


def test_labels_that_did_not_end_well_enter_only_when_asked_for_by_name() -> None:
    data = labels(rattled(30))
    data["status"].data[:4] = [2, 3, 4, 0]
    data["converged"].data[[0, 3]] = 0
    data["energy"].data[1] = np.nan
    data["forces"].data[4 * 6 + 2, 1] = np.nan  # one component of frame 6
    found = made(labels=[data])
    assert not set(found["set"]["source_frame"].to_numpy()) & {0, 1, 2, 3, 6}
    contents = found["contents"]
    counts = {name: int(contents[f"without_{name}"][0]) for name in ("not_converged", "no_energy", "no_forces")}
    assert counts == {"not_converged": 4, "no_energy": 0, "no_forces": 1}
    assert int(contents["taken"][0]) == 25
    asked = made({"include_status": ["failed", "absurd", "scf_failed"]}, labels=[data])
    assert set(asked["set"]["source_frame"].to_numpy()) == set(range(30)) - {1, 6}


def test_filters_of_force_energy_elements_and_formula_leave_out_what_they_say() -> None:
    alloy, gold = labels(rattled(20)), labels(rattled(20, seed=1, symbols="CuAu"))
    norms = np.linalg.norm(alloy["forces"].to_numpy().reshape(20, 4, 3), axis=2).max(axis=1)
    bound = float(np.median(norms))
    found = made({"max_force_eV_A": bound}, labels=[alloy])
    assert sorted(found["set"]["source_frame"].to_numpy()) == np.flatnonzero(norms <= bound).tolist()
    energy = alloy["energy"].to_numpy() / 4
    window = float(np.median(energy) - energy.min())
    found = made({"energy_window_eV_atom": window}, labels=[alloy])
    assert sorted(found["set"]["source_frame"].to_numpy()) == np.flatnonzero(energy <= energy.min() + window).tolist()
    for settings in ({"elements": ["Cu", "Au"]}, {"compositions": ["Cu2Au2"]}):
        found = made(settings, labels=[alloy, gold])
        assert set(found["set"]["composition"].to_numpy()) == {"Au2Cu2"}
        assert found["contents"]["taken"].to_numpy().tolist() == [0, 20]


def test_a_frame_that_occurs_twice_enters_once() -> None:
    systems = rattled(12)
    found = made(labels=[labels(systems), labels([*systems[3:6], *rattled(5, seed=9)])])
    assert found["contents"]["without_duplicate"].to_numpy().tolist() == [0, 3]
    assert found["set"].sizes["record"] == 17
    both = made({"keep_duplicates": True, "leakage_tolerance_A": None}, labels=[labels(systems), labels(systems)])
    assert both["set"].sizes["record"] == 24


# --- levels of theory, and energies of free atoms ---------------------------------------------------------------------


def test_two_levels_of_theory_are_refused_and_both_are_named() -> None:
    inputs = [labels(rattled(10)), labels(rattled(10, seed=1), OTHER_LEVEL)]
    with pytest.raises(InvalidData, match="different levels") as caught:
        made(labels=inputs)
    assert '"method":"emt"' in str(caught.value)
    assert '"method":"other"' in str(caught.value)
    chosen = made({"level_of_theory": "e" * 8}, labels=inputs)
    assert chosen["contents"]["taken"].to_numpy().tolist() == [10, 0]
    assert chosen["contents"]["without_level_of_theory"].to_numpy().tolist() == [0, 10]


def test_data_without_a_stated_level_need_one() -> None:
    silent = labels(rattled(10))
    silent.attrs.clear()
    with pytest.raises(InvalidData, match="do not state"):
        made(labels=[silent])
    found = made({"assumed_level": "EMT of 1996", "E0s": "average"}, labels=[silent])
    assert found["set"].attrs["level_of_theory"] == "EMT of 1996"


def test_a_missing_energy_of_a_free_atom_is_named_with_its_level() -> None:
    data = labels(rattled(10))
    with pytest.raises(InvalidData, match=r"none for Ag at .*emt"):
        made(labels=[data], isolated_atoms=[isolated(["Cu"])])
    with pytest.raises(InvalidData, match="none for Cu at"):  # of another level
        made(labels=[data], isolated_atoms=[isolated(["Cu", "Ag"], OTHER_LEVEL)])
    found = made({"atomic_energies_eV": {"Ag": -1.5}}, labels=[data], isolated_atoms=[isolated(["Cu"])])
    assert atomic_energies(found["set"]) == {"Cu": pytest.approx(3.51, abs=0.01), "Ag": -1.5}
    table = TABLE.dataset(
        {
            "element": (("row",), np.array(["Cu", "Ag"], dtype=object)),
            "energy": (("row",), np.array([3.0, 2.0]), {"units": "eV"}),
        }
    )
    assert atomic_energies(made(labels=[data], isolated_atoms=[table])["set"]) == {"Cu": 3.0, "Ag": 2.0}


def test_average_energies_are_those_of_mace() -> None:
    mixed = [*rattled(20), *rattled(20, seed=1, symbols="CuCu"), *rattled(20, seed=2, symbols="AgAg")]
    data = labels(mixed)
    found = made({"E0s": "average"}, labels=[data])["set"]
    from mace.data.utils import Configuration, compute_average_E0s
    from mace.tools import AtomicNumberTable

    train = found["source_frame"].to_numpy()[found["split"].to_numpy() == 0]
    energy = data["energy"].to_numpy()
    configurations = [Configuration(mixed[i].numbers, mixed[i].positions, {"energy": energy[i]}, {}) for i in train]
    expected = compute_average_E0s(configurations, AtomicNumberTable([29, 47]))
    assert atomic_energies(found) == {
        "Cu": pytest.approx(expected[29], rel=1e-12),
        "Ag": pytest.approx(expected[47], rel=1e-12),
    }


# --- splits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split_by", "most"), [("frame", 0.005), ("time_block", 0.06)])
def test_splits_have_the_shares_that_were_asked_for_and_depend_on_the_seed_alone(split_by: str, most: float) -> None:
    data = trajectory_labels(4, 50)
    config = {"split_by": split_by, "block_frames": 10, "valid_fraction": 0.2, "test_fraction": 0.1}
    first, again, other = (made(config, seed, labels=[data])["set"] for seed in (0, 0, 1))
    shares = np.bincount(first["split"].to_numpy(), minlength=3) / 200
    np.testing.assert_allclose(shares, [0.7, 0.2, 0.1], atol=most)  # a block holds 5 % of the frames
    assert first.identical(again)
    assert not np.array_equal(first["split"], other["split"])


def test_a_block_a_trajectory_and_a_formula_stay_together() -> None:
    data = trajectory_labels(6, 20)
    trajectory, time = np.repeat(np.arange(6), 20), np.tile(np.arange(20), 6)
    for split_by, group in (("trajectory", trajectory), ("time_block", trajectory * 2 + time // 10)):
        config = {"split_by": split_by, "block_frames": 10, "valid_fraction": 0.25, "test_fraction": 0.15}
        split = made(config, labels=[data])["set"]["split"].to_numpy()
        assert all(len(np.unique(split[group == g])) == 1 for g in np.unique(group))
        assert set(split) == {0, 1, 2}
    mixed = [labels(rattled(n, seed=n, symbols=s)) for n, s in ((12, "CuAg"), (5, "CuAu"), (6, "AgAu"))]
    found = made({"split_by": "composition", "valid_fraction": 0.2}, labels=mixed)["set"]
    assert all(len(np.unique(split)) == 1 for _, split in found["split"].groupby(found["composition"]))
    assert 0 < (found["split"] == VALID).sum() < 12


def test_labels_may_come_divided_and_weighted() -> None:
    parts = [labels(rattled(n, seed=n)) for n in (8, 7, 5, 4)]
    found = made({"weights": [1.0, 2.5]}, labels=parts[:2], valid=parts[2:3], test=parts[3:])["set"]
    assert [int((found["split"] == i).sum()) for i in range(3)] == [15, 5, 4]
    assert found["weight"].to_numpy().tolist() == [1.0] * 8 + [2.5] * 7 + [1.0] * 9
    with pytest.raises(InvalidConfig, match="one weight"):
        made({"weights": [1.0]}, labels=parts[:2])


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(InvalidData, match="too few"):
        made(labels=[labels(rattled(1))])
    with pytest.raises(InvalidData, match="trajectory groups"):
        made({"split_by": "trajectory"}, labels=[labels(rattled(30))])
    with pytest.raises(InvalidData, match="split valid is empty") as caught:
        bad = labels(rattled(3, seed=2))
        bad["converged"].data[:] = 0
        made(labels=[labels(rattled(10))], valid=[bad])
    assert "3 not_converged" in str(caught.value)
    with pytest.raises(InvalidData, match="No frame is left"):
        made({"compositions": ["Cu"]}, labels=[labels(rattled(10))])


def test_groups_of_any_sizes_leave_no_wanted_split_empty() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        sizes = rng.integers(1, 40, rng.integers(3, 12))
        split = divide(np.repeat(np.arange(len(sizes)), sizes), (0.15, 0.1), rng, "trajectory")
        assert set(split) == {0, 1, 2}


# --- leakage ----------------------------------------------------------------------------------------------------------


def test_neighbours_in_time_across_splits_are_counted_and_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    data = trajectory_labels(4, 25)
    with caplog.at_level(logging.WARNING, "h5ml"):
        leaky = made({"split_by": "frame", "valid_fraction": 0.2}, labels=[data])["set"]
    assert leaky.attrs["near_identical_frames"] >= 18  # of 20: a neighbour in time is 0.01 Angstrom away
    assert "near-identical" in caplog.text
    assert "of labels 0 (valid)" in caplog.text
    clean = made({"split_by": "trajectory", "valid_fraction": 0.25}, labels=[data])["set"]
    assert clean.attrs["near_identical_frames"] == 0


def test_fingerprints_see_through_rotation_translation_wrapping_and_the_order_of_atoms() -> None:
    rng = np.random.default_rng(5)
    molecule = Atoms("C2H6O", rng.normal(scale=1.5, size=(9, 3)))
    crystal = rattled(1)[0].repeat(2)
    for atoms in (molecule, crystal):
        other = atoms[rng.permutation(len(atoms))] if atoms is molecule else atoms.copy()
        other.rotate(73.0, (1.0, 2.0, 3.0), rotate_cell=True)
        other.translate((1.3, -0.4, 7.0))
        if other.pbc.any():
            other.wrap()
        near = atoms.copy()
        near.positions += rng.normal(scale=0.001, size=near.positions.shape)
        far = atoms.copy()
        far.positions += rng.normal(scale=0.1, size=far.positions.shape)
        prints = [fingerprint(a.numbers, a.positions, a.cell.array, a.pbc) for a in (atoms, other, near, far)]
        np.testing.assert_allclose(prints[1], prints[0], atol=1e-5)
        split = np.array([0, 1, 1, 1])
        found = leaks(prints, [b""] * 4, split, 0.02)
        assert [leak.frame for leak in found] == [1, 2]
        # the distance is that of the definition
        assert found[1].distance == pytest.approx(np.sqrt(np.mean((prints[2] - prints[0]) ** 2)), abs=1e-6)


def test_frames_that_are_not_related_are_no_leakage() -> None:
    crystals = [a.repeat(2) for a in rattled(30, symbols="CuCu", amplitude=0.0)]
    rng = np.random.default_rng(0)
    for atoms in crystals:  # 32 equal atoms, whose sorted distances would be alike
        atoms.positions += rng.normal(scale=0.1, size=(32, 3))
    for systems in (crystals, rattled(40)):
        assert made(labels=[labels(systems)])["set"].attrs["near_identical_frames"] == 0


def test_a_small_molecule_is_compared_by_the_distances_that_it_has() -> None:
    water = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    other = water.copy()
    other.positions[1, 0] += 0.03
    prints = [fingerprint(a.numbers, a.positions, a.cell.array, a.pbc) for a in (water, other)]
    assert len(prints[0]) == 6
    (leak,) = leaks(prints, [b""] * 2, np.array([0, 1]), 1.0)
    pairs = [np.sort(np.delete(a.get_all_distances(), range(0, 9, 4)).reshape(3, 2), axis=1) for a in (water, other)]
    pairs = [np.concatenate([rows[:1], np.sort(rows[1:], axis=0)]) for rows in pairs]
    assert leak.distance == pytest.approx(np.sqrt(np.mean((pairs[0] - pairs[1]) ** 2)), abs=1e-6)
    alone = Atoms("O")
    assert not len(fingerprint(alone.numbers, alone.positions, alone.cell.array, alone.pbc))


def test_fingerprints_of_crystals_hold_the_shortest_distances_of_ase() -> None:
    from ase.neighborlist import neighbor_list

    atoms = rattled(1, seed=4)[0]
    found = fingerprint(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
    first, distance = neighbor_list("id", atoms, 6.0)
    nearest = np.array([np.sort(distance[first == i])[:4] for i in range(4)])
    expected = [np.sort(nearest[atoms.numbers == z], axis=0) for z in (29, 47)]
    np.testing.assert_allclose(found, np.concatenate(expected).ravel(), atol=1e-5)


# --- in a store -------------------------------------------------------------------------------------------------------


def stored(store: Store, key: str, dataset: xr.Dataset, kind: str = "labels") -> None:
    store.write(key, dataset, kind)


def test_a_training_set_stands_for_its_frames_and_the_audit_is_clean(store: Store) -> None:
    first, second = labels(rattled(12)), labels(rattled(8, seed=1, symbols="AgAg"))
    stored(store, "a", first)
    stored(store, "b", second.drop_vars("stress"))
    stored(store, "atoms", isolated(["Cu", "Ag"]))
    h5ml.run(store, "training_set", root_key="pool", labels=["a", "b"], isolated_atoms=["atoms"], weights=[1.0, 3.0])
    entry = store.entry("pool/set")
    found, references = gather(store, entry), store["pool/set"]
    assert atomic_energies(found) == {"Ag": pytest.approx(2.96, abs=0.01), "Cu": pytest.approx(3.51, abs=0.01)}
    ends = np.concatenate([[0], np.cumsum(found["n_atoms"].to_numpy())])
    for record in range(20):
        source = (first, second)[int(references["source"][record])]
        frame = int(references["source_frame"][record])
        rows, mine = slice(4 * frame, 4 * frame + 4), slice(ends[record], ends[record + 1])
        for name in ("positions", "forces", "atomic_numbers"):
            np.testing.assert_array_equal(found[name].to_numpy()[mine], source[name].to_numpy()[rows])
        assert float(found["energy"][record]) == float(source["energy"][frame])
        expected = source["stress"].to_numpy()[frame] if source is first else np.full(6, np.nan)
        np.testing.assert_array_equal(found["stress"].to_numpy()[record], expected)
    np.testing.assert_array_equal(found["weight"], np.where(references["source"] == 0, 1.0, 3.0))
    np.testing.assert_array_equal(found["split"], references["split"])
    assert audit(store).ok
    labelled = store["pool/contents"]
    assert labelled["source"].to_numpy().tolist() == ["a@1", "b@1"]
    np.testing.assert_allclose(labelled["lowest_energy"][0], first["energy"].min() / 4, rtol=1e-15)


def test_a_delta_target_is_one_level_minus_the_other(hdf5_store: Store) -> None:
    store, systems = hdf5_store, rattled(12)
    high = labels(systems)
    low = labels([systems[i] for i in (5, 0, 1, 2, 3, 4, 6, 7, 8, 9)], OTHER_LEVEL)
    low["energy"].data[:] *= 0.9
    low["forces"].data[:] *= 0.8
    low["converged"].data[9] = 0  # frame 9
    low["status"].data[8] = 4  # absurd: frame 8
    low["forces"].data[4 * 7, 0] = np.nan  # frame 7
    stored(store, "high", high)
    stored(store, "low", low.drop_vars("stress"))
    stored(store, "atoms", isolated(["Cu", "Ag"]))
    stored(store, "low_atoms", isolated(["Cu", "Ag"], OTHER_LEVEL, shift=-1.0))
    inputs = {"labels": ["high"], "baseline": ["low"], "isolated_atoms": ["atoms", "low_atoms"]}
    h5ml.run(store, "training_set", root_key="delta", **inputs)
    found, references = gather(store, store.entry("delta/set")), store["delta/set"]
    frames = references["source_frame"].to_numpy()
    assert sorted(frames) == [0, 1, 2, 3, 4, 5, 6]
    assert int(store["delta/contents"]["without_no_baseline"][0]) == 5
    np.testing.assert_allclose(found["energy"], 0.1 * high["energy"].to_numpy()[frames], rtol=1e-12)
    forces = high["forces"].to_numpy().reshape(12, 12)[frames]
    np.testing.assert_allclose(found["forces"].to_numpy().reshape(7, 12), 0.2 * forces, rtol=1e-10, atol=1e-12)
    assert np.isnan(found["stress"].to_numpy()).all()
    assert atomic_energies(found) == {"Cu": pytest.approx(1.0), "Ag": pytest.approx(1.0)}
    with pytest.raises(InvalidData, match="level of theory of the labels"):
        h5ml.run(store, "training_set", root_key="none", labels=["high"], baseline=["high"], E0s="average")
    # asking for labels that did not end well asks for none of the baseline
    inputs |= {"include_status": ["scf_failed", "failed", "absurd"]}
    h5ml.run(store, "training_set", root_key="asked", **inputs)
    assert sorted(store["asked/set"]["source_frame"].to_numpy()) == [0, 1, 2, 3, 4, 5, 6]


def test_the_audit_finds_labels_of_a_baseline_that_did_not_converge(hdf5_store: Store) -> None:
    store, systems = hdf5_store, rattled(6)
    low = labels(systems, OTHER_LEVEL)
    stored(store, "high", labels(systems))
    stored(store, "low", low)
    h5ml.run(store, "training_set", root_key="delta", labels=["high"], baseline=["low"], E0s="average")
    assert audit(store).ok
    references = store["delta/set"].load()
    low["converged"].data[3] = 0
    with store.transaction("a set made by hand") as transaction:
        transaction.write("bad", low, "labels")
        names = references["source_key"].to_numpy().copy()
        names[names == "low@1"] = "bad@1"
        transaction.write("byhand", references.assign(source_key=("source_index", names)), "training_set")
    found = [(one.code, one.key) for one in audit(store).findings]
    assert ("unconverged", "byhand@1") in found
    assert ("unconverged", "delta/set@1") not in found


def test_an_isolated_atom_that_did_not_end_well_gives_no_energy() -> None:
    atoms = isolated(["Cu", "Ag"])
    atoms["status"].data[1] = 4
    with pytest.raises(InvalidData, match="none for Ag"):
        made(labels=[labels(rattled(10))], isolated_atoms=[atoms])


def test_what_a_gathered_set_reads_when_looked_at_is_the_same(
    hdf5_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = hdf5_store
    stored(store, "a", labels(rattled(12)))
    stored(store, "b", labels(rattled(9, seed=1, symbols="AgAg")))
    h5ml.run(store, "training_set", root_key="pool", labels=["a", "b"], E0s="average")
    at_once = gather(store, store.entry("pool/set"))
    monkeypatch.setattr("h5ml.store.gather._SMALL", 0)
    lazy = gather(store, store.entry("pool/set"))
    assert lazy.isel(atom=slice(30, 50))["forces"].identical(at_once.isel(atom=slice(30, 50))["forces"])
    rows = [70, 3, 3, 41]
    assert lazy["positions"].isel(atom=rows, xyz=1).identical(at_once["positions"].isel(atom=rows, xyz=1))
    assert lazy["cell"].isel(frame=-1).identical(at_once["cell"].isel(frame=-1))
    assert lazy.load().identical(at_once)


def test_frames_of_a_split_are_read_in_any_order(hdf5_store: Store) -> None:
    store = hdf5_store
    stored(store, "a", labels(rattled(15)))
    h5ml.run(store, "training_set", root_key="pool", labels=["a"], E0s="average", valid_fraction=0.3)
    whole = gather(store, store.entry("pool/set"))
    positions = whole["positions"].to_numpy().reshape(-1, 4, 3)
    for number, split in enumerate(("train", "valid")):
        mine = np.flatnonzero(whole["split"].to_numpy() == number)
        with TrainingFrames(store, store.entry("pool/set"), split) as frames:
            assert len(frames) == len(mine)
            order = [2, 0, 2]
            batch = frames.take(order)
        np.testing.assert_array_equal(batch["positions"].reshape(-1, 4, 3), positions[mine[order]])
        np.testing.assert_array_equal(batch["energy"], whole["energy"].to_numpy()[mine[order]])
    with pytest.raises(WrongKind, match="no training set"):
        TrainingFrames(store, store.entry("a"))
    with pytest.raises(InvalidData, match="no such split"):
        TrainingFrames(store, store.entry("pool/set"), "holdout")
