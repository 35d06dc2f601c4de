"""From frames to features, a selection, a map and a file for chemiscope, by commands."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.data import chemical_symbols

import h5ml
from h5ml.cli.plots_features import feature_figure
from h5ml.compute.features import MODULE as FEATURES
from h5ml.compute.features_map import principal_components
from h5ml.compute.structure.frames import structures_dataset
from h5ml.compute.subsample import MODULE as SUBSAMPLE
from h5ml.store.store import Store

SOAP: dict[str, Any] = {"descriptor": "soap", "n_max": 2, "l_max": 1, "r_cut_A": 3.0}


@pytest.fixture
def pool(location: Path) -> Store:
    """Features of two keys, and a selection of them."""
    store = h5ml.open(location)
    rng = np.random.default_rng(3)
    water = [Atoms("OH2", np.diag([0.0, 2.0, 4.0]) + rng.normal(size=(3, 3))) for _ in range(6)]
    energy = np.arange(6.0)
    store.write("loose", structures_dataset(water, {"energy": energy}), "structures")
    h5ml.run(store, FEATURES, root_key="f", frames=["loose", "training/md/trajectory"], **SOAP)
    h5ml.run(store, FEATURES, root_key="atoms", frames=["loose"], level="atom", **SOAP)
    h5ml.run(store, SUBSAMPLE, root_key="s", features=["f/features"], n_samples=4)
    return store


def test_a_map_shows_every_source_in_its_colour_and_rings_the_chosen_frames(pool: Store) -> None:
    features, selection = pool["f/features"].load(), pool["s/selection"].load()
    axes = feature_figure(features, "x", selection).axes[0]
    loose, md, rings = axes.collections
    assert (len(loose.get_offsets()), len(md.get_offsets())) == (6, 8)
    assert loose.get_facecolors()[0].tolist() != md.get_facecolors()[0].tolist()
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["loose@1 (6)", "training/md/trajectory@1 (8)", "chosen (4)"]
    points = principal_components(features["features"].to_numpy()).points
    expected = points[np.sort(selection["feature_record"].to_numpy())]
    np.testing.assert_allclose(rings.get_offsets(), expected, atol=1e-12)


def test_the_map_is_that_of_a_plain_singular_value_decomposition() -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 3)) @ np.random.default_rng(2).normal(size=(3, 6))
    vectors = vectors + np.random.default_rng(1).normal(size=(40, 6))
    found = principal_components(vectors)
    scaled = (vectors - vectors.mean(axis=0)) / vectors.std(axis=0)
    left, values, _ = np.linalg.svd(scaled, full_matrices=False)
    np.testing.assert_allclose(np.abs(found.points), np.abs(left[:, :2] * values[:2]), atol=1e-10)
    np.testing.assert_allclose(found.explained, (values**2 / np.sum(values**2))[:2], atol=1e-12)
    assert not principal_components(np.ones((3, 1))).points.any()


def test_a_map_is_drawn(on: Any, pool: Store, tmp_path: Path) -> None:
    pool.close()
    assert "14 records" in on("plot", "f/features", "map.png", "--selection", "s/selection", "--dpi", "50").stdout
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert "no selection" in on("plot", "f/features", "m.png", "--selection", "loose", code=5).stderr
    assert "only" in on("plot", "training/md/trajectory", "m.png", "--selection", "s/selection", code=2).stderr
    assert "features" in on("plot", "crystals/pair", "m.png", code=5).stderr


def read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_text())
    assert {"meta", "structures", "properties", "settings"} <= set(data)
    targets = {"structure": len(data["structures"]), "atom": len(data.get("environments", []))}
    for entry in data["properties"].values():
        assert len(entry["values"]) == targets[entry["target"]]
    for structure in data["structures"]:
        assert {len(structure[name]) for name in ("names", "x", "y", "z")} == {structure["size"]}
    for axis in ("x", "y"):
        assert data["settings"]["map"][axis]["property"] in data["properties"]
    return data


def test_chemiscope_gets_the_frames_their_map_and_their_sources(on: Any, pool: Store, tmp_path: Path) -> None:
    loose, md, features = pool["loose"].load(), pool["training/md/trajectory"].load(), pool["f/features"].load()
    pool.close()
    assert "14 of 14 records" in on("export", "f/features", "pool.chemiscope.json.gz").stdout
    data = read(tmp_path / "pool.chemiscope.json.gz")
    assert len(data["structures"]) == 14
    water = data["structures"][2]
    assert water["names"] == ["O", "H", "H"]
    np.testing.assert_allclose(np.stack([water[x] for x in "xyz"], axis=1), loose["positions"][6:9])
    last = data["structures"][-1]
    assert last["names"] == [chemical_symbols[z] for z in md["atomic_numbers"].to_numpy()]
    np.testing.assert_allclose(np.stack([last[x] for x in "xyz"], axis=1), md["positions"][-1])
    np.testing.assert_allclose(last["cell"], md["cell"][-1].to_numpy().ravel())
    properties = data["properties"]
    assert properties["source"]["values"] == ["loose@1"] * 6 + ["training/md/trajectory@1"] * 8
    np.testing.assert_allclose(properties["energy"]["values"], features["energy"])
    points = principal_components(features["features"].to_numpy(), 3).points
    np.testing.assert_allclose(properties["principal component[2]"]["values"], points[:, 1])


def test_chemiscope_shows_atoms_as_environments_of_their_frames(on: Any, pool: Store, tmp_path: Path) -> None:
    pool.close()
    on("export", "atoms/features", "a.chemiscope.json", "--frames", "3:9")
    data = read(tmp_path / "a.chemiscope.json")
    assert len(data["structures"]) == 2
    assert [(e["structure"], e["center"]) for e in data["environments"]] == [(s, a) for s in (0, 1) for a in (0, 1, 2)]


def test_chemiscope_takes_features_only(on: Any, pool: Store) -> None:
    pool.close()
    assert "h5ml compute features" in on("export", "loose", "x.chemiscope.json.gz", code=5).stderr


def test_a_selection_is_exported_as_the_frames_that_it_refers_to(pool: Store, on: Any, tmp_path: Path) -> None:
    from ase.io import read

    assert "4 of 4 frames" in on("export", "s/selection", "chosen.extxyz").stdout
    chosen = pool["s/selection"].load()
    for atoms, source, frame in zip(
        read(tmp_path / "chosen.extxyz", ":"),
        chosen["source"].to_numpy(),
        chosen["source_frame"].to_numpy(),
        strict=True,
    ):
        key = str(chosen["source_key"].to_numpy()[source])
        positions = pool[key]["positions"].to_numpy()
        expected = positions[frame] if positions.ndim == 3 else positions.reshape(6, 3, 3)[frame]
        np.testing.assert_allclose(atoms.positions, expected, atol=1e-7)
