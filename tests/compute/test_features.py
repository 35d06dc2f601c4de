"""Descriptors against MACE's calculator and against symmetry; references, blocks and bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from ase import Atoms
from ase.build import bulk, molecule

import h5ml
from h5ml.compute.features import MODULE
from h5ml.compute.potentials import resolve_potential
from h5ml.compute.structure.frames import structures_dataset
from h5ml.schemas.errors import ComputeFailed, InvalidConfig, InvalidData
from h5ml.schemas.kinds import CLUSTERS, SELECTION
from h5ml.store.store import Store
from h5ml.tests.kits.mace import save_tiny_mace
from h5ml.tests.kits.runner import FakeRunner
from h5ml.tests.kits.samples import sample

SOAP = {"descriptor": "soap", "n_max": 3, "l_max": 2, "r_cut_A": 3.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("mace")
    path = save_tiny_mace(tmp_path_factory.mktemp("mace") / "tiny.model")
    return resolve_potential(f"file:{path}", trust_pickle=True)


def systems(n: int = 6) -> list[Atoms]:
    """Molecules and cells of different sizes, shaken."""
    rng = np.random.default_rng(1)
    found = []
    for i in range(n):
        atoms = molecule(("H2O", "CH4", "NH3")[i % 3])
        if i >= 3:
            atoms.set_cell([4.0, 4.2, 4.4])
            atoms.pbc = True
        atoms.positions += rng.normal(0, 0.05, (len(atoms), 3))
        found.append(atoms)
    return found


def run(settings: dict[str, Any], frames: list[xr.Dataset], potential: Any = None, **options: Any) -> dict[str, Any]:
    return FakeRunner(MODULE, settings, {"frames": frames, "model": potential}).run(**options).outputs


def test_mace_features_are_those_of_its_calculator_and_energies_come_with_the_same_pass(model: Any) -> None:
    pool = systems()
    found = run({"level": "atom", "evaluate": True, "batch_size": 9}, [structures_dataset(pool)], model)
    calculator = model.fresh()
    expected = np.concatenate([calculator.get_descriptors(atoms) for atoms in pool])
    # float64 sums over neighbours in another order
    np.testing.assert_allclose(found["features"]["features"], expected, rtol=0, atol=1e-10)
    for i, atoms in enumerate(pool):
        atoms.calc = model.fresh()
        assert found["predictions"]["energy"][i] == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    forces = np.concatenate([atoms.get_forces() for atoms in pool])
    np.testing.assert_allclose(found["predictions"]["forces"], forces, rtol=0, atol=1e-10)
    assert found["predictions"]["n_atoms"].to_numpy().tolist() == [len(atoms) for atoms in pool]
    first = run({"level": "atom", "num_layers": 1}, [structures_dataset(pool)], model)
    np.testing.assert_allclose(first["features"]["features"], found["features"]["features"][:, :4], atol=1e-14)


def test_frame_and_molecule_features_are_means_over_atoms(model: Any) -> None:
    pair = molecule("H2O")
    other = molecule("NH3")
    other.positions += [0.0, 0.0, 3.0]
    both = Atoms(np.concatenate([pair.numbers, other.numbers]), np.concatenate([pair.positions, other.positions]))
    both = both[[0, 3, 1, 4, 2, 5, 6]]  # the molecules interleave
    made = {
        level: run({"level": level}, [structures_dataset([both, pair])], model)["features"]
        for level in ("atom", "molecule", "frame")
    }
    atoms = made["atom"]["features"].to_numpy()
    water = atoms[[0, 2, 4]].mean(axis=0)
    np.testing.assert_allclose(made["molecule"]["features"][0], water, atol=1e-14)
    np.testing.assert_allclose(made["frame"]["features"][0], atoms[:7].mean(axis=0), atol=1e-14)
    assert made["molecule"]["source_frame"].to_numpy().tolist() == [0, 0, 1]
    assert made["molecule"]["source_molecule"].to_numpy().tolist() == [0, 1, 0]
    assert made["atom"]["source_atom"].to_numpy().tolist() == [*range(7), *range(3)]
    assert made["molecule"]["composition"].to_numpy().tolist() == ["H5NO", "H5NO", "H2O"]


def test_clusters_bring_their_own_molecules(model: Any) -> None:
    more = {"source_frame": [4], "n_molecules": [2], "molecule": [1, 0, 0]}
    clusters = structures_dataset([molecule("H2O")], more, kind=CLUSTERS)
    found = run({"level": "molecule"}, [clusters], model)["features"]
    atoms = run({"level": "atom"}, [clusters], model)["features"]["features"].to_numpy()
    np.testing.assert_allclose(found["features"], [atoms[1:].mean(axis=0), atoms[0]], atol=1e-14)
    assert found["source_frame"].to_numpy().tolist() == [0, 0]


def test_soap_does_not_change_when_a_structure_is_turned_moved_or_put_into_another_batch() -> None:
    pool = systems()
    turned = []
    for i, atoms in enumerate(pool):
        atoms = atoms.copy()
        atoms.rotate(31.0 * (i + 1), (1, 2, 3 + i), rotate_cell=True)
        atoms.positions += [0.3, -0.2, 0.1]
        turned.append(atoms)
    first = run(SOAP, [structures_dataset(pool)])["features"]["features"].to_numpy()
    other = run(SOAP, [structures_dataset(turned)])["features"]["features"].to_numpy()
    assert np.ptp(first, axis=0).max() > 0.1
    np.testing.assert_allclose(first, other, rtol=0, atol=1e-8 * np.abs(first).max())
    for size in (1, 7):
        parts = run({**SOAP, "batch_size": size}, [structures_dataset(pool)])["features"]["features"]
        np.testing.assert_array_equal(parts, first)


def test_energies_beside_soap_come_from_any_engine() -> None:
    copper = [bulk("Cu", a=a) for a in (3.5, 3.6)]
    found = run({**SOAP, "evaluate": True}, [structures_dataset(copper)], resolve_potential("ase:emt"))
    for i, atoms in enumerate(copper):
        atoms.calc = resolve_potential("ase:emt").calculator()
        assert found["features"]["energy"][i] == pytest.approx(atoms.get_potential_energy(), abs=1e-12)


def test_a_run_that_was_killed_goes_on_to_the_same_bits(model: Any) -> None:
    frames = [structures_dataset(systems(5)), sample_trajectory(), structures_dataset(systems(2))]
    for level in ("frame", "molecule", "atom"):
        settings = {"level": level, "batch_size": 10, "evaluate": True, "bond_scale": 0.6}
        straight = FakeRunner(MODULE, settings, {"frames": frames, "model": model}).run()
        runner = FakeRunner(MODULE, settings, {"frames": frames, "model": model})
        while not runner.result.done:
            runner.run(blocks=1)
        assert runner.result.blocks > 4
        assert straight.digest("features") == runner.result.digest("features")
        assert straight.digest("predictions") == runner.result.digest("predictions")


def sample_trajectory() -> xr.Dataset:
    found = sample("trajectory", 4)
    found["cell"] = 6.0 * found["cell"]
    found["positions"] = 0.1 * found["positions"] + 3.0 * np.arange(24).reshape(8, 3) % 33.0
    return found


def test_frames_of_the_equilibration_are_left_out_unless_asked_for() -> None:
    frames = sample_trajectory()
    found = run(SOAP, [frames])["features"]
    assert found["source_frame"].to_numpy().tolist() == [2, 3]
    np.testing.assert_array_equal(found["energy"], frames["energy"][2:])
    assert run({**SOAP, "include_equilibration": True}, [frames])["features"].sizes["record"] == 4
    with pytest.raises(InvalidData, match="equilibration"):
        run(SOAP, [frames.isel(frame=slice(0, 2))])
    with pytest.raises(InvalidData, match="no frames at all"):
        run(SOAP, [frames.isel(frame=slice(0, 0))])


def compute(store: Store, root: str, frames: list[str], **settings: Any) -> xr.Dataset:
    h5ml.run(store, MODULE, root_key=root, frames=frames, **{**SOAP, **settings})
    return store[f"{root}/features"].load()


def test_records_refer_to_the_original_frames_also_through_a_selection(hdf5_store: Store) -> None:
    store = hdf5_store
    store.write("loose", structures_dataset(systems(4)), "structures")
    store.write("md", sample_trajectory(), "trajectory")
    entries = [store.entry("md"), store.entry("loose")]
    chosen = {
        "source": [1, 0, 1],
        "source_frame": [3, 2, 1],
        "source_key": [entry.reference for entry in entries],
        "source_digest": [entry.digest for entry in entries],
    }
    store.write("chosen", SELECTION.dataset(chosen), "selection")
    found = compute(store, "all", ["chosen", "loose"])
    keys = found["source_key"].to_numpy()
    assert keys[found["source"]].tolist() == ["loose@1", "md@1", "loose@1", *["loose@1"] * 4]
    assert found["source_frame"].to_numpy().tolist() == [3, 2, 1, 0, 1, 2, 3]
    digests = dict(zip(keys.tolist(), found["source_digest"].to_numpy().tolist(), strict=True))
    assert digests == {entry.reference: entry.digest for entry in entries}
    np.testing.assert_array_equal(found["features"][0], found["features"][6])
    single = compute(store, "single", ["loose"], dtype="float32", elements=["O", "N", "C", "H"])
    assert single["features"].dtype == np.float32


@pytest.mark.parametrize(
    ("settings", "spec", "kind", "message"),
    [
        ({}, None, InvalidConfig, "A model is missing"),
        ({}, "ase:emt", InvalidConfig, "need a MACE model"),
        (SOAP, "ase:emt", InvalidConfig, "does not use a model"),
        ({**SOAP, "elements": ["H", "O"]}, None, InvalidData, "unknown to SOAP"),
        ({**SOAP, "evaluate": True}, "ase:emt", ComputeFailed, "No EMT-potential for Na"),
        ({**SOAP, "elements": ["Xx"]}, None, InvalidConfig, "no element"),
        ({"descriptor": "soap", "num_layers": 1}, None, InvalidConfig, "belongs to"),
    ],
)
def test_what_does_not_go_together_is_said(settings: Any, spec: str | None, kind: Any, message: str) -> None:
    potential = None if spec is None else resolve_potential(spec)
    salt = Atoms("NaCl", positions=[[0, 0, 0], [0, 0, 2.4]])
    with pytest.raises(kind, match=message):
        run(settings, [structures_dataset([salt])], potential)


def test_a_model_refuses_elements_and_layers_that_it_does_not_have(model: Any) -> None:
    with pytest.raises(InvalidData, match="unknown to the model") as caught:
        run({}, [structures_dataset(systems(2)), structures_dataset([bulk("Cu")])], model)
    assert "input 1" in str(caught.value)
    with pytest.raises(InvalidConfig, match="fewer layers"):
        run({"num_layers": 3}, [structures_dataset(systems(2))], model)


def test_a_descriptor_that_is_not_finite_names_its_frame(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = systems(4)
    from h5ml.compute.potentials.mace_batch import LearnedModel

    original = LearnedModel.evaluate

    def spoilt(self: Any, batch: Any, **options: Any) -> Any:
        found = original(self, batch, **options)
        found.descriptors[-1] = np.nan
        return found

    monkeypatch.setattr(LearnedModel, "evaluate", spoilt)
    with pytest.raises(ComputeFailed, match="frame 3"):
        run({"batch_size": 1000}, [structures_dataset(pool)], model)
