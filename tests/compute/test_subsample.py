"""The choice of frames against naive implementations, and what it refuses."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import xarray as xr

import h5ml
from h5ml.compute.features import MODULE as FEATURES_MODULE
from h5ml.compute.subsample import MODULE
from h5ml.schemas.errors import InvalidConfig, InvalidData
from h5ml.schemas.kinds import FEATURES
from h5ml.store.store import Store
from h5ml.tests.kits.runner import FakeRunner
from h5ml.tests.kits.samples import sample

UNITS = {"units": "1"}


def made(vectors: Any, frames: Any = None, key: str = "pool", composition: Any = None, **more: Any) -> xr.Dataset:
    """Features by hand, one record for each frame unless said."""
    vectors = np.asarray(vectors)
    n = len(vectors)
    formulas = composition if composition is not None else ["H2O"] * n
    return FEATURES.dataset(
        {
            "features": (("record", "feature"), vectors, UNITS),
            "source": np.zeros(n),
            "source_frame": np.arange(n) if frames is None else frames,
            "source_key": [f"{key}@1"],
            "source_digest": [key],
            "composition": np.array(formulas, dtype=object),
            **more,
        },
        {"descriptor": "by hand", "level": "frame"},
    )


def choose(features: xr.Dataset | list[xr.Dataset], seed: int = 0, **settings: Any) -> xr.Dataset:
    several = features if isinstance(features, list) else [features]
    return FakeRunner(MODULE, settings, {"features": several}, seed=seed).run().outputs["selection"]


def chosen(*arguments: Any, **settings: Any) -> list[int]:
    found: list[int] = choose(*arguments, **settings)["source_frame"].to_numpy().tolist()
    return found


def naive_farthest(vectors: np.ndarray, frames: np.ndarray, count: int) -> tuple[list[int], list[float]]:
    """All distances between all records, by the definition."""
    distance = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    first = int(np.argmin(np.linalg.norm(vectors - vectors.mean(axis=0), axis=1)))
    found, lengths = [int(frames[first])], [float("nan")]
    while len(found) < count:
        nearest = [distance[i, np.isin(frames, found)].min() if f not in found else -1.0 for i, f in enumerate(frames)]
        best = int(np.argmax(nearest))
        found.append(int(frames[best]))
        lengths.append(float(nearest[best]))
    return found, lengths


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("per_frame", [1, 4])
def test_farthest_points_are_those_of_the_definition(per_frame: int, dtype: str) -> None:
    rng = np.random.default_rng(per_frame)
    vectors = rng.normal(size=(120, 5)).astype(dtype)
    frames = rng.permutation(np.repeat(np.arange(120 // per_frame), per_frame))
    found = choose(made(vectors, frames), n_samples=20, scale=False)
    expected, distances = naive_farthest(vectors, frames, 20)
    assert found["source_frame"].to_numpy().tolist() == expected
    np.testing.assert_allclose(found["distance"], distances, rtol=1e-5 if dtype == "float32" else 1e-13)
    np.testing.assert_array_equal(frames[found["feature_record"].to_numpy()], expected)


def test_features_are_standardised_unless_told_otherwise() -> None:
    wide = np.array([[0.0, 0.0], [1000.0, 0.0], [500.0, 1.0], [500.0, 0.5], [510.0, 0.5]])
    assert chosen(made(wide), n_samples=4, scale=False) == [3, 0, 1, 4]
    assert chosen(made(wide), n_samples=4) == [3, 0, 1, 2]
    constant = np.concatenate([wide, np.full((5, 1), 1e6)], axis=1)
    assert chosen(made(wide), n_samples=4) == chosen(made(constant), n_samples=4)


def test_ties_go_to_the_lower_record() -> None:
    corners = np.array([[0.0], [1.0], [-1.0], [1.0], [-1.0]])
    assert chosen(made(corners), n_samples=3) == [0, 1, 2]


@pytest.mark.parametrize("method", ["farthest_point", "k_means_medoids", "random"])
def test_the_seed_decides_everything(method: str) -> None:
    features = made(np.random.default_rng(5).normal(size=(200, 6)))
    settings = {"method": method, "n_samples": 12, "first": "random"}
    first = choose(features, seed=1, **settings)
    assert choose(features, seed=1, **settings).identical(first)
    assert chosen(features, seed=2, **settings) != first["source_frame"].to_numpy().tolist()
    assert len(set(first["source_frame"].to_numpy().tolist())) == 12


def test_medoids_do_not_depend_on_the_number_of_threads() -> None:
    from threadpoolctl import threadpool_limits

    features = made(np.random.default_rng(6).normal(size=(3000, 8)))
    found = []
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            found.append(chosen(features, method="k_means_medoids", n_samples=20))
    assert found[0] == found[1]


def test_medoids_are_the_points_nearest_to_the_centres_of_clear_clusters() -> None:
    rng = np.random.default_rng(7)
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    sizes = [50, 30, 20]
    vectors = np.concatenate([c + 0.3 * rng.normal(size=(n, 2)) for c, n in zip(centres, sizes, strict=True)])
    found = chosen(made(vectors), method="k_means_medoids", n_samples=3, scale=False)
    starts = np.cumsum([0, *sizes])
    expected = []
    for first, last in itertools.pairwise(starts):  # the largest first
        members = vectors[first:last]
        expected.append(int(first + np.argmin(np.linalg.norm(members - members.mean(axis=0), axis=1))))
    assert found == expected


@pytest.mark.parametrize("method", ["farthest_point", "k_means_medoids", "random"])
def test_near_duplicates_are_rejected_and_fewer_frames_are_said(method: str, caplog: Any) -> None:
    rng = np.random.default_rng(8)
    places = rng.normal(size=(15, 3)) * 10
    vectors = np.repeat(places, 4, axis=0) + 1e-3 * rng.normal(size=(60, 3))
    features = made(vectors)
    settings = {"method": method, "duplicate_distance": 0.1, "scale": False}
    found = choose(features, n_samples=40, **settings)
    assert sorted(found["source_frame"].to_numpy() // 4) == list(range(15))
    assert np.nanmin(found["distance"]) > 0.1
    assert found.attrs["n_asked"] == 40
    assert "15 of 40 frames" in caplog.text
    assert len(chosen(features, method=method, n_samples=40, scale=False)) == 40


@pytest.mark.parametrize("method", ["farthest_point", "k_means_medoids", "random"])
def test_all_frames_can_be_chosen_even_if_they_are_equal(method: str) -> None:
    assert sorted(chosen(made(np.zeros((7, 2))), method=method, n_samples=7)) == list(range(7))
    atoms = made(np.random.default_rng(0).normal(size=(30, 2)), np.repeat(np.arange(6), 5))
    assert sorted(chosen(atoms, method=method, n_samples=6)) == list(range(6))


def test_each_composition_has_its_budget() -> None:
    composition = ["H2O", "CH4N2O", "H2O", "CH4N2O", "H2O", "CO2"] * 5
    features = made(np.random.default_rng(9).normal(size=(30, 3)), composition=composition)
    found = choose(features, budgets={"OH2": 4, "CO(NH2)2": 2})
    assert found["composition"].to_numpy().tolist() == ["CH4N2O"] * 2 + ["H2O"] * 4
    rows = np.flatnonzero(np.array(composition) == "H2O")
    alone = made(features["features"].to_numpy()[rows], rows)
    assert found["source_frame"].to_numpy()[2:].tolist() == chosen(alone, n_samples=4)


def test_energies_are_compared_per_atom() -> None:
    composition, energy = ["H2O", "H4O2", "H2O", "H4O2"], [-3.0, -6.0, -3.3, -9.0]
    features = made(np.zeros((4, 1)), composition=composition, energy=energy)
    found = choose(features, on="energies", n_samples=3, scale=False, first="farthest_from_mean")
    assert found["source_frame"].to_numpy().tolist() == [3, 0, 2]
    np.testing.assert_allclose(found["distance"], [np.nan, 0.5, 0.1])


def test_features_of_several_keys_are_one_pool() -> None:
    one, two = made([[0.0], [1.0]], key="one"), made([[5.0], [0.5], [9.0]], key="two")
    found = choose([one, two], n_samples=3, scale=False)  # the mean is 3.1
    assert found["feature_record"].to_numpy().tolist() == [2, 0, 4]
    assert found["source_key"].to_numpy()[found["source"]].tolist() == ["two@1", "one@1", "two@1"]
    assert found["source_frame"].to_numpy().tolist() == [0, 0, 2]
    only = choose([one, two], n_samples=1, scale=False)
    assert only["source_key"].to_numpy().tolist() == ["two@1"]


def energies_unknown() -> xr.Dataset:
    return made([[0.0], [1.0]], energy=[1.0, np.nan])


@pytest.mark.parametrize(
    ("features", "settings", "kind", "message"),
    [
        ([made(np.zeros((0, 2)))], {"n_samples": 1}, InvalidData, "no features to choose from"),
        ([made(np.zeros((3, 2)))], {"n_samples": 4}, InvalidConfig, "at most 3"),
        ([made(np.zeros((4, 2)), [0, 0, 1, 1])], {"n_samples": 3}, InvalidConfig, "at most 2"),
        ([made(np.zeros((3, 2)))], {"budgets": {"CO2": 1}}, InvalidConfig, "does not occur"),
        ([made(np.zeros((3, 2)))], {"budgets": {"H2O": 5}}, InvalidConfig, "frames of H2O"),
        ([made(np.zeros((3, 2)))], {"budgets": {"H2Qq": 5}}, InvalidConfig, "is no formula"),
        ([made(np.zeros((3, 2)))], {"budgets": {"H2O": 0}}, InvalidConfig, "budgets"),
        ([made(np.zeros((3, 2)))], {}, InvalidConfig, "give n_samples, or budgets"),
        ([made(np.zeros((3, 2))), made(np.zeros((3, 4)))], {"n_samples": 1}, InvalidData, "different length"),
        ([made(np.zeros((3, 2))).assign_attrs(model="a"), made(np.zeros((3, 2)))], {"n_samples": 1}, InvalidData,
         "different origin"),
        ([made(np.zeros((3, 2)))], {"n_samples": 1, "on": "energies"}, InvalidData, "without energies"),
        ([energies_unknown()], {"n_samples": 1, "on": "energies"}, InvalidData, "record 1"),
        ([made(np.zeros((3, 2))).drop_vars("source_digest")], {"n_samples": 1}, InvalidData, "which frames"),
    ],
)  # fmt: skip
def test_what_cannot_be_chosen_is_said(features: Any, settings: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message):
        choose(features, **settings)


def test_a_nan_is_found() -> None:
    features = made(np.zeros((3, 2)))
    features["features"].values[1, 1] = np.nan
    with pytest.raises(InvalidData, match="record 1"):
        choose(features, n_samples=1)


def test_the_chosen_frames_can_be_computed_on(hdf5_store: Store) -> None:
    store = hdf5_store
    store.write("loose", sample("structures", 6), "structures")
    soap = {"descriptor": "soap", "n_max": 2, "l_max": 1, "r_cut_A": 3.0, "elements": ["H", "C", "N", "O"]}
    h5ml.run(store, FEATURES_MODULE, root_key="all", frames=["loose"], **soap)
    h5ml.run(store, MODULE, root_key="few", features=["all/features"], n_samples=3)
    h5ml.run(store, FEATURES_MODULE, root_key="again", frames=["few/selection"], **soap)
    few, every, again = store["few/selection"], store["all/features"], store["again/features"]
    np.testing.assert_array_equal(again["features"], every["features"].to_numpy()[few["feature_record"].to_numpy()])
    np.testing.assert_array_equal(again["source_frame"], few["source_frame"])
    assert again["source_key"].to_numpy().tolist() == ["loose@1"]
