"""Ensembles: distinct members, their mean, and checkpoints as the model of other runs, in a store."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

import h5ml
from h5ml.compute import relax
from h5ml.compute.potentials.checkpoint import stored_potential
from h5ml.compute.structure.frames import structures_dataset
from h5ml.compute.training import MODULE as TRAINING
from h5ml.compute.training_ensemble import MODULE, member_seeds
from h5ml.schemas.errors import H5mlError
from h5ml.schemas.splits import drawn_anew
from h5ml.store.gather import gather
from h5ml.tests.kits.runner import FakeRunner
from h5ml.tests.kits.training import TINY, labelled, rattled_water, write_training_set

pytestmark = pytest.mark.filterwarnings("ignore")


def test_seeds_of_members_are_distinct_and_stay_when_there_are_more() -> None:
    assert len(set(member_seeds(0, 64))) == 64
    assert member_seeds(0, 8)[:4] == member_seeds(0, 4)
    assert not set(member_seeds(0, 16)) & set(member_seeds(1, 16))


def test_a_new_split_moves_whole_groups_and_leaves_the_test_frames() -> None:
    split = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2, 2], dtype=np.int64)
    groups = np.array([1, 1, 2, 2, 3, 3, 4, 4, 5, 5], dtype=np.int64)
    seen = set()
    for seed in range(20):
        drawn = drawn_anew(split, groups, seed)
        assert drawn[8:].tolist() == [2, 2]
        assert (drawn == 1).sum() == 2
        assert all(len(set(drawn[groups == group])) == 1 for group in groups)
        seen.add(tuple(drawn))
    assert len(seen) == 4, "each of the four groups comes to validate"


def test_an_ensemble_is_the_mean_of_members_that_differ() -> None:
    water = labelled(rattled_water(12), "tblite:GFN1-xTB")
    runner = FakeRunner(
        MODULE, {**TINY, "members": 2, "max_num_epochs": 1}, {"training_set": water}, modules=(TRAINING,)
    )
    made = runner.run()
    assert list(made.calls) == ["member_1", "member_2"]
    table = made.outputs["members"]
    assert len(set(table["seed"].values)) == 2
    members = [stored_potential(one.outputs["best"], "m@1", "x") for one in made.calls.values()]
    energies = [energy(one) for one in members]
    assert energies[0] != energies[1]
    assert energy(stored_potential(made.outputs["ensemble"], "e@1", "x")) == pytest.approx(np.mean(energies), rel=1e-14)


def energy(potential: Any, atoms: Atoms | None = None) -> float:
    atoms = (molecule("H2O") if atoms is None else atoms).copy()
    atoms.calc = potential.fresh()
    return float(atoms.get_potential_energy())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A store with labels of water, and a training set that refers to them."""
    made = h5ml.open(tmp_path_factory.mktemp("stores") / "training.h5", make=True)
    write_training_set(made, "water", labelled(rattled_water(12), "tblite:GFN1-xTB"))
    made.write("structures/water", structures_dataset([rattled_water(1, seed=9)[0]]), "structures")
    return made


def test_a_longer_training_in_a_store_equals_one_that_was_never_stopped(store: Any) -> None:
    settings = {**TINY, "ema": True, "max_num_epochs": 3}
    h5ml.run(store, TRAINING, root_key="m", training_set="sets/water", seed=5, **{**settings, "max_num_epochs": 1})
    longer = h5ml.run(store, TRAINING, root_key="m", training_set="sets/water", seed=5, **settings)
    assert longer.continues is not None
    whole = FakeRunner(TRAINING, settings, {"training_set": gather(store, store.entry("sets/water"))}, seed=5).run()
    for name, made in whole.outputs.items():
        kept = store[f"m/{name}"].load()
        assert set(kept.variables) == set(made.variables)
        assert all(
            np.array_equal(kept[key], made[key], equal_nan=kept[key].dtype.kind == "f") for key in made.data_vars
        )


def test_a_checkpoint_key_is_the_model_of_another_run(store: Any) -> None:
    h5ml.run(store, TRAINING, root_key="models/one", training_set="sets/water", seed=7, **{**TINY, "max_num_epochs": 1})
    start = {"crystal": "structures/water", "cell_relaxation": "only_atoms", "max_n_steps": 2}
    run = h5ml.run(store, relax.MODULE, root_key="relaxed", model="models/one/best", **start)
    assert run.status == "done"
    assert run.inputs["model"][0].kind == "checkpoint"
    entry = store.entry("models/one/best")
    stored = stored_potential(store["models/one/best"].load(), "models/one/best@1", entry.digest)
    assert np.isfinite(energy(stored))
    with pytest.raises(H5mlError, match="no potential"):
        h5ml.run(store, relax.MODULE, root_key="no", crystal="structures/water", model="structures/water")
