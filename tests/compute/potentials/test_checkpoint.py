"""Checkpoints: models as tensors and a description, rebuilt to the same predictions."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
import xarray as xr
from ase import Atoms
from ase.build import molecule

from h5ml.compute.potentials import resolve_potential
from h5ml.compute.potentials.checkpoint import (
    Checkpoint,
    baseline_of,
    checkpoint_of,
    committee,
    stored_potential,
)
from h5ml.compute.potentials.mace_engine import mace_guard
from h5ml.schemas.errors import InvalidData
from h5ml.tests.kits.mace import save_tiny_mace

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def from_file(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = save_tiny_mace(tmp_path_factory.mktemp("models") / "tiny.model")
    return resolve_potential(f"file:{path}", trust_pickle=True)


@pytest.fixture(scope="module")
def checkpoint(from_file: Any) -> Checkpoint:
    return checkpoint_of(from_file)


def predicted(potential: Any, atoms: Atoms) -> dict[str, Any]:
    atoms = atoms.copy()
    atoms.calc = potential.fresh()
    return {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one["energy"] == other["energy"] and np.array_equal(one["forces"], other["forces"])


def build(name: str, dtype: str, **settings: Any) -> Any:
    """A model of a class as mace-torch builds it, of random weights."""
    with mace_guard():
        import torch
        from e3nn import o3
        from mace import modules

        from h5ml.compute.potentials.checkpoint_models import default_dtype

        block = "RealAgnosticResidualInteractionBlock"
        arguments: dict[str, Any] = {
            "r_max": 3.0,
            "num_bessel": 4,
            "num_polynomial_cutoff": 5,
            "max_ell": 2,
            "interaction_cls": modules.interaction_classes[block],
            "interaction_cls_first": modules.interaction_classes[block],
            "num_interactions": 2,
            "num_elements": 2,
            "hidden_irreps": o3.Irreps("4x0e+4x1o"),
            "MLP_irreps": o3.Irreps("4x0e"),
            "atomic_energies": np.array([-1.1, -2.3]),
            "avg_num_neighbors": 3.3,
            "atomic_numbers": [1, 8],
            "correlation": 2,
            "gate": torch.nn.functional.silu,
            "radial_MLP": [8],
        }
        if name == "ScaleShiftMACE":
            arguments |= {"atomic_inter_scale": 0.7, "atomic_inter_shift": 0.1}
        if name == "EnergyDipolesMACE":
            arguments["MLP_irreps"] = o3.Irreps("4x0e+4x1o")
        torch.manual_seed(1)
        with default_dtype(dtype):
            return getattr(modules, name)(**{**arguments, **settings})


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "MACE": ("MACE", {"gate": None, "correlation": 1}),
    "ScaleShiftMACE": ("ScaleShiftMACE", {"radial_type": "gaussian", "apply_cutoff": False}),
    "two heads": (
        "ScaleShiftMACE",
        {
            "heads": ["pt_head", "Default"],
            "atomic_energies": np.array([[-1.0, -2.0], [-3.0, -4.0]]),
            "atomic_inter_scale": [0.7, 0.9],
            "atomic_inter_shift": [0.1, 0.2],
        },
    ),
    "one layer": ("ScaleShiftMACE", {"num_interactions": 1, "pair_repulsion": True, "distance_transform": "Agnesi"}),
    "EnergyDipolesMACE": ("EnergyDipolesMACE", {}),
}


@pytest.mark.parametrize(
    ("variant", "dtype"), [*((name, "float32" if name == "MACE" else "float64") for name in VARIANTS)]
)
def test_a_class_is_rebuilt_to_the_same_predictions_to_the_last_bit(variant: str, dtype: str) -> None:
    name, settings = VARIANTS[variant]
    module = build(name, dtype, **settings)
    with mace_guard():
        import torch

        from h5ml.compute.potentials.checkpoint_models import _same_predictions, described, rebuilt

        stored = described(module)  # by trial: what it returns was compared with the model already
        back = Checkpoint.of(Checkpoint((stored,)).dataset()).models[0]
        again = rebuilt(back, "k")
        assert type(again) is type(module)
        assert _same_predictions(module, again)
        with torch.no_grad():
            next(again.parameters()).add_(1e-6)
        assert not _same_predictions(module, again), "the comparison sees a change of one weight"


def test_a_checkpoint_predicts_as_the_file_that_it_came_from(from_file: Any, checkpoint: Checkpoint) -> None:
    stored = stored_potential(checkpoint.dataset(), "models/tiny@1", "abc")
    ethanol = molecule("CH3CH2OH")
    assert same(predicted(from_file, ethanol), predicted(stored, ethanol))
    assert stored.is_learned
    assert stored.fingerprint()["weights"] == "blake3:abc"


def test_it_travels_to_another_process_without_torch_modules(checkpoint: Checkpoint) -> None:
    stored = stored_potential(checkpoint.dataset(), "models/tiny@1", "abc")
    before = predicted(stored, molecule("H2O"))
    data = pickle.dumps(stored)
    assert b"torch" not in data
    assert same(before, predicted(pickle.loads(data), molecule("H2O")))


def test_a_committee_predicts_the_mean_and_knows_its_spread(checkpoint: Checkpoint) -> None:
    other = {name: array * (1.02 if "linear" in name else 1.0) for name, array in checkpoint.models[0].tensors.items()}
    second = Checkpoint((type(checkpoint.models[0])(checkpoint.models[0].description, other),))
    both = stored_potential(committee([checkpoint, second]).dataset(), "e@1", "abc")
    water = molecule("H2O")
    one, two = (predicted(stored_potential(c.dataset(), "m@1", "abc"), water) for c in (checkpoint, second))
    mean = predicted(both, water)
    assert one["energy"] != two["energy"]
    assert mean["energy"] == pytest.approx((one["energy"] + two["energy"]) / 2, rel=1e-14)
    assert mean["forces"] == pytest.approx((one["forces"] + two["forces"]) / 2, abs=1e-12)
    # mace-torch's variance is that of the population: half the difference, squared
    assert both.calculator().results["energy_var"] == pytest.approx(((one["energy"] - two["energy"]) / 2) ** 2)
    assert not both.is_learned


@pytest.mark.parametrize("kind", ["engine", "model"])
def test_a_delta_model_is_baseline_plus_correction(checkpoint: Checkpoint, kind: str) -> None:
    below = resolve_potential("ase:lj") if kind == "engine" else stored_potential(checkpoint.dataset(), "m@1", "abc")
    delta = Checkpoint(checkpoint.models, baseline_of(below))
    stored = stored_potential(Checkpoint.of(delta.dataset()).dataset(), "d@1", "abc")
    water = molecule("H2O")
    parts = [predicted(below, water), predicted(stored_potential(checkpoint.dataset(), "m@1", "abc"), water)]
    total = predicted(stored, water)
    assert total["energy"] == pytest.approx(sum(part["energy"] for part in parts), rel=1e-14)
    assert total["forces"] == pytest.approx(sum(part["forces"] for part in parts), abs=1e-12)
    with pytest.raises(InvalidData, match="different baselines"):
        committee([delta, checkpoint])


def changed(dataset: xr.Dataset, **told: Any) -> xr.Dataset:
    text = json.loads(str(dataset["description"].values[()]))
    text["models"][0] |= told
    return dataset.assign(description=((), json.dumps(text)))


def test_an_unknown_class_is_refused_by_name(checkpoint: Checkpoint) -> None:
    wrong = changed(checkpoint.dataset(), **{"class": "ScaleShiftMADE"})
    with pytest.raises(InvalidData, match="class of model is unknown") as caught:
        stored_potential(wrong, "m@1", "abc").calculator()
    assert "ScaleShiftMACE" in str(caught.value)


def test_every_class_of_mace_is_stored_or_refused_with_its_reason(checkpoint: Checkpoint) -> None:
    with mace_guard():
        from mace.modules import extensions, models

        from h5ml.compute.potentials.checkpoint_models import CLASSES, REFUSED, described

    classes = {name: one for part in (models, extensions) for name, one in vars(part).items() if name.endswith("MACE")}
    classes["MACELES"] = extensions.MACELES
    assert set(classes) == set(CLASSES) | set(REFUSED)
    for name, reason in REFUSED.items():
        with pytest.raises(InvalidData, match="class of model is unknown") as caught:
            described(object.__new__(classes[name]))
        assert reason in str(caught.value)
        with pytest.raises(InvalidData, match="class of model is unknown"):
            stored_potential(changed(checkpoint.dataset(), **{"class": name}), "m@1", "abc").calculator()


def test_a_second_model_of_the_same_settings_shares_nothing_with_the_first(checkpoint: Checkpoint) -> None:
    with mace_guard():
        import torch

        from h5ml.compute.potentials.checkpoint_models import _same_predictions, rebuilt

    first, second = rebuilt(checkpoint.models[0], "k"), rebuilt(checkpoint.models[0], "k")
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    third = rebuilt(checkpoint.models[0], "k")
    assert not _same_predictions(first, second)
    assert _same_predictions(second, third)


def test_tensors_that_do_not_fit_their_description_are_refused(checkpoint: Checkpoint) -> None:
    dataset = checkpoint.dataset()
    arguments = {**checkpoint.models[0].description["arguments"], "num_bessel": 5}
    for wrong in (changed(dataset, arguments=arguments), dataset.drop_vars("model0.r_max")):
        with pytest.raises(InvalidData, match="do not fit its description"):
            stored_potential(wrong, "m@1", "abc").calculator()
    with pytest.raises(InvalidData, match="no description"):
        stored_potential(dataset.drop_vars("description"), "m@1", "abc")


def test_the_guard_leaves_torch_safe(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
    stored_potential(checkpoint.dataset(), "m@1", "abc").calculator()
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ
