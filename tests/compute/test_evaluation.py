"""Evaluations: errors against labels, ensembles and their calibration."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import xarray as xr
from ase import Atoms

import h5ml
from h5ml.compute.evaluation import MODULE
from h5ml.compute.evaluation_calibration import calibrate, conformal_factor, spread
from h5ml.compute.evaluation_config import Evaluation
from h5ml.compute.evaluation_errors import Collected
from h5ml.compute.evaluation_predict import Task
from h5ml.compute.evaluation_report import Report
from h5ml.compute.evaluation_sample import Sample
from h5ml.compute.evaluation_source import Part, Source
from h5ml.compute.levels.level import System
from h5ml.compute.levels.level_config import LevelSettings
from h5ml.compute.levels.registry import make_level
from h5ml.compute.potentials import Potential, resolve_potential
from h5ml.compute.structure.frames import iterate_atoms
from h5ml.schemas.errors import InvalidConfig, InvalidData
from h5ml.store.store import Store
from h5ml.tests.kits.labelled import labels, rattled
from h5ml.tests.kits.mace import save_tiny_mace
from h5ml.tests.kits.runner import FakeRunner


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Potential]:
    """Two MACE models of random weights; building them takes longest here."""
    folder = tmp_path_factory.mktemp("models")
    paths = [save_tiny_mace(folder / f"{n}.model", irreps=n) for n in ("4x0e+4x1o", "6x0e+6x1o")]
    return [resolve_potential(f"file:{path}", trust_pickle=True) for path in paths]


def evaluated(models: list[Any], data: list[xr.Dataset], **config: Any) -> dict[str, xr.Dataset]:
    return FakeRunner(MODULE, config, {"model": models, "labels": data}).run().outputs


def row(evaluation: xr.Dataset, kind: str, name: str) -> dict[str, float]:
    here = (evaluation["group_type"].to_numpy() == kind) & (evaluation["group_name"].to_numpy() == name)
    (index,) = np.flatnonzero(here)
    return {str(n): float(evaluation[n][index]) for n in evaluation.data_vars if evaluation[n].dtype != object}  # type: ignore[call-overload]


def table(evaluation: xr.Dataset) -> xr.Dataset:
    names = [n for n in evaluation.data_vars if evaluation[n].dims == ("group",)]
    return evaluation[names]


def test_errors_are_those_that_were_put_in_by_source_composition_and_element() -> None:
    rng = np.random.default_rng(0)
    data = [labels(rattled(7)), labels(rattled(5, seed=1, symbols="AuAu"))]
    energy, force = [rng.normal(size=n) for n in (7, 5)], [rng.normal(size=(4 * n, 3)) for n in (7, 5)]
    stress = [rng.normal(size=(n, 6)) for n in (7, 5)]
    for one, de, df, ds in zip(data, energy, force, stress, strict=True):
        for name, shift in (("energy", de), ("forces", df), ("stress", ds)):
            one[name].data[:] -= shift
    made = evaluated([resolve_potential("ase:emt")], data, task_frames=3)
    found = table(made["evaluation"])
    for kind, name, e, f, s in (
        ("all", "all", np.concatenate(energy), np.concatenate(force), np.concatenate(stress)),
        ("source", "labels 0", energy[0], force[0], stress[0]),
        ("source", "labels 1", energy[1], force[1], stress[1]),
        ("composition", "Au4", energy[1], force[1], stress[1]),
    ):
        got = row(found, kind, name)
        assert got["n_frames"] == len(e)
        for quantity, values in (("energy", e / 4), ("force", f), ("stress", s)):
            assert got[f"{quantity}_mae"] == pytest.approx(np.abs(values).mean(), rel=1e-9)
            assert got[f"{quantity}_rmse"] == pytest.approx(np.sqrt((values**2).mean()), rel=1e-9)
    numbers = data[0]["atomic_numbers"].to_numpy()
    silver = row(found, "element", "Ag")
    assert silver["force_mae"] == pytest.approx(np.abs(force[0][numbers == 47]).mean(), rel=1e-9)
    assert silver["n_atoms"] == 14
    assert np.isnan(silver["energy_mae"])
    predicted = made["predictions"]
    np.testing.assert_allclose(predicted["energy"][:7], data[0]["energy"] + energy[0], rtol=1e-12)
    assert predicted["source"].to_numpy().tolist() == [0] * 7 + [1] * 5
    assert predicted["source_frame"].to_numpy().tolist() == [*range(7), *range(5)]
    # the parity data are those of the labels and the predictions
    evaluation = made["evaluation"]
    difference = np.sort(evaluation["force_predicted"] - evaluation["force_reference"])
    np.testing.assert_allclose(difference, np.sort(np.concatenate(force), axis=None), rtol=1e-9, atol=1e-9)
    assert evaluation["seconds_per_atom"].attrs["volatile"] == 1


def test_the_errors_do_not_depend_on_how_frames_are_divided_into_tasks() -> None:
    data = labels(rattled(15))
    models = [resolve_potential("ase:emt"), resolve_potential("ase:lj?sigma=2.3&epsilon=0.3&rc=6")]
    kept = {"parity_components": 50, "calibration_atoms": 20}
    one, other = (evaluated(models, [data], task_frames=n, **kept)["evaluation"] for n in (15, 4))
    assert one.drop_vars("seconds_per_atom").identical(other.drop_vars("seconds_per_atom"))
    assert one.sizes["component"] == 50
    whole = evaluated(models, [data])["evaluation"]
    drawn, every = (
        set(zip(e["force_reference"].values, e["force_predicted"].values, strict=True)) for e in (one, whole)
    )
    assert drawn < every  # of 180
    np.testing.assert_array_equal(table(one)["force_rmse"], table(whole)["force_rmse"])


def test_an_evaluation_keeps_nothing_of_an_atom_beyond_what_was_asked_for() -> None:
    rng, frames, atoms, members = np.random.default_rng(0), 2, 500, 2
    data = structures([Atoms(f"Cu{atoms}", rng.normal(scale=20.0, size=(atoms, 3))) for _ in range(frames)])
    emt = resolve_potential("ase:emt")
    source = Source("labels 0", data, np.arange(frames), None)
    part = Part(source, Task((emt, emt), data, source.frames, 2048))
    result = xr.Dataset(
        {
            "energy": (("member", "frame"), rng.normal(size=(members, frames))),
            "forces": (("member", "atom", "xyz"), rng.normal(size=(members, frames * atoms, 3))),
            "stress": (("member", "frame", "voigt"), rng.normal(size=(members, frames, 6))),
            "seconds": (("member",), np.ones(members)),
        }
    )
    config = Evaluation(parity_components=300, calibration_atoms=200)
    report = Report(config, [emt, emt], [source], seed=0)
    sizes = []
    for blocks in (2, 40):
        while report.n_frames < blocks * frames:
            report.add(part, result)
        sizes.append(bytes_in(report))
    # 76,000 more atoms; of a frame some 30 numbers and one formula stay, of an atom (8 bytes a number) nothing
    assert sizes[1] - sizes[0] < 38 * frames * 600
    assert report.dataset().sizes["component"] == 300


def bytes_in(holder: object) -> int:
    """Bytes of all arrays that an object holds, at any depth; of a view, those of the array that it keeps alive."""
    found: dict[int, int] = {}
    waiting: list[Any] = [holder]
    while waiting:
        one = waiting.pop()
        if isinstance(one, np.ndarray):
            owner = one if one.base is None else one.base
            found[id(owner)] = int(owner.nbytes)
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one
        elif isinstance(one, Report | Sample):
            waiting += vars(one).values()
        elif isinstance(one, Collected):
            waiting += [one.frames, one.forces]
    return sum(found.values())


def test_labels_of_another_level_and_frames_without_a_prediction_are_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = resolve_potential("ase:emt")
    model.level_of_theory = "PBE"  # as that of a stored checkpoint
    data = [labels(rattled(1)), structures([Atoms("Xe2", [[0, 0, 0], [0, 0, 4.0]])])]  # EMT has no xenon
    with caplog.at_level(logging.WARNING, "h5ml"):
        evaluated([model], data)
    assert "another level of theory" in caplog.text
    assert "no prediction of 1 of 2 frames" in caplog.text


def test_labels_that_did_not_end_well_do_not_count() -> None:
    data = labels(rattled(6))
    data["status"].data[1], data["converged"].data[2], data["energy"].data[3] = 2, 0, np.nan
    data["energy"].data[:3] += [0.0, 100.0, 100.0]
    made = evaluated([resolve_potential("ase:emt")], [data])
    assert made["predictions"]["source_frame"].to_numpy().tolist() == [0, 4, 5]
    assert row(table(made["evaluation"]), "all", "all")["energy_mae"] < 1e-12
    with pytest.raises(InvalidData, match="no labels to compare") as caught:
        evaluated([resolve_potential("ase:emt")], [data.assign(status=data["status"] * 0 + 3)])
    assert "1 not converged, 5 that did not end well" in str(caught.value)


def test_a_mace_model_in_batches_gives_what_it_gives_one_by_one(models: list[Potential]) -> None:
    model = models[0]
    rng = np.random.default_rng(2)
    systems = [Atoms("CH3OH", rng.normal(scale=1.2, size=(6, 3))) for _ in range(3)]
    crystal = Atoms("CO2N", rng.random((4, 3)) * 3.5, cell=[3.5, 3.7, 4.1], pbc=True)
    systems += [crystal, crystal.repeat((2, 1, 1))]
    data = structures(systems)
    made = evaluated([model], [data], batch_size=13, task_frames=3)["predictions"]
    start = 0
    for i, atoms in enumerate(systems):
        atoms.calc = model.calculator()
        rows = slice(start, start := start + len(atoms))
        # one pass over a batch sums in another order than one over a structure
        assert float(made["energy"][i]) == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
        np.testing.assert_allclose(made["forces"][rows], atoms.get_forces(), atol=1e-10)
        expected = atoms.get_stress() if atoms.pbc.any() else np.full(6, np.nan)
        np.testing.assert_allclose(made["stress"][i], expected, atol=1e-12)


def structures(systems: list[Atoms]) -> xr.Dataset:
    """Labels without physics."""
    from h5ml.compute.structure.frames import structures_dataset
    from h5ml.schemas.kinds_training import LABELS

    n = len(systems)
    values = {"energy": np.zeros(n), "converged": np.ones(n), "status": np.zeros(n)}
    values["forces"] = np.zeros((sum(map(len, systems)), 3))
    return structures_dataset(systems, values, {"level_of_theory": "none"}, kind=LABELS)


def test_an_element_that_the_model_was_not_trained_on_is_named_with_its_key(models: list[Potential]) -> None:
    water, salt = Atoms("OH2", np.eye(3)), Atoms("NaCl", [[0, 0, 0], [0, 0, 2.4]])
    with pytest.raises(InvalidData, match="labels 1") as caught:
        evaluated(models[:1], [structures([water]), structures([salt])])
    assert "found:    Na" in str(caught.value)
    assert "H C N O" in str(caught.value)
    teacher = make_level(LevelSettings(engine="potential"), models[0])
    teacher.check(System.of(water), frozenset({"energy"}), "water")
    with pytest.raises(InvalidConfig, match="cannot do this") as refused:
        teacher.check(System.of(salt), frozenset({"energy"}), "salt")
    assert "Na Cl" in str(refused.value)


def test_a_frame_at_which_the_engine_fails_is_counted_and_left_out() -> None:
    data = [labels(rattled(3)), structures([Atoms("Xe2", [[0, 0, 0], [0, 0, 4.0]])])]  # EMT has no xenon
    made = evaluated([resolve_potential("ase:emt")], data)
    assert made["evaluation"].attrs["n_failed"] == 1
    assert row(table(made["evaluation"]), "all", "all")["energy_mae"] < 1e-12
    assert made["predictions"]["status"].to_numpy().tolist() == [0, 0, 0, 3]


# --- ensembles --------------------------------------------------------------------------------------------------------


def test_an_ensemble_predicts_the_mean_and_its_spread_is_that_of_the_members(models: list[Potential]) -> None:
    rng = np.random.default_rng(2)
    data = structures([Atoms("CH3OH", rng.normal(scale=1.2, size=(6, 3))) for _ in range(4)])
    made = evaluated(models, [data])
    energies, forces = [], []
    for model in models:
        systems = list(iterate_atoms(data))
        for atoms in systems:
            atoms.calc = model.calculator()
        energies.append([atoms.get_potential_energy() for atoms in systems])
        forces.append(np.concatenate([atoms.get_forces() for atoms in systems]))
    predicted = made["predictions"]
    np.testing.assert_allclose(predicted["energy"], np.mean(energies, axis=0), atol=1e-10)
    np.testing.assert_allclose(predicted["energy_spread"], np.std(energies, axis=0), atol=1e-10)
    expected = np.sqrt(np.var(forces, axis=0).mean(axis=1))
    np.testing.assert_allclose(predicted["forces_spread"], expected, atol=1e-10)
    largest = expected.reshape(4, 6).max(axis=1)
    np.testing.assert_allclose(made["evaluation"]["largest_force_spread"], largest, atol=1e-10)
    assert made["evaluation"].attrs["n_members"] == 2


def test_the_conformal_factor_is_the_order_statistic_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    for n, alpha in ((9, 0.1), (19, 0.05), (100, 0.1), (101, 0.32)):
        error, uncertainty = np.abs(rng.normal(size=n)), rng.uniform(0.5, 2.0, n)
        scores = sorted(error / uncertainty)
        assert conformal_factor(error, uncertainty, alpha) == scores[int(np.ceil((n + 1) * (1 - alpha) - 1e-9)) - 1]
    assert conformal_factor(np.ones(8), np.ones(8), 0.1) == float("inf")  # 9 * 0.9 = 8.1 of 8


def test_calibration_of_gaussian_errors_finds_the_quantile_of_the_normal_distribution() -> None:
    rng = np.random.default_rng(1)
    uncertainty = rng.uniform(0.1, 1.0, 20_000)
    error = np.abs(rng.normal(scale=2.0 * uncertainty))  # the ensemble is overconfident by a factor of two
    found = calibrate(error, uncertainty, np.arange(20_000) // 10, 0.1, rng)
    assert found.factor == pytest.approx(2 * 1.645, rel=0.02)  # 90 % of a Gaussian; sampling error below 1 %
    assert found.coverage == pytest.approx(0.9, abs=0.01)
    assert found.plain_coverage == pytest.approx(0.383, abs=0.01)  # within half a standard deviation
    np.testing.assert_allclose(found.bin_error / found.bin_spread, 2.0, rtol=0.1)  # 2,000 errors each: 1.6 %
    assert 0.3 < found.correlation < 0.6
    assert np.isnan(calibrate(error[:1], uncertainty[:1], np.zeros(1, int), 0.1, rng).coverage)


def test_the_spread_of_vectors_is_that_of_active_learning() -> None:
    forces = np.random.default_rng(0).normal(size=(4, 7, 3))
    mean = forces.mean(axis=0)
    expected = [np.sqrt(sum((f[a, k] - mean[a, k]) ** 2 for f in forces for k in range(3)) / 12) for a in range(7)]
    np.testing.assert_allclose(spread(forces), expected, rtol=1e-12)


# --- in a store -------------------------------------------------------------------------------------------------------


def test_one_split_of_a_training_set_is_evaluated_and_leads_to_the_labels(hdf5_store: Store) -> None:
    store = hdf5_store
    store.write("a", labels(rattled(12)), "labels")
    store.write("b", labels(rattled(8, seed=1, symbols="AgAg")), "labels")
    config = {"E0s": "average", "test_fraction": 0.3, "valid_fraction": 0.2}
    h5ml.run(store, "training_set", root_key="pool", labels=["a", "b"], **config)
    h5ml.run(store, "evaluation", root_key="check", model=["ase:emt"], labels=["pool/set"], split="test")
    references = store["pool/set"]
    test = references["split"].to_numpy() == 2
    predicted = store["check/predictions"]
    assert predicted.sizes["frame"] == test.sum() == 6
    assert predicted["source_key"].to_numpy().tolist() == ["a@1", "b@1"]
    np.testing.assert_array_equal(predicted["source_frame"], references["source_frame"].to_numpy()[test])
    assert row(table(store["check/evaluation"]), "all", "all")["force_rmse"] < 1e-12
    h5ml.run(store, "evaluation", root_key="whole", model=["ase:emt"], labels=["pool/set"])
    by_split = table(store["whole/evaluation"])
    assert [row(by_split, "split", name)["n_frames"] for name in ("train", "valid", "test")] == [10, 4, 6]


def test_differences_of_two_levels_are_not_compared_with_whole_energies(hdf5_store: Store) -> None:
    store = hdf5_store
    systems = rattled(10)
    store.write("high", labels(systems), "labels")
    store.write("low", labels(systems, {"level_of_theory": "low"}), "labels")
    h5ml.run(store, "training_set", root_key="delta", labels=["high"], baseline=["low"], E0s="average")
    with pytest.raises(InvalidData, match="differences of two levels"):
        h5ml.run(store, "evaluation", root_key="check", model=["ase:emt"], labels=["delta/set"])


def test_a_stored_committee_is_an_ensemble_of_its_members(models: list[Potential]) -> None:
    from h5ml.compute.potentials.checkpoint import checkpoint_of, committee, potential_of

    together = potential_of(committee([checkpoint_of(model) for model in models]), "models/both@1", "0" * 64)
    rng = np.random.default_rng(2)
    data = structures([Atoms("CH3OH", rng.normal(scale=1.2, size=(6, 3))) for _ in range(2)])
    one, other = (evaluated(given, [data])["predictions"] for given in ([together], models))
    for name in ("energy", "forces", "forces_spread"):
        np.testing.assert_array_equal(one[name], other[name])
    salt = structures([Atoms("NaCl", [[0, 0, 0], [0, 0, 2.4]])])
    with pytest.raises(InvalidData, match="models/both@1"):
        evaluated([together], [salt])


def test_an_evaluation_that_was_killed_goes_on_to_the_same_result() -> None:
    data, model = labels(rattled(11)), resolve_potential("ase:emt")
    runner = FakeRunner(MODULE, {"task_frames": 4}, {"model": [model], "labels": [data]})
    runner.run(blocks=2)
    assert runner.result.outputs["predictions"].sizes["frame"] == 8
    killed = runner.run().outputs
    whole = evaluated([model], [data], task_frames=4)
    assert killed["predictions"].identical(whole["predictions"])
    dropped = ["seconds_per_atom"]
    assert killed["evaluation"].drop_vars(dropped).identical(whole["evaluation"].drop_vars(dropped))
